//! The settings of a layer, and the client's context that they make of a request.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use http::header::HeaderName;
use http::request::Parts;
use ipnet::IpNet;

use super::discard::Discard;
use super::forgotten_proxy::ForgottenProxy;
use super::forwarded::{self, ForwardedHeader};
use crate::admission::AdmissionPolicy;
use crate::context::ClientContext;

type PeerOf = Arc<dyn Fn(&Parts) -> Option<IpAddr> + Send + Sync>;
type PrincipalOf = Arc<dyn Fn(&Parts) -> Option<String> + Send + Sync>;

/// Holds the settings of a layer.
#[derive(Clone, Default)]
pub(super) struct Settings {
    pub(super) peer: Option<PeerOf>,
    pub(super) principal: Option<PrincipalOf>,
    pub(super) trusted: Arc<[IpNet]>,
    pub(super) forwarded: ForwardedHeader,
    pub(super) kept: Arc<[HeaderName]>,
    pub(super) name: Option<Arc<str>>,
    pub(super) refuse_anonymous: bool,
    pub(super) elsewhere: bool,
    pub(super) without_sessions: bool,
    pub(super) sessionless: Option<Arc<dyn AdmissionPolicy>>,
    pub(super) discard: Discard,
    pub(super) max_listeners: Option<usize>,
    pub(super) contradiction_told: Arc<AtomicBool>,
    pub(super) forgotten_proxy: Arc<ForgottenProxy>,
}

impl Settings {
    /// Returns whether rmcp may look for sessions that are neither live nor parked here.
    pub(super) fn restores_from_elsewhere(&self) -> bool {
        self.elsewhere && self.principal.is_none() && self.name.is_none()
    }

    /// Logs once which settings contradict each other.
    pub(super) fn warn_of_contradictions(&self) {
        if self.elsewhere && !self.restores_from_elsewhere() && !self.contradiction_told.swap(true, Relaxed) {
            tracing::error!(
                "restores_from_elsewhere() is not obeyed together with principal() or named(): the other store does not \
                 say whose a session is, so sessions that are neither live nor parked here are answered 404"
            );
        }
    }

    /// Makes the client's context from the head of its request.
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

#[cfg(feature = "axum")]
fn connected(parts: &Parts) -> Option<IpAddr> {
    use axum::extract::ConnectInfo;
    parts.extensions.get::<ConnectInfo<std::net::SocketAddr>>().map(|ConnectInfo(peer)| peer.ip())
}

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
            .field("restores_from_elsewhere", &self.elsewhere)
            .field("without_sessions", &self.without_sessions)
            .field("sessionless", &self.sessionless)
            .field("max_listeners", &self.max_listeners)
            .finish_non_exhaustive()
    }
}
