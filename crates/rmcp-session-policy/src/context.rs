//! The client of a request: what the HTTP layer, or any caller, knows of it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

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

    /// Whether the request opens a listening stream, as the HTTP layer says.
    pub(crate) const fn is_listening(&self) -> bool {
        self.listening
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
