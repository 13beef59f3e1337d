//! The settings of a layer, and the client's context that they make of a request.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::HeaderName;
use http::request::Parts;
use ipnet::IpNet;

use super::discard::Discard;
use super::forwarded::{self, ForwardedHeader};
use super::proxy_warning::ForgottenProxy;
use crate::admission::AdmissionPolicy;
use crate::context::ClientContext;

/// Finds the address of the other end of the connection in the head of a request.
type PeerOf = Arc<dyn Fn(&Parts) -> Option<IpAddr> + Send + Sync>;
/// Finds the authenticated subject in the head of a request.
type PrincipalOf = Arc<dyn Fn(&Parts) -> Option<String> + Send + Sync>;

/// Holds the settings of a layer.
///
/// The setters of [`PolicyLayer`](super::PolicyLayer) fill it. A service has a copy of its own, which does not change.
/// Clones share what is behind an `Arc`: each warning is logged once for all services of one layer, and the bodies to
/// be discarded have one limit.
#[derive(Clone, Default)]
pub(super) struct Settings {
    /// `None` for axum's `ConnectInfo`, or for no address without the feature `axum`.
    pub(super) peer: Option<PeerOf>,
    /// `None` if the layer knows no principals. Each client that knows the id of a session may then use it.
    pub(super) principal: Option<PrincipalOf>,
    /// The networks of the trusted proxies. Empty if every peer is a client.
    pub(super) trusted: Arc<[IpNet]>,
    /// The one header that is read from a trusted proxy.
    pub(super) forwarded: ForwardedHeader,
    /// The headers that the context of a client keeps.
    pub(super) kept: Arc<[HeaderName]>,
    /// The name of the service, if one manager serves several. Sessions of one name are unknown under another.
    pub(super) name: Option<Arc<str>>,
    /// Whether a client without a known address or principal gets 403.
    pub(super) refuse_anonymous: bool,
    /// Whether rmcp is configured to keep no sessions.
    pub(super) without_sessions: bool,
    /// The policy of requests without a session. If there is none, a request that names a session, but is one without
    /// by its body, falls under the policy of requests within a session.
    pub(super) sessionless: Option<Arc<dyn AdmissionPolicy>>,
    /// How much is read of the body of a request that is rejected by its headers.
    pub(super) discard: Discard,
    /// The most listening streams without a session, in all layers of the manager together. `None` for the number of
    /// places.
    pub(super) max_listeners: Option<usize>,
    /// Looks for a proxy that the author did not name.
    pub(super) forgotten_proxy: Arc<ForgottenProxy>,
}

impl Settings {
    /// Makes the client's context from the head of its request.
    ///
    /// The peer is replaced by what the trusted proxies say, if it is one of them. This runs the author's functions for
    /// peer and principal, once for each request. A header with several values is kept with all of them.
    pub(super) fn context(&self, parts: &Parts) -> ClientContext {
        let mut context = ClientContext::new();
        let peer = match &self.peer {
            Some(peer) => peer(parts),
            None => connected(parts),
        };
        if let Some(name) = &self.name {
            context = context.with_service(Arc::clone(name));
        }
        if let Some(peer) = peer {
            self.forgotten_proxy.look(peer, &parts.headers, &self.trusted);
            context = context.with_peer(forwarded::client(peer, &parts.headers, self.forwarded, &self.trusted));
        }
        if let Some(principal) = self.principal.as_ref().and_then(|principal| principal(parts)) {
            context = context.with_principal(principal);
        }
        for name in &*self.kept {
            for value in parts.headers.get_all(name) {
                context = context.with_header(name.clone(), value.clone());
            }
        }
        context
    }
}

/// Returns the peer that axum put into the request, if it serves with `ConnectInfo`.
#[cfg(feature = "axum")]
fn connected(parts: &Parts) -> Option<IpAddr> {
    use axum::extract::ConnectInfo;
    parts.extensions.get::<ConnectInfo<std::net::SocketAddr>>().map(|ConnectInfo(peer)| peer.ip())
}

/// Returns no peer: without axum, only the author knows where the server puts it.
#[cfg(not(feature = "axum"))]
const fn connected(_: &Parts) -> Option<IpAddr> {
    None
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("named", &self.name)
            .field("trusted_proxies", &self.trusted)
            .field("forwarded_header", &self.forwarded)
            .field("keep_headers", &self.kept)
            .field("refuse_anonymous", &self.refuse_anonymous)
            .field("without_sessions", &self.without_sessions)
            .field("sessionless", &self.sessionless)
            .field("max_listeners", &self.max_listeners)
            .finish_non_exhaustive()
    }
}
