//! Every session there is, by its id.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use dashmap::DashSet;
use foldhash::fast::RandomState;

use crate::transport::Session;

/// Every session there is, by its id: what a request asks. A look takes the lock of one shard of many, for as long as it
/// lasts.
///
/// It holds pointers and nothing else, the id being in the session: so it is dense.
pub(super) struct Directory<T>(DashSet<ById<T>, RandomState>);

struct ById<T>(Arc<Session<T>>);

impl<T> Borrow<str> for ById<T> {
    fn borrow(&self) -> &str {
        &self.0.record.id
    }
}

impl<T> Hash for ById<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.record.id.hash(state);
    }
}

impl<T> PartialEq for ById<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.record.id == other.0.record.id
    }
}

impl<T> Eq for ById<T> {}

impl<T> Default for Directory<T> {
    fn default() -> Self {
        Self(DashSet::with_hasher(RandomState::default()))
    }
}

impl<T> Directory<T> {
    /// Looks at a session where it is.
    pub(super) fn look<R>(&self, id: &str, look: impl FnOnce(&Arc<Session<T>>) -> R) -> Option<R> {
        self.0.get(id).map(|entry| look(&entry.0))
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<Session<T>>> {
        self.look(id, Arc::clone)
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.0.contains(id)
    }

    /// Puts a session in whose id is not in.
    pub(super) fn insert(&self, session: Arc<Session<T>>) {
        self.0.insert(ById(session));
    }

    /// Takes this session out, if it is the one in.
    pub(super) fn remove(&self, session: &Arc<Session<T>>) {
        let is_this = |entry: &ById<T>| Arc::ptr_eq(&entry.0, session);
        drop(self.0.remove_if(&*session.record.id, is_this));
    }
}
