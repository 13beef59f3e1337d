//! [`Arrival`]: what an admission policy is asked about.

use tokio::time::Instant;

use crate::context::ClientContext;
use crate::session::{SessionKey, SessionOrigin};

/// Says what an arrival asks for.
///
/// ```
/// use rmcp_session_policy::admission::{AdmissionPolicyExt, ArrivalKind, TokenBucket};
///
/// // Limits new sessions, and lets parked ones return at any rate.
/// let policy = TokenBucket::per_second(5).only(|arrival| arrival.kind() == ArrivalKind::Create);
/// # let _: &dyn rmcp_session_policy::admission::AdmissionPolicy = &policy;
/// assert_ne!(ArrivalKind::Create, ArrivalKind::Restore);
/// ```
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

/// Describes a session that asks to be opened or restored, or a request that asks to be served.
///
/// ```
/// use rmcp_session_policy::ClientContext;
/// use rmcp_session_policy::admission::{Arrival, ArrivalKind};
/// use tokio::time::Instant;
///
/// let client = ClientContext::new().with_principal("alice");
/// let arrival = Arrival::new(Instant::now(), ArrivalKind::Create).with_context(&client);
/// assert_eq!(arrival.kind(), ArrivalKind::Create);
/// assert_eq!(arrival.context().and_then(ClientContext::principal), Some("alice"));
/// assert_eq!(arrival.session(), None, "a new session has no key yet");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    now: Instant,
    kind: ArrivalKind,
    context: Option<&'a ClientContext>,
    session: Option<SessionKey>,
    origin: Option<SessionOrigin>,
}

impl<'a> Arrival<'a> {
    /// Creates an arrival of an unknown client, at the moment `now`.
    #[must_use]
    pub const fn new(now: Instant, kind: ArrivalKind) -> Self {
        Self { now, kind, context: None, session: None, origin: None }
    }

    /// Sets the client. Defaults to an unknown client.
    #[must_use]
    pub const fn with_context(mut self, context: &'a ClientContext) -> Self {
        self.context = Some(context);
        self
    }

    /// Sets the session that a request belongs to. Defaults to none.
    #[must_use]
    pub const fn with_session(mut self, session: SessionKey) -> Self {
        self.session = Some(session);
        self
    }

    /// Sets the name that all incarnations of that session share. Defaults to none.
    #[must_use]
    pub const fn with_origin(mut self, origin: SessionOrigin) -> Self {
        self.origin = Some(origin);
        self
    }

    /// Returns the moment of the decision. Policies take the time from here and read no clock.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// Returns what is asked for.
    #[must_use]
    pub const fn kind(&self) -> ArrivalKind {
        self.kind
    }

    /// Returns the client, if it is known.
    #[must_use]
    pub const fn context(&self) -> Option<&'a ClientContext> {
        self.context
    }

    /// Returns the incarnation of the session that a request belongs to, if it belongs to one.
    #[must_use]
    pub const fn session(&self) -> Option<SessionKey> {
        self.session
    }

    /// Returns the name that all incarnations of that session share. A policy may drop what it keeps under this name when
    /// [`on_session_end`](super::AdmissionPolicy::on_session_end) is called.
    #[must_use]
    pub const fn origin(&self) -> Option<SessionOrigin> {
        self.origin
    }
}
