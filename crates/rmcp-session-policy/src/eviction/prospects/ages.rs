//! Buckets of idle age: half octaves, from half a second to four days.

/// How many buckets there are.
pub(super) const BUCKETS: usize = 40;

/// Where each bucket begins, in seconds of idleness, and where the last one ends. The last bucket also takes what is older.
pub(super) const BEGINS: [f64; BUCKETS + 1] = begins();

/// Half a second, from which the buckets double every other one.
const FIRST: f64 = 0.5;

const fn begins() -> [f64; BUCKETS + 1] {
    let mut begins = [0.0; BUCKETS + 1];
    begins[1] = FIRST;
    begins[2] = FIRST * std::f64::consts::SQRT_2;
    let mut bucket = 3;
    while bucket <= BUCKETS {
        begins[bucket] = 2.0 * begins[bucket - 2];
        bucket += 1;
    }
    begins
}

/// Returns the bucket of an idle age in seconds. Constant time: the octave of a number is its exponent.
pub(super) fn bucket(age: f64) -> usize {
    const MANTISSA_BITS: u32 = f64::MANTISSA_DIGITS - 1;
    if age.is_nan() || age < FIRST {
        return 0;
    }
    let ratio = age / FIRST;
    let octave = (ratio.to_bits() >> MANTISSA_BITS) as usize - 1_023;
    let lower = 1 + 2 * octave;
    let bucket = if lower < BUCKETS && age >= BEGINS[lower + 1] { lower + 1 } else { lower };
    bucket.min(BUCKETS - 1)
}

/// Returns an age that stands for a bucket: the middle of its logarithms, and of the first bucket its middle.
pub(super) fn middle(bucket: usize) -> f64 {
    if bucket == 0 { BEGINS[1] / 2.0 } else { (BEGINS[bucket] * BEGINS[bucket + 1]).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_half_octaves_from_half_a_second() {
        assert_eq!(BEGINS[..2], [0.0, 0.5]);
        assert_eq!((BEGINS[3], BEGINS[39]), (1.0, 262_144.0));
        assert!(BEGINS.windows(2).skip(1).all(|pair| (pair[1] / pair[0] - std::f64::consts::SQRT_2).abs() < 1e-12));
    }

    #[test]
    fn an_age_is_in_the_bucket_that_begins_at_it() {
        for (nth, begin) in BEGINS[..BUCKETS].iter().enumerate() {
            assert_eq!(bucket(*begin), nth);
            assert_eq!(bucket(BEGINS[nth + 1] * (1.0 - 1e-12)), nth);
            assert_eq!(bucket(middle(nth)), nth);
        }
    }

    #[test]
    fn every_age_has_a_bucket() {
        assert_eq!([-1.0, f64::NAN, 0.0, 1e12, f64::MAX, f64::INFINITY].map(bucket), [0, 0, 0, 39, 39, 39]);
    }
}
