//! The signals from sessions to their manager, without a lock.

use super::key::SessionKey;
use crate::sync::{AtomicBool, AtomicU32, Notify, SegQueue};

/// The signals from the sessions of one manager to the manager, without a lock.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Watched sessions to which something happened since, such as the end of a request.
    pub(crate) changed: SegQueue<SessionKey>,
    /// Sessions that are half-open, those that are being restored apart.
    pub(crate) opening: AtomicU32,
    /// Rung when a session may go that might not before: a suspended one became idle, a half-open one is done answering
    /// `initialize`, or one is half-open no longer.
    pub(crate) evictable: Notify,
    /// Whether a drain waits for the sessions to become idle.
    pub(crate) draining: AtomicBool,
    /// Notified when a session becomes idle while a drain waits.
    pub(crate) calm: Notify,
}
