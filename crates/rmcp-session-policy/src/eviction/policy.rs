//! The trait of a policy, and what can be made of one.

use std::fmt;

use tokio::time::Instant;

use super::{Candidates, Fifo, IdlePeriod, Only, SessionInfo, Tiers};
use crate::session::{SessionKey, SessionOrigin};
use crate::time::HOUR;

/// Decides which session goes when there is no room for a newcomer.
///
/// # Contract
///
/// A policy keeps an order of sessions, and a session that may not go is not in the order. The manager sees to that: it puts each
/// session in by [`on_insert`](Self::on_insert) and asks for a [`victim`](Self::victim) when every place is taken. If the session that
/// the policy names is busy, half-open or protected by the server's author, the manager takes it out by
/// [`on_suspend`](Self::on_suspend), asks again, and puts it back by [`on_resume`](Self::on_resume) when it may go. So a policy needs
/// not know which sessions may go, and a busy session is named once, not at each choice.
///
/// Calls for one session come in this order: `on_insert`, then any number of times `on_suspend` and `on_resume`, then
/// [`on_remove`](Self::on_remove). A suspended session that ends is resumed before it is removed.
/// [`on_return`](Self::on_return) comes between `on_insert` and `on_remove`, also while the session is suspended.
/// [`on_forgotten`](Self::on_forgotten) comes after the last `on_remove` of the session's incarnations. All calls come under one lock, so a
/// policy is a plain value: it needs no lock, no clock and no I/O of its own.
///
/// A policy that takes the place of another one ([`LiveSettings::eviction`](crate::LiveSettings::eviction)) meets the sessions there are
/// by `on_insert`, oldest first, and a suspended one by `on_suspend` after it. It hears of each from then on, and names the first victim when
/// it has met all.
///
/// A policy that panics, or keeps naming sessions that are not in its order, or names none while some session in its order may go,
/// does no harm: the manager takes the oldest session that may go, says so once, and counts it.
///
/// # Implementing
///
/// A use of a session runs no policy code: read [`last_used`](SessionInfo::last_used) or [`uses`](SessionInfo::uses) when asked,
/// from [`Candidates::get`].
///
/// ```
/// use rmcp_session_policy::eviction::{Candidates, EvictionPolicy};
/// use rmcp_session_policy::SessionKey;
///
/// /// Evicts the session with the fewest uses. Looks at all sessions: for servers with few.
/// #[derive(Debug)]
/// struct LeastUses;
///
/// impl EvictionPolicy for LeastUses {
///     fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
///         candidates.iter().min_by_key(|session| session.uses()).map(|session| session.key())
///     }
/// }
/// ```
///
/// A policy is called while the manager holds its lock: it must not wait, nor call the manager.
///
/// # Wrapping
///
/// A wrapper forwards every method, the defaulted ones included.
pub trait EvictionPolicy: fmt::Debug + Send + 'static {
    /// Hears of a new session, once, when it is in the registry.
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        let _: &SessionInfo<'_> = session;
    }

    /// Hears of the end of a session, once, whatever ended it.
    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        let _: &SessionInfo<'_> = session;
    }

    /// Takes a session out of the order for as long as it may not go. It comes back by [`on_resume`](Self::on_resume).
    ///
    /// Defaults to [`on_remove`](Self::on_remove).
    fn on_suspend(&mut self, session: &SessionInfo<'_>) {
        self.on_remove(session);
    }

    /// Puts a session back that was suspended: it may go again. It has the moments and uses that it had, and those that
    /// came since, so an order by these has its old place for it.
    ///
    /// Defaults to [`on_insert`](Self::on_insert).
    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        self.on_insert(session);
    }

    /// Whether to be told of every use, by [`on_access`](Self::on_access). Asked once, when the manager is built or the
    /// policy is about to take the place of another one.
    fn tracks_access(&self) -> bool {
        false
    }

    /// Hears of a request other than `ping`, as it begins, if [`tracks_access`](Self::tracks_access) says so and the session is not
    /// suspended. Each request then takes the lock under which sessions are created and chosen.
    fn on_access(&mut self, session: &SessionInfo<'_>) {
        let _: &SessionInfo<'_> = session;
    }

    /// Whether to be told of sessions that come back, by [`on_return`](Self::on_return), and of those that never will, by
    /// [`on_forgotten`](Self::on_forgotten). Asked once, when the manager is built or the policy is about to take the place of
    /// another one.
    fn tracks_returns(&self) -> bool {
        false
    }

    /// Hears that a session was used again after more than a second of idleness, if
    /// [`tracks_returns`](Self::tracks_returns) says so.
    ///
    /// It comes later than the use: with the next creation, choice or close. A restored session returns too, with the
    /// first request of its new incarnation. At most 4,096 returns wait; the policy does not hear of more.
    fn on_return(&mut self, session: &SessionInfo<'_>, idle: &IdlePeriod) {
        let _: (&SessionInfo<'_>, &IdlePeriod) = (session, idle);
    }

    /// Hears once of each session that will not come back, if [`tracks_returns`](Self::tracks_returns) says so: it has
    /// ended for good, or the parking has dropped it. A session that is parked was removed and is not forgotten yet.
    fn on_forgotten(&mut self, session: SessionOrigin) {
        let _: SessionOrigin = session;
    }

    /// Names the session of the order that goes first. Changes nothing outside the policy; the manager decides.
    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey>;

    /// Names the session that goes first among some of the order, which may all go. There is at least one.
    ///
    /// The manager asks this where it is given which sessions should go: in a surge
    /// ([`surge_guard`](crate::PolicySessionManagerBuilder::surge_guard)), and for a client that holds its share of the
    /// places. It draws at most 32 sessions. If the policy names none of them, the least recently used one goes, and that
    /// counts as a fault.
    ///
    /// Defaults to the least recently used.
    fn pick(&mut self, among: &[SessionInfo<'_>], now: Instant) -> Option<SessionKey> {
        let _: Instant = now;
        among.iter().min_by_key(|session| session.rank_by_use()).map(SessionInfo::key)
    }

    /// Says why the session that was named or picked last went first, for operators: "least recently used", say. It is
    /// continued by "of 1,000 sessions", so a clause of its own ends with a comma. [`Explanation`](crate::Explanation) shows
    /// up to 64 bytes of it. Called after each eviction that the policy decided.
    ///
    /// Defaults to "chosen by the eviction policy,".
    fn phrase(&self) -> &'static str {
        "chosen by the eviction policy,"
    }

    /// Begins to put a price on the places of idle sessions, such that this share of the resumptions keeps its session: see
    /// [`Worth`](crate::Worth). Called when the manager is built, and when a change gives it another policy or another share, if
    /// its idle timeout goes by worth. Returns false if the policy knows no worth; then the settings are refused.
    ///
    /// Defaults to false.
    fn keep_resumptions(&mut self, share: f64) -> bool {
        let _: f64 = share;
        false
    }

    /// Returns until when an idle session is worth its place. At `now` or before, the manager closes and parks it; otherwise
    /// it asks again then, if the session was not used meanwhile. Called only after
    /// [`keep_resumptions`](Self::keep_resumptions) has returned true.
    ///
    /// Defaults to an hour from `now`.
    fn worth_until(&mut self, session: &SessionInfo<'_>, now: Instant) -> Instant {
        let _: &SessionInfo<'_> = session;
        now + HOUR
    }

    /// The share of restores that the policy avoided lately, of those that [`Lru`](super::Lru) would have forced: 0.5 if it
    /// forced half as many, negative if it forced more. `None` if the policy does not know. `Stats` shows it.
    ///
    /// Defaults to `None`.
    fn advantage(&self) -> Option<f64> {
        None
    }
}

#[deny(clippy::missing_trait_methods)]
impl EvictionPolicy for Box<dyn EvictionPolicy> {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        (**self).on_insert(session);
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        (**self).on_remove(session);
    }

    fn on_suspend(&mut self, session: &SessionInfo<'_>) {
        (**self).on_suspend(session);
    }

    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        (**self).on_resume(session);
    }

    fn tracks_access(&self) -> bool {
        (**self).tracks_access()
    }

    fn on_access(&mut self, session: &SessionInfo<'_>) {
        (**self).on_access(session);
    }

    fn tracks_returns(&self) -> bool {
        (**self).tracks_returns()
    }

    fn on_return(&mut self, session: &SessionInfo<'_>, idle: &IdlePeriod) {
        (**self).on_return(session, idle);
    }

    fn on_forgotten(&mut self, session: SessionOrigin) {
        (**self).on_forgotten(session);
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        (**self).victim(candidates)
    }

    fn pick(&mut self, among: &[SessionInfo<'_>], now: Instant) -> Option<SessionKey> {
        (**self).pick(among, now)
    }

    fn phrase(&self) -> &'static str {
        (**self).phrase()
    }

    fn keep_resumptions(&mut self, share: f64) -> bool {
        (**self).keep_resumptions(share)
    }

    fn worth_until(&mut self, session: &SessionInfo<'_>, now: Instant) -> Instant {
        (**self).worth_until(session, now)
    }

    fn advantage(&self) -> Option<f64> {
        (**self).advantage()
    }
}

/// Composes eviction policies.
pub trait EvictionPolicyExt: EvictionPolicy + Sized {
    /// Lets the policy choose only among the sessions for which `predicate` holds.
    ///
    /// This orders, it does not protect: if none of them may go, the oldest of the others goes. To keep sessions from ever
    /// being a victim, use the builder's `protect`. See [`Tiers`] for when the predicate is read.
    fn only<F>(self, predicate: F) -> Only<Self, F>
    where
        F: Fn(&SessionInfo<'_>) -> bool + Send + 'static,
    {
        Tiers::new(vec![(predicate, self)], Fifo::new())
    }

    /// Has the policy choose among the sessions for which the first predicate holds; if none of them may go, among those for
    /// which the second does, and so on, at last among the others. The predicates are read only at events, not as time
    /// passes: see [`Tiers`].
    ///
    /// ```
    /// use rmcp_session_policy::eviction::{EvictionPolicyExt, Lru, SessionInfo};
    ///
    /// // Sessions that never called go first.
    /// let policy = Lru::new().tiers([|session: &SessionInfo<'_>| session.calls() == 0]);
    /// # let _: &dyn rmcp_session_policy::eviction::EvictionPolicy = &policy;
    /// ```
    fn tiers<F, const N: usize>(self, predicates: [F; N]) -> Tiers<Self, F>
    where
        Self: Clone,
        F: Fn(&SessionInfo<'_>) -> bool + Send + 'static,
    {
        Tiers::new(predicates.into_iter().map(|predicate| (predicate, self.clone())).collect(), self)
    }
}

impl<P: EvictionPolicy> EvictionPolicyExt for P {}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::Lru;
    use super::*;
    use crate::registry::test_registry::{TestRegistry, call};

    /// Writes down what it hears, and names the session that it heard of last.
    #[derive(Clone, Debug, Default)]
    struct Recorder {
        heard: Arc<Mutex<Vec<&'static str>>>,
        last: Option<SessionKey>,
    }

    impl Recorder {
        fn hears(&mut self, what: &'static str, session: &SessionInfo<'_>) {
            self.heard.lock().unwrap().push(what);
            self.last = Some(session.key());
        }
    }

    impl EvictionPolicy for Recorder {
        fn on_insert(&mut self, session: &SessionInfo<'_>) {
            self.hears("insert", session);
        }
        fn on_remove(&mut self, session: &SessionInfo<'_>) {
            self.hears("remove", session);
        }
        fn on_suspend(&mut self, session: &SessionInfo<'_>) {
            self.hears("suspend", session);
            self.last = None;
        }
        fn on_resume(&mut self, session: &SessionInfo<'_>) {
            self.hears("resume", session);
        }
        fn tracks_access(&self) -> bool {
            true
        }
        fn on_access(&mut self, session: &SessionInfo<'_>) {
            self.hears("use", session);
        }
        fn victim(&mut self, _: &Candidates<'_>) -> Option<SessionKey> {
            self.last
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_policy_hears_of_everything_whatever_is_around_it() {
        type Wrap = fn(Recorder) -> Box<dyn EvictionPolicy>;
        let wraps: [Wrap; 3] = [
            |policy| Box::new(policy),
            |policy| Box::new(policy.only(|_: &SessionInfo<'_>| true)),
            |policy| Box::new(policy.tiers([|_: &SessionInfo<'_>| true])),
        ];
        for wrap in wraps {
            let policy = Recorder::default();
            let heard = Arc::clone(&policy.heard);
            // A box within the box that the registry keeps.
            let policy = wrap(policy);
            assert!(policy.tracks_access());
            let mut stage = TestRegistry::new(policy);
            let session = stage.ready();
            let busy = call(&session);
            stage.registry.used(&session);
            assert_eq!(stage.victim(), None);
            drop(busy);
            assert_eq!(stage.victim(), Some(1));
            let mut heard = heard.lock().unwrap().clone();
            heard.dedup();
            assert_eq!(heard, ["insert", "use", "suspend", "resume", "remove"]);
        }
        // To hear of uses costs a lock for each.
        assert!(!Lru::new().only(|_: &SessionInfo<'_>| true).tracks_access());
    }
}
