//! A session at random.

use rmcp_session_policy::SessionKey;
use rmcp_session_policy::eviction::{Candidates, EvictionPolicy, SessionInfo};

use super::key_list::KeyList;

/// Evicts a session at random. O(1).
#[derive(Debug)]
pub struct Random {
    sessions: KeyList,
}

impl Default for Random {
    fn default() -> Self {
        Self { sessions: KeyList::new() }
    }
}

impl EvictionPolicy for Random {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.sessions.insert(session.key());
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        self.sessions.remove(session.key());
    }

    fn victim(&mut self, _: &Candidates<'_>) -> Option<SessionKey> {
        self.sessions.draw()
    }
}
