//! What goes on in a session.

use std::ptr;
use std::sync::Arc;

use tokio::time::Instant;

use super::kind::Kind;
use super::record::Recorded;
use super::requests::Ticket;

/// An activity under way; its drop is its end.
#[derive(Debug)]
pub(crate) struct Activity<S: Recorded> {
    session: Arc<S>,
    kind: Kind,
    ticket: Ticket,
}

impl<S: Recorded> Activity<S> {
    /// Counts an activity in, unless the session is closing.
    pub(crate) fn begin(session: &Arc<S>, kind: Kind, now: Instant) -> Option<Self> {
        let ticket = session.record().begin(kind, now)?;
        Some(Self { session: Arc::clone(session), kind, ticket })
    }

    pub(crate) const fn session(&self) -> &Arc<S> {
        &self.session
    }

    /// Makes one of another kind of it, which begins now, unless the session is closing. At no moment is it none.
    pub(crate) fn turn_into(mut self, kind: Kind, now: Instant) -> Option<Self> {
        self.ticket = self.session.record().turn(self.ticket, kind, now)?;
        self.kind = kind;
        Some(self)
    }

    pub(crate) fn is_of(&self, session: &S) -> bool {
        ptr::eq(&*self.session, session)
    }

    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }
}

impl<S: Recorded> Drop for Activity<S> {
    fn drop(&mut self) {
        self.session.record().end(self.kind, self.ticket);
    }
}
