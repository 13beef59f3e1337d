//! [`SurgeDetector`]: notices when places are asked for much faster than before.

use std::time::Duration;

use tokio::time::Instant;

use crate::time::{HOUR, MINUTE};

/// The time constant of the average that follows the present rate, in seconds.
const SHORT: f64 = 20.0;

/// The time constant of the average that the present rate is compared with, in seconds.
const LONG: f64 = HOUR.as_secs() as f64;

/// How long after the first event no surge begins: the long average has seen too little.
const QUIET: Duration = Duration::from_secs(30 * MINUTE.as_secs());

/// How long before it was noticed a surge began.
pub(super) const BEFORE: Duration = Duration::from_secs(5);

/// The weight of one victim in the mean of their idle ages.
const WEIGHT: f64 = 1.0 / 50.0;

/// Compares the rate at which places are asked for with the rate of the last hour.
///
/// Both are exponential averages, of 20 seconds and of one hour. A surge begins when the short one exceeds four times the
/// long one and 0.2 a second, and it ends when it falls below one and a half times the long one and 0.1 a second.
/// The distance between the two keeps it from flickering. The long average stands still during a surge, so a surge
/// does not become the measure of itself. Both begin at zero, so in the first hours a surge is noticed earlier than later.
///
/// It also keeps the mean idle age of the victims outside surges: how long a session used to be idle when it had to go.
///
/// A plain value without a clock: each method gets the moment, and an earlier moment than the last one counts as the last.
/// Every method is O(1).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SurgeDetector {
    /// The first event, and the last one.
    seen: Option<(Instant, Instant)>,
    /// Events per second, at the last event.
    short: f64,
    long: f64,
    since: Option<Instant>,
    /// The mean idle age of victims outside surges, in seconds.
    usual_idle: Option<f64>,
}

impl SurgeDetector {
    /// Counts a place that is asked for.
    pub(super) fn asked(&mut self, now: Instant) {
        self.pass(now);
        let (first, last) = *self.seen.get_or_insert((now, now));
        self.short += 1.0 / SHORT;
        if self.since.is_some() {
            return;
        }
        self.long += 1.0 / LONG;
        if last.saturating_duration_since(first) >= QUIET && self.short > 4.0 * self.long + 0.2 {
            self.since = last.checked_sub(BEFORE);
        }
    }

    /// Moves the averages on to a moment. A surge that ended meanwhile is over from the moment at which it did.
    pub(super) fn pass(&mut self, now: Instant) {
        let Some((_, last)) = &mut self.seen else { return };
        let passed = now.saturating_duration_since(*last).as_secs_f64();
        *last = now.max(*last);
        let mut outside = passed;
        if self.since.is_some() {
            // The short average falls to the threshold after that time.
            let lasts = (SHORT * (self.short / (1.5 * self.long + 0.1)).ln()).max(0.0);
            outside = (passed - lasts).max(0.0);
            if passed > lasts {
                self.since = None;
            }
        }
        self.short *= (-passed / SHORT).exp();
        self.long *= (-outside / LONG).exp();
    }

    /// Since when there is a surge, as of the last moment that was told.
    pub(super) const fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Takes note of how long a victim was idle. It counts outside surges.
    pub(super) fn note_victim(&mut self, idle: Duration) {
        if self.since.is_none() {
            let idle = idle.as_secs_f64();
            let mean = self.usual_idle.unwrap_or(idle);
            self.usual_idle = Some(mean + WEIGHT * (idle - mean));
        }
    }

    /// How long victims outside surges were idle in the mean. `None` before the first.
    pub(super) fn usual_idle(&self) -> Option<Duration> {
        self.usual_idle.map(Duration::from_secs_f64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Asks `count` times at even distances from `from` on, `every` so many milliseconds. Returns the moment after.
    fn asks(detector: &mut SurgeDetector, from: Instant, count: u32, every: u64) -> Instant {
        (0..count).fold(from, |now, _| {
            detector.asked(now);
            now + Duration::from_millis(every)
        })
    }

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn no_surge_begins_in_the_first_half_hour() {
        let mut detector = SurgeDetector::default();
        let start = Instant::now();
        detector.asked(start);
        let now = asks(&mut detector, start + secs(1_790), 90, 100);
        assert!(now < start + secs(1_800) && detector.since().is_none());
        asks(&mut detector, start + secs(1_800), 1, 0);
        assert_eq!(detector.since(), Some(start + secs(1_795)), "it began five seconds before it was noticed");
    }

    #[test]
    fn it_takes_more_than_four_times_the_usual_rate_and_a_fifth_a_second() {
        let (mut detector, start) = (SurgeDetector::default(), Instant::now());
        // One a second for ten hours, so both averages are at one.
        let now = asks(&mut detector, start, 36_000, 1_000);
        let now = asks(&mut detector, now, 400, 250);
        assert_eq!(detector.since(), None, "four times as fast");
        asks(&mut detector, now, 400, 200);
        assert!(detector.since().is_some(), "five times as fast");
        // Where nothing happens for hours, it takes the fifth.
        let mut detector = SurgeDetector::default();
        detector.asked(start);
        let now = start + 10 * HOUR;
        asks(&mut detector, now, 4, 1);
        assert_eq!(detector.since(), None, "four at once are a fifth a second");
        detector.asked(now);
        assert!(detector.since().is_some());
    }

    #[test]
    fn it_ends_when_the_rate_is_below_one_and_a_half_and_a_tenth_and_not_before() {
        let (mut detector, start) = (SurgeDetector::default(), Instant::now());
        let now = asks(&mut detector, start, 36_000, 1_000);
        let now = asks(&mut detector, now, 600, 100);
        let since = detector.since();
        assert!(since.is_some());
        let now = asks(&mut detector, now, 600, 590);
        assert_eq!(detector.since(), since, "1.7 a second is above 1.5 + 0.1");
        asks(&mut detector, now, 300, 700);
        assert_eq!(detector.since(), None);
    }

    #[test]
    fn a_surge_ends_by_time_alone() {
        let (mut detector, start) = (SurgeDetector::default(), Instant::now());
        detector.asked(start);
        let last = asks(&mut detector, start + 2 * HOUR, 200, 100);
        let lasts = SHORT * (detector.short / (1.5 * detector.long + 0.1)).ln();
        let ends = last - Duration::from_millis(100) + Duration::from_secs_f64(lasts);
        let at = |moment: Instant| {
            let mut detector = detector;
            detector.pass(moment);
            detector.since().is_some()
        };
        assert_eq!((at(ends - secs(1)), at(ends + secs(1))), (true, false));
    }

    #[test]
    fn a_surge_is_not_the_measure_of_itself() {
        let (mut detector, start) = (SurgeDetector::default(), Instant::now());
        let now = asks(&mut detector, start, 7_200, 1_000);
        let now = asks(&mut detector, now, 100, 100);
        let (since, before) = (detector.since(), detector.long);
        assert!(since.is_some());
        let now = asks(&mut detector, now, 100_000, 100);
        assert_eq!((detector.since(), detector.long), (since, before), "after hours of it");
        // Nor does the time of the surge count as an hour in which nothing happened.
        detector.pass(now + secs(600));
        assert!(detector.long < before && detector.long > before * 0.84);
    }

    #[test]
    fn the_usual_idle_age_follows_the_victims_outside_surges() {
        let (mut detector, start) = (SurgeDetector::default(), Instant::now());
        assert_eq!(detector.usual_idle(), None);
        detector.note_victim(secs(100));
        detector.note_victim(secs(150));
        assert_eq!(detector.usual_idle(), Some(secs(101)));
        detector.asked(start);
        asks(&mut detector, start + HOUR, 100, 100);
        detector.note_victim(secs(1));
        assert_eq!(detector.usual_idle(), Some(secs(101)), "not in a surge");
    }

    /// What the detector should say, from the moments of all events, in seconds.
    #[derive(Default)]
    struct Sums {
        all: Vec<f64>,
        /// Those outside surges, on a clock that stands still during one.
        outside: Vec<f64>,
        clock: f64,
        since: Option<f64>,
    }

    impl Sums {
        fn rate(moments: &[f64], now: f64, lasts: f64) -> f64 {
            moments.iter().map(|at| ((at - now) / lasts).exp() / lasts).sum()
        }

        /// How far the present rate is above a multiple of the hour's rate, and some more.
        fn excess(&self, now: f64, times: f64, more: f64) -> f64 {
            Self::rate(&self.all, now, SHORT) - times * Self::rate(&self.outside, self.clock, LONG) - more
        }

        fn asked(&mut self, now: f64) {
            let last = self.all.last().copied().unwrap_or(now);
            let mut ended = last;
            if self.since.is_some() {
                let (mut high, is_over) = (now, self.excess(now, 1.5, 0.1) < 0.0);
                for _ in 0..50 {
                    let middle = ended.midpoint(high);
                    if self.excess(middle, 1.5, 0.1) < 0.0 { high = middle } else { ended = middle }
                }
                self.since = self.since.filter(|_| !is_over);
            }
            self.all.push(now);
            if self.since.is_none() {
                self.clock += now - ended;
                self.outside.push(self.clock);
                let begins = self.excess(now, 4.0, 0.2) > 0.0 && now - self.all[0] >= QUIET.as_secs_f64();
                self.since = begins.then_some(now - BEFORE.as_secs_f64());
            }
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_sums_over_all_events(
            gaps in prop::collection::vec(prop_oneof![4 => 0..400_u64, 2 => 0..30_000_u64, 1 => 0..2_000_000_u64], 1..150)
        ) {
            let (mut detector, start, mut sums) = (SurgeDetector::default(), Instant::now(), Sums::default());
            let mut millis = 0;
            for gap in gaps {
                millis += gap;
                let now = Duration::from_millis(millis);
                // Not where the two may round differently.
                prop_assume!(sums.excess(now.as_secs_f64(), 1.5, 0.1).abs() > 1e-6);
                sums.asked(now.as_secs_f64());
                prop_assume!(sums.excess(now.as_secs_f64(), 4.0, 0.2).abs() > 1e-6);
                detector.asked(start + now);
                let since = detector.since().map(|since| (since - start).as_millis());
                prop_assert_eq!(since, sums.since.map(|since| (since * 1_000.0).round() as u128));
            }
        }
    }
}
