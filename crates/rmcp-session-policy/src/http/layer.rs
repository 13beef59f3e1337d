//! [`PolicyLayer`]: the tower layer, and the setters of its settings.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;
use http::request::Parts;
use rmcp::transport::streamable_http_server::session::SessionManager;
use tower_layer::Layer;

use super::forwarded::{self, ForwardedHeader};
use super::service::PolicyService;
use super::settings::Settings;
use crate::admission::AdmissionPolicy;
use crate::config_error::ConfigError;
use crate::manager::{ManagerInner, PolicySessionManager};

/// A tower layer for rmcp's `StreamableHttpService`. It gives policies the client's address and principal, and maps the
/// manager's decisions to HTTP statuses and JSON-RPC errors.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
/// use rmcp_session_policy::PolicySessionManager;
///
/// # #[derive(Clone)] struct MyServer; impl rmcp::ServerHandler for MyServer {}
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = Arc::new(PolicySessionManager::local().build()?);
/// let mut config = StreamableHttpServerConfig::default();
/// config.session_store = Some(sessions.parking());
/// let mcp = StreamableHttpService::new(|| Ok(MyServer), sessions.clone(), config);
/// let app: axum::Router = axum::Router::new().nest_service("/mcp", sessions.layer().layer(mcp));
/// # Ok(()) }
/// ```
#[must_use]
pub struct PolicyLayer<I: SessionManager> {
    shared: Arc<ManagerInner<I>>,
    settings: Settings,
}

impl<I: SessionManager> PolicySessionManager<I> {
    /// Makes the layer to put around rmcp's `StreamableHttpService`.
    ///
    /// If one manager serves several services, make a layer for each, and give each a [name](PolicyLayer::named).
    ///
    /// ```
    /// use rmcp_session_policy::PolicySessionManager;
    ///
    /// let sessions = PolicySessionManager::local().build()?;
    /// let layer = sessions.layer().trusted_proxies(["10.0.0.0/8"])?;
    /// assert!(sessions.layer().trusted_proxies(["the proxy"]).is_err());
    /// # drop(layer);
    /// # Ok::<(), rmcp_session_policy::ConfigError>(())
    /// ```
    pub fn layer(&self) -> PolicyLayer<I> {
        PolicyLayer { shared: Arc::clone(self.shared()), settings: Settings::default() }
    }
}

impl<I: SessionManager> PolicyLayer<I> {
    /// Puts the layer around a service. It does the same as tower's `Layer::layer`, which needs the trait in scope.
    pub fn layer<S>(&self, service: S) -> PolicyService<S, I> {
        PolicyService::new(service, Arc::clone(&self.shared), self.settings.clone())
    }

    /// Names the service that the layer is put around, if one manager serves several services. A session that was opened
    /// under one name is unknown under another, since its handler belongs to the service that opened it. Defaults to no
    /// name.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use rmcp::transport::StreamableHttpService;
    /// # use rmcp_session_policy::PolicySessionManager;
    /// # #[derive(Clone)] struct Search; impl rmcp::ServerHandler for Search {}
    /// # #[derive(Clone)] struct Billing; impl rmcp::ServerHandler for Billing {}
    /// let sessions = Arc::new(PolicySessionManager::local().build()?);
    /// let search = StreamableHttpService::new(|| Ok(Search), sessions.clone(), Default::default());
    /// let billing = StreamableHttpService::new(|| Ok(Billing), sessions.clone(), Default::default());
    /// let search = sessions.layer().named("search").layer(search);
    /// let billing = sessions.layer().named("billing").layer(billing);
    /// # Ok::<(), rmcp_session_policy::ConfigError>(())
    /// ```
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// Sets how the peer's address is found.
    ///
    /// ```
    /// use std::net::SocketAddr;
    ///
    /// use rmcp_session_policy::PolicySessionManager;
    ///
    /// /// Inserted into the extensions of each request by the server.
    /// #[derive(Clone)]
    /// struct Peer(SocketAddr);
    ///
    /// let sessions = PolicySessionManager::local().build()?;
    /// let layer = sessions.layer().peer(|parts| parts.extensions.get().map(|Peer(address)| address.ip()));
    /// # drop(layer);
    /// # Ok::<(), rmcp_session_policy::ConfigError>(())
    /// ```
    ///
    /// Defaults to axum's `ConnectInfo<SocketAddr>` with the feature `axum`, else to no address.
    pub fn peer(mut self, peer: impl Fn(&Parts) -> Option<IpAddr> + Send + Sync + 'static) -> Self {
        self.settings.peer = Some(Arc::new(peer));
        self
    }

    /// Sets how the authenticated subject is found, for instance in the request's extensions, where an authentication
    /// layer put it. A session belongs to the principal that opened it; to other principals it does not exist.
    ///
    /// ```
    /// use rmcp_session_policy::PolicySessionManager;
    ///
    /// /// Inserted into the extensions of each request by the authentication layer.
    /// #[derive(Clone)]
    /// struct Subject(String);
    ///
    /// let sessions = PolicySessionManager::local().build()?;
    /// let layer = sessions.layer().principal(|parts| parts.extensions.get().map(|Subject(name)| name.clone()));
    /// # drop(layer);
    /// # Ok::<(), rmcp_session_policy::ConfigError>(())
    /// ```
    ///
    /// Defaults to no principal.
    pub fn principal(mut self, principal: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        self.settings.principal = Some(Arc::new(principal));
        self
    }

    /// Sets the trusted proxies, as addresses or networks. The layer reads the forwarding header only from them.
    ///
    /// Without trusted proxies the client of each request is its peer, and behind a proxy all clients are one. The layer
    /// logs a warning once if that seems to be so. Defaults to none.
    ///
    /// # Errors
    ///
    /// Returns the first entry that is neither an address nor a network.
    pub fn trusted_proxies<T: AsRef<str>>(mut self, proxies: impl IntoIterator<Item = T>) -> Result<Self, ConfigError> {
        let parse = |text: T| {
            let text = text.as_ref().trim();
            let remedy = "write an address or a network, as in 10.0.0.0/8";
            forwarded::network(text).ok_or_else(|| ConfigError::new("trusted_proxies", text, remedy))
        };
        self.settings.trusted = proxies.into_iter().map(parse).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// Sets which header trusted proxies write. The layer never reads the other one, since a proxy may pass on what a
    /// client put there. Defaults to `X-Forwarded-For`.
    pub const fn forwarded_header(mut self, header: ForwardedHeader) -> Self {
        self.settings.forwarded = header;
        self
    }

    /// Sets which headers of a request its [`ClientContext`](crate::ClientContext) keeps, for policies that key by them.
    /// Defaults to none.
    pub fn keep_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.settings.kept = names.into_iter().collect();
        self
    }

    /// Rejects unknown clients with 403: those without a known address or principal. Defaults to off: unknown clients
    /// share one [key](crate::admission::ClientKey::Anonymous).
    pub const fn refuse_anonymous(mut self) -> Self {
        self.settings.refuse_anonymous = true;
        self
    }

    /// Declares that rmcp is configured to keep no sessions (`legacy_session_mode(false)`), so that every POST is a
    /// request without a session. Defaults to off.
    pub const fn without_sessions(mut self) -> Self {
        self.settings.without_sessions = true;
        self
    }

    /// Sets the policy for requests without a session (protocol 2026-07-28). The lease of a request is held until the
    /// body of its response ends. A handler that keeps its context (or the request's parts) also holds the lease until it
    /// is done, but at most for [`max_busy`](crate::PolicySessionManagerBuilder::max_busy) after that. A handler that
    /// keeps neither, such as a `#[tool]` without an argument for its context, may still run when its client has hung up
    /// and the lease is free.
    ///
    /// ```
    /// use rmcp_session_policy::PolicySessionManager;
    /// use rmcp_session_policy::admission::{AdmissionPolicyExt, TokenBucket};
    ///
    /// let sessions = PolicySessionManager::local().build()?;
    /// let layer = sessions.layer().sessionless(TokenBucket::per_second(20).per_client())?;
    /// assert!(sessions.layer().sessionless(TokenBucket::per_second(0)).is_err());
    /// # drop(layer);
    /// # Ok::<(), rmcp_session_policy::ConfigError>(())
    /// ```
    ///
    /// Defaults to no policy: every such request is admitted.
    ///
    /// # Errors
    ///
    /// Returns the first setting of the policy that makes no sense.
    pub fn sessionless(mut self, policy: impl AdmissionPolicy) -> Result<Self, ConfigError> {
        policy.validate()?;
        self.settings.sessionless = Some(Arc::new(policy));
        Ok(self)
    }
}

impl<I: SessionManager> PolicyLayer<I> {
    /// Sets how much of a body the layer reads and drops if it rejects the request before reading the body, in bytes and
    /// time. It does so for at most 256 bodies at one time. If a body is larger or takes longer, its client loses the
    /// connection, and over HTTP/1 perhaps the answer. Defaults to 4 MiB and 5 seconds.
    pub const fn discard(mut self, bytes: usize, time: Duration) -> Self {
        self.settings.discard.bytes = bytes;
        self.settings.discard.time = time;
        self
    }

    /// Sets the number of listening streams without a session at one time, in all layers of the manager together:
    /// `subscriptions/listen`, and streams that are replayed. The layer answers more with 503. Defaults to
    /// [`max_sessions`](crate::PolicySessionManagerBuilder::max_sessions).
    pub const fn max_listeners(mut self, streams: usize) -> Self {
        self.settings.max_listeners = Some(streams);
        self
    }
}

impl<S, I: SessionManager> Layer<S> for PolicyLayer<I> {
    type Service = PolicyService<S, I>;

    fn layer(&self, service: S) -> Self::Service {
        Self::layer(self, service)
    }
}

impl<I: SessionManager> Clone for PolicyLayer<I> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), settings: self.settings.clone() }
    }
}

impl<I: SessionManager> fmt::Debug for PolicyLayer<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyLayer").field("settings", &self.settings).finish_non_exhaustive()
    }
}
