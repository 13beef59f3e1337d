//! [`Price`]: what the place of an idle session must be worth.

use super::class::Class;
use super::tables::Tables;

/// Idleness that is no longer ends no session, and a use after it is no resumption. In seconds.
pub(super) const SHORTEST: f64 = 60.0;
/// Below this number of resumptions there is no price.
const FEWEST: f64 = 100.0;
/// Bins for each octave of worth. One is 6 % wide.
const BINS_PER_OCTAVE: f64 = 12.0;
/// The octaves: worth from 2^-30, once in 34 years, to 2 returns per second.
const OCTAVES: f64 = 31.0;
const BINS: usize = 372;

/// The price at which a share of the resumptions keeps its session.
///
/// A session that came back would have been kept if and only if the price was at most the lowest worth that it had while
/// it was idle. So the price for a share is a quantile of these lowest worths: those of sessions that lost their place too,
/// since they are told of when they are restored. What was seen is forgotten by half in a day, as the evidence of the
/// [`Tables`] is: most who pause overnight come back in the same hours, and a shorter memory would have a price for these
/// hours and another for the rest of the day.
#[derive(Clone, Debug)]
pub(super) struct Price {
    /// The share of the resumptions that may be lost.
    lose: f64,
    /// Resumptions by their lowest worth, in bins of its logarithm.
    seen: Box<[f64]>,
    total: f64,
}

impl Price {
    pub(super) fn new(keep: f64) -> Self {
        Self { lose: 1.0 - keep, seen: vec![0.0; BINS].into(), total: 0.0 }
    }

    /// Notes that a session of a class came back after `lasted` seconds.
    pub(super) fn come_back(&mut self, tables: &Tables, class: Class, lasted: f64) {
        if lasted <= SHORTEST {
            return;
        }
        self.seen[bin(tables.lowest(class, SHORTEST, lasted).into()) as usize] += 1.0;
        self.total += 1.0;
    }

    /// Leaves a share of what was seen.
    pub(super) fn forget(&mut self, keep: f64) {
        self.seen.iter_mut().for_each(|count| *count *= keep);
        self.total *= keep;
    }

    /// Returns the price, in returns per second of a place; `None` if too little was seen.
    pub(super) fn now(&self) -> Option<f32> {
        if self.total < FEWEST {
            return None;
        }
        let mut below = 0.0;
        for (bin, count) in self.seen.iter().enumerate() {
            let way = (self.lose * self.total - below) / count;
            if way < 1.0 {
                return Some(((bin as f64 + way.max(0.0)) / BINS_PER_OCTAVE - (OCTAVES - 1.0)).exp2() as f32);
            }
            below += count;
        }
        None
    }
}

/// The bin of a worth, with the way through it as a fraction.
fn bin(worth: f64) -> f64 {
    let octave = worth.max(f64::MIN_POSITIVE).log2() + (OCTAVES - 1.0);
    (octave * BINS_PER_OCTAVE).clamp(0.0, BINS as f64 - 1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ages::BUCKETS;
    use super::super::class::Listening;
    use super::*;

    /// A class whose index is the same at every age.
    fn worth(tables: &mut Tables, calls: u64, index: f32) -> Class {
        let class = Class::new(0, calls, None, Listening::Open);
        tables.set_indexes(class, &[index; BUCKETS + 1]);
        class
    }

    #[test]
    fn there_is_no_price_until_a_hundred_came_back_after_a_minute() {
        let (mut tables, mut price) = (Tables::new(), Price::new(0.9));
        let class = worth(&mut tables, 0, 0.25);
        (0..1_000).for_each(|_| price.come_back(&tables, class, 60.0));
        (0..99).for_each(|_| price.come_back(&tables, class, 60.1));
        assert_eq!(price.now(), None);
        price.come_back(&tables, class, 60.1);
        assert!(price.now().is_some());
    }

    #[test]
    fn what_counts_is_the_lowest_worth_before_the_return() {
        let (mut tables, mut price) = (Tables::new(), Price::new(0.5));
        let class = Class::new(0, 0, None, Listening::Open);
        let mut indexes = [1.0; BUCKETS + 1];
        // At 128 s it is worth little, and nothing is known of later ages.
        (indexes[17], indexes[30]) = (0.125, 0.0);
        tables.set_indexes(class, &indexes);
        (0..100).for_each(|_| price.come_back(&tables, class, 1_000.0));
        let price = price.now().unwrap();
        assert!((price / 0.125 - 1.0).abs() < 0.06, "{price}");
    }

    #[test]
    fn what_is_forgotten_sets_no_price() {
        let (mut tables, mut price) = (Tables::new(), Price::new(0.9));
        let (cheap, dear) = (worth(&mut tables, 0, 1e-6), worth(&mut tables, 1, 0.5));
        (0..400).for_each(|_| price.come_back(&tables, cheap, 100.0));
        assert!(price.now().unwrap() < 1.1e-6);
        price.forget(0.25);
        (0..800).for_each(|_| price.come_back(&tables, dear, 100.0));
        assert!(price.now().unwrap() < 1.1e-6, "100 of 900 are more than a tenth");
        price.forget(0.5);
        (0..600).for_each(|_| price.come_back(&tables, dear, 100.0));
        assert!(price.now().unwrap() > 0.4, "50 of 1,050 are less");
    }

    #[test]
    fn a_worth_out_of_range_is_the_nearest_in_it() {
        for (index, octaves) in [(0.0, -30.0..-29.9), (1e9, 0.9..1.0)] {
            let (mut tables, mut price) = (Tables::new(), Price::new(0.5));
            let class = worth(&mut tables, 0, index);
            (0..100).for_each(|_| price.come_back(&tables, class, 100.0));
            assert!(octaves.contains(&price.now().unwrap().log2()), "{price:?}");
        }
    }

    proptest! {
        /// At the price, the share of the resumptions whose worth never fell below it is the one to keep, but for those of
        /// the price's own bin.
        #[test]
        fn the_share_is_kept_at_the_price(
            worths in proptest::collection::vec(-20.0..0.0_f64, 100..400),
            keep in 0.5..0.99_f64,
        ) {
            let (mut tables, mut price) = (Tables::new(), Price::new(keep));
            for lowest in &worths {
                let class = worth(&mut tables, 0, lowest.exp2() as f32);
                price.come_back(&tables, class, 100.0);
            }
            let price = f64::from(price.now().unwrap()).log2();
            let share = |above: f64| worths.iter().filter(|worth| **worth >= above).count() as f64 / worths.len() as f64;
            let bin = 1.001 / BINS_PER_OCTAVE;
            prop_assert!(share(price + bin) <= keep + 1e-9 && keep - 1e-9 <= share(price - bin), "{price}");
        }
    }
}
