//! The queue of session deadlines.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::queue::Queue;
use crate::session::SessionKey;
use crate::timestamp::Timestamp;

/// The next deadline of each session, earliest first.
///
/// The deadline of an ended session stays until it is due, or the queue is tidied.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    earliest: Queue<Timestamp>,
    /// Sessions that are looked at once now, whenever their deadlines were, since the times have changed. A session is
    /// here or in `earliest`, so it still has one entry.
    revisited: Queue<Timestamp>,
    /// Notified when the earliest deadline becomes earlier.
    pub(super) sooner: Arc<Notify>,
}

impl Deadlines {
    /// Sets the one deadline of a session that has none. `is_here` tells whether a session still exists, and `sessions`
    /// how many do.
    pub(super) fn insert(
        &mut self,
        key: SessionKey,
        at: Instant,
        sessions: usize,
        is_here: impl Fn(SessionKey) -> bool,
    ) {
        // Rounded up: a session that is checked before its deadline gets the same deadline again, in a loop until the
        // deadline is due.
        let at = Timestamp::at(at + Duration::from_nanos(999));
        if self.earliest.peek().is_none_or(|(earliest, _)| at < earliest) {
            self.sooner.notify_one();
        }
        self.earliest.tidy(sessions, |_, key| is_here(key));
        self.earliest.push(at, key);
    }

    /// Has [`next`](Self::next) return each session once, since the times that its deadline comes from have changed.
    pub(super) fn revisit(&mut self) {
        self.revisited.append(&mut self.earliest);
        self.sooner.notify_one();
    }

    /// Takes the session with the earliest deadline if that is due, or returns when the next deadline is.
    pub(super) fn next(&mut self, now: Instant) -> Result<SessionKey, Option<Instant>> {
        if let Some((_, key)) = self.revisited.pop() {
            return Ok(key);
        }
        let Some((at, key)) = self.earliest.peek() else { return Err(None) };
        if Timestamp::at(now) < at {
            return Err(Some(at.instant()));
        }
        self.earliest.pop();
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deadlines() -> (Deadlines, Instant) {
        // Of a full microsecond, as deadlines are.
        (Deadlines::default(), Timestamp::at(Instant::now() + Duration::from_secs(1)).instant())
    }

    #[tokio::test(start_paused = true)]
    async fn they_come_in_their_order_and_none_too_early() {
        let (mut deadlines, now) = deadlines();
        let at = |secs| now + Duration::from_secs(secs);
        for secs in [3, 1, 2] {
            deadlines.insert(SessionKey::new(secs, 1), at(secs.into()), 3, |_| true);
        }
        assert_eq!(deadlines.next(at(0)), Err(Some(at(1))));
        assert_eq!(deadlines.next(at(2)).map(SessionKey::index), Ok(1));
        assert_eq!(deadlines.next(at(2)).map(SessionKey::index), Ok(2));
        assert_eq!(deadlines.next(at(2)), Err(Some(at(3))));
        assert_eq!(deadlines.next(at(3)).map(SessionKey::index), Ok(3));
        assert_eq!(deadlines.next(at(3)), Err(None));
    }

    #[tokio::test(start_paused = true)]
    async fn one_within_a_microsecond_is_not_too_early_either() {
        let (mut deadlines, now) = deadlines();
        deadlines.insert(SessionKey::new(0, 1), now + Duration::from_nanos(1_001), 1, |_| true);
        assert_eq!(deadlines.next(now + Duration::from_nanos(1_999)), Err(Some(now + Duration::from_micros(2))));
        assert!(deadlines.next(now + Duration::from_micros(2)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn those_of_sessions_that_are_gone_are_no_more_than_those_of_the_sessions() {
        let (mut deadlines, now) = deadlines();
        let here = |key: SessionKey| key.generation() > 990;
        for generation in 1..=1_000 {
            deadlines.insert(SessionKey::new(0, generation), now, 10, here);
            assert!(deadlines.earliest.len() <= 64 + 2 * 10 + 1);
        }
        let left = std::iter::from_fn(|| deadlines.next(now).ok()).filter(|key| here(*key)).count();
        assert_eq!(left, 10, "and theirs are kept");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_told_of_an_earlier_one_and_of_no_later_one() {
        use futures_util::FutureExt;
        let (mut deadlines, now) = deadlines();
        let sooner = Arc::clone(&deadlines.sooner);
        let told = [2, 3, 1].map(|secs| {
            deadlines.insert(SessionKey::new(0, secs), now + Duration::from_secs(secs.into()), 3, |_| true);
            sooner.notified().now_or_never().is_some()
        });
        assert_eq!(told, [true, false, true]);
    }
}
