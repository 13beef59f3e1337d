//! The generic cell rate algorithm: arithmetic on a quota, a state and a moment.
//!
//! Source: ITU-T I.371 (2004), annex A, and ATM Forum Traffic Management 4.1, section 4.4.2, "virtual scheduling". The
//! state is one number, the *theoretical arrival time*: the moment at which the bucket will be full again.

use std::time::Duration;

/// The longest time in which an empty bucket may fill, in nanoseconds: 36,500 days. Added to the age of a process that
/// runs for four centuries it still fits into 64 bits.
const LONGEST: u64 = 36_500 * 24 * 3_600 * 1_000_000_000;

/// Holds the size of a bucket and the rate at which tokens come back, both as times in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    /// The time in which one token comes back. Rounded up, so that rounding admits nothing that the exact rate would
    /// reject.
    interval: u64,
    /// The time in which an empty bucket fills.
    full: u64,
}

impl Quota {
    /// Makes the quota of a bucket of `burst` tokens of which one comes back per `interval`. Returns `None` if an empty
    /// bucket takes longer than [`LONGEST`] to fill.
    pub(super) fn new(interval: u64, burst: u32) -> Option<Self> {
        let full = interval.checked_mul(burst.into()).filter(|full| *full <= LONGEST)?;
        Some(Self { interval, full })
    }

    /// Returns the time in which an empty bucket fills.
    pub(super) const fn period(self) -> Duration {
        Duration::from_nanos(self.full)
    }

    /// Returns the state after an admission at `now`, or the time to wait until one is possible.
    pub(super) fn admit(self, arrival_time: u64, now: u64) -> Result<u64, u64> {
        let after = self.after(arrival_time, now);
        let latest = now.saturating_add(self.full);
        // At `u64::MAX` the sum saturates, so no token comes back any more: reject.
        if after <= latest && after < u64::MAX { Ok(after) } else { Err((after - latest).max(1)) }
    }

    /// Returns the state at `now` under another quota, with as many tokens owed as under this one. Rounded up, so that a
    /// change admits nothing that is owed.
    pub(super) fn convert(self, arrival_time: u64, now: u64, to: Self) -> u64 {
        let owed = u128::from(arrival_time.saturating_sub(now)) * u128::from(to.interval);
        let owed = u64::try_from(owed.div_ceil(u128::from(self.interval))).unwrap_or(u64::MAX);
        if owed == 0 { arrival_time } else { now.saturating_add(owed) }
    }

    /// Returns the state after an admission at `now`, without a check.
    pub(super) fn after(self, arrival_time: u64, now: u64) -> u64 {
        arrival_time.max(now).saturating_add(self.interval)
    }
}

/// Returns the nanoseconds in which one of `tokens` per `per` comes back, rounded up and exact for every float. Returns
/// `None` if they do not fit, or the rate is not a positive number.
pub(super) fn interval(tokens: f64, per: Duration) -> Option<u64> {
    if !tokens.is_finite() || tokens <= 0.0 {
        return None;
    }
    // A float is `mantissa * 2^exponent`.
    let bits = tokens.to_bits();
    let (exponent, fraction) = ((bits >> 52) as i32, u128::from(bits & ((1 << 52) - 1)));
    let (mantissa, exponent) = if exponent == 0 { (fraction, -1_074) } else { (fraction | 1 << 52, exponent - 1_075) };
    let nanos = per.as_nanos();
    if exponent >= 0 {
        // The rate is at least 2^52 tokens per `per`, and `per` is at most 2^94 nanoseconds.
        let tokens = mantissa.checked_shl(exponent.unsigned_abs()).filter(|tokens| tokens >> exponent == mantissa);
        return tokens.map_or(Some(1), |tokens| u64::try_from(nanos.div_ceil(tokens).max(1)).ok());
    }
    // Long division, since the shifted dividend would not fit into 128 bits.
    let (mut quotient, mut rest) = (nanos / mantissa, nanos % mantissa);
    for _ in exponent..0 {
        quotient = quotient * 2 + rest * 2 / mantissa;
        rest = rest * 2 % mantissa;
        if quotient > LONGEST.into() {
            return None;
        }
    }
    u64::try_from(quotient + u128::from(rest > 0)).ok().map(|interval| interval.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_exact_and_rounded_up() {
        let second = Duration::from_secs(1);
        let of = |tokens, per| interval(tokens, per);
        assert_eq!(
            [of(1.0, second), of(3.0, second), of(0.1, second)],
            [
                Some(1_000_000_000),
                Some(333_333_334),
                // The nearest float is a little more than a tenth.
                Some(10_000_000_000),
            ]
        );
        // Just below a third, in 100 years: floats would round it down.
        let days = Duration::from_secs(36_500 * 24 * 3_600);
        assert_eq!(of(3.0, days), Some(LONGEST / 3));
        assert_eq!(of(7.0, days), Some(LONGEST / 7 + 1));
        assert_eq!(of(2f64.powi(60), second), Some(1));
        assert_eq!(of(2f64.powi(52), Duration::from_secs(4_503_600)), Some(2), "4,503,600e9 of 4,503,599,627,370,496");
        assert_eq!(of(2f64.powi(53), Duration::from_secs(9_007_200)), Some(2));
        assert_eq!([of(f64::MAX, Duration::MAX), of(5e-324, Duration::from_nanos(1))], [Some(1), None]);
        assert_eq!([of(0.0, second), of(-1.0, second), of(f64::NAN, second), of(f64::INFINITY, second)], [None; 4]);
    }

    #[test]
    fn a_bucket_that_fills_too_slowly_for_the_clock_is_none() {
        assert!(Quota::new(LONGEST, 1).is_some() && Quota::new(LONGEST / 2, 2).is_some());
        assert_eq!([Quota::new(LONGEST + 1, 1), Quota::new(u64::MAX, 2), Quota::new(1 << 33, u32::MAX)], [None; 3]);
    }

    #[test]
    fn at_the_end_of_time_every_arrival_is_refused() {
        let quota = Quota::new(10, 3).expect("valid");
        assert_eq!(quota.admit(u64::MAX - 5, u64::MAX - 5), Err(1));
        assert_eq!(quota.admit(u64::MAX, u64::MAX), Err(1));
    }

    #[test]
    fn a_burst_then_one_per_interval() {
        let quota = Quota { interval: 10, full: 30 };
        let mut state = 0;
        for _ in 0..3 {
            state = quota.admit(state, 0).expect("within the burst");
        }
        assert_eq!(quota.admit(state, 0), Err(10));
        assert_eq!(quota.admit(state, 9), Err(1));
        assert_eq!(quota.admit(state, 10), Ok(40));
    }

    #[test]
    fn an_idle_bucket_is_no_more_than_full() {
        let quota = Quota { interval: 10, full: 20 };
        let mut state = 0;
        for _ in 0..2 {
            state = quota.admit(state, 1_000).expect("within the burst");
        }
        assert_eq!(quota.admit(state, 1_000), Err(10));
    }
}
