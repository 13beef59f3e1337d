//! [`Timestamp`]: a moment in one `u64`, which orders also what happened within one microsecond.

use std::cell::Cell;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

use crate::time::HOUR;

const TIE_BITS: u32 = 16;

/// How long before the process the moments may be that it reads from a directory. More than the longest lifetime.
const BEFORE: Duration = Duration::from_secs(400 * 24 * HOUR.as_secs());
const BEFORE_MICROS: u64 = BEFORE.as_secs() * 1_000_000;

/// One hour of real time before this process first read it. The count of microseconds begins [`BEFORE`] it. Real time,
/// since the paused clock of a test may be ahead; one hour before, since that clock may also have been paused earlier.
static EPOCH: LazyLock<Instant> = LazyLock::new(|| {
    let now = std::time::Instant::now();
    Instant::from_std(now.checked_sub(HOUR).unwrap_or(now))
});

thread_local! {
    /// The latest microsecond that this thread stamped, and the number of stamps it took around that time.
    static TIE: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// A moment: microseconds above a tie-breaker. They begin long before the process, because sessions that come from a
/// directory may be older than the clock of the system reaches back.
///
/// A count separates two moments that one thread takes within the same microsecond (as all are while tokio's clock is
/// paused), so that "used before" has an answer. A thread that takes more than 65,536 of them without a pause of a
/// microsecond runs ahead of the time by a microsecond for each 65,536. The microseconds last for more than seven years of
/// uptime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Timestamp(pub(crate) u64);

impl Timestamp {
    /// Later than any moment.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    /// Stamps what happens now.
    pub(crate) fn of(now: Instant) -> Self {
        let micros = micros(now);
        let tie = TIE.with(|tie| {
            let (latest, count) = match tie.get() {
                (latest, count) if micros <= latest + (count >> TIE_BITS) => (latest.max(micros), count + 1),
                _ => (micros, 0),
            };
            tie.set((latest, count));
            count
        });
        // A sum, not a bitwise or: past 65,535 the count carries into the microseconds instead of starting again.
        Self((micros << TIE_BITS) + tie)
    }

    /// Converts a moment to compare with, such as a deadline. It is not an event, so it takes no tie-breaker.
    pub(crate) fn at(moment: Instant) -> Self {
        Self(micros(moment) << TIE_BITS)
    }

    /// How long after `earlier` it is, to the microsecond; zero if it is not after it.
    pub(crate) const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros((self.0 >> TIE_BITS).saturating_sub(earlier.0 >> TIE_BITS))
    }

    /// The moment that is this number of microseconds after the epoch.
    #[cfg(feature = "simulation")]
    pub(crate) const fn of_micros(micros: u64) -> Self {
        Self((BEFORE_MICROS + micros) << TIE_BITS)
    }

    /// The moment that was this long ago, or the earliest one that there is.
    pub(crate) fn ago(now: Instant, ago: Duration) -> Self {
        let micros = micros(now).saturating_sub(u64::try_from(ago.as_micros()).unwrap_or(u64::MAX));
        Self(micros << TIE_BITS)
    }

    /// The instant, or the earliest one that the clock of the system is sure to reach, if it is before that.
    pub(crate) fn instant(self) -> Instant {
        let micros = self.0 >> TIE_BITS;
        match micros.checked_sub(BEFORE_MICROS) {
            Some(after) => *EPOCH + Duration::from_micros(after),
            None => EPOCH.checked_sub(Duration::from_micros(BEFORE_MICROS - micros)).unwrap_or(*EPOCH),
        }
    }

    /// The instant that is this long after it. Exact also where [`instant`](Self::instant) is not.
    pub(crate) fn plus(self, time: Duration) -> Instant {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self((self.0 >> TIE_BITS).saturating_add(micros).min(u64::MAX >> TIE_BITS) << TIE_BITS).instant()
    }
}

/// Returns the microseconds since [`BEFORE`] the epoch. This is cheaper than `as_micros`, which computes in 128 bits.
fn micros(moment: Instant) -> u64 {
    let passed = moment.saturating_duration_since(*EPOCH);
    BEFORE_MICROS + passed.as_secs() * 1_000_000 + u64::from(passed.subsec_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A moment of which the microsecond is full.
    fn start() -> Instant {
        *EPOCH + HOUR
    }

    #[test]
    fn time_that_was_paused_before_anybody_asked_is_told_apart() {
        let paused = *EPOCH + HOUR - Duration::from_secs(60);
        assert_eq!(Timestamp::of(paused).instant(), paused);
    }

    #[test]
    fn a_stamp_gives_its_instant_back() {
        let later = start() + Duration::from_millis(1_234);
        assert_eq!(Timestamp::of(later).instant(), later);
        assert_eq!(Timestamp::at(later).instant(), later);
    }

    #[test]
    fn a_moment_long_before_the_process_is_exact() {
        let year = 365 * 24 * HOUR;
        let ago = Timestamp::ago(start(), year);
        assert_eq!(Timestamp::at(start()).since(ago), year);
        assert_eq!(ago.plus(year + HOUR), start() + HOUR, "a lifetime ends when it should");
        assert!(ago.instant() <= start(), "if the clock reaches that far, it is exact too");
        assert_eq!(Timestamp::ago(start(), Duration::MAX), Timestamp(0), "the earliest there is");
    }

    #[test]
    fn moments_of_one_instant_are_ordered() {
        let now = start();
        let stamps: Vec<_> = (0..200_000).map(|_| Timestamp::of(now)).collect();
        assert!(stamps.is_sorted_by(|earlier, later| earlier < later), "however many there are");
        assert!(stamps[65_535].instant() == now);
        let later = now + Duration::from_micros(10);
        assert!(Timestamp::of(later) > stamps[199_999]);
        assert!(Timestamp::of(later).instant() == later, "a pause, and they are with the clock again");
    }

    #[test]
    fn moments_of_successive_instants_are_ordered() {
        let now = start();
        let nanos = (0..5_000).map(|step| Timestamp::of(now + Duration::from_nanos(step * 333)));
        assert!(nanos.collect::<Vec<_>>().is_sorted_by(|earlier, later| earlier < later));
    }

    #[test]
    fn moments_are_ordered_after_time_was_ahead() {
        let now = start();
        Timestamp::of(now + Duration::from_secs(60));
        let stamps = [0, 0, 1, 2].map(|micros| Timestamp::of(now + Duration::from_micros(micros)));
        assert!(
            stamps.is_sorted_by(|earlier, later| earlier < later),
            "as on a thread that runs one paused test after another"
        );
        assert!(stamps[3].instant() < now + Duration::from_millis(1));
    }

    #[test]
    fn a_deadline_is_no_later_than_what_happens_at_its_moment() {
        let moment = start() + Duration::from_secs(5);
        assert!(Timestamp::at(moment) <= Timestamp::of(moment));
        assert!(Timestamp::at(moment) > Timestamp::of(moment - Duration::from_micros(1)));
        assert!(Timestamp::at(moment) < Timestamp::NEVER);
    }
}
