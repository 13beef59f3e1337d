//! The index of a session: what its place is worth, from the hazards of its class.

use super::ages::{BEGINS, BUCKETS};

/// How likely a session is to come back in each bucket of idle age, in returns per second of idleness.
pub(super) type Hazards = [f64; BUCKETS];

/// The index at the begin of each bucket, and at the end of the last one; in returns per second of a place.
pub(super) type Indexes = [f32; BUCKETS + 1];

/// Holding a session from some age until it comes back, or until a later age.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    /// How likely it is to come back in it.
    returns: f64,
    /// How long it is held, on average, in seconds.
    held: f64,
    /// How likely it does not come back in it.
    remains: f64,
}

impl Stretch {
    /// Holding through a bucket with a constant hazard.
    fn through(hazard: f64, seconds: f64) -> Self {
        let returns = -(-hazard * seconds).exp_m1();
        let held = if hazard * seconds < 1e-9 { seconds } else { returns / hazard };
        Self { returns, held, remains: 1.0 - returns }
    }

    /// Holding through this one and, if it does not come back, through the next.
    fn then(self, next: Self) -> Self {
        Self {
            returns: self.returns + self.remains * next.returns,
            held: self.held + self.remains * next.held,
            remains: self.remains * next.remains,
        }
    }

    /// Returns per second.
    fn rate(self) -> f64 {
        self.returns / self.held
    }
}

/// Computes the index at the begin of each bucket: of all later ages `e` the greatest `P(back before e) / E[time held until
/// it is back, or e]`.
///
/// That is the Gittins index of a job which is served by being waited for (Gittins 1979), and the *least profit rate* of
/// Bilardi and Versaci ("Optimal eviction policies for stochastic address traces", Theoretical Computer Science 2013). The
/// best end of a stretch is where the index falls below the rate of the stretch. So the buckets are taken from the last to the
/// first, and a bucket is joined with the stretch behind it while that one has the greater rate. O([`BUCKETS`]), since each
/// stretch is joined once.
///
/// With a constant hazard in each bucket the best end is the end of a bucket. After the last bucket its hazard goes on for
/// ever.
pub(super) fn indexes(hazards: &Hazards) -> Indexes {
    let mut indexes = [0.0; BUCKETS + 1];
    let last = hazards[BUCKETS - 1].max(f64::MIN_POSITIVE);
    indexes[BUCKETS] = last as f32;
    // The stretches behind the bucket, the nearest at the end; the one at the start goes on for ever.
    let mut behind = [Stretch { returns: 1.0, held: 1.0 / last, remains: 0.0 }; BUCKETS + 1];
    let mut count = 1;
    for bucket in (0..BUCKETS).rev() {
        let mut stretch = Stretch::through(hazards[bucket], BEGINS[bucket + 1] - BEGINS[bucket]);
        while count > 0 && behind[count - 1].rate() > stretch.rate() {
            stretch = stretch.then(behind[count - 1]);
            count -= 1;
        }
        indexes[bucket] = stretch.rate() as f32;
        behind[count] = stretch;
        count += 1;
    }
    indexes
}

/// Returns the index at an age in seconds, between the begins of two buckets by a straight line.
///
/// Without the line, sessions of one bucket would be equals, and LRU's order among them lost. Ages below a second count as a
/// second: shorter pauses are not told of, so nothing is known there.
pub(super) fn at(indexes: &Indexes, age: f64) -> f32 {
    let age = age.max(1.0);
    let bucket = super::ages::bucket(age);
    let way = ((age - BEGINS[bucket]) / (BEGINS[bucket + 1] - BEGINS[bucket])).min(1.0);
    indexes[bucket] + (indexes[bucket + 1] - indexes[bucket]) * way as f32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(one: f64, other: f64) -> bool {
        (one - other).abs() <= 1e-4 * one.abs().max(other.abs())
    }

    /// The index at the begin of a bucket, by trying every end.
    fn by_trying(hazards: &Hazards, bucket: usize) -> f64 {
        let last = hazards[BUCKETS - 1];
        let (mut returns, mut held, mut remains, mut best) = (0.0, 0.0, 1.0, 0.0_f64);
        for later in bucket..BUCKETS {
            let seconds = BEGINS[later + 1] - BEGINS[later];
            let stays = (-hazards[later] * seconds).exp();
            held += remains * (1.0 - stays) / hazards[later];
            returns += remains * (1.0 - stays);
            remains *= stays;
            best = best.max(returns / held);
        }
        best.max((returns + remains) / (held + remains / last))
    }

    /// The index at the begin of a bucket, by value iteration: the price of a second at which holding on is worth nothing.
    ///
    /// The chain has a state for each bucket, and one for the time after. In each state the session is held to the end of
    /// the bucket or let go. A return pays 1 and ends the chain, as does letting go. Values are iterated until they stand
    /// still, so an order of the states is not used.
    fn by_value_iteration(hazards: &Hazards, bucket: usize) -> f64 {
        let worth = |price: f64| {
            let mut values = [0.0_f64; BUCKETS + 1];
            loop {
                let mut moved = 0.0_f64;
                for state in 0..=BUCKETS {
                    let hazard = hazards[state.min(BUCKETS - 1)];
                    let hold = if state == BUCKETS {
                        1.0 - price / hazard
                    } else {
                        let stays = (-hazard * (BEGINS[state + 1] - BEGINS[state])).exp();
                        (1.0 - stays) - price * (1.0 - stays) / hazard + stays * values[state + 1]
                    };
                    let value = hold.max(0.0);
                    moved = moved.max((value - values[state]).abs());
                    values[state] = value;
                }
                if moved == 0.0 {
                    return values[bucket];
                }
            }
        };
        let (mut low, mut high) = (0.0, hazards.iter().fold(0.0_f64, |most, hazard| most.max(*hazard)) * 2.0);
        for _ in 0..60 {
            let price = f64::midpoint(low, high);
            if worth(price) > 0.0 { low = price } else { high = price }
        }
        low
    }

    /// Hazards over many orders of magnitude, some of them with one age at which sessions come back on schedule.
    fn hazards() -> impl Strategy<Value = Hazards> {
        let exponents = proptest::collection::vec(-6.0..0.0_f64, BUCKETS);
        (exponents, proptest::option::of(0..BUCKETS)).prop_map(|(exponents, schedule)| {
            let mut hazards: Hazards = std::array::from_fn(|bucket| 10_f64.powf(exponents[bucket]));
            if let Some(bucket) = schedule {
                hazards[bucket] = 10.0 / (BEGINS[bucket + 1] - BEGINS[bucket]);
            }
            hazards
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_index_is_the_best_rate_over_all_ends(hazards in hazards()) {
            let indexes = indexes(&hazards);
            for (bucket, index) in indexes.iter().enumerate().take(BUCKETS) {
                let tried = by_trying(&hazards, bucket);
                prop_assert!(close((*index).into(), tried), "{bucket}: {index} and {tried}");
            }
        }

        #[test]
        fn the_index_is_the_price_that_value_iteration_finds(hazards in hazards(), bucket in 0..BUCKETS) {
            let (index, price) = (indexes(&hazards)[bucket].into(), by_value_iteration(&hazards, bucket));
            prop_assert!(close(index, price), "{index} and {price}");
        }
    }

    #[test]
    fn a_constant_hazard_is_its_own_index() {
        assert!(indexes(&[0.01; BUCKETS]).iter().all(|index| close((*index).into(), 0.01)));
    }

    #[test]
    fn what_is_due_soon_is_worth_more_than_what_was_due() {
        let mut hazards = [1e-6; BUCKETS];
        let due = super::super::ages::bucket(300.0);
        hazards[due] = 0.05;
        let indexes = indexes(&hazards);
        let [early, shortly, late] = [60.0, 250.0, 600.0].map(|age| at(&indexes, age));
        assert!(shortly > early && early > 100.0 * late, "{early} {shortly} {late}");
        assert!(early > 1_000.0 * 1e-6, "a plain hazard would tell it from the late one by nothing");
    }

    #[test]
    fn between_two_buckets_the_index_is_on_a_line() {
        let indexes: Indexes = std::array::from_fn(|bucket| bucket as f32);
        assert_eq!(at(&indexes, 1.0), 3.0);
        assert_eq!(at(&indexes, (BEGINS[10] + BEGINS[11]) / 2.0), 10.5);
        assert_eq!([0.0, 0.7].map(|age| at(&indexes, age)), [3.0; 2], "nothing is known of pauses below a second");
        assert_eq!([1e7, f64::INFINITY].map(|age| at(&indexes, age)), [40.0; 2]);
    }

    #[test]
    fn hazards_of_nothing_have_an_index_of_nothing() {
        assert!(indexes(&[0.0; BUCKETS]).iter().all(|index| *index >= 0.0 && *index < 1e-30));
    }
}
