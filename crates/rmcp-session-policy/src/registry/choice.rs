//! The choice of a victim: in which order what is asked, and the claim of what was chosen.
//!
//! It runs under the manager's lock, in these steps:
//! 1. The registry hears which sessions have changed, and looks again at those that are due.
//! 2. If the half-open sessions hold their share, the oldest of them goes (L6).
//! 3. If the client of the arrival holds its share of the places, one of its own sessions goes, if one may.
//! 4. While places are asked for much faster than before, the guard chooses, if it can.
//! 5. Otherwise the policy names a session. The registry claims it, or suspends it if it may not go and asks again.
//! 6. If the policy breaks its contract, the oldest session that may go goes instead. The registry counts that (L13).

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use tokio::time::Instant;

use super::client_id::ClientId;
use super::rules::Verdict;
use super::sessions::Registry;
use crate::admission::ArrivalKind;
use crate::context::ClientContext;
use crate::session::{Phase, Recorded, SessionKey};
use crate::timestamp::Timestamp;

/// What came of asking for a victim.
#[derive(Debug)]
pub(crate) enum Choice<S> {
    /// This session's close has begun: its state is closing, and the policy has heard of its end. The caller sets the
    /// reason under the same lock, by `ManagerState::mark_closing`, and runs the close after it. The phrase says why it was
    /// chosen, before "of 1,000 sessions".
    Victim(Arc<S>, &'static str),
    /// The half-open sessions, and newcomers that will be, hold their share, and none of the half-open ones may go:
    /// each is answering `initialize`, was so a moment ago, or is protected. For a restore, no other session may go
    /// either. The caller waits, because each handshake ends by itself.
    Handshakes,
    /// No session may go, or the manager evicts none at all. The caller waits for the place of a session that is
    /// closing already, or for a short time, and refuses the arrival after that.
    NoVictim,
}

impl<S: Recorded> Registry<S> {
    /// Chooses a victim and begins its close. `arriving`: how many other newcomers are on their way to be half-open
    /// sessions. `newcomer`: the client of the arrival, for the policy. `full`: the same client, if it holds its share of
    /// the places.
    ///
    /// Once half-open sessions hold their share the oldest of them goes. While none of them may, a newcomer waits, so
    /// that a flood of handshakes evicts no session that finished its own; a restore goes on to the policy, because its
    /// session finished its handshake before.
    ///
    /// The cost is O(log n) amortized for each session that is named, with the two exceptions of L7: the first choice
    /// that needs the fallback looks at all sessions, and so does a choice at which many protected sessions are due and
    /// no other may go.
    pub(crate) fn choose(
        &mut self,
        now: Instant,
        kind: ArrivalKind,
        newcomer: Option<&ClientContext>,
        arriving: usize,
        full: Option<ClientId>,
    ) -> Choice<S> {
        if self.policy.is_none() {
            return Choice::NoVictim;
        }
        // Of a full microsecond, as all moments are that policies see: what lasted a second has lasted one exactly.
        let now = Timestamp::at(now).instant();
        self.hear(now);
        self.hear_of_time(now);
        self.hear_of_returns();
        let share_is_full = self.signals.opening.load(SeqCst) as usize + arriving >= self.max_opening;
        if share_is_full {
            if let Some(session) = self.oldest_opening(now, Timestamp::NEVER) {
                return Choice::Victim(session, "oldest unfinished handshake");
            }
            if kind != ArrivalKind::Restore {
                return Choice::Handshakes;
            }
        }
        let own = full.and_then(|client| self.choose_own(now, client));
        let own = own.map(|session| (session, "one of a client that holds its share of the places,"));
        if let Some((session, phrase)) = own.or_else(|| self.choose_in_surge(now, newcomer)) {
            return Choice::Victim(session, phrase);
        }
        if let Some((session, phrase)) = self.choose_by_policy(now, newcomer) {
            self.note_victim(&session, now);
            return Choice::Victim(session, phrase);
        }
        if share_is_full { Choice::Handshakes } else { Choice::NoVictim }
    }

    /// Begins the close of a session; if it may not go, takes it out of the policy's order until it may. Returns the
    /// session if its close has begun. The session must be in the policy's order, because the policy hears of each
    /// suspension once.
    pub(super) fn claim_or_suspend(&mut self, key: SessionKey, now: Instant) -> Option<Arc<S>> {
        let verdict = match self.claim(key, now) {
            Ok(session) => return Some(session),
            Err(verdict) => verdict,
        };
        self.suspend(key);
        self.expect(key, verdict, now);
        None
    }

    /// Begins the close of a session that may go, in one atomic step.
    ///
    /// The compare-and-swap takes the reading that was judged. If an activity began or ended meanwhile it fails, and
    /// the session is judged again. On success the policy hears of the end, and the caller sets the reason.
    ///
    /// # Errors
    ///
    /// Returns the verdict if the session may not go; it is watched then. A session that is not there gives
    /// `Verdict::Not(None)`.
    pub(crate) fn claim(&mut self, key: SessionKey, now: Instant) -> Result<Arc<S>, Verdict> {
        let session = self.get(key).map(|slot| Arc::clone(&slot.session)).ok_or(Verdict::Not(None))?;
        let record = session.record();
        loop {
            let (seen, verdict) = self.rules.look(record, now);
            if verdict != Verdict::MayGo {
                return Err(verdict);
            }
            if record.entry.state.close_if(seen).is_ok() {
                if seen.phase() == Phase::Opening {
                    record.left_opening();
                }
                self.retire(key);
                return Ok(session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;
    use crate::eviction::{Lru, SessionInfo};
    use crate::registry::Rules;
    use crate::registry::test_registry::{TestRegistry, call, lenient, looks};

    #[tokio::test(start_paused = true)]
    async fn a_predicate_that_cannot_make_up_its_mind_ends_the_search() {
        use std::sync::atomic::AtomicBool;
        let flip = AtomicBool::new(false);
        let protect = Arc::new(move |_: &SessionInfo<'_>| flip.fetch_xor(true, SeqCst));
        let rules = Rules { protect: Some(protect), ..lenient() };
        let mut stage = TestRegistry::with(Lru::new(), rules, usize::MAX);
        stage.ready();
        let count = looks(|| drop(stage.choose()));
        assert!(count <= 10, "{count} looks");
    }

    #[tokio::test(start_paused = true)]
    async fn moments_to_look_again_are_no_more_than_the_sessions() {
        // Each is first found idle too briefly, then busy: a near moment, then a far one, over and over.
        let rules = Rules { min_idle: Duration::from_millis(10), ..lenient() };
        let mut stage = TestRegistry::with(Lru::new(), rules, usize::MAX);
        let crowd = stage.ready_many::<20>();
        for _ in 0..500 {
            let calls = crowd.each_ref().map(call);
            assert_eq!(stage.victim(), None);
            drop(calls);
            assert_eq!(stage.victim(), None);
            advance(Duration::from_millis(1)).await;
        }
        assert!(stage.registry.moments.len() <= 64 + 2 * 20, "{}", stage.registry.moments.len());
        assert!(stage.signals.changed.len() <= 20);
        advance(Duration::from_millis(10)).await;
        assert_eq!((stage.victims().len(), stage.registry.overruled), (20, 0), "and those that count are kept");
    }
}
