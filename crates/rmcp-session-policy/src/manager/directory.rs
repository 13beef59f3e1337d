//! Every session there is, by its id.

use std::hash::BuildHasher;
use std::num::NonZero;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::transport::Session;

/// How many shards there are for each thread that can run at a time.
const SHARDS: usize = 4;

/// Every session there is, by its id: what a request asks. A look takes the lock of one shard of many, for as long as it
/// lasts.
///
/// An entry is a pointer, the id being in the session, and the hash of the id: sessions lie far apart in memory, and
/// neither a look that passes another entry nor a table that grows has to go there.
pub(super) struct Directory<T> {
    shards: Box<[Shard<T>]>,
    hasher: RandomState,
}

/// On cache lines of its own, so that threads that ask for different sessions do not wait for each other.
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

impl<T> Default for Directory<T> {
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let shards = (SHARDS * threads).next_power_of_two();
        Self { shards: (0..shards).map(|_| Shard(RwLock::default())).collect(), hasher: RandomState::default() }
    }
}

impl<T> Directory<T> {
    fn find_shard(&self, id: &str) -> (u64, &RwLock<HashTable<Entry<T>>>) {
        let hash = self.hasher.hash_one(id);
        // By bits that the table looks at last.
        (hash, &self.shards[(hash >> 32) as usize & (self.shards.len() - 1)].0)
    }

    /// Looks at a session where it is.
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

    /// Puts a session in whose id is not in.
    pub(super) fn insert(&self, session: Arc<Session<T>>) {
        let (hash, shard) = self.find_shard(&session.record.id);
        let mut table = shard.write().unwrap_or_else(PoisonError::into_inner);
        table.insert_unique(hash, Entry { hash, session }, |entry| entry.hash);
    }

    /// Takes this session out, if it is in.
    pub(super) fn remove(&self, session: &Arc<Session<T>>) {
        let (hash, shard) = self.find_shard(&session.record.id);
        let mut table = shard.write().unwrap_or_else(PoisonError::into_inner);
        let removed = table.find_entry(hash, |entry| Arc::ptr_eq(&entry.session, session)).ok();
        let removed = removed.map(|entry| entry.remove().0);
        drop((table, removed));
    }
}
