//! Least recently used.

use super::ranking::Ranking;
use super::{Candidates, EvictionPolicy, SessionInfo};
use crate::registry::SessionKey;

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

    fn on_idle(&mut self, session: &SessionInfo<'_>) {
        self.order.take_back(session.key());
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        self.order.first(candidates, |session, _| session.rank_by_use()).map(|(_, key)| key)
    }
}
