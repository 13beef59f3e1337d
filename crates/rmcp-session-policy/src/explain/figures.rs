//! Numbers and times in sentences.

use std::fmt;
use std::time::Duration;

/// Shows a number with commas: `1,000`.
pub(super) struct Number(pub(super) u64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 / 1_000 {
            0 => write!(f, "{}", self.0),
            thousands => write!(f, "{},{:03}", Self(thousands), self.0 % 1_000),
        }
    }
}

/// Shows a time in one unit, rounded down: `350 ms`, `60 s`, `42 min`, `3 h`, `12 d`.
pub(super) struct Time(pub(super) Duration);

impl Time {
    /// The number and its unit. A unit is used from two of it on, so that rounding leaves out a third at most.
    fn parts(&self) -> (u64, &'static str) {
        let seconds = self.0.as_secs();
        match seconds {
            0 => (self.0.as_millis() as u64, "ms"),
            1..120 => (seconds, "s"),
            120..7_200 => (seconds / 60, "min"),
            7_200..172_800 => (seconds / 3_600, "h"),
            _ => (seconds / 86_400, "d"),
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, unit) = self.parts();
        write!(f, "{} {unit}", Number(number))
    }
}

/// Shows a number of things: `1 request`, `2 requests`.
pub(super) struct Count(pub(super) u64, pub(super) &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", Number(self.0), self.1, if self.0 == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_commas() {
        let shown = [0, 7, 999, 1_000, 12_034, 1_000_000, u64::MAX].map(|number| Number(number).to_string());
        assert_eq!(shown, ["0", "7", "999", "1,000", "12,034", "1,000,000", "18,446,744,073,709,551,615"]);
    }

    #[test]
    fn times_have_one_unit_and_are_rounded_down() {
        let shown = |millis| Time(Duration::from_millis(millis)).to_string();
        assert_eq!([shown(0), shown(999), shown(1_000), shown(1_999)], ["0 ms", "999 ms", "1 s", "1 s"]);
        assert_eq!([shown(60_000), shown(119_999), shown(120_000)], ["60 s", "119 s", "2 min"]);
        assert_eq!([shown(1_800_000), shown(7_199_999), shown(7_200_000)], ["30 min", "119 min", "2 h"]);
        assert_eq!([shown(86_400_000), shown(172_800_000)], ["24 h", "2 d"]);
        assert_eq!(Time(Duration::MAX).to_string(), "213,503,982,334,601 d");
    }

    #[test]
    fn one_thing_is_singular() {
        assert_eq!(
            [0, 1, 2].map(|count| Count(count, "request").to_string()),
            ["0 requests", "1 request", "2 requests"]
        );
    }
}
