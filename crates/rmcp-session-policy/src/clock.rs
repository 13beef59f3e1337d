//! Time as the registry stores it: one `u64` that orders what happened.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

const TIE_BITS: u32 = 16;

thread_local! {
    static TIE: Cell<u16> = const { Cell::new(0) };
}

/// A moment: microseconds since the clock's epoch above a tie-breaker.
///
/// Two moments that one thread takes within the same microsecond (always so while tokio's clock is paused) are told
/// apart by counting, so that "used before" has an answer. Good for eight years of uptime.
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
            tie.set(tie.get().wrapping_add(1));
            tie.get()
        });
        let micros = now.saturating_duration_since(self.epoch).as_micros() as u64;
        Stamp(micros << TIE_BITS | u64::from(tie))
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
        let first = clock.stamp(epoch);
        let second = clock.stamp(epoch);
        assert!(first < second || first.0 & 0xffff == 0xffff);
    }
}
