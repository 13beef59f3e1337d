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

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0 => write!(f, "{} ms", self.0.as_millis()),
            seconds => {
                let (unit, name) = unit(seconds);
                write!(f, "{} {name}", Number(seconds / unit))
            }
        }
    }
}

/// Shows a time to wait in whole seconds, rounded up, so that what waits that long has waited long enough: `12 s`, `3 min`.
pub(super) struct Wait(pub(super) u64);

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = unit(self.0);
        write!(f, "{} {name}", Number(self.0.div_ceil(unit)))
    }
}

/// The unit of a time in seconds, and its name. A unit is used from two of it on, so that rounding changes a third at most.
const fn unit(seconds: u64) -> (u64, &'static str) {
    match seconds {
        0..120 => (1, "s"),
        120..7_200 => (60, "min"),
        7_200..172_800 => (3_600, "h"),
        _ => (86_400, "d"),
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
    fn waits_are_rounded_up() {
        let shown = [1, 119, 120, 121, 7_199, 7_201, 172_799, 172_801].map(|seconds| Wait(seconds).to_string());
        assert_eq!(shown, ["1 s", "119 s", "2 min", "3 min", "120 min", "3 h", "48 h", "3 d"]);
        assert_eq!(Wait(u64::MAX).to_string(), "213,503,982,334,602 d");
    }

    #[test]
    fn one_thing_is_singular() {
        assert_eq!(
            [0, 1, 2].map(|count| Count(count, "request").to_string()),
            ["0 requests", "1 request", "2 requests"]
        );
    }
}
