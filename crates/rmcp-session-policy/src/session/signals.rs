//! The signals from sessions to their manager, without a lock.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_queue::ArrayQueue;

use super::key::SessionKey;
use super::origin::SessionOrigin;
use super::returns::Return;
use crate::data::DataTypes;
use crate::directory::SessionDirectory;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Lazy, Notify, SegQueue};

/// The signals from the sessions of one manager to the manager, without a lock.
///
/// A session changes its own state first and signals after it. The manager listens first and looks after it, so it
/// misses no change.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Watched sessions to which something happened since, such as the end of a request.
    ///
    /// A session is in it at most once for each time that it is watched. The registry empties the queue under the
    /// manager's lock.
    pub(crate) changed: SegQueue<SessionKey>,
    /// Sessions that are half-open, those that are being restored apart. `Record::new` counts in, and the one caller
    /// that moves a session on counts out, by `Record::left_opening`.
    pub(crate) opening: AtomicU32,
    /// Rung when a session may go that might not before: a suspended one became idle, a half-open one is done answering
    /// `initialize`, or one is half-open no longer.
    pub(crate) evictable: Notify,
    /// Uses that ended an idle period, and the sessions that will not come back. It is made when an eviction policy wants to
    /// hear of them for the first time, and stays.
    pub(crate) comings: Lazy<Comings>,
    /// Sessions that were used since their usage was written to the directory, each once. `None` without a directory.
    pub(crate) used: Option<SegQueue<SessionKey>>,
    /// Whether a drain waits for the sessions to become idle.
    pub(crate) draining: AtomicBool,
    /// Notified when a session becomes idle while a drain waits.
    pub(crate) calm: Notify,
    /// The types of session data, and its limit.
    pub(crate) data_types: Arc<DataTypes>,
    /// What keeps sessions beyond the process. Session data is written to it.
    pub(crate) directory: Option<Arc<dyn SessionDirectory>>,
}

/// The limit of [`Comings::returned`].
const RETURNS: usize = 4_096;

/// What an eviction policy hears of sessions that come back, and of those that never will.
///
/// Sessions write without a lock. The registry reads under the manager's lock at each creation, choice and close.
#[derive(Debug)]
pub(crate) struct Comings {
    pub(crate) returned: ArrayQueue<Return>,
    /// Returns that found the queue full. The policy does not hear of them.
    pub(crate) missed: AtomicU64,
    /// Sessions that are neither live nor parked any more. Each is in it once, so there are no more than sessions.
    pub(crate) forgotten: SegQueue<SessionOrigin>,
}

impl Default for Comings {
    fn default() -> Self {
        Self { returned: ArrayQueue::new(RETURNS), missed: AtomicU64::default(), forgotten: SegQueue::default() }
    }
}

impl Signals {
    /// Notes that a session will not come back.
    pub(crate) fn forget(&self, session: SessionOrigin) {
        if let Some(comings) = self.comings.get() {
            comings.forgotten.push(session);
        }
    }

    /// How many returns the eviction policy did not hear of, because too many waited.
    pub(crate) fn missed_returns(&self) -> u64 {
        self.comings.get().map_or(0, |comings| comings.missed.load(Relaxed))
    }

    /// The signals of a manager whose eviction policy hears of returns if `tracks_returns`.
    pub(crate) fn new(
        tracks_returns: bool,
        data_types: Arc<DataTypes>,
        directory: Option<Arc<dyn SessionDirectory>>,
    ) -> Self {
        let used = directory.as_ref().map(|_| SegQueue::default());
        let signals = Self { used, data_types, directory, ..Self::default() };
        if tracks_returns {
            signals.comings.get_or_make();
        }
        signals
    }
}
