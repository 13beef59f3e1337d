//! The layer, and the setters of its settings.

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
    /// The layer to put around rmcp's `StreamableHttpService`.
    ///
    /// A manager that is under several services has a layer for each, and each has a [name](PolicyLayer::named).
    pub fn layer(&self) -> PolicyLayer<I> {
        PolicyLayer { shared: Arc::clone(self.shared()), settings: Settings::default() }
    }
}

impl<I: SessionManager> PolicyLayer<I> {
    /// Puts the layer around a service. The same as tower's `Layer::layer`, without the trait in scope.
    pub fn layer<S>(&self, service: S) -> PolicyService<S, I> {
        self.settings.warn_of_contradictions();
        PolicyService::new(service, Arc::clone(&self.shared), self.settings.clone())
    }

    /// Names the service that the layer is put around, where one manager is under several services. A session that was
    /// opened under one name is unknown under another: its handler is the other service's. Defaults to no name.
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

    /// Sets how the peer's address is found. Defaults to axum's `ConnectInfo<SocketAddr>`, with the feature `axum`.
    pub fn peer(mut self, peer: impl Fn(&Parts) -> Option<IpAddr> + Send + Sync + 'static) -> Self {
        self.settings.peer = Some(Arc::new(peer));
        self
    }

    /// Sets how the authenticated subject is found: in what an authentication layer put into the request's extensions,
    /// for instance. A session belongs to the principal that opened it. Defaults to nobody.
    pub fn principal(mut self, principal: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        self.settings.principal = Some(Arc::new(principal));
        self
    }

    /// Sets the proxies whose forwarding header is believed, as addresses or networks. Defaults to none: then the client
    /// of each request is its peer, and behind a proxy all clients are one. The layer warns once if that seems to be so.
    ///
    /// # Errors
    ///
    /// The first entry that is neither an address nor a network.
    pub fn trusted_proxies<T: AsRef<str>>(mut self, proxies: impl IntoIterator<Item = T>) -> Result<Self, ConfigError> {
        let parse = |text: T| {
            let text = text.as_ref().trim();
            let remedy = "write an address or a network, as in 10.0.0.0/8";
            forwarded::network(text).ok_or_else(|| ConfigError::new("trusted_proxies", text, remedy))
        };
        self.settings.trusted = proxies.into_iter().map(parse).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// Sets which header trusted proxies write. The other one is never read: clients can send it through. Defaults to
    /// `X-Forwarded-For`.
    pub const fn forwarded_header(mut self, header: ForwardedHeader) -> Self {
        self.settings.forwarded = header;
        self
    }

    /// Sets which headers of a request its [`ClientContext`](crate::ClientContext) keeps, for policies that key by them. Defaults to none.
    pub fn keep_headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.settings.kept = names.into_iter().collect();
        self
    }

    /// Refuses, with 403, clients of whom neither address nor principal is known. By default they share one key.
    pub const fn refuse_anonymous(mut self) -> Self {
        self.settings.refuse_anonymous = true;
        self
    }

    /// Lets rmcp look for sessions that are neither live nor parked here: it was given another session store than
    /// [`parking`](PolicySessionManager::parking). By default such an id is answered 404 at once.
    ///
    /// Not with [`principal`](Self::principal) or [`named`](Self::named): the other store does not say whose a session
    /// is, and the first client to ask would get it. Such an id is then answered 404 nevertheless, and an error is
    /// logged when the layer is put around a service.
    pub const fn restores_from_elsewhere(mut self) -> Self {
        self.settings.elsewhere = true;
        self
    }

    /// Says that rmcp was told to keep no sessions (`legacy_session_mode(false)`), so that every POST is a request without
    /// one.
    pub const fn without_sessions(mut self) -> Self {
        self.settings.without_sessions = true;
        self
    }

    /// Sets who may make requests without a session (protocol 2026-07-28). What a permit holds is held until the body of
    /// the response ends, and by a handler that keeps its context (or the request's parts) until it is done, for
    /// [`max_busy`](crate::PolicySessionManagerBuilder::max_busy) at most after that. A handler that does not, such as a
    /// `#[tool]` without an argument for its context, may still run when its client has hung up and its place is free
    /// again. Defaults to everybody.
    ///
    /// # Errors
    ///
    /// The first setting of the policy that makes no sense.
    pub fn sessionless(mut self, policy: impl AdmissionPolicy) -> Result<Self, ConfigError> {
        policy.validate()?;
        self.settings.sessionless = Some(Arc::new(policy));
        Ok(self)
    }
}

impl<I: SessionManager> PolicyLayer<I> {
    /// Sets how much is read of the body of a request that is refused before its body was read, at most 256 of them at a
    /// time. What is read is dropped. A client whose body is larger, or takes longer, loses its connection, and over HTTP/1
    /// perhaps the answer. Defaults to 4 MiB and 5 seconds.
    pub const fn discard(mut self, bytes: usize, time: Duration) -> Self {
        self.settings.discard.bytes = bytes;
        self.settings.discard.time = time;
        self
    }

    /// Sets how many listening streams without a session there may be at one time, those of all layers of the manager
    /// counted: `subscriptions/listen`, and streams that are replayed. Beyond it 503. Defaults to as many as
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
