//! The look-ups of one client that found nothing in the last second.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How many look-ups of a client may find nothing in [`PERIOD`].
pub(super) const MISSES: usize = 10;
/// The time for which a miss counts.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// When the misses of a client were, oldest first.
#[derive(Debug, Default)]
pub(super) struct Misses(VecDeque<Instant>);

impl Misses {
    pub(super) fn add(&mut self, now: Instant) {
        self.0.push_back(now);
    }

    /// Takes the oldest back, if there is one.
    pub(super) fn forgive(&mut self) {
        self.0.pop_front();
    }

    /// How many more there may be now.
    pub(super) fn left(&mut self, now: Instant) -> usize {
        while self.0.front().is_some_and(|at| *at + PERIOD <= now) {
            self.0.pop_front();
        }
        MISSES.saturating_sub(self.0.len())
    }

    /// How long until there may be one more, if there may be none now.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.0.front().map_or(Duration::ZERO, |at| (*at + PERIOD).saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_in_any_second_and_no_more() {
        let (mut misses, start) = (Misses::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        for miss in 0..10 {
            assert_eq!(misses.left(at(miss * 10)), 10 - miss as usize);
            misses.add(at(miss * 10));
        }
        assert_eq!((misses.left(at(999)), misses.wait(at(999))), (0, Duration::from_millis(1)));
        assert_eq!(misses.left(at(1_000)), 1);
        assert_eq!(misses.left(at(1_090)), 10);
    }
}
