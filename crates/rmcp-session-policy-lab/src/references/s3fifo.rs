//! S3-FIFO.

use hashlink::{LinkedHashMap, LinkedHashSet};
use rmcp_session_policy::eviction::{Candidates, EvictionPolicy, SessionInfo};
use rmcp_session_policy::{SessionKey, SessionOrigin};

use super::hits::Hits;

/// The most hits that count.
const MOST: u64 = 3;

/// S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache eviction", SOSP 2023): a small queue of
/// a tenth of the sessions for those that come, a main queue for those that were hit there, and a ghost queue of the
/// sessions that left the small one, which go to the main queue when they come back. O(1) amortized.
#[derive(Debug, Default)]
pub struct S3Fifo {
    small: LinkedHashMap<SessionKey, Seen>,
    main: LinkedHashMap<SessionKey, Seen>,
    ghosts: LinkedHashSet<SessionOrigin>,
    /// The session that was named last, from the small queue.
    named: Option<SessionKey>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    hits: Hits,
    /// The hits that count and are not used up, at most [`MOST`].
    frequency: u64,
}

impl Seen {
    const fn new(hits: Hits) -> Self {
        Self { hits, frequency: 0 }
    }

    fn frequency(&mut self, session: Option<SessionInfo<'_>>) -> u64 {
        let new = session.map_or(0, |session| self.hits.take(&session));
        self.frequency = (self.frequency + new).min(MOST);
        self.frequency
    }
}

impl S3Fifo {
    /// Moves sessions of the small queue that were hit more than once to the main queue; returns the first that was not.
    fn next_of_small(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        loop {
            let (&key, seen) = self.small.iter_mut().next()?;
            if seen.frequency(candidates.get(key)) <= 1 {
                return Some(key);
            }
            let seen = Seen::new(seen.hits);
            self.small.remove(&key);
            self.main.insert(key, seen);
        }
    }

    /// Gives sessions of the main queue that were hit another round; returns the first that was not.
    fn next_of_main(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        loop {
            let (&key, seen) = self.main.iter_mut().next()?;
            if seen.frequency(candidates.get(key)) == 0 {
                return Some(key);
            }
            seen.frequency -= 1;
            self.main.to_back(&key);
        }
    }
}

impl EvictionPolicy for S3Fifo {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        let queue = if self.ghosts.remove(&session.origin()) { &mut self.main } else { &mut self.small };
        queue.insert(session.key(), Seen::new(Hits::from(session)));
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        let key = session.key();
        self.main.remove(&key);
        if self.small.remove(&key).is_some() && self.named == Some(key) {
            self.ghosts.insert(session.origin());
            while self.ghosts.len() > self.main.len().max(1) {
                self.ghosts.pop_front();
            }
        }
    }

    fn on_suspend(&mut self, session: &SessionInfo<'_>) {
        self.named = None;
        self.on_remove(session);
    }

    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        self.main.insert(session.key(), Seen::new(Hits::resumed(session)));
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        let is_small_full = self.small.len() * 10 >= self.small.len() + self.main.len();
        let first = if is_small_full { self.next_of_small(candidates) } else { None };
        self.named = first;
        let named = first.or_else(|| self.next_of_main(candidates));
        named.or_else(|| {
            self.named = self.next_of_small(candidates);
            self.named
        })
    }
}
