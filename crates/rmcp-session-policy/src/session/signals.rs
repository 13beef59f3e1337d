//! The signals from sessions to their manager, without a lock.

use super::key::SessionKey;
use crate::sync::{AtomicBool, AtomicU32, Notify, SegQueue};

/// The signals from the sessions of one manager to the manager, without a lock.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Sessions that a policy met while they were not evictable, and that may be evictable now.
    pub(crate) idle: SegQueue<SessionKey>,
    /// The number of half-open sessions, without those that are being restored.
    pub(crate) opening: AtomicU32,
    /// Notified when a session may have become evictable: a session that was met became idle, a half-open one has
    /// answered `initialize`, or a session is half-open no longer.
    pub(crate) evictable: Notify,
    /// Whether a drain waits for the sessions to become idle.
    pub(crate) draining: AtomicBool,
    /// Notified when a session becomes idle while a drain waits.
    pub(crate) calm: Notify,
}
