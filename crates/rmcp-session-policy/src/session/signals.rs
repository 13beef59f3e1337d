//! The signals from sessions to their manager, without a lock.

use super::key::SessionKey;
use crate::sync::{AtomicBool, AtomicU32, Notify, SegQueue};

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
    /// Whether a drain waits for the sessions to become idle.
    pub(crate) draining: AtomicBool,
    /// Notified when a session becomes idle while a drain waits.
    pub(crate) calm: Notify,
}
