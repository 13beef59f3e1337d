//! First in, first out.

use super::ranking::Ranking;
use super::{Candidates, EvictionPolicy, SessionInfo};
use crate::session::SessionKey;

/// Throws out the session that came first.
///
/// A restored session counts from its return. The order is easy to explain to users ("the oldest goes") and blind to
/// how the sessions are used.
///
/// Cost: O(log n) per insert, remove and victim.
///
/// Not for servers with clients that stay: it throws out a client that calls every second if it was there first.
#[derive(Clone, Debug, Default)]
pub struct Fifo {
    order: Ranking<u64>,
}

impl Fifo {
    /// Creates the policy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl EvictionPolicy for Fifo {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.order.insert(session.key(), session.rank_by_age());
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        self.order.remove(session.key());
    }

    fn phrase(&self) -> &'static str {
        "oldest"
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        self.order.first(candidates, |_, age| age).map(|(_, key)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::test_registry::{TestRegistry, call, touch};

    #[tokio::test(start_paused = true)]
    async fn the_oldest_goes_first_however_it_is_used() {
        let mut stage = TestRegistry::new(Fifo::new());
        let [oldest, _, _] = stage.ready_many();
        touch(&oldest);
        assert_eq!(stage.victims(), [1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_busy_are_suspended_and_come_back_in_their_old_order() {
        let mut stage = TestRegistry::new(Fifo::new());
        let [first, second, third, _, _] = stage.ready_many();
        let calls = [call(&first), call(&second), call(&third)];
        assert_eq!(stage.victim(), Some(4));
        let [one, two, three] = calls;
        drop((three, two));
        assert_eq!([stage.victim(), stage.victim(), stage.victim(), stage.victim()], [Some(2), Some(3), Some(5), None]);
        drop(one);
        assert_eq!(stage.victims(), [1]);
    }
}
