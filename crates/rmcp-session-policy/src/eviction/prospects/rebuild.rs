//! [`Rebuild`]: the indexes of all classes from what was seen of them, in short steps.

use super::ages::{self, BUCKETS};
use super::class::{CALLS, Class, GROUP, GROUPS};
use super::index::{self, Hazards};
use super::tables::{Evidence, Tables};

/// How many returns a pool counts for in the hazard that is drawn towards it.
const POOL_WEIGHT: f64 = 2.0;
/// How many returns all sessions count for in the hazard of those that called as often, and how many the guess.
const ALL_WEIGHT: f64 = 1.0;
/// How much evidence a class keeps at the ages of one bucket, in returns: those that it had, or those that its pool would have
/// had in the time that was watched.
const ENOUGH: f64 = 100.0;
/// How many classes have the same range of calls.
const OF_CALLS: usize = GROUPS * GROUP;
/// The steps of a rebuild: first one for each range of calls, then one for each group.
const STEPS: usize = CALLS + CALLS * GROUPS;

/// A rebuild of the indexes that is under way.
///
/// A hazard is returns per second watched. Where little was seen, it is drawn towards the hazard of a pool: that of a class
/// towards its group, which differs by the last gap alone; that of a group towards all sessions that called as often; that of
/// these towards all sessions, and towards a guess which says only that long idle sessions come back less.
///
/// Evidence is forgotten in two ways. By number: what a class has beyond [`ENOUGH`] is scaled down, so one that is seen much
/// follows a change within a hundred returns, and one that is seen little keeps what it has. By time: each rebuild scales all
/// evidence by `keep`.
#[derive(Clone, Debug)]
pub(super) struct Rebuild {
    step: usize,
    keep: f64,
    /// The evidence of all sessions that called as often.
    by_calls: [[Evidence; BUCKETS]; CALLS],
    /// The hazards of all sessions that called as often.
    pools: [Hazards; CALLS],
}

impl Rebuild {
    /// Begins a rebuild that leaves a share of the evidence, `keep`.
    pub(super) fn new(keep: f64) -> Self {
        let nothing = [Evidence::default(); BUCKETS];
        Self { step: 0, keep, by_calls: [nothing; CALLS], pools: [[0.0; BUCKETS]; CALLS] }
    }

    /// Does the next step, which takes 10 µs or less. Returns whether there are more.
    pub(super) fn step(&mut self, tables: &mut Tables) -> bool {
        match self.step {
            step if step < CALLS => self.sum(step, tables),
            step if step < STEPS => self.fill(step - CALLS, tables),
            _ => return false,
        }
        self.step += 1;
        if self.step == CALLS {
            self.draw_pools();
        }
        self.step < STEPS
    }

    /// Scales the evidence of all sessions that called as often, and sums it up.
    fn sum(&mut self, calls: usize, tables: &mut Tables) {
        for class in classes(calls * OF_CALLS, OF_CALLS) {
            tables.scale(class, self.keep);
            for (bucket, sum) in self.by_calls[calls].iter_mut().enumerate() {
                *sum += tables.evidence(class, bucket);
            }
        }
    }

    /// Computes the hazards of all sessions that called as often.
    fn draw_pools(&mut self) {
        for bucket in 0..BUCKETS {
            let guess = 0.3 / (ages::middle(bucket) + 10.0);
            let mut all = Evidence::default();
            self.by_calls.iter().for_each(|pool| all += pool[bucket]);
            let all = all.hazard(ALL_WEIGHT, guess);
            for (pool, evidence) in self.pools.iter_mut().zip(&self.by_calls) {
                // Drawn towards both at once.
                let both = 2.0 / (1.0 / all + 1.0 / guess);
                pool[bucket] = evidence[bucket].hazard(2.0 * ALL_WEIGHT, both);
            }
        }
    }

    /// Computes the indexes of the classes of a group.
    fn fill(&self, group: usize, tables: &mut Tables) {
        let mut hazards = self.pools[group / GROUPS];
        let mut is_empty = true;
        for (bucket, hazard) in hazards.iter_mut().enumerate() {
            let mut sum = Evidence::default();
            classes(group * GROUP, GROUP).for_each(|class| sum += tables.evidence(class, bucket));
            is_empty &= sum == Evidence::default();
            *hazard = sum.hazard(POOL_WEIGHT, *hazard);
        }
        if is_empty {
            let indexes = index::indexes(&hazards);
            return classes(group * GROUP, GROUP).for_each(|class| tables.set_indexes(class, &indexes));
        }
        for class in classes(group * GROUP, GROUP) {
            let of_class = std::array::from_fn(|bucket| {
                let evidence = tables.evidence(class, bucket);
                let seen = evidence.returns.max(evidence.watched * hazards[bucket]);
                if seen > ENOUGH {
                    tables.scale_bucket(class, bucket, ENOUGH / seen);
                }
                evidence.hazard(POOL_WEIGHT, hazards[bucket])
            });
            tables.set_indexes(class, &index::indexes(&of_class));
        }
    }
}

fn classes(first: usize, count: usize) -> impl Iterator<Item = Class> {
    Class::all().skip(first).take(count)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ages::BEGINS;
    use super::super::class::Listening;
    use super::*;

    fn class(name: u8, calls: u64, gap: u64) -> Class {
        Class::new(name, calls, Some(Duration::from_secs(gap)), Listening::Never)
    }

    /// Has sessions watched at the ages of each bucket for this many seconds.
    fn watch(tables: &mut Tables, class: Class, seconds: f64) {
        for bucket in 0..BUCKETS {
            // In pieces that fit into the bucket.
            let (mut left, width) = (seconds, BEGINS[bucket + 1] - BEGINS[bucket]);
            while left > 0.0 {
                tables.watch(class, BEGINS[bucket], BEGINS[bucket] + left.min(width));
                left -= width;
            }
        }
    }

    /// Has sessions come back at a constant rate, at the ages of each bucket as many of them.
    fn see(tables: &mut Tables, class: Class, returns: u32, rate: f64) {
        for bucket in 0..BUCKETS {
            (0..returns).for_each(|_| tables.come_back(class, ages::middle(bucket)));
        }
        watch(tables, class, f64::from(returns) / rate);
    }

    fn guess(bucket: usize) -> f64 {
        0.3 / (ages::middle(bucket) + 10.0)
    }

    /// The index of a class of which nothing is known.
    fn guessed(age: f64) -> f64 {
        index::at(&index::indexes(&std::array::from_fn(guess)), age).into()
    }

    fn rebuild(tables: &mut Tables, keep: f64) {
        let mut rebuild = Rebuild::new(keep);
        while rebuild.step(tables) {}
    }

    #[track_caller]
    fn assert_close(one: f64, other: f64, tolerance: f64) {
        assert!((one / other - 1.0).abs() < tolerance, "{one} and {other}");
    }

    #[test]
    fn of_nothing_seen_the_guess_remains() {
        let mut tables = Tables::new();
        rebuild(&mut tables, 1.0);
        for class in Class::all() {
            [1.0, 12.0, 300.0, 90_000.0]
                .into_iter()
                .for_each(|age| assert_close(tables.index(class, age).into(), guessed(age), 1e-4));
        }
    }

    #[test]
    fn a_class_that_was_seen_much_follows_its_own_evidence_and_others_borrow() {
        let mut tables = Tables::new();
        see(&mut tables, class(0, 1, 5), 90, 0.05);
        rebuild(&mut tables, 1.0);
        let index = |class| f64::from(tables.index(class, 12.0));
        assert_close(index(class(0, 1, 5)), 0.05, 0.05);
        assert_close(index(class(0, 1, 500)), 0.05, 0.1);
        assert_close(index(class(1, 1, 5)), 0.05, 0.1);
        let stranger = index(class(0, 9, 5));
        assert!(stranger > 1.3 * guessed(12.0) && stranger < 0.03, "of all and the guess: {stranger}");
    }

    #[test]
    fn two_returns_of_its_own_weigh_as_much_as_those_of_the_group() {
        let mut tables = Tables::new();
        let (live, idle, free) = (class(0, 1, 5), class(0, 1, 500), class(0, 1, 5_000));
        see(&mut tables, live, 1_000, 0.001);
        // In this time the group would have had two returns, and the class had none.
        watch(&mut tables, idle, 2_000.0);
        rebuild(&mut tables, 1.0);
        let index = |class| f64::from(tables.index(class, 100.0));
        assert_close(index(free), 0.001, 0.01);
        assert_close(index(idle), 0.000_5, 0.01);
    }

    #[test]
    fn two_returns_of_its_own_weigh_as_much_for_a_group_as_those_of_all_that_called_as_often() {
        let mut tables = Tables::new();
        see(&mut tables, class(0, 1, 5), 1_000, 0.001);
        watch(&mut tables, class(1, 1, 5), 2_000.0);
        rebuild(&mut tables, 1.0);
        // Another class of the group, of which nothing was seen.
        assert_close(tables.index(class(1, 1, 500), 100.0).into(), 0.000_5, 0.01);
    }

    #[test]
    fn the_hazards_of_a_range_of_calls_are_drawn_towards_those_of_all_and_the_guess() {
        let mut tables = Tables::new();
        see(&mut tables, class(0, 1, 5), 3, 0.5);
        see(&mut tables, class(8, 16, 5), 1, 0.02);
        let mut rebuild = Rebuild::new(1.0);
        (0..CALLS).for_each(|_| assert!(rebuild.step(&mut tables)));
        let bucket = ages::bucket(40.0);
        let by_guess = 1.0 / guess(bucket);
        // All had 4 returns in 56 s, of which the first had 3 in 6 s and the second 1 in 50 s.
        let all = 5.0 / (56.0 + by_guess);
        let both = 2.0 / (1.0 / all + by_guess);
        // Of sessions that called never, once, and 16 times or more.
        let pools = [0, 1, 4].map(|calls| rebuild.pools[calls][bucket]);
        assert_close(pools[0], both, 1e-9);
        assert_close(pools[1], 5.0 / (6.0 + 2.0 / both), 1e-9);
        assert_close(pools[2], 3.0 / (50.0 + 2.0 / both), 1e-9);
    }

    #[test]
    fn what_was_seen_much_is_forgotten_as_new_comes() {
        let mut tables = Tables::new();
        see(&mut tables, class(0, 1, 5), 5_000, 0.05);
        rebuild(&mut tables, 1.0);
        let before = tables.evidence(class(0, 1, 5), 10);
        assert_close(before.returns, 100.0, 0.001);
        assert_close(before.watched, 2_000.0, 0.001);
        // It comes back a fifth as often from now on.
        for _ in 0..4 {
            see(&mut tables, class(0, 1, 5), 100, 0.01);
            rebuild(&mut tables, 1.0);
        }
        let index = tables.index(class(0, 1, 5), 60.0);
        assert!((0.009..0.013).contains(&index), "{index}");
    }

    #[test]
    fn what_was_seen_little_is_kept() {
        let mut tables = Tables::new();
        see(&mut tables, class(0, 1, 5), 90, 0.05);
        (0..3).for_each(|_| rebuild(&mut tables, 1.0));
        assert_eq!(tables.evidence(class(0, 1, 5), 10).returns, 90.0);
    }

    #[test]
    fn where_a_class_had_none_of_the_returns_of_its_group_they_count_as_seen() {
        let mut tables = Tables::new();
        let (live, dead) = (class(0, 1, 5), class(0, 1, 500));
        see(&mut tables, live, 1_000, 0.05);
        watch(&mut tables, dead, 20_000.0);
        rebuild(&mut tables, 1.0);
        // The group had 1,000 returns in 40,000 s, so this class would have had 500.
        assert_close(tables.evidence(dead, 10).watched, 4_000.0, 0.01);
        assert!(tables.index(dead, 60.0) < 0.000_2, "its index is from all of it");
    }

    #[test]
    fn a_share_of_all_is_kept() {
        let mut tables = Tables::new();
        let some = [class(3, 2, 5), class(8, 16, 5_000), class(0, 0, 5)];
        some.into_iter().for_each(|class| see(&mut tables, class, 8, 0.5));
        rebuild(&mut tables, 0.25);
        for class in some {
            assert_eq!(tables.evidence(class, 7).returns, 2.0);
            assert_close(tables.evidence(class, 7).watched, 4.0, 1e-9);
        }
    }

    #[test]
    fn a_rebuild_has_140_steps() {
        let (mut tables, mut rebuild) = (Tables::new(), Rebuild::new(1.0));
        let steps = 1 + std::iter::from_fn(|| rebuild.step(&mut tables).then_some(())).count();
        assert_eq!(steps, 140);
        assert!(!rebuild.step(&mut tables), "the end is the end");
    }
}
