//! What the policy hears of sessions that come back, and of those that never will.

use std::sync::Arc;

use super::sessions::{Registry, Standing};
use crate::eviction::{IdlePeriod, SessionInfo};
use crate::session::Recorded;

impl<S: Recorded> Registry<S> {
    /// Tells the policy of the returns, and of the forgotten sessions, that were noted since the last call.
    ///
    /// Returns come first, so that the policy knows a session of which it hears. One of a session that is gone by now is
    /// not told; [`retire`](Registry::retire) calls this, so there is none unless the queue was full.
    pub(super) fn hear_of_returns(&mut self) {
        let signals = Arc::clone(&self.signals);
        let Some(comings) = signals.comings.get() else { return };
        let tracks = self.policy.as_ref().is_some_and(|told| told.tracks_returns);
        let incoming_tracks = self.incoming.as_ref().is_some_and(|incoming| incoming.told.tracks_returns);
        // No more than there are now: other threads may add as fast as they are told.
        for _ in 0..comings.returned.len() {
            let Some(returned) = comings.returned.pop() else { break };
            let idle = IdlePeriod::of(&returned);
            // A close may have told of the end between the begin of the use and its note here.
            if self.get(returned.key).is_some_and(|slot| slot.standing != Standing::Retired) {
                let session = self.get(returned.key).map(|slot| Arc::clone(&slot.session));
                if let Some(session) = session.filter(|_| tracks) {
                    self.call_policy(|policy| policy.on_return(&SessionInfo::of(session.record()), &idle));
                }
                if incoming_tracks {
                    self.tell_incoming(returned.key, |policy, session| policy.on_return(session, &idle));
                }
            }
        }
        for _ in 0..comings.forgotten.len() {
            let Some(origin) = comings.forgotten.pop() else { break };
            if tracks {
                self.call_policy(|policy| policy.on_forgotten(origin));
            }
            if let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.told.tracks_returns)
                && !incoming.told.call(|policy| policy.on_forgotten(origin))
            {
                self.note_overruled("it panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use tokio::time::{Instant, advance};

    use crate::eviction::{Candidates, EvictionPolicy, IdlePeriod, SessionInfo};
    use crate::registry::test_registry::{TestRegistry, begin, call, touch};
    use crate::session::{ActivityKind, SessionKey, SessionOrigin, Stream};
    use crate::timestamp::Timestamp;

    /// Writes down what it hears.
    #[derive(Clone, Debug, Default)]
    struct Recorder(Arc<Mutex<Vec<Heard>>>);

    #[derive(Debug, PartialEq)]
    enum Heard {
        Return { session: u32, seconds: u64, calls: u64, gap: Option<u64>, stream: Stream },
        Forgotten,
    }

    impl EvictionPolicy for Recorder {
        fn tracks_returns(&self) -> bool {
            true
        }
        fn on_return(&mut self, session: &SessionInfo<'_>, idle: &IdlePeriod) {
            self.0.lock().unwrap().push(Heard::Return {
                session: session.key().generation(),
                seconds: idle.lasted.as_secs(),
                calls: idle.calls,
                gap: idle.last_gap.map(|gap| gap.as_secs()),
                stream: idle.stream,
            });
        }
        fn on_forgotten(&mut self, _: SessionOrigin) {
            self.0.lock().unwrap().push(Heard::Forgotten);
        }
        fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
            candidates.iter().next().map(|session| session.key())
        }
    }

    fn stage() -> (TestRegistry, Arc<Mutex<Vec<Heard>>>) {
        let policy = Recorder::default();
        let heard = Arc::clone(&policy.0);
        (TestRegistry::new(policy), heard)
    }

    const fn returned(session: u32, seconds: u64, calls: u64, gap: Option<u64>) -> Heard {
        Heard::Return { session, seconds, calls, gap, stream: Stream::Never }
    }

    #[tokio::test(start_paused = true)]
    async fn a_use_after_a_second_is_told_with_the_facts_of_the_time_before_it() {
        let (mut stage, heard) = stage();
        let one = stage.ready();
        for wait in [5, 1, 30] {
            advance(Duration::from_secs(wait)).await;
            touch(&one);
        }
        assert!(heard.lock().unwrap().is_empty(), "a use runs no policy code");
        stage.ready();
        // One second is not more than one second; it is a gap between two calls all the same.
        assert_eq!(*heard.lock().unwrap(), [returned(1, 5, 0, None), returned(1, 30, 2, Some(1))]);
    }

    #[tokio::test(start_paused = true)]
    async fn pings_end_no_idle_period_and_a_session_at_work_is_not_idle() {
        let (mut stage, heard) = stage();
        let one = stage.ready();
        advance(Duration::from_secs(5)).await;
        drop(begin(&one, ActivityKind::Ping));
        advance(Duration::from_secs(5)).await;
        let long = call(&one);
        advance(Duration::from_secs(60)).await;
        touch(&one);
        drop(long);
        stage.ready();
        assert_eq!(*heard.lock().unwrap(), [returned(1, 10, 0, None)]);
        assert_eq!(SessionInfo::of(&one).last_gap(), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_policy_that_takes_over_hears_of_no_return_of_before_it_met_the_session() {
        let (mut stage, heard) = stage();
        let (one, two) = (stage.ready(), stage.ready());
        let new = Recorder::default();
        stage.registry.begin_swap(Box::new(new.clone()));
        for seconds in [5, 7] {
            advance(Duration::from_secs(seconds)).await;
            touch(&one);
            touch(&two);
            stage.registry.meet(&[one.entry.key]);
        }
        stage.registry.finish_swap();
        stage.ready();
        assert_eq!(*new.0.lock().unwrap(), [returned(1, 7, 1, None)]);
        assert_eq!(heard.lock().unwrap().len(), 4, "the old one hears of all");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_closes_is_told_of_before_its_end() {
        let (mut stage, heard) = stage();
        let one = stage.ready();
        advance(Duration::from_secs(5)).await;
        touch(&one);
        stage.signals.forget(one.entry.serial);
        stage.registry.remove(one.entry.key);
        assert_eq!(*heard.lock().unwrap(), [returned(1, 5, 0, None), Heard::Forgotten]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_return_that_is_noted_after_the_end_was_told_is_not_told() {
        let (mut stage, heard) = stage();
        let one = stage.ready();
        advance(Duration::from_secs(5)).await;
        stage.registry.retire(one.entry.key);
        touch(&one);
        stage.ready();
        assert!(heard.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn returns_are_bounded_and_those_beyond_are_counted() {
        let (mut stage, heard) = stage();
        let one = stage.ready();
        for _ in 0..5_000 {
            advance(Duration::from_secs(2)).await;
            touch(&one);
        }
        stage.ready();
        assert_eq!(heard.lock().unwrap().len(), 4_096);
        assert_eq!(stage.signals.missed_returns(), 5_000 - 4_096);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_open_and_then_lost() {
        let (mut stage, _) = stage();
        let one = stage.ready();
        let info = SessionInfo::of(&one);
        assert_eq!(info.stream(), Stream::Never);
        one.stream_opened();
        assert_eq!(info.stream(), Stream::Open);
        advance(Duration::from_secs(7)).await;
        let lost = Timestamp::at(Instant::now()).instant();
        one.stream_closed(lost);
        advance(Duration::from_secs(7)).await;
        assert_eq!(info.stream(), Stream::Lost(lost));
        let history = one.history(Instant::now());
        assert_eq!(history.stream_lost.map(|at| at.instant()), Some(lost));
    }
}
