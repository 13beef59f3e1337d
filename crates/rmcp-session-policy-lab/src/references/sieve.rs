//! SIEVE.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use rmcp_session_policy::SessionKey;
use rmcp_session_policy::eviction::{Candidates, EvictionPolicy, SessionInfo};

use super::hits::Hits;

/// SIEVE (Zhang, Yang, Yue, Vigfusson, Rashmi: "SIEVE is simpler than LRU", NSDI 2024): a queue whose hand moves from the
/// oldest session to the newest, spares the sessions that were hit, and leaves them where they are. O(log n).
#[derive(Debug, Default)]
pub struct Sieve {
    /// The sessions by arrival.
    queue: BTreeMap<u64, (SessionKey, Hits)>,
    arrivals: HashMap<SessionKey, u64>,
    /// The arrival that the hand points to, or the next one after it; 0 for the oldest.
    hand: u64,
    next: u64,
}

impl Sieve {
    fn push(&mut self, key: SessionKey, hits: Hits) {
        self.next += 1;
        self.queue.insert(self.next, (key, hits));
        self.arrivals.insert(key, self.next);
    }
}

impl EvictionPolicy for Sieve {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.push(session.key(), Hits::from(session));
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        if let Some(arrival) = self.arrivals.remove(&session.key()) {
            self.queue.remove(&arrival);
        }
    }

    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        self.push(session.key(), Hits::resumed(session));
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        loop {
            if self.queue.range(self.hand..).next().is_none() {
                self.hand = 0;
            }
            let (&arrival, (key, hits)) = self.queue.range_mut(self.hand..).next()?;
            match candidates.get(*key) {
                Some(session) if hits.take(&session) > 0 => self.hand = arrival + 1,
                _ => {
                    let named = *key;
                    // If it is the newest the hand begins again, also if others come meanwhile.
                    self.hand = self.queue.range(arrival + 1..).next().map_or(0, |(next, _)| *next);
                    return Some(named);
                }
            }
        }
    }
}
