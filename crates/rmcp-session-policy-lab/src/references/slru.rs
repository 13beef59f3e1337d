//! Segmented LRU.

use hashlink::LinkedHashMap;
use rmcp_session_policy::SessionKey;
use rmcp_session_policy::eviction::{Candidates, EvictionPolicy, SessionInfo};

use super::hits::Hits;

/// Segmented LRU (Karedla, Love, Wherry: "Caching strategies to improve disk system performance", 1994): a session comes on
/// probation, and a hit moves it to the protected segment, which holds at most four fifths of all. Victims come from the
/// probation first. It hears of each use. O(1).
#[derive(Debug, Default)]
pub struct Slru {
    /// Least recently used first.
    probation: LinkedHashMap<SessionKey, Hits>,
    /// Least recently used first.
    protected: LinkedHashMap<SessionKey, Hits>,
}

impl Slru {
    fn protect(&mut self, key: SessionKey, hits: Hits) {
        self.protected.insert(key, hits);
        let share = (self.protected.len() + self.probation.len()) * 4 / 5;
        if self.protected.len() > share.max(1)
            && let Some((oldest, hits)) = self.protected.pop_front()
        {
            self.probation.insert(oldest, hits);
        }
    }
}

impl EvictionPolicy for Slru {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.probation.insert(session.key(), Hits::from(session));
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        if self.probation.remove(&session.key()).is_none() {
            self.protected.remove(&session.key());
        }
    }

    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        self.protect(session.key(), Hits::resumed(session));
    }

    fn tracks_access(&self) -> bool {
        true
    }

    fn on_access(&mut self, session: &SessionInfo<'_>) {
        let key = session.key();
        if self.protected.to_back(&key).is_some() {
            return;
        }
        if let Some(mut hits) = self.probation.remove(&key) {
            if hits.take(session) > 0 {
                self.protect(key, hits);
            } else {
                self.probation.insert(key, hits);
            }
        }
    }

    fn victim(&mut self, _: &Candidates<'_>) -> Option<SessionKey> {
        self.probation.front().or_else(|| self.protected.front()).map(|(key, _)| *key)
    }
}
