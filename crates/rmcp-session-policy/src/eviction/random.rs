//! A random session.

use super::{Candidates, EvictionPolicy};
use crate::session::SessionKey;

/// Evicts any session with equal probability. It is what other policies are measured against, and costs least: O(1) per
/// victim, and nothing else.
///
/// ```
/// use rmcp_session_policy::eviction::Random;
/// use rmcp_session_policy::testing::eviction::{Event::*, victims};
///
/// let mut gone = victims(Random::new(), [Open, Open, Open, Evict, Evict, Evict]);
/// gone.sort();
/// assert_eq!(gone, [1, 2, 3]);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Random;

impl Random {
    /// Creates the policy.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl EvictionPolicy for Random {
    fn phrase(&self) -> &'static str {
        "drawn at random"
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        candidates.sample(1).next().map(|session| session.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::test_registry::{TestRegistry, call};

    #[tokio::test(start_paused = true)]
    async fn each_session_that_may_go_goes_about_as_often_as_any_other() {
        const ROUNDS: usize = 3_000;
        let mut gone = [0; 3];
        let mut stage = TestRegistry::new(Random::new());
        let busy = call(&stage.ready());
        for _ in 0..ROUNDS {
            let three = [stage.ready(), stage.ready(), stage.ready()].map(|record| record.entry.key.generation());
            let victim = stage.victim().unwrap();
            gone[three.iter().position(|session| *session == victim).unwrap()] += 1;
            while stage.victim().is_some() {}
        }
        assert!(gone.iter().all(|times| (850..1_150).contains(times)), "{gone:?}");
        assert_eq!(stage.registry.overruled, 0);
        drop(busy);
    }
}
