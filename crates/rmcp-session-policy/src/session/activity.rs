//! [`Activity`], a guard that counts an activity in a session.

use std::ptr;
use std::sync::Arc;

use tokio::time::Instant;

use super::kind::ActivityKind;
use super::record::Recorded;
use super::requests::ActivityId;

/// An activity in progress. Its drop ends it.
///
/// It makes the session busy, and protects it until the newest activity is older than `max_busy`. It may outlive the
/// session: an end in a closing session wakes the task that closes it.
#[derive(Debug)]
pub(crate) struct Activity<S: Recorded> {
    /// The session that counts it.
    session: Arc<S>,
    /// Which moment of the session its end moves.
    kind: ActivityKind,
    /// Its entry among the start times of the session.
    id: ActivityId,
}

impl<S: Recorded> Activity<S> {
    /// Begins an activity, unless the session is closing. `None` then, and nothing is counted.
    ///
    /// Costs one update of the state word and the lock of the session's requests.
    pub(crate) fn begin(session: &Arc<S>, kind: ActivityKind, now: Instant) -> Option<Self> {
        let id = session.record().begin(kind, now)?;
        Some(Self { session: Arc::clone(session), kind, id })
    }

    pub(crate) const fn session(&self) -> &Arc<S> {
        &self.session
    }

    /// Turns it into an activity of another kind that begins now, unless the session is closing. The session counts an
    /// activity throughout.
    ///
    /// A hold becomes a request in this way, so no victim is chosen between the two. If the session is closing the
    /// activity ends, and this returns `None`.
    pub(crate) fn turn_into(mut self, kind: ActivityKind, now: Instant) -> Option<Self> {
        self.id = self.session.record().convert((self.kind, self.id), kind, now)?;
        self.kind = kind;
        Some(self)
    }

    /// Whether it is an activity of this object, and not of another session or incarnation.
    pub(crate) fn is_of(&self, session: &S) -> bool {
        ptr::eq(&*self.session, session)
    }

    pub(crate) const fn kind(&self) -> ActivityKind {
        self.kind
    }
}

impl<S: Recorded> Drop for Activity<S> {
    fn drop(&mut self) {
        self.session.record().end(self.kind, self.id);
    }
}
