//! Who is at the door.

use tokio::time::Instant;

use crate::context::ClientContext;
use crate::session::{SessionKey, SessionOrigin};

/// What an arrival asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ArrivalKind {
    /// A new session.
    Create,
    /// The return of a parked session.
    Restore,
    /// A request within a session, or without one.
    Request,
}

/// Somebody who wants to come in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    now: Instant,
    kind: ArrivalKind,
    context: Option<&'a ClientContext>,
    session: Option<SessionKey>,
    origin: Option<SessionOrigin>,
}

impl<'a> Arrival<'a> {
    /// Creates an arrival of somebody unknown.
    #[must_use]
    pub const fn new(now: Instant, kind: ArrivalKind) -> Self {
        Self { now, kind, context: None, session: None, origin: None }
    }

    /// Says who it is.
    #[must_use]
    pub const fn with_context(mut self, context: &'a ClientContext) -> Self {
        self.context = Some(context);
        self
    }

    /// Says within which session.
    #[must_use]
    pub const fn with_session(mut self, session: SessionKey) -> Self {
        self.session = Some(session);
        self
    }

    /// Says the name which all incarnations of that session share.
    #[must_use]
    pub const fn with_origin(mut self, origin: SessionOrigin) -> Self {
        self.origin = Some(origin);
        self
    }

    /// The moment of the decision. Policies read no clock of their own.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// What is asked for.
    #[must_use]
    pub const fn kind(&self) -> ArrivalKind {
        self.kind
    }

    /// Who asks, if that is known.
    #[must_use]
    pub const fn context(&self) -> Option<&'a ClientContext> {
        self.context
    }

    /// The incarnation of the session that a request belongs to, if it belongs to one.
    #[must_use]
    pub const fn session(&self) -> Option<SessionKey> {
        self.session
    }

    /// The name of that session across its incarnations. What a policy keeps by it can go once it is told of the
    /// [end](super::AdmissionPolicy::on_session_end).
    #[must_use]
    pub const fn origin(&self) -> Option<SessionOrigin> {
        self.origin
    }
}
