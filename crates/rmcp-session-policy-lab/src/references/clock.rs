//! CLOCK.

use hashlink::LinkedHashMap;
use rmcp_session_policy::SessionKey;
use rmcp_session_policy::eviction::{Candidates, EvictionPolicy, SessionInfo};

use super::hits::Hits;

/// CLOCK (Corbató, "A paging experiment with the Multics system", 1968): first in, first out, and a session that was hit
/// since the hand passed it last gets another round. O(1) amortized.
#[derive(Debug, Default)]
pub struct Clock {
    /// The ring, the hand at its front.
    ring: LinkedHashMap<SessionKey, Hits>,
}

impl EvictionPolicy for Clock {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.ring.insert(session.key(), Hits::from(session));
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        self.ring.remove(&session.key());
    }

    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        self.ring.insert(session.key(), Hits::resumed(session));
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        loop {
            let (&key, hits) = self.ring.iter_mut().next()?;
            match candidates.get(key) {
                Some(session) if hits.take(&session) > 0 => drop(self.ring.to_back(&key)),
                _ => return Some(key),
            }
        }
    }
}
