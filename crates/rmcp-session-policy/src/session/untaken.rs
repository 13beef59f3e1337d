//! The answers of a session that were handed over and that the server has not taken from their streams.

use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use tokio::time::Instant;

use crate::sync::{AtomicU32, AtomicU64};
use crate::timestamp::Timestamp;

/// How long an answer keeps its session at most, counted from when the service handed it over. A server that has much to
/// do takes it within that time; a client that has stopped reading must not keep a place.
pub(crate) const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Counts the answers between the service and the HTTP server: the service has handed them over, and the streams of their
/// requests have not given them out.
///
/// They are no activity: their requests have ended. The moment of the latest counts for all, so a session with one stream
/// that is never read is kept for [`ANSWER_WAIT`] after each further answer.
#[derive(Debug, Default)]
pub(crate) struct Untaken {
    number: AtomicU32,
    /// When the last answer was handed over. Valid while the number is not zero, because it is stored before.
    handed_over: AtomicU64,
}

impl Untaken {
    /// Counts an answer in. The caller does so before the activity of its request ends, so a look at the session finds the
    /// one or the other.
    pub(crate) fn hand_over(&self, now: Instant) {
        // Of two at the same time, either moment will do.
        self.handed_over.store(Timestamp::of(now).0, Relaxed);
        self.number.fetch_add(1, SeqCst);
    }

    /// Counts an answer out. Returns whether it was the last.
    pub(super) fn take(&self) -> bool {
        self.number.fetch_sub(1, SeqCst) == 1
    }

    /// Until when they keep their session: not for longer than a request would, which keeps it for `max_busy`. `None` if there
    /// are none, or that is over.
    pub(crate) fn keep_until(&self, max_busy: Duration, now: Instant) -> Option<Instant> {
        if self.number.load(SeqCst) == 0 {
            return None;
        }
        let until = Timestamp(self.handed_over.load(Relaxed)).instant() + ANSWER_WAIT.min(max_busy);
        (now < until).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_keep_their_session_until_all_are_taken_or_the_latest_is_old() {
        let (untaken, begun) = (Untaken::default(), Timestamp::of(Instant::now()).instant());
        let [one, five, six, minute] = [1, 5, 6, 60].map(Duration::from_secs);
        assert_eq!(untaken.keep_until(minute, begun), None);
        untaken.hand_over(begun);
        untaken.hand_over(begun + one);
        assert!(!untaken.take());
        assert_eq!(untaken.keep_until(minute, begun + five), Some(begun + six));
        assert_eq!(untaken.keep_until(minute, begun + six), None);
        assert_eq!(untaken.keep_until(one, begun + one), Some(begun + 2 * one));
        assert_eq!(untaken.keep_until(Duration::ZERO, begun + one), None, "busy sessions may go");
        assert!(untaken.take());
        assert_eq!(untaken.keep_until(minute, begun + one), None);
    }
}
