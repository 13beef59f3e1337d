//! LRU-2.

use std::collections::BTreeSet;

use hashbrown::HashMap;
use hashlink::LinkedHashMap;
use rmcp_session_policy::eviction::{Candidates, EvictionPolicy, SessionInfo};
use rmcp_session_policy::{SessionKey, SessionOrigin};

/// The history of this many sessions without a place is kept for each session with one.
const KEPT: usize = 4;

/// LRU-2 (O'Neil, O'Neil, Weikum: "The LRU-K page replacement algorithm for database disk buffering", 1993): evicts the
/// session whose last use but one is longest ago; sessions used once at most go first, least recently used first. It hears
/// of each use. O(log n).
#[derive(Debug, Default)]
pub struct Lru2 {
    order: BTreeSet<(Uses, SessionKey)>,
    uses: HashMap<SessionKey, Uses>,
    /// The history of sessions that lost their place, oldest first.
    gone: LinkedHashMap<SessionOrigin, Uses>,
    /// Counts the uses of all sessions.
    now: u64,
}

/// When a session was last used but one, and last: as counts of uses, 0 for never.
type Uses = (u64, u64);

impl Lru2 {
    fn put(&mut self, key: SessionKey, uses: Uses) {
        if let Some(before) = self.uses.insert(key, uses) {
            self.order.remove(&(before, key));
        }
        self.order.insert((uses, key));
    }
}

impl EvictionPolicy for Lru2 {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.now += 1;
        let uses = self.gone.remove(&session.origin()).unwrap_or((0, self.now));
        self.put(session.key(), uses);
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        if let Some(uses) = self.uses.remove(&session.key()) {
            self.order.remove(&(uses, session.key()));
            self.gone.insert(session.origin(), uses);
            while self.gone.len() > KEPT * self.uses.len().max(1) {
                self.gone.pop_front();
            }
        }
    }

    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        self.on_insert(session);
        self.on_access(session);
    }

    fn tracks_access(&self) -> bool {
        true
    }

    fn on_access(&mut self, session: &SessionInfo<'_>) {
        if let Some((_, last)) = self.uses.get(&session.key()).copied() {
            self.now += 1;
            // The arrival of a session and its first use are one.
            let before = if session.uses() <= 1 { 0 } else { last };
            self.put(session.key(), (before, self.now));
        }
    }

    fn victim(&mut self, _: &Candidates<'_>) -> Option<SessionKey> {
        self.order.first().map(|(_, key)| *key)
    }
}
