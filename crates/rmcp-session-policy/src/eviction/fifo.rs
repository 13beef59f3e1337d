//! First in, first out.

use super::ranking::Ranking;
use super::{Candidates, EvictionPolicy, SessionInfo};
use crate::registry::SessionKey;

/// Throws out the session that came first.
///
/// A restored session counts from its return. The order is easy to explain to users ("the oldest goes") and blind to
/// how the sessions are used.
///
/// Cost: O(log n) per insert, remove and victim.
///
/// Not for servers whose clients stay: it throws out a client that calls every second if it was there first.
#[derive(Clone, Debug, Default)]
pub struct Fifo {
    order: Ranking<u64>,
    arrivals: u64,
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
        self.arrivals += 1;
        self.order.insert(session.key(), self.arrivals);
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        self.order.remove(session.key());
    }

    fn on_idle(&mut self, session: &SessionInfo<'_>) {
        self.order.take_back(session.key());
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        self.order.first(candidates, |_, arrival| arrival).map(|(_, key)| key)
    }
}
