//! [`Due`]: a session that is to be ended though no request asks for that.

use super::digest::SessionDigest;
use super::epoch::Epoch;
use super::stored::StoredSession;

/// A session that [`take_due`](super::SessionDirectory::take_due) has taken, for its final end at this server.
///
/// ```
/// use std::time::Duration;
///
/// use rmcp_session_policy::directory::{Due, Epoch, SessionDigest, StoredBody, StoredSession, Usage};
///
/// let stored = StoredSession::new(None, Duration::ZERO, Usage::default(), StoredBody::from_bytes([]));
/// let due = Due::new(SessionDigest::of("one"), Epoch::FIRST.next(), stored).with_ending(true);
/// assert!(due.was_ending && due.epoch > Epoch::FIRST);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Due {
    /// The session.
    pub id: SessionDigest,
    /// The epoch under which this server has it now.
    pub epoch: Epoch,
    /// What was stored of it.
    pub session: StoredSession,
    /// Whether it had ended, at a server that was gone before it wrote [`Dead`](super::Change::Dead).
    pub was_ending: bool,
}

impl Due {
    /// Describes a session that had not ended.
    #[must_use]
    pub const fn new(id: SessionDigest, epoch: Epoch, session: StoredSession) -> Self {
        Self { id, epoch, session, was_ending: false }
    }

    /// Sets whether it had ended at a server that was gone before it wrote so. Defaults to no.
    #[must_use]
    pub const fn with_ending(mut self, was_ending: bool) -> Self {
        self.was_ending = was_ending;
        self
    }
}
