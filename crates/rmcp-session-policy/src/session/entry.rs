//! [`Entry`]: what a manager keeps of anything that clients open and use, be it a session of rmcp or a handle.

use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, PoisonError};

use super::key::SessionKey;
use super::origin::{Origin, SessionOrigin};
use super::requests::Requests;
use super::signals::Signals;
use super::state::{State, StateSnapshot};
use super::untaken::Untaken;
use crate::context::ClientContext;
use crate::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard};
use crate::timestamp::Timestamp;

/// The key, the owner, the moments, the uses, and what is in flight.
///
/// Every field that a request changes is atomic, or behind a lock of this entry only.
// `repr(C)` keeps this order, so that a look-up finds all it reads within one or two cache lines.
#[repr(C)]
pub(crate) struct Entry {
    /// Decides each race between a request and a close.
    pub(crate) state: State,
    /// The name of this incarnation, by which the registry and the policies know it.
    pub(crate) key: SessionKey,
    /// Set by each use. `SessionInfo` gives it to policies, which may clear it.
    mark: AtomicBool,
    /// Whether it was used since its usage was written to the directory. Never set without a directory.
    unwritten: AtomicBool,
    /// When the last activity began or ended that is a use, a message, the handshake or work.
    ///
    /// This and the uses are read without a lock, and written only under the lock of the requests, which each activity takes
    /// anyway.
    last_used: AtomicU64,
    /// Requests other than `initialize` and `ping`, those of earlier incarnations included.
    uses: AtomicU64,
    /// When the activities in progress began. This lock is the last in the order of locks, and no code of a policy runs
    /// under it.
    requests: Mutex<Requests>,
    /// The answers that were handed over and are not taken.
    pub(crate) untaken: Untaken,
    /// How the session tells its manager of a change. All sessions of a manager share it.
    pub(super) signals: Arc<Signals>,
    /// The name of the session, which its incarnations share.
    pub(crate) serial: SessionOrigin,
    /// When this incarnation began.
    pub(crate) created: Timestamp,
    /// When the first incarnation began. The lifetime counts from here.
    pub(crate) opened: Timestamp,
    /// The client that opened the session.
    pub(crate) context: Option<Arc<ClientContext>>,
}

impl Entry {
    /// Makes the entry of an incarnation that begins now.
    pub(crate) fn new(key: SessionKey, origin: Origin, created: Timestamp, signals: Arc<Signals>) -> Self {
        Self {
            state: State::opening(),
            key,
            mark: AtomicBool::new(false),
            unwritten: AtomicBool::new(false),
            last_used: AtomicU64::new(origin.history.last_used.0),
            uses: AtomicU64::new(origin.history.uses),
            requests: Mutex::default(),
            untaken: Untaken::default(),
            signals,
            serial: origin.serial,
            created,
            opened: origin.history.opened,
            context: origin.context,
        }
    }

    /// A copy that shows the entry as it is now, whatever happens to it later.
    pub(super) fn copy(&self) -> Self {
        Self {
            state: self.state.copy(),
            key: self.key,
            mark: AtomicBool::new(self.is_marked()),
            unwritten: AtomicBool::new(false),
            last_used: AtomicU64::new(self.last_used().0),
            uses: AtomicU64::new(self.uses()),
            requests: Mutex::default(),
            untaken: Untaken::default(),
            signals: Arc::clone(&self.signals),
            serial: self.serial,
            created: self.created,
            opened: self.opened,
            context: self.context.clone(),
        }
    }

    /// How it tells its manager of a change.
    pub(crate) fn signals(&self) -> &Signals {
        &self.signals
    }

    /// Whether it belongs to the manager with these signals.
    pub(crate) fn is_of(&self, signals: &Arc<Signals>) -> bool {
        Arc::ptr_eq(&self.signals, signals)
    }

    /// When the client last used the session. `ping`, holds and listening streams do not count.
    pub(crate) fn last_used(&self) -> Timestamp {
        Timestamp(self.last_used.load(Relaxed))
    }

    pub(crate) fn uses(&self) -> u64 {
        self.uses.load(Relaxed)
    }

    /// Clears the mark, and tells whether it was set.
    pub(crate) fn take_mark(&self) -> bool {
        self.mark.swap(false, Relaxed)
    }

    pub(crate) fn is_marked(&self) -> bool {
        self.mark.load(Relaxed)
    }

    /// Moves the moment of the last use. The guard shows that the caller holds the lock of the requests.
    pub(super) fn touch(&self, at: Timestamp, _locked: &MutexGuard<'_, Requests>) {
        // A thread may read the time before another thread and take the lock after it.
        self.last_used.store(self.last_used.load(Relaxed).max(at.0), Relaxed);
    }

    /// Counts a use. The guard shows that the caller holds the lock of the requests.
    pub(super) fn count_use(&self, _locked: &MutexGuard<'_, Requests>) {
        self.uses.store(self.uses() + 1, Relaxed);
        self.mark.store(true, Relaxed);
        if let Some(used) = &self.signals.used
            && !self.unwritten.load(Relaxed)
        {
            self.unwritten.store(true, Relaxed);
            used.push(self.key);
        }
    }

    /// Notes that its usage is about to be written to the directory. A use from now on is told again.
    pub(crate) fn note_written(&self) {
        let _locked = self.lock_requests();
        self.unwritten.store(false, Relaxed);
    }

    /// Tells the registry, if it watches this session, to look at it again, and what waits for a place to ask the
    /// registry: if the session may not go yet, it is watched again, and the end of what keeps it is told.
    pub(super) fn has_changed(&self) {
        if self.state.take_watched() {
            self.signals.changed.push(self.key);
            self.signals.evictable.notify_waiters();
        }
    }

    /// Counts an answer out that was counted in among the untaken ones. After the last one the session may go, so it tells
    /// of that as at the end of a request.
    pub(crate) fn answer_taken(&self) {
        if self.untaken.take() {
            self.has_changed();
            if self.signals.draining.load(SeqCst) {
                self.signals.calm.notify_waiters();
            }
        }
    }

    /// Tells the registry of a milestone, if a policy wants to hear of it.
    pub(super) fn reached_milestone(&self) {
        if self.state.take_milestone() {
            self.signals.changed.push(self.key);
        }
    }

    /// Locks the start times of the activities in progress. A poisoned lock is used on, because no code of a user runs
    /// under it.
    pub(super) fn lock_requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the newest activity in progress began. `None` if there is none, or one began or ended since `seen` was
    /// read.
    ///
    /// The caller then takes the session as busy, since the count and the start times are not of one moment.
    pub(crate) fn newest_request(&self, seen: StateSnapshot) -> Option<Timestamp> {
        let requests = self.lock_requests();
        (requests.len() == seen.active()).then(|| requests.newest()).flatten()
    }
}
