//! A policy that scores a random sample of the sessions.

use std::fmt;

use tokio::time::Instant;

use super::{Candidates, EvictionPolicy, SessionInfo};
use crate::session::SessionKey;

/// Draws some sessions at random and evicts the one with the lowest score; made by [`Scored::sample`].
///
/// It keeps no order, so the score may depend on anything, also on time. Cost: O(k) per victim for a sample of k, however
/// many sessions there are and however many of them are busy; nothing for a use.
#[derive(Clone)]
pub struct Scored<F> {
    count: usize,
    score: F,
}

impl<F> Scored<F>
where
    F: Fn(&SessionInfo<'_>, Instant) -> f64 + Send + 'static,
{
    /// Evicts the session with the lowest score of `count` that are drawn at random. The score gets the session and the
    /// moment of the choice. If `count` or fewer sessions are in the order, all of them are scored; 0 counts as 1.
    ///
    /// 32 are enough for most scores: the victim is then among the lowest 7 % with a probability of 90 %. A score of NaN
    /// counts as the highest.
    ///
    /// An order that learns nothing. At half the places needed it forces a third fewer restores than [`Lru`](super::Lru), as
    /// the geometric mean of the lab's workloads, and 3 % more on `chat` (`replay TRACE --max-sessions 50% --policy lru,scored`):
    /// it weighs the idle time by how often the session called.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use rmcp_session_policy::eviction::{Scored, SessionInfo};
    /// use rmcp_session_policy::testing::eviction::{Event::*, victims};
    /// use tokio::time::Instant;
    ///
    /// let by_calls = Scored::sample(32, |session: &SessionInfo<'_>, now: Instant| {
    ///     let idle = now - session.last_used() + Duration::from_secs(5);
    ///     let weight = match session.calls() {
    ///         0 => 30.0,
    ///         1 => 6.0,
    ///         2..=3 => 3.0,
    ///         4..=15 => 1.5,
    ///         _ => 1.0,
    ///     };
    ///     -idle.as_secs_f64() * weight
    /// });
    /// // The second session never called. The first did, so it may be idle for longer.
    /// let history = [Open, Use(1), Pass(Duration::from_secs(15)), Open, Evict, Evict];
    /// assert_eq!(victims(by_calls, history), [2, 1]);
    /// ```
    pub fn sample(count: usize, score: F) -> Self {
        Self { count: count.max(1), score }
    }
}

impl<F> EvictionPolicy for Scored<F>
where
    F: Fn(&SessionInfo<'_>, Instant) -> f64 + Send + 'static,
{
    fn phrase(&self) -> &'static str {
        "lowest score"
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        let scored = candidates.sample(self.count).map(|session| {
            let score = (self.score)(&session, candidates.now());
            // Without its sign: a NaN may have either.
            (if score.is_nan() { f64::NAN.copysign(1.0) } else { score }, session.key())
        });
        scored.min_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, key)| key)
    }
}

impl<F> fmt::Debug for Scored<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scored").field("count", &self.count).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::test_registry::{TestRegistry, call};

    #[tokio::test(start_paused = true)]
    async fn the_lowest_score_of_all_goes_when_there_are_few() {
        let newest = |session: &SessionInfo<'_>, _| -f64::from(session.key().generation());
        let mut stage = TestRegistry::new(Scored::sample(4, newest));
        let [one, _, three, _] = stage.ready_many();
        let busy = (call(&one), call(&three));
        assert_eq!(stage.victims(), [4, 2]);
        drop(busy);
        assert_eq!(stage.victims(), [3, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_a_number_goes_last() {
        let odd = |session: &SessionInfo<'_>, _| match session.key().generation() {
            1 => -f64::NAN,
            2 => f64::INFINITY,
            _ => f64::NAN,
        };
        let mut stage = TestRegistry::new(Scored::sample(32, odd));
        stage.ready_many::<3>();
        assert_eq!((stage.victim(), stage.registry.overruled), (Some(2), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sample_of_none_is_a_sample_of_one() {
        let mut stage = TestRegistry::new(Scored::sample(0, |_: &SessionInfo<'_>, _| 0.0));
        stage.ready_many::<3>();
        assert_eq!((stage.victims().len(), stage.registry.overruled), (3, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sample_of_many_is_near_the_lowest() {
        let oldest = |session: &SessionInfo<'_>, _| f64::from(session.key().generation());
        let mut stage = TestRegistry::new(Scored::sample(32, oldest));
        let _crowd: Vec<_> = (0..10_000).map(|_| stage.ready()).collect();
        let victims: Vec<_> = (0..100).map(|_| stage.victim().unwrap()).collect();
        let mean = f64::from(victims.iter().sum::<u32>()) / 100.0;
        assert!((150.0..600.0).contains(&mean), "the least of 32 of 10,000 is 303 on average, not {mean}");
    }
}
