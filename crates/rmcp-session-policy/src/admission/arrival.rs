//! Who is at the door.

use tokio::time::Instant;

use crate::context::ClientContext;

/// What an arrival asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ArrivalKind {
    /// A new session.
    Create,
    /// The return of a parked session.
    Restore,
    /// A request without a session.
    Request,
}

/// Somebody who wants to come in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    now: Instant,
    kind: ArrivalKind,
    context: Option<&'a ClientContext>,
}

impl<'a> Arrival<'a> {
    /// Creates an arrival of somebody unknown.
    #[must_use]
    pub const fn new(now: Instant, kind: ArrivalKind) -> Self {
        Self { now, kind, context: None }
    }

    /// Says who it is.
    #[must_use]
    pub const fn with_context(mut self, context: &'a ClientContext) -> Self {
        self.context = Some(context);
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
}
