//! Belady's algorithm.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use rmcp_session_policy::SessionKey;
use rmcp_session_policy::eviction::{Candidates, EvictionPolicy, SessionInfo};

use crate::event::Micros;

/// Belady's algorithm ("A study of replacement algorithms for a virtual-storage computer", 1966): evicts the session whose
/// next request comes last. It knows the future, through a [`Foresight`]. O(log n).
#[derive(Debug, Default)]
pub struct Belady {
    order: BTreeSet<(Micros, SessionKey)>,
    /// The next request of each session in the order.
    next: HashMap<SessionKey, Micros>,
    /// The next request of each suspended session.
    aside: HashMap<SessionKey, Micros>,
    told: Foresight,
}

/// Tells a [`Belady`] of the future. A copy tells the same one.
#[derive(Clone, Debug, Default)]
pub struct Foresight {
    told: Arc<Mutex<Vec<(SessionKey, Micros)>>>,
}

impl Foresight {
    fn lock(&self) -> MutexGuard<'_, Vec<(SessionKey, Micros)>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells when a session makes its next request.
    pub fn tell(&self, session: SessionKey, next: Micros) {
        self.lock().push((session, next));
    }
}

impl Belady {
    /// Returns what tells this policy of the future.
    #[must_use]
    pub fn foresight(&self) -> Foresight {
        self.told.clone()
    }

    /// Hears what was told since.
    fn hear(&mut self) {
        let told = std::mem::take(&mut *self.told.lock());
        for (key, next) in told {
            if let Some(before) = self.next.get_mut(&key) {
                self.order.remove(&(*before, key));
                *before = next;
                self.order.insert((next, key));
            } else if let Some(before) = self.aside.get_mut(&key) {
                *before = next;
            }
        }
    }

    fn put(&mut self, key: SessionKey, next: Micros) {
        self.next.insert(key, next);
        self.order.insert((next, key));
    }
}

impl EvictionPolicy for Belady {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.hear();
        // Told at once.
        self.put(session.key(), 0);
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        if let Some(next) = self.next.remove(&session.key()) {
            self.order.remove(&(next, session.key()));
        }
    }

    fn on_suspend(&mut self, session: &SessionInfo<'_>) {
        if let Some(next) = self.next.get(&session.key()).copied() {
            self.on_remove(session);
            self.aside.insert(session.key(), next);
        }
    }

    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        self.hear();
        let next = self.aside.remove(&session.key()).unwrap_or_default();
        self.put(session.key(), next);
    }

    fn victim(&mut self, _: &Candidates<'_>) -> Option<SessionKey> {
        self.hear();
        self.order.last().map(|(_, key)| *key)
    }
}
