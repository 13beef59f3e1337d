//! [`Tick`]: a moment in four bytes.

use std::time::Duration;

use tokio::time::Instant;

/// A moment: tenths of a second since the first one of a [`Clock`]. They last for 13 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(pub(super) u32);

impl Tick {
    /// Returns the tick after this one.
    pub(super) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Returns the seconds from an earlier moment to this one.
    pub(super) fn since(self, earlier: Self) -> f64 {
        f64::from(self.0.saturating_sub(earlier.0)) / 10.0
    }
}

/// How late it is, as far as it was told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    /// The first and the latest moment that it was told.
    range: Option<(Instant, Instant)>,
}

impl Clock {
    /// Notes that it is this late, or later if it was told so before.
    pub(super) fn advance(&mut self, now: Instant) -> Tick {
        let (start, latest) = self.range.unwrap_or((now, now));
        self.range = Some((start, latest.max(now)));
        self.tick(now)
    }

    /// Returns a moment as a tick, rounded down. What was before the first moment counts as that.
    pub(super) fn tick(&self, moment: Instant) -> Tick {
        let passed = self.range.map_or(Duration::ZERO, |(start, _)| moment.saturating_duration_since(start));
        // Without a division in 128 bits.
        Tick((passed.as_secs() * 10 + u64::from(passed.subsec_millis() / 100)) as u32)
    }

    /// Returns the latest moment that it was told, or this one, if it is later.
    pub(super) fn latest(&self, moment: Instant) -> Instant {
        self.range.map_or(moment, |(_, latest)| latest.max(moment))
    }

    /// Returns the latest moment that it was told.
    pub(super) fn now(&self) -> Tick {
        self.range.map_or(Tick::default(), |(_, latest)| self.tick(latest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_tenths_of_a_second_since_the_first() {
        let (mut clock, start) = (Clock::default(), Instant::now());
        assert_eq!((clock.tick(start), clock.now()), (Tick(0), Tick(0)));
        assert_eq!(clock.advance(start), Tick(0));
        let after = |millis| start + Duration::from_millis(millis);
        assert_eq!([99, 100, 61_999].map(|millis| clock.tick(after(millis))), [0, 1, 619].map(Tick));
        assert_eq!(Tick(619).since(Tick(1)), 61.8);
        assert_eq!(Tick(1).since(Tick(619)), 0.0);
    }

    #[test]
    fn the_latest_moment_counts() {
        let (mut clock, start) = (Clock::default(), Instant::now());
        let [one, two, three] = [1, 2, 3].map(|second| start + Duration::from_secs(second));
        assert_eq!(clock.latest(one), one);
        clock.advance(one);
        clock.advance(three);
        assert_eq!(clock.advance(two), Tick(10));
        assert_eq!((clock.now(), clock.latest(two), clock.latest(three)), (Tick(20), three, three));
        assert_eq!(clock.tick(start), Tick(0), "it was before the first");
    }
}
