//! Who is asking: what the HTTP layer, or any caller, knows of the client behind a request.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::error::Rejected;

tokio::task_local! {
    /// `None` within a scope: what runs there is no part of the request.
    static CURRENT: Option<Scope>;
}

/// One request, as its [`ClientContext::scope`] spans it.
struct Scope {
    context: Arc<ClientContext>,
    /// What keeps the session of the request until the request has been handed to it.
    lease: Cell<Option<Box<dyn Any + Send>>>,
    /// What the manager last said no to.
    outcome: Cell<Option<Outcome>>,
    /// Whether the body of the request turned out to be a `ping`.
    ping: Cell<bool>,
}

/// What the manager said no to, for whoever answers the client: rmcp hands on an error's text and nothing else.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "http"), expect(dead_code, reason = "read by the HTTP layer"))]
pub(crate) enum Outcome {
    /// The session is not there (any more).
    NotFound,
    /// The stream that a client wants to resume is over: there is nothing left of it.
    StreamOver,
    /// rmcp was told that the session is not there; it may restore it yet.
    Absent,
    /// A newcomer, or a session that wanted to come back, was turned away.
    Rejected(Box<Rejected>),
}

fn in_scope<R>(f: impl FnOnce(&Scope) -> R) -> Option<R> {
    CURRENT.try_with(|scope| scope.as_ref().map(f)).ok().flatten()
}

/// Runs a future as no part of the request whose scope is running: what this manager does for reasons of its own, an inner
/// one of this crate must not take for the client's doing.
pub(crate) async fn apart<F: Future>(future: F) -> F::Output {
    CURRENT.scope(None, future).await
}

/// Whether a manager of this crate is asking for reasons of its own.
pub(crate) fn is_apart() -> bool {
    CURRENT.try_with(Option::is_none).unwrap_or(false)
}

/// Runs a future in which [`ClientContext::current`] is this context, and tells what the manager said no to in it.
pub(crate) async fn observe<F: Future>(context: Arc<ClientContext>, future: F) -> (F::Output, Option<Outcome>) {
    let scope = Scope { context, lease: Cell::new(None), outcome: Cell::new(None), ping: Cell::new(false) };
    let observed = async {
        let output = future.await;
        (output, in_scope(|scope| scope.outcome.take()).flatten())
    };
    CURRENT.scope(Some(scope), observed).await
}

/// Notes what the manager says no to. Outside any scope nobody asks.
pub(crate) fn note(outcome: Outcome) {
    in_scope(|scope| scope.outcome.set(Some(outcome)));
}

/// Notes that the request of the running scope is a `ping`: the HTTP layer knows once it has read the body.
#[cfg_attr(not(feature = "http"), expect(dead_code, reason = "called by the HTTP layer"))]
pub(crate) fn note_ping() {
    in_scope(|scope| scope.ping.set(true));
}

/// Whether the request of the running scope is no use of its session, so that it restores only into a free place.
pub(crate) fn is_passive() -> bool {
    in_scope(|scope| scope.context.is_passive() || scope.ping.get()).unwrap_or(false)
}

/// Whether the request of the running scope opens a listening stream (a GET), as the HTTP layer says.
pub(crate) fn is_listening() -> bool {
    in_scope(|scope| scope.context.listening).unwrap_or(false)
}

/// Keeps something until the scope that is running ends, or something else is kept instead. Outside any scope it is
/// dropped at once.
pub(crate) fn keep_for_scope<T: Send + 'static>(lease: impl FnOnce() -> Option<T>) {
    let kept = |scope: &Scope| scope.lease.replace(lease().map(|lease| Box::new(lease) as Box<dyn Any + Send>));
    drop(in_scope(kept));
}

/// Takes what was kept for the scope that is running, if it is a `T`.
pub(crate) fn take_kept<T: Send + 'static>() -> Option<T> {
    let kept = in_scope(|scope| scope.lease.take()).flatten()?;
    kept.downcast::<T>().ok().map(|kept| *kept)
}

/// Drops what was kept for the scope that is running.
pub(crate) fn let_go() {
    keep_for_scope(|| None::<()>);
}

/// Who is asking: the client's address, its authenticated subject, and the headers an operator chose to keep.
///
/// rmcp hands a session manager no request, so the context travels beside it: [`scope`](Self::scope) makes it visible
/// to every policy asked within one future. The session keeps the context it was opened with.
///
/// ```
/// use rmcp_session_policy::ClientContext;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let context = ClientContext::new().with_peer([192, 0, 2, 7].into()).with_principal("alice");
/// let seen = context.scope(async { ClientContext::current() }).await.expect("inside the scope");
/// assert_eq!(seen.principal(), Some("alice"));
/// assert!(ClientContext::current().is_none());
/// # }
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ClientContext {
    peer: Option<IpAddr>,
    principal: Option<Arc<str>>,
    headers: http::HeaderMap,
    /// The name of the service that is asked, where one manager is under several.
    service: Option<Arc<str>>,
    passive: bool,
    listening: bool,
}

impl ClientContext {
    /// Creates a context that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the address the client speaks from.
    #[must_use]
    pub const fn with_peer(mut self, peer: IpAddr) -> Self {
        self.peer = Some(peer);
        self
    }

    /// Sets the authenticated subject: who the client is, not the token it showed, which rotates.
    #[must_use]
    pub fn with_principal(mut self, principal: impl Into<Arc<str>>) -> Self {
        self.principal = Some(principal.into());
        self
    }

    /// Keeps a header of the request. Every session holds its context, so keep few.
    ///
    /// The value is copied: one that a server has read is a part of the whole head, and would keep all of it.
    #[must_use]
    pub fn with_header(mut self, name: http::HeaderName, value: http::HeaderValue) -> Self {
        // What was a value once is one again.
        if let Ok(mut copy) = http::HeaderValue::from_bytes(value.as_bytes()) {
            copy.set_sensitive(value.is_sensitive());
            self.headers.append(name, copy);
        }
        self
    }

    /// Says that the request is no use of its session (a GET or a ping): it restores a parked session only into a
    /// place that is free.
    #[must_use]
    pub const fn passive(mut self) -> Self {
        self.passive = true;
        self
    }

    /// Says that the request is a GET, which opens a listening stream. It is passive too.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "called by the HTTP layer"))]
    pub(crate) const fn listening(mut self) -> Self {
        self.passive = true;
        self.listening = true;
        self
    }

    /// Sets the name of the service that is asked.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "called by the HTTP layer"))]
    pub(crate) fn with_service(mut self, name: Arc<str>) -> Self {
        self.service = Some(name);
        self
    }

    /// The name of the service that is asked.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "asked by the HTTP layer"))]
    pub(crate) fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }

    /// The address the client speaks from.
    #[must_use]
    pub const fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// The authenticated subject.
    #[must_use]
    pub fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    /// The first value kept of a header, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether the request is no use of its session, as set by [`passive`](Self::passive).
    #[must_use]
    pub const fn is_passive(&self) -> bool {
        self.passive
    }

    /// About how many bytes it keeps, itself included.
    pub(crate) fn bytes(&self) -> usize {
        /// The entry of a header in its map, with its share of the map's table.
        const HEADER: usize = 112;
        /// What an allocation of bytes that is shared keeps beside them.
        const SHARED: usize = 32;
        let principal = self.principal.as_ref().map_or(0, |principal| SHARED + principal.len());
        let headers = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 2 * SHARED);
        let values = self.headers.capacity().max(self.headers.len());
        2 * size_of::<usize>() + size_of::<Self>() + principal + values * HEADER + headers.sum::<usize>()
    }

    /// Runs a future in which [`current`](Self::current) is this context.
    ///
    /// One scope spans one request: the session that the request finds, opens or restores is no victim until the
    /// request has been handed to it or the scope ends. It is not inherited by spawned tasks: capture the context before
    /// a `tokio::spawn`.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        observe(Arc::new(self), future).await.0
    }

    pub(crate) fn is_in_scope() -> bool {
        in_scope(|_| ()).is_some()
    }

    /// Returns the context of the innermost [`scope`](Self::scope) that is running, if any.
    #[must_use]
    pub fn current() -> Option<Arc<Self>> {
        in_scope(|scope| Arc::clone(&scope.context))
    }
}

/// Shows the address and whether there is a principal; header values stay out, they may be credentials.
impl fmt::Debug for ClientContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientContext")
            .field("peer", &self.peer)
            .field("principal", &self.principal)
            .field("headers", &self.headers.keys().map(http::HeaderName::as_str).collect::<Vec<_>>())
            .field("passive", &self.passive)
            .finish()
    }
}
