//! [`Tables`]: what was seen of the sessions of each class, and the index that follows from it.

use super::ages::{self, BUCKETS};
use super::class::{CLASSES, Class};
use super::index::{self, Indexes};

/// What was seen of some sessions while their idle age was in one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Evidence {
    /// For how many seconds they were watched.
    pub(super) watched: f64,
    /// How many of them came back.
    pub(super) returns: f64,
}

impl Evidence {
    /// Returns the returns per second, drawn towards `hazard` as by `weight` returns that were seen beside these.
    pub(super) fn hazard(self, weight: f64, hazard: f64) -> f64 {
        (self.returns + weight) / (self.watched + weight / hazard)
    }
}

impl std::ops::AddAssign for Evidence {
    fn add_assign(&mut self, other: Self) {
        self.watched += other.watched;
        self.returns += other.returns;
    }
}

/// Evidence for each class and bucket, and the index of each class.
///
/// It takes 600 KB, whatever happens. No method allocates but [`new`](Self::new).
#[derive(Clone, Debug)]
pub(super) struct Tables {
    /// Seconds watched. In 64 bits, since the sums are large and what is added is small.
    watched: Box<[[f64; BUCKETS]]>,
    /// Returns. Whole numbers are exact up to 16 million, and a cell keeps few.
    returns: Box<[[f32; BUCKETS]]>,
    indexes: Box<[Indexes]>,
}

impl Tables {
    /// Makes tables without evidence. The indexes are zero until they are [set](Self::set_indexes).
    pub(super) fn new() -> Self {
        Self {
            watched: vec![[0.0; BUCKETS]; CLASSES].into(),
            returns: vec![[0.0; BUCKETS]; CLASSES].into(),
            indexes: vec![[0.0; BUCKETS + 1]; CLASSES].into(),
        }
    }

    /// Notes that a session was idle from one age to another, in seconds, and was not used. O([`BUCKETS`]).
    pub(super) fn watch(&mut self, class: Class, from: f64, to: f64) {
        let row = &mut self.watched[class.index()];
        let mut at = from;
        for (bucket, watched) in row.iter_mut().enumerate().skip(ages::bucket(from)) {
            let end = if bucket == BUCKETS - 1 { to } else { to.min(ages::BEGINS[bucket + 1]) };
            if end > at {
                *watched += end - at;
                at = end;
            } else if at >= to {
                return;
            }
        }
    }

    /// Notes that a session came back at an age, in seconds.
    pub(super) fn come_back(&mut self, class: Class, age: f64) {
        self.returns[class.index()][ages::bucket(age)] += 1.0;
    }

    /// The evidence of a class at the ages of a bucket.
    pub(super) fn evidence(&self, class: Class, bucket: usize) -> Evidence {
        let (watched, returns) = (self.watched[class.index()][bucket], self.returns[class.index()][bucket]);
        Evidence { watched, returns: returns.into() }
    }

    /// Leaves a share of a class's evidence. O([`BUCKETS`]).
    pub(super) fn scale(&mut self, class: Class, share: f64) {
        self.watched[class.index()].iter_mut().for_each(|seconds| *seconds *= share);
        self.returns[class.index()].iter_mut().for_each(|returns| *returns *= share as f32);
    }

    /// Leaves a share of a class's evidence at the ages of one bucket.
    pub(super) fn scale_bucket(&mut self, class: Class, bucket: usize, share: f64) {
        self.watched[class.index()][bucket] *= share;
        self.returns[class.index()][bucket] *= share as f32;
    }

    /// Adds the evidence of one class to that of another, and leaves none. O([`BUCKETS`]).
    pub(super) fn merge(&mut self, from: Class, to: Class) {
        for bucket in 0..BUCKETS {
            let moved = self.evidence(from, bucket);
            self.watched[to.index()][bucket] += moved.watched;
            self.returns[to.index()][bucket] += moved.returns as f32;
        }
        self.watched[from.index()] = [0.0; BUCKETS];
        self.returns[from.index()] = [0.0; BUCKETS];
    }

    /// Sets the indexes of a class.
    pub(super) fn set_indexes(&mut self, class: Class, indexes: &Indexes) {
        self.indexes[class.index()] = *indexes;
    }

    /// Returns the lowest index of a session of a class between two idle ages in seconds. O([`BUCKETS`]).
    pub(super) fn lowest(&self, class: Class, from: f64, to: f64) -> f32 {
        let ends = self.index(class, from).min(self.index(class, to));
        let between = ages::bucket(from) + 1..=ages::bucket(to);
        self.indexes[class.index()].get(between).map_or(ends, |begins| begins.iter().copied().fold(ends, f32::min))
    }

    /// Returns the first age in seconds, from one to a later one, at which the index of a class is below a price. Returns the
    /// later one if there is none. O([`BUCKETS`]).
    pub(super) fn falls_below(&self, class: Class, price: f32, from: f64, to: f64) -> f64 {
        let (mut age, mut index) = (from, self.index(class, from));
        while index >= price && age < to {
            let end = ages::BEGINS[ages::bucket(age) + 1];
            if age >= end {
                // Beyond the last bucket it stays as it is.
                return to;
            }
            let end = end.min(to);
            let next = self.index(class, end);
            if next < price {
                let way = f64::from((index - price) / (index - next));
                // A little beyond, where it is below.
                return (age + (end - age) * way).max(age.next_up()).min(to);
            }
            (age, index) = (end, next);
        }
        age
    }

    /// Returns the index of a session of a class at an idle age in seconds. Constant time.
    pub(super) fn index(&self, class: Class, age: f64) -> f32 {
        index::at(&self.indexes[class.index()], age)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ages::BEGINS;
    use super::super::class::Listening;
    use super::*;

    fn class() -> Class {
        Class::new(2, 5, None, Listening::Open)
    }

    fn watched(tables: &Tables) -> Vec<(usize, f64)> {
        let seconds = (0..BUCKETS).map(|bucket| (bucket, tables.evidence(class(), bucket).watched));
        seconds.filter(|(_, seconds)| *seconds != 0.0).collect()
    }

    #[test]
    fn watched_time_falls_into_the_buckets_of_its_ages() {
        let mut tables = Tables::new();
        tables.watch(class(), 1.2, 3.0);
        let root = std::f64::consts::SQRT_2;
        assert_eq!(watched(&tables), [(3, root - 1.2), (4, 2.0 - root), (5, 2.0 * root - 2.0), (6, 3.0 - 2.0 * root)]);
    }

    #[test]
    fn time_in_one_bucket_of_no_length_and_beyond_the_last_age_is_counted_once() {
        let mut tables = Tables::new();
        tables.watch(class(), 1.0, 1.25);
        tables.watch(class(), 1.25, 1.25);
        tables.watch(class(), 7.0, 5.0);
        tables.watch(class(), BEGINS[39], 1e6);
        tables.watch(class(), 1e6, 3e6);
        assert_eq!(watched(&tables), [(3, 0.25), (39, 3e6 - BEGINS[39])]);
    }

    #[test]
    fn stretches_that_follow_one_another_count_as_the_whole() {
        let (mut pieces, mut whole) = (Tables::new(), Tables::new());
        whole.watch(class(), 0.0, 40_000.0);
        let ages = [0.0, 0.25, 0.5, 1.0, 3.0, 64.0, 65.0, 9_999.0, 40_000.0];
        ages.windows(2).for_each(|pair| pieces.watch(class(), pair[0], pair[1]));
        let (pieces, whole) = (watched(&pieces), watched(&whole));
        assert_eq!(pieces.len(), whole.len());
        assert!(pieces.iter().zip(&whole).all(|(one, other)| (one.1 - other.1).abs() < 1e-9));
    }

    #[test]
    fn returns_draw_the_hazard_and_weight_holds_it() {
        let mut tables = Tables::new();
        assert_eq!(tables.evidence(class(), 9).hazard(2.0, 0.25), 0.25);
        tables.watch(class(), 0.0, 100.0);
        (0..4).for_each(|_| tables.come_back(class(), 10.0));
        let evidence = tables.evidence(class(), ages::bucket(10.0));
        assert_eq!(evidence, Evidence { watched: BEGINS[10] - BEGINS[9], returns: 4.0 });
        assert_eq!(evidence.hazard(2.0, 0.5), 6.0 / (evidence.watched + 4.0));
    }

    #[test]
    fn a_class_can_be_scaled_and_merged_into_another() {
        let mut tables = Tables::new();
        let other = class().with_name(8);
        for class in [class(), other] {
            tables.watch(class, 8.0, 9.0);
            tables.come_back(class, 8.5);
        }
        tables.scale_bucket(class(), 9, 0.5);
        tables.merge(class(), other);
        assert_eq!(tables.evidence(class(), 9), Evidence::default());
        assert_eq!(tables.evidence(other, 9), Evidence { watched: 1.5, returns: 1.5 });
    }

    proptest! {
        #[test]
        fn the_lowest_index_and_where_it_falls_below_a_price_are_those_that_a_walk_finds(
            indexes in proptest::collection::vec(0.0..1.0_f32, BUCKETS + 1),
            from in 1.0..100_000.0_f64,
            factor in 1.0..8.0_f64,
            price in 0.0..1.0_f32,
        ) {
            let mut tables = Tables::new();
            tables.set_indexes(class(), &std::array::from_fn(|bucket| indexes[bucket]));
            let to = from * factor;
            let walk = || (0..=20_000).map(|step| from + (to - from) * f64::from(step) / 20_000.0);
            let index = |age| tables.index(class(), age);
            let lowest = walk().map(index).fold(f32::INFINITY, f32::min);
            let told = tables.lowest(class(), from, to);
            prop_assert!(told <= lowest && lowest - told < 1e-2, "{told} and {lowest}");

            let until = tables.falls_below(class(), price, from, to);
            prop_assert!((from..=to).contains(&until));
            prop_assert!(walk().take_while(|age| *age < until).all(|age| index(age) >= price - 1e-4), "{until}");
            prop_assert!(until == to || index(until) <= price + 1e-4, "{until}");
        }
    }

    #[test]
    fn the_tables_take_less_than_a_mebibyte() {
        let tables = Tables::new();
        let bytes = size_of_val(&*tables.watched) + size_of_val(&*tables.returns) + size_of_val(&*tables.indexes);
        assert_eq!(bytes, 608_580);
    }
}
