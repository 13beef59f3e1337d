//! The live sessions by id.

use std::hash::BuildHasher;
use std::num::NonZero;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::transport::Session;

/// How many shards there are for each thread that can run at a time.
const SHARDS: usize = 4;

/// Every live session by its id: the table that each request looks up. A look-up holds the lock of one shard.
///
/// An entry is a pointer to the session, which has the id, and the hash of the id. Sessions lie far apart in memory.
/// With the hash in the entry, neither a look-up that passes other entries nor the growth of the table reads a session.
pub(super) struct LiveSessions<T> {
    shards: Box<[Shard<T>]>,
    hasher: RandomState,
}

/// Aligned to cache lines of its own, so that threads that look up different sessions do not contend.
#[repr(align(128))]
struct Shard<T>(RwLock<HashTable<Entry<T>>>);

struct Entry<T> {
    hash: u64,
    session: Arc<Session<T>>,
}

impl<T> Entry<T> {
    fn is(&self, hash: u64, id: &str) -> bool {
        self.hash == hash && *self.session.record.id == *id
    }
}

impl<T> Default for LiveSessions<T> {
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let shards = (SHARDS * threads).next_power_of_two();
        Self { shards: (0..shards).map(|_| Shard(RwLock::default())).collect(), hasher: RandomState::default() }
    }
}

impl<T> LiveSessions<T> {
    fn find_shard(&self, id: &str) -> (u64, &RwLock<HashTable<Entry<T>>>) {
        let hash = self.hasher.hash_one(id);
        // The shard index comes from bits of the hash that the table of the shard uses last.
        (hash, &self.shards[(hash >> 32) as usize & (self.shards.len() - 1)].0)
    }

    /// Runs `look` on a session under the lock of its shard.
    pub(super) fn look<R>(&self, id: &str, look: impl FnOnce(&Arc<Session<T>>) -> R) -> Option<R> {
        let (hash, shard) = self.find_shard(id);
        let table = shard.read().unwrap_or_else(PoisonError::into_inner);
        table.find(hash, |entry| entry.is(hash, id)).map(|entry| look(&entry.session))
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<Session<T>>> {
        self.look(id, Arc::clone)
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.look(id, |_| ()).is_some()
    }

    /// Inserts a session. Its id must not be in the table.
    pub(super) fn insert(&self, session: Arc<Session<T>>) {
        let (hash, shard) = self.find_shard(&session.record.id);
        let mut table = shard.write().unwrap_or_else(PoisonError::into_inner);
        table.insert_unique(hash, Entry { hash, session }, |entry| entry.hash);
    }

    /// Removes this session, if it is in the table.
    pub(super) fn remove(&self, session: &Arc<Session<T>>) {
        let (hash, shard) = self.find_shard(&session.record.id);
        let mut table = shard.write().unwrap_or_else(PoisonError::into_inner);
        let removed = table.find_entry(hash, |entry| Arc::ptr_eq(&entry.session, session)).ok();
        let removed = removed.map(|entry| entry.remove().0);
        drop((table, removed));
    }
}
