//! Least recently used.

use super::ranking::Ranking;
use super::{Candidates, EvictionPolicy, SessionInfo};
use crate::session::SessionKey;

/// Throws out the least recently used session: the one whose last activity other than `ping` is longest ago.
///
/// On the loads of real sessions it wins: a client that called lately is likely to call again. Exact, though a use
/// costs the policy nothing: the order is repaired when a victim is wanted.
///
/// Cost: O(log n) per insert, remove and victim; each use costs at most one repair later.
///
/// Not for servers where a burst of one-off clients passes through beside regulars with long pauses: the burst pushes
/// the regulars out. See [`Lfu`](super::Lfu).
#[derive(Clone, Debug, Default)]
pub struct Lru {
    order: Ranking<u64>,
}

impl Lru {
    /// Creates the policy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl EvictionPolicy for Lru {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.order.insert(session.key(), session.rank_by_use());
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        self.order.remove(session.key());
    }

    fn phrase(&self) -> &'static str {
        "least recently used"
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        self.order.first(candidates, |session, _| session.rank_by_use()).map(|(_, key)| key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, advance};

    use super::*;
    use crate::registry::test_registry::{TestRegistry, begin, call, touch};
    use crate::session::ActivityKind;

    #[tokio::test(start_paused = true)]
    async fn the_least_recently_used_goes_first() {
        let mut stage = TestRegistry::new(Lru::new());
        let [one, two, _, four] = stage.ready_many();
        advance(Duration::from_secs(1)).await;
        [&two, &four, &one].into_iter().for_each(touch);
        assert_eq!(stage.victims(), [3, 2, 4, 1], "all within one instant of a paused clock");
    }

    #[tokio::test(start_paused = true)]
    async fn a_use_counts_at_its_end_too() {
        let mut stage = TestRegistry::new(Lru::new());
        let [one, two] = stage.ready_many();
        let long = call(&one);
        touch(&two);
        drop(long);
        assert_eq!(stage.victims(), [2, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_and_a_stream_are_no_use() {
        let mut stage = TestRegistry::new(Lru::new());
        let [one, two, three] = stage.ready_many();
        drop(begin(&one, ActivityKind::Ping));
        drop(begin(&two, ActivityKind::Listen));
        one.stream_opened();
        one.stream_closed(Instant::now());
        drop(begin(&three, ActivityKind::Message));
        assert_eq!(stage.victims(), [1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_busy_come_back_where_their_last_use_puts_them() {
        let mut stage = TestRegistry::new(Lru::new());
        let [one, two, three] = stage.ready_many();
        let (first, second) = (call(&one), call(&two));
        assert_eq!(stage.victim(), Some(3));
        assert_eq!(stage.victim(), None);
        drop((second, first));
        assert_eq!(stage.victims(), [2, 1]);
        drop(three);
    }
}
