//! What goes on in a session.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::record::Recorded;
use super::requests::Ticket;
use crate::admission::Lease;

/// How an activity counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A request other than those below.
    Call,
    /// A request that hosts make by themselves right after the handshake, such as `tools/list`. It is a use, and is no call.
    List,
    /// A `ping` request: keeps the session alive, is no use of it.
    Ping,
    /// The `initialize` of a client.
    Handshake,
    /// The `initialize` and `initialized` that a restore replays: nothing came from the client.
    Replay,
    /// A notification or an answer from the client.
    Message,
    /// The opening of a stream by GET.
    Listen,
    /// A request that has found its session and is not handed to it yet.
    Lease,
}

impl Kind {
    /// Whether it is a request of a client other than `ping` and `initialize`.
    pub(crate) const fn is_use(self) -> bool {
        matches!(self, Self::Call | Self::List)
    }
}

/// An activity under way; its drop is its end.
#[derive(Debug)]
pub(crate) struct Activity<S: Recorded> {
    session: Arc<S>,
    kind: Kind,
    ticket: Ticket,
    /// What the request holds of its admission. Behind a lock only because a request's extensions must be `Sync`.
    lease: Mutex<Option<Lease>>,
}

impl<S: Recorded> Activity<S> {
    /// Counts an activity in, unless the session is closing.
    pub(crate) fn begin(session: &Arc<S>, kind: Kind, now: Instant) -> Option<Self> {
        let ticket = session.record().begin(kind, now)?;
        Some(Self { session: Arc::clone(session), kind, ticket, lease: Mutex::new(None) })
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

    /// Holds what its admission gave, until its end.
    pub(crate) fn holding(mut self, lease: Option<Lease>) -> Self {
        self.lease = Mutex::new(lease);
        self
    }
}

impl<S: Recorded> Drop for Activity<S> {
    fn drop(&mut self) {
        self.session.record().end(self.kind, self.ticket);
        // This runs code of the policy, which may panic where nothing may be skipped.
        let lease = self.lease.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if catch_unwind(AssertUnwindSafe(|| drop(lease))).is_err() {
            tracing::warn!("a lease of the policy for requests panicked when it was dropped");
        }
    }
}
