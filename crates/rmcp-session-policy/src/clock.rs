//! Time as the registry stores it: one `u64` that orders what happened.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

const TIE_BITS: u32 = 16;

thread_local! {
    /// The latest instant this thread stamped, and how many stamps it took about then.
    static TIE: Cell<Option<(Instant, u64)>> = const { Cell::new(None) };
}

/// A moment: microseconds since the clock's epoch above a tie-breaker.
///
/// Two moments that one thread takes within the same microsecond (always so while tokio's clock is paused) are told
/// apart by counting, so that "used before" has an answer. A thread that takes more than 65,536 of them without a
/// pause of a microsecond runs ahead of the time by a microsecond for each 65,536. Good for eight years of uptime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Stamp(pub(crate) u64);

/// Turns instants into stamps and back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    epoch: Instant,
}

impl Clock {
    pub(crate) const fn starting(epoch: Instant) -> Self {
        Self { epoch }
    }

    pub(crate) fn stamp(self, now: Instant) -> Stamp {
        let tie = TIE.with(|tie| {
            // Instants are compared, not stamps: clocks of different epochs may take turns on one thread.
            let (latest, count) = match tie.get() {
                Some((latest, count)) if now < latest + Duration::from_micros(1 + (count >> TIE_BITS)) => {
                    (latest.max(now), count + 1)
                }
                _ => (now, 0),
            };
            tie.set(Some((latest, count)));
            count
        });
        let micros = now.saturating_duration_since(self.epoch).as_micros() as u64;
        // A sum: past 65,535 the count carries into the microseconds instead of starting again.
        Stamp((micros << TIE_BITS) + tie)
    }

    pub(crate) fn instant(self, stamp: Stamp) -> Instant {
        self.epoch + Duration::from_micros(stamp.0 >> TIE_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_gives_its_instant_back() {
        let epoch = Instant::now();
        let clock = Clock::starting(epoch);
        let later = epoch + Duration::from_millis(1_234);
        assert_eq!(clock.instant(clock.stamp(later)), later);
    }

    #[test]
    fn moments_of_one_instant_are_ordered() {
        let epoch = Instant::now();
        let clock = Clock::starting(epoch);
        let stamps: Vec<_> = (0..200_000).map(|_| clock.stamp(epoch)).collect();
        assert!(stamps.is_sorted_by(|earlier, later| earlier < later), "however many there are");
        assert!(clock.instant(stamps[65_535]) == epoch);
        assert!(clock.stamp(epoch + Duration::from_micros(10)) > stamps[199_999]);
    }

    #[test]
    fn moments_are_ordered_when_clocks_take_turns() {
        let epoch = Instant::now();
        let (one, other) = (Clock::starting(epoch), Clock::starting(epoch - Duration::from_secs(1)));
        let first = one.stamp(epoch);
        let between = other.stamp(epoch);
        let second = one.stamp(epoch);
        assert!(first < second && between < other.stamp(epoch));
    }

    #[test]
    fn moments_of_successive_instants_are_ordered() {
        let epoch = Instant::now();
        let clock = Clock::starting(epoch);
        let nanos = (0..5_000).map(|step| clock.stamp(epoch + Duration::from_nanos(step * 333)));
        assert!(nanos.collect::<Vec<_>>().is_sorted_by(|earlier, later| earlier < later));
    }
}
