//! The half-open session that goes first, once such sessions hold their share (L6).

use std::sync::Arc;

use tokio::time::Instant;

use super::rules::Verdict;
use super::sessions::Registry;
use crate::session::{Phase, Recorded};
use crate::timestamp::Timestamp;

impl<S: Recorded> Registry<S> {
    /// Begins the close of the oldest half-open session that may go and was opened before a moment, and returns it.
    ///
    /// The queue drops entries of sessions that are half-open no longer. A session that is kept (it is answering
    /// `initialize`, was so less than 100 ms ago, or is protected) leaves the queue and is marked as `answering`.
    /// [`look_again`](Registry::look_again) puts it back when its state changes or its moment comes, in its old order.
    /// `min_idle` is not asked here.
    pub(super) fn oldest_opening(&mut self, now: Instant, before: Timestamp) -> Option<Arc<S>> {
        while self.opening.peek().is_some_and(|(opened, _)| opened < before)
            && let Some((_, key)) = self.opening.pop()
        {
            let Some(slot) = self.slots.get_mut(key.index()).filter(|slot| slot.is(key)) else { continue };
            let session = Arc::clone(&slot.session);
            let record = session.record();
            let mut seen = record.entry.state.read();
            while seen.phase() == Phase::Opening {
                if seen.active() > 0 {
                    // Taken out until the answer is given, so that a flood of slow ones is passed once, not each time.
                    seen = record.entry.state.watch();
                    if seen.active() > 0 && seen.phase() == Phase::Opening {
                        slot.answering = true;
                        break;
                    }
                    continue;
                }
                // In a surge the client has as long for its next step as the handshakes of others may take.
                let until = record.next_step_until().map(|until| match before {
                    Timestamp::NEVER => until,
                    _ => until.max(record.answered().instant() + now.saturating_duration_since(before.instant())),
                });
                if let Some(until) = until.filter(|until| now < *until) {
                    slot.answering = true;
                    self.expect(key, Verdict::Not(Some(until)), now);
                    break;
                }
                if self.rules.protects(record) {
                    slot.answering = true;
                    self.expect(key, Verdict::Protected, now);
                    break;
                }
                match record.entry.state.close_if(seen) {
                    Ok(()) => {
                        record.left_opening();
                        self.retire(key);
                        return Some(session);
                    }
                    Err(changed) => seen = changed,
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;
    use crate::admission::ArrivalKind;
    use crate::eviction::Lru;
    use crate::registry::test_registry::{TestRegistry, begin, lenient, touch};
    use crate::registry::{Choice, Rules};
    use crate::session::ActivityKind;

    fn half_open(max_opening: usize) -> TestRegistry {
        TestRegistry::with(Lru::new(), lenient(), max_opening)
    }

    #[tokio::test(start_paused = true)]
    async fn half_open_sessions_below_their_share_are_no_victims() {
        let mut stage = half_open(3);
        stage.opening();
        stage.opening();
        assert_eq!(stage.victim(), None);
        stage.ready();
        assert_eq!(stage.victims(), [3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_share_of_half_open_sessions_gives_its_oldest_and_never_a_ready_one() {
        let mut stage = half_open(2);
        stage.ready_many::<2>();
        [stage.opening(), stage.opening(), stage.opening()].into_iter().for_each(drop);
        assert_eq!([stage.victim(), stage.victim()], [Some(3), Some(4)]);
        assert_eq!(stage.signals.opening.load(SeqCst), 1);
        assert_eq!(stage.victims(), [1, 2], "below its share again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_open_session_that_the_author_protects_is_no_victim() {
        let rules = Rules { protect: Some(Arc::new(|session| session.key().generation() == 1)), ..lenient() };
        let mut stage = TestRegistry::with(Lru::new(), rules, 1);
        let _protected = stage.opening();
        assert!(matches!(stage.choose(), Choice::Handshakes), "a newcomer waits");
        let _other = stage.opening();
        assert_eq!(stage.victim(), Some(2));
        advance(Duration::from_secs(2)).await;
        assert!(matches!(stage.choose(), Choice::Handshakes), "asked again, and kept again");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_goes_while_answering_initialize() {
        let mut stage = half_open(2);
        stage.ready();
        let [two, three] = [stage.opening(), stage.opening()];
        let handshakes = [&two, &three].map(|record| begin(record, ActivityKind::Handshake));
        assert!(matches!(stage.choose(), Choice::Handshakes));
        let [of_two, of_three] = handshakes;
        drop(of_three);
        assert_eq!(stage.victim(), Some(3), "the other is still answering");
        let _four = stage.opening();
        drop(of_two);
        assert_eq!(stage.victim(), Some(2), "in its old order");
    }

    #[tokio::test(start_paused = true)]
    async fn a_restore_takes_the_oldest_half_open_session_and_else_the_policy_s_choice() {
        let mut stage = half_open(2);
        let [_one, two, _three] = [stage.ready(), stage.opening(), stage.opening()];
        let restore = |stage: &mut TestRegistry| match stage.choose_for(ArrivalKind::Restore) {
            Choice::Victim(record, _) => {
                Ok(stage.registry.remove(record.entry.key).unwrap().session.entry.key.generation())
            }
            choice => Err(matches!(choice, Choice::Handshakes)),
        };
        let handshake = begin(&two, ActivityKind::Handshake);
        assert_eq!(restore(&mut stage), Ok(3), "the other half-open one is answering");
        let four = stage.opening();
        let other = begin(&four, ActivityKind::Handshake);
        assert!(matches!(stage.choose(), Choice::Handshakes), "a newcomer waits");
        assert_eq!(restore(&mut stage), Ok(1), "a restore does not");
        assert_eq!(restore(&mut stage), Err(true), "unless there is nothing else");
        drop(other);
        assert_eq!(restore(&mut stage), Ok(4));
        assert_eq!(restore(&mut stage), Err(false), "half-open sessions below their share stay");
        drop(handshake);
        assert_eq!(restore(&mut stage), Err(false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_slow_handshakes_is_passed_once() {
        let mut stage = half_open(10);
        let handshakes: Vec<_> = (0..1_000).map(|_| begin(&stage.opening(), ActivityKind::Handshake)).collect();
        assert!(matches!(stage.choose(), Choice::Handshakes));
        assert_eq!(stage.registry.opening.len(), 0, "all are taken out");
        drop(handshakes);
        assert_eq!(stage.victim(), Some(1));
        assert_eq!(stage.registry.opening.len(), 999);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_leaves_the_half_open_ones_once() {
        let mut stage = half_open(usize::MAX);
        let [one, two] = [stage.opening(), stage.opening()];
        touch(&one);
        one.ready();
        assert_eq!(stage.signals.opening.load(SeqCst), 1);
        two.ready();
        assert_eq!((stage.victim(), stage.victim()), (Some(2), Some(1)));
        assert_eq!(stage.signals.opening.load(SeqCst), 0);
    }
}
