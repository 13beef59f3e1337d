//! [`Distribution`]: random numbers as presets describe them, the same on every machine.
//!
//! Only sums, products and the functions of `libm` are used, which is written in Rust. A system's own `exp` and `ln` may
//! differ in the last bit, and then a seed would give another trace.

use std::f64::consts::TAU;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use serde::Deserialize;

/// A distribution of seconds or of counts. In TOML it is a table with one entry.
///
/// ```
/// use rand_chacha::ChaCha8Rng;
/// use rand_chacha::rand_core::SeedableRng;
/// use rmcp_session_policy_lab::distribution::Distribution;
///
/// #[derive(serde::Deserialize)]
/// struct Actor {
///     pause: Distribution,
/// }
/// let actor: Actor = toml::from_str("pause = { at_most = [600, { logn = [80, 1.75] }] }")?;
/// assert!(actor.pause.draw(&mut ChaCha8Rng::seed_from_u64(1)) <= 600.0);
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// Always this number.
    Fixed(f64),
    /// Exponential, by its mean.
    Exp(f64),
    /// Log-normal, by its median and the sigma of its logarithm.
    Logn(f64, f64),
    /// Geometric from 1 on, by its mean, which is at least 1.
    Geo(f64),
    /// Uniform between two numbers.
    Between(f64, f64),
    /// One of several, by their weights.
    Mix(Vec<(f64, Self)>),
    /// A number more than another distribution gives.
    Plus(f64, Box<Self>),
    /// Another distribution, cut off above at a number.
    AtMost(f64, Box<Self>),
}

/// Draws a number from 0 up to but not including 1.
pub(crate) fn unit(random: &mut ChaCha8Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Draws what happens with this chance.
pub(crate) fn chance(random: &mut ChaCha8Rng, share: f64) -> bool {
    unit(random) < share
}

/// Draws from the standard normal distribution (Box and Muller, 1958).
fn normal(random: &mut ChaCha8Rng) -> f64 {
    let radius = libm::sqrt(-2.0 * libm::log(1.0 - unit(random)));
    radius * libm::cos(TAU * unit(random))
}

/// Draws from the exponential distribution.
pub(crate) fn exponential(random: &mut ChaCha8Rng, mean: f64) -> f64 {
    -mean * libm::log(1.0 - unit(random))
}

/// Draws an index by weights, which need not add up to 1. Returns the last one if all are zero.
pub(crate) fn weighted(random: &mut ChaCha8Rng, weights: impl Iterator<Item = f64> + Clone) -> usize {
    let mut left = unit(random) * weights.clone().sum::<f64>();
    let mut last = 0;
    for (index, weight) in weights.enumerate() {
        if left < weight {
            return index;
        }
        left -= weight;
        last = index;
    }
    last
}

impl Distribution {
    /// Draws a number, which is not negative.
    pub fn draw(&self, random: &mut ChaCha8Rng) -> f64 {
        match self {
            Self::Fixed(value) => *value,
            Self::Exp(mean) => exponential(random, *mean),
            Self::Logn(median, sigma) => median * libm::exp(sigma * normal(random)),
            Self::Geo(mean) if *mean <= 1.0 => 1.0,
            Self::Geo(mean) => 1.0 + libm::floor(libm::log(1.0 - unit(random)) / libm::log(1.0 - 1.0 / mean)),
            Self::Between(low, high) => low + (high - low) * unit(random),
            Self::Mix(parts) => {
                let part = weighted(random, parts.iter().map(|(weight, _)| *weight));
                parts.get(part).map_or(0.0, |(_, part)| part.draw(random))
            }
            Self::Plus(more, base) => more + base.draw(random),
            Self::AtMost(most, base) => base.draw(random).min(*most),
        }
        .max(0.0)
    }

    /// Draws a whole number, rounded down.
    pub fn count(&self, random: &mut ChaCha8Rng) -> u32 {
        self.draw(random) as u32
    }

    /// Checks the parameters.
    ///
    /// # Errors
    ///
    /// Says which one means nothing.
    pub fn check(&self) -> Result<(), String> {
        let positive = |values: &[f64]| values.iter().all(|value| value.is_finite() && *value >= 0.0);
        let fits = match self {
            Self::Fixed(value) | Self::Exp(value) => positive(&[*value]),
            Self::Logn(median, sigma) => positive(&[*median, *sigma]),
            Self::Geo(mean) => mean.is_finite() && *mean >= 1.0,
            Self::Between(low, high) => positive(&[*low, high - low]),
            Self::Mix(parts) => {
                parts.iter().try_for_each(|(_, part)| part.check())?;
                !parts.is_empty() && parts.iter().all(|(weight, _)| positive(&[*weight]))
            }
            Self::Plus(value, base) | Self::AtMost(value, base) => {
                base.check()?;
                positive(&[*value])
            }
        };
        if fits { Ok(()) } else { Err(format!("{self:?} has a parameter that means nothing")) }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    const DRAWS: usize = 40_000;

    fn drawn(distribution: &Distribution) -> Vec<f64> {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut drawn: Vec<_> = (0..DRAWS).map(|_| distribution.draw(&mut random)).collect();
        drawn.sort_unstable_by(f64::total_cmp);
        drawn
    }

    fn mean(drawn: &[f64]) -> f64 {
        drawn.iter().sum::<f64>() / drawn.len() as f64
    }

    /// Five standard errors are a chance of one in two million; the seed is fixed besides.
    fn near(value: f64, expected: f64, deviation: f64) -> bool {
        (value - expected).abs() < 5.0 * deviation / libm::sqrt(DRAWS as f64)
    }

    #[test]
    fn distributions_have_their_means_and_quantiles() {
        assert!(near(mean(&drawn(&Distribution::Exp(4.0))), 4.0, 4.0));
        let geo = drawn(&Distribution::Geo(3.0));
        assert!(near(mean(&geo), 3.0, libm::sqrt(6.0)) && geo[0] == 1.0);
        assert_eq!(mean(&drawn(&Distribution::Geo(1.0))), 1.0);
        let logn = drawn(&Distribution::Logn(80.0, 1.75));
        let median = libm::log(logn[DRAWS / 2]);
        // The error of a median is 1.25 times that of a mean.
        assert!(near(median, libm::log(80.0), 1.75 * 1.26));
        let high = libm::log(logn[DRAWS * 84 / 100] / 80.0) / 1.75;
        assert!((high - 0.9945).abs() < 0.03, "{high}");
        let between = drawn(&Distribution::Between(1.0, 4.0));
        assert!(near(mean(&between), 2.5, 0.87) && between[0] >= 1.0 && between[DRAWS - 1] < 4.0);
    }

    #[test]
    fn distributions_compose() {
        let turns: Distribution = toml::from_str::<std::collections::BTreeMap<String, Distribution>>(
            "turns = { at_most = [400, { mix = [[0.55, { fixed = 1 }], [0.45, { plus = [1, { logn = [7, 1.5] }] }]] }] }",
        )
        .unwrap()
        .remove("turns")
        .unwrap();
        assert_eq!(turns.check(), Ok(()));
        let turns = drawn(&turns);
        let once = turns.iter().filter(|turns| **turns == 1.0).count() as f64 / DRAWS as f64;
        assert!(near(once, 0.55, 0.5) && turns[DRAWS - 1] == 400.0);
    }

    #[test]
    fn a_parameter_that_means_nothing_is_told() {
        for wrong in [
            Distribution::Exp(-1.0),
            Distribution::Geo(0.5),
            Distribution::Logn(f64::NAN, 1.0),
            Distribution::Between(3.0, 2.0),
            Distribution::Mix(Vec::new()),
            Distribution::Plus(1.0, Box::new(Distribution::Exp(f64::INFINITY))),
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
