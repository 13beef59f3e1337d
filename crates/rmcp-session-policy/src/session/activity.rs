//! [`Activity`], a guard that counts an activity in a session.

use std::ptr;
use std::sync::Arc;

use tokio::time::Instant;

use super::kind::ActivityKind;
use super::record::Recorded;
use super::requests::ActivityId;

/// An activity in progress. Its drop ends it.
#[derive(Debug)]
pub(crate) struct Activity<S: Recorded> {
    session: Arc<S>,
    kind: ActivityKind,
    id: ActivityId,
}

impl<S: Recorded> Activity<S> {
    /// Begins an activity, unless the session is closing.
    pub(crate) fn begin(session: &Arc<S>, kind: ActivityKind, now: Instant) -> Option<Self> {
        let id = session.record().begin(kind, now)?;
        Some(Self { session: Arc::clone(session), kind, id })
    }

    pub(crate) const fn session(&self) -> &Arc<S> {
        &self.session
    }

    /// Turns it into an activity of another kind that begins now, unless the session is closing. The session counts an
    /// activity throughout.
    pub(crate) fn turn_into(mut self, kind: ActivityKind, now: Instant) -> Option<Self> {
        self.id = self.session.record().convert(self.id, kind, now)?;
        self.kind = kind;
        Some(self)
    }

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
