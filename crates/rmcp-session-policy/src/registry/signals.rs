//! What sessions tell their manager without a lock.

use super::key::SessionKey;
use crate::sync::{AtomicBool, AtomicU32, Notify, SegQueue};

/// What the sessions of one manager tell it without a lock.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Sessions that may go again and were met by a policy when they might not.
    pub(crate) idle: SegQueue<SessionKey>,
    /// Sessions that are half-open, those that are being restored apart.
    pub(crate) opening: AtomicU32,
    /// Newcomers that have a place, or wait for that of their victim, and will be half-open sessions.
    pub(crate) arriving: AtomicU32,
    /// Rung when a half-open session leaves that state, or is done answering `initialize`, and when a newcomer gives up.
    pub(crate) handshake: Notify,
    /// Rung when a session becomes idle that was met when it might not go.
    pub(crate) freed: Notify,
    /// Whether somebody waits for the sessions to become idle.
    pub(crate) draining: AtomicBool,
    /// Rung when a session becomes idle while somebody waits for that.
    pub(crate) calm: Notify,
}
