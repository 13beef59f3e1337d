//! A policy asked tier by tier.

use std::fmt;

use tokio::time::Instant;

use super::{Candidates, EvictionPolicy, IdlePeriod, SessionInfo};
use crate::session::{SessionKey, SessionOrigin};

/// Has an order of sessions per tier, and names the first of the first tier that has any; made by
/// [`tiers`](super::EvictionPolicyExt::tiers).
///
/// A session is in the first tier with a predicate that holds for it, or in the last. Its predicates are read when it
/// comes, when it is resumed, and when it is about to be named; if it is in a later tier than the first also after each
/// thing that happens to it, such as the end of a request or a stream that opens or closes. A change that comes with
/// time alone puts a session into a later tier at once, and into an earlier one when something happens to it. A session
/// that changes its tier is a new one in its order there.
#[derive(Clone)]
pub struct Tiers<P, F, R = P> {
    /// The predicate and the order of each tier but the last.
    tiers: Vec<(F, P)>,
    /// The order of the sessions for which no predicate holds.
    rest: R,
    /// The tier of each session, by its key's index. It stays while the session is suspended.
    homes: Vec<usize>,
    /// The tier that named or picked the last session.
    named_by: usize,
}

impl<P, F, R> Tiers<P, F, R>
where
    P: EvictionPolicy,
    F: Fn(&SessionInfo<'_>) -> bool + Send + 'static,
    R: EvictionPolicy,
{
    pub(super) const fn new(tiers: Vec<(F, P)>, rest: R) -> Self {
        Self { tiers, rest, homes: Vec::new(), named_by: 0 }
    }

    /// The order of a tier. A number that no predicate has is the last tier.
    fn policy(&mut self, tier: usize) -> &mut dyn EvictionPolicy {
        match self.tiers.get_mut(tier) {
            Some((_, policy)) => policy,
            None => &mut self.rest,
        }
    }

    /// The order that the session is in, or was in before it was suspended.
    fn home(&mut self, session: &SessionInfo<'_>) -> &mut dyn EvictionPolicy {
        let tier = self.homes.get(session.key().index()).copied().unwrap_or_default();
        self.policy(tier)
    }

    /// Reads the predicates, and returns the first that holds, or the number of the last tier. A session outside the
    /// first tier is watched from here on, because a change may put it into an earlier one. A predicate may be asked
    /// twice.
    fn tier_of(&self, session: &SessionInfo<'_>) -> usize {
        let tier = || self.tiers.iter().position(|(predicate, _)| predicate(session));
        match tier() {
            Some(0) => 0,
            _ => {
                // Watched before it is asked again: a change in between is seen here or tells of itself.
                session.watch();
                tier().unwrap_or(self.tiers.len())
            }
        }
    }

    /// Moves a session to the tier that it belongs to by now, if that is a later one. Returns the tier that it is in.
    fn move_on(&mut self, session: &SessionInfo<'_>) -> usize {
        let home = self.homes.get(session.key().index()).copied().unwrap_or_default();
        let tier = self.tier_of(session);
        if tier > home {
            self.home(session).on_remove(session);
            self.settle(session, tier);
        }
        tier.max(home)
    }

    /// Puts a session into the order of a tier, as a new one there. It must not be in another order.
    fn settle(&mut self, session: &SessionInfo<'_>, tier: usize) {
        let index = session.key().index();
        if self.homes.len() <= index {
            self.homes.resize(index + 1, 0);
        }
        self.homes[index] = tier;
        self.policy(tier).on_insert(session);
    }
}

impl<P, F, R> EvictionPolicy for Tiers<P, F, R>
where
    P: EvictionPolicy,
    F: Fn(&SessionInfo<'_>) -> bool + Send + 'static,
    R: EvictionPolicy,
{
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        let tier = self.tier_of(session);
        self.settle(session, tier);
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        self.home(session).on_remove(session);
    }

    fn on_suspend(&mut self, session: &SessionInfo<'_>) {
        self.home(session).on_suspend(session);
    }

    /// Resumes the session in the order that suspended it, so the calls of that order come in pairs. If its tier is
    /// another one by now, it is removed there and inserted in its new order.
    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        self.home(session).on_resume(session);
        let tier = self.tier_of(session);
        if self.homes.get(session.key().index()) != Some(&tier) {
            self.home(session).on_remove(session);
            self.settle(session, tier);
        }
    }

    fn tracks_access(&self) -> bool {
        self.rest.tracks_access() || self.tiers.iter().any(|(_, policy)| policy.tracks_access())
    }

    fn on_access(&mut self, session: &SessionInfo<'_>) {
        self.home(session).on_access(session);
    }

    /// True only if the policy of each tier knows the worth of its sessions. Each has a price of its own.
    fn keep_resumptions(&mut self, share: f64) -> bool {
        self.tiers.iter_mut().all(|(_, policy)| policy.keep_resumptions(share)) && self.rest.keep_resumptions(share)
    }

    fn worth_until(&mut self, session: &SessionInfo<'_>, now: Instant) -> Instant {
        self.home(session).worth_until(session, now)
    }

    fn tracks_returns(&self) -> bool {
        self.rest.tracks_returns() || self.tiers.iter().any(|(_, policy)| policy.tracks_returns())
    }

    fn on_return(&mut self, session: &SessionInfo<'_>, idle: &IdlePeriod) {
        self.home(session).on_return(session, idle);
    }

    /// Told to every tier: which one knew the session last is not kept.
    fn on_forgotten(&mut self, session: SessionOrigin) {
        self.tiers.iter_mut().for_each(|(_, policy)| policy.on_forgotten(session));
        self.rest.on_forgotten(session);
    }

    /// Asks the tiers in turn. A session that belongs to a later tier by now moves there, and its old tier is asked
    /// again. One that belongs to an earlier tier is named all the same.
    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        for tier in 0..=self.tiers.len() {
            self.named_by = tier;
            while let Some(key) = self.policy(tier).victim(candidates) {
                let Some(session) = candidates.get(key) else { return Some(key) };
                let now = self.tier_of(&session);
                // Only ever to a later tier, and only what is in this one, so this ends.
                if now <= tier || self.homes.get(key.index()) != Some(&tier) {
                    return Some(key);
                }
                self.home(&session).on_remove(&session);
                self.settle(&session, now);
            }
        }
        None
    }

    /// Has the first tier that any of these sessions is in pick one of its own. Those that belong to a later tier by now
    /// move there first.
    fn pick(&mut self, among: &[SessionInfo<'_>], now: Instant) -> Option<SessionKey> {
        let tiers: Vec<_> = among.iter().map(|session| self.move_on(session)).collect();
        let first = *tiers.iter().min()?;
        let of_first = among.iter().zip(tiers).filter(|(_, tier)| *tier == first);
        let of_first: Vec<_> = of_first.map(|(session, _)| *session).collect();
        self.named_by = first;
        self.policy(first).pick(&of_first, now)
    }

    /// The phrase of the tier that the session was in.
    fn phrase(&self) -> &'static str {
        self.tiers.get(self.named_by).map_or_else(|| self.rest.phrase(), |(_, policy)| policy.phrase())
    }
}

impl<P: fmt::Debug, F, R> fmt::Debug for Tiers<P, F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.tiers.first().map(|(_, policy)| policy);
        f.debug_struct("Tiers").field("tiers", &self.tiers.len()).field("policy", &first).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::eviction::{EvictionPolicyExt, Lru};
    use crate::registry::test_registry::{TestRegistry, call, looks, touch};

    fn stage() -> TestRegistry {
        TestRegistry::new(Lru::new().tiers([|session: &SessionInfo<'_>| session.open_streams() == 0]))
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_holds_no_stream_goes_first_and_then_anybody() {
        let mut stage = stage();
        let [one, two, _, four, _] = stage.ready_many();
        [&one, &two, &four].into_iter().for_each(|record| record.stream_opened());
        touch(&one);
        assert_eq!(stage.victims(), [3, 5, 2, 4, 1]);
        assert_eq!(stage.registry.overruled, 0);
    }

    #[test]
    fn it_sees_uses_if_its_policy_does() {
        let holds_none: fn(&SessionInfo<'_>) -> bool = |session| session.open_streams() == 0;
        assert!(!Lru::new().tiers([holds_none]).tracks_access());
        assert!(Watches.tiers([holds_none]).tracks_access());
    }

    #[derive(Clone, Debug)]
    struct Watches;

    impl EvictionPolicy for Watches {
        fn tracks_access(&self) -> bool {
            true
        }

        fn victim(&mut self, _: &Candidates<'_>) -> Option<SessionKey> {
            None
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whose_stream_closes_is_of_the_first_tier_again_in_its_old_order() {
        let mut stage = stage();
        let [one, two, _, four, _] = stage.ready_many();
        [&one, &two, &four].into_iter().for_each(|record| record.stream_opened());
        assert_eq!(stage.victim(), Some(3));
        two.stream_closed(Instant::now());
        one.stream_closed(Instant::now());
        assert_eq!(stage.victims(), [1, 2, 5, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_session_is_of_no_tier_until_it_is_done() {
        let mut stage = stage();
        let [one, two, _] = stage.ready_many();
        two.stream_opened();
        let calls = (call(&one), call(&two));
        assert_eq!((stage.victim(), stage.victim()), (Some(3), None));
        drop(calls);
        assert_eq!(stage.victims(), [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_victim_costs_does_not_grow_with_the_streams_that_are_open() {
        const SESSIONS: usize = 10_000;
        const CHOICES: usize = 5_000;
        let mut stage = stage();
        let crowd: Vec<_> = (0..SESSIONS).map(|_| stage.ready()).collect();
        crowd.iter().take(SESSIONS * 99 / 100).for_each(|record| record.stream_opened());
        let count = looks(|| {
            for _ in 0..CHOICES {
                stage.victim();
                stage.ready();
            }
        });
        assert!(count < 3 * SESSIONS + 6 * CHOICES, "{count} looks");
        // Time alone brings none of them back.
        tokio::time::advance(std::time::Duration::from_secs(60)).await;
        let count = looks(|| {
            stage.victim();
        });
        assert!(count < 10, "{count} looks");
    }
}
