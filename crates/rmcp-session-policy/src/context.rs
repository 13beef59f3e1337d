//! [`ClientContext`]: what is known of the client of a request.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Holds what is known of a client: its address, its authenticated subject, and the headers that the operator keeps.
///
/// rmcp gives a session manager no request, so the context is passed beside it: [`scope`](Self::scope) makes it visible
/// to every policy that is asked within one future. A session keeps the context that opened it.
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
    /// The name of the service that the request is for, if one manager serves several.
    service: Option<Arc<str>>,
    passive: bool,
    listening: bool,
}

impl ClientContext {
    /// Creates the context of an unknown client.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the client's address. Defaults to none.
    #[must_use]
    pub const fn with_peer(mut self, peer: IpAddr) -> Self {
        self.peer = Some(peer);
        self
    }

    /// Sets the authenticated subject. It should be the subject itself, not a token, since tokens change. Defaults to
    /// none.
    #[must_use]
    pub fn with_principal(mut self, principal: impl Into<Arc<str>>) -> Self {
        self.principal = Some(principal.into());
        self
    }

    /// Adds a header of the request. Every session keeps its context, so add few. Defaults to none.
    ///
    /// The value is copied. A value that a server has read shares the buffer of the whole head, and would keep it alive.
    #[must_use]
    pub fn with_header(mut self, name: http::HeaderName, value: http::HeaderValue) -> Self {
        // This cannot fail: the bytes come from a valid value.
        if let Ok(mut copy) = http::HeaderValue::from_bytes(value.as_bytes()) {
            copy.set_sensitive(value.is_sensitive());
            self.headers.append(name, copy);
        }
        self
    }

    /// Marks the request as one that does not use its session, such as a GET or a ping: it restores a parked session only
    /// into a free place. Defaults to a request that does.
    #[must_use]
    pub const fn passive(mut self) -> Self {
        self.passive = true;
        self
    }

    /// Marks the request as a GET, which opens a listening stream. It is passive too.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "called by the HTTP layer"))]
    pub(crate) const fn listening(mut self) -> Self {
        self.passive = true;
        self.listening = true;
        self
    }

    /// Sets the name of the service that the request is for.
    pub(crate) fn with_service(mut self, name: Arc<str>) -> Self {
        self.service = Some(name);
        self
    }

    /// Returns the name of the service that the request is for.
    pub(crate) fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }

    /// Returns the client's address.
    #[must_use]
    pub const fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// Returns the authenticated subject.
    #[must_use]
    pub fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    /// Returns the authenticated subject, to be kept without a copy.
    pub(crate) const fn shared_principal(&self) -> Option<&Arc<str>> {
        self.principal.as_ref()
    }

    /// Returns the first value of a kept header, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the kept headers.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&http::HeaderName, &http::HeaderValue)> {
        self.headers.iter()
    }

    /// Returns what identifies the owner of what this client opens: the service and the principal. `None` if neither is
    /// known.
    pub(crate) fn owner(&self) -> Option<(Option<&str>, Option<&str>)> {
        let owner = (self.service.as_deref(), self.principal.as_deref());
        (owner != (None, None)).then_some(owner)
    }

    /// Returns whether the request does not use its session, as set by [`passive`](Self::passive).
    #[must_use]
    pub const fn is_passive(&self) -> bool {
        self.passive
    }

    /// Returns whether the request opens a listening stream, as the HTTP layer says.
    pub(crate) const fn is_listening(&self) -> bool {
        self.listening
    }

    /// Estimates the bytes that the context keeps, itself included.
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

/// Shows the address, the principal and the names of the headers, but not their values, which may be credentials.
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
