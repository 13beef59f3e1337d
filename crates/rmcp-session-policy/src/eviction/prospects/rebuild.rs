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
