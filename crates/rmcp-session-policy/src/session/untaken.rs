//! The answers of a session that were handed over and that the server has not taken from their streams.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::time::Instant;

use crate::sync::AtomicU64;
use crate::timestamp::Timestamp;

/// How long answers keep their session at most, counted from when the service handed the first of them over. A server that
/// has much to do takes them within that time; a client that has stopped reading must not keep a place.
pub(crate) const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// The bits of the number.
const NUMBER: u64 = 0xffff;

/// Counts the answers between the service and the HTTP server: the service has handed them over, and the streams of their
/// requests have not given them out.
///
/// They are no activity: their requests have ended. The moment at which there was the first counts for all, until there is
/// none. So one stream that is never read keeps its session once, whatever the client does beside it.
#[derive(Debug, Default)]
pub(crate) struct Untaken {
    /// When the first was handed over, as a [`Timestamp`], whose lowest bits hold the number instead of what orders the
    /// events of a microsecond. One word, so that the moment is always that of the number. A client with more unread answers
    /// than fit spoils the count of its own session, which no answer keeps for longer than from that moment.
    word: AtomicU64,
}

impl Untaken {
    /// Counts an answer in. The caller does so before the activity of its request ends, so a look at the session finds the
    /// one or the other.
    pub(crate) fn hand_over(&self, now: Instant) {
        let first = Timestamp::at(now).0;
        let add = |word: u64| Some(if word & NUMBER == 0 { first } else { word } + 1);
        // It always adds.
        self.word.fetch_update(SeqCst, SeqCst, add).ok();
    }

    /// Counts an answer out. Returns whether it was the last.
    pub(super) fn take(&self) -> bool {
        self.word.fetch_sub(1, SeqCst) & NUMBER == 1
    }

    /// Until when they keep their session: not for longer than a request would, which keeps it for `max_busy`. `None` if there
    /// are none, or that is over.
    pub(crate) fn keep_until(&self, max_busy: Duration, now: Instant) -> Option<Instant> {
        let word = self.word.load(SeqCst);
        if word & NUMBER == 0 {
            return None;
        }
        let until = Timestamp(word & !NUMBER).instant() + ANSWER_WAIT.min(max_busy);
        (now < until).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_keep_their_session_until_all_are_taken_or_the_first_is_old() {
        let (untaken, begun) = (Untaken::default(), Timestamp::of(Instant::now()).instant());
        let [one, five, six, minute] = [1, 5, 6, 60].map(Duration::from_secs);
        assert_eq!(untaken.keep_until(minute, begun), None);
        untaken.hand_over(begun);
        untaken.hand_over(begun + one);
        assert_eq!(untaken.keep_until(minute, begun + one), Some(begun + five));
        assert!(!untaken.take());
        untaken.hand_over(begun + 3 * one);
        assert_eq!(untaken.keep_until(minute, begun + five), None, "one has not been taken in all that time");
        assert_eq!(untaken.keep_until(one, begun), Some(begun + one));
        assert_eq!(untaken.keep_until(Duration::ZERO, begun), None, "busy sessions may go");
        assert!(!untaken.take() && untaken.take());
        assert_eq!(untaken.keep_until(minute, begun + one), None);
        untaken.hand_over(begun + one);
        assert_eq!(untaken.keep_until(minute, begun + five), Some(begun + six), "all were taken before");
    }
}
