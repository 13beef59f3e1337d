//! [`AdminRouterBuilder`]: the settings of the operator's page.

use std::fmt;
use std::sync::Arc;

use rmcp::transport::streamable_http_server::session::SessionManager;

use super::access::{Access, Clients};
use super::api;
use super::console::Console;
use super::hosts::Hosts;
use crate::config_error::ConfigError;
use crate::manager::PolicySessionManager;

/// The shortest token, in bytes. One of random letters and digits has 95 bits.
const SHORTEST_TOKEN: usize = 16;

/// Builds the router of the operator's page and its JSON API.
///
/// The router belongs on a listener of its own, which clients of the server do not reach. It answers only clients of the
/// same machine, which it tells by axum's `ConnectInfo<SocketAddr>`, and shows but does not act, unless told otherwise.
///
/// ```
/// use std::net::SocketAddr;
///
/// use rmcp_session_policy::PolicySessionManager;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = PolicySessionManager::local().build()?;
/// let page = sessions.admin().actions(true).build()?;
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// assert!(listener.local_addr()?.ip().is_loopback());
/// let serving = axum::serve(listener, page.into_make_service_with_connect_info::<SocketAddr>());
/// # drop(serving);
/// # Ok(()) }
/// ```
#[must_use]
pub struct AdminRouterBuilder<I: SessionManager> {
    sessions: PolicySessionManager<I>,
    token: Option<String>,
    authorized_outside: bool,
    hosts: Vec<String>,
    actions: bool,
    beside: Option<axum::Router>,
}

impl<I: SessionManager> PolicySessionManager<I> {
    /// Returns a builder of the operator's page: what there is, why sessions ended, and what to do about it.
    ///
    /// ```
    /// use rmcp_session_policy::PolicySessionManager;
    ///
    /// let sessions = PolicySessionManager::local().build()?;
    /// let page: axum::Router = sessions.admin().build()?;
    /// assert!(page.has_routes());
    /// # Ok::<(), rmcp_session_policy::ConfigError>(())
    /// ```
    pub fn admin(&self) -> AdminRouterBuilder<I> {
        AdminRouterBuilder {
            sessions: self.share(),
            token: None,
            authorized_outside: false,
            hosts: Vec::new(),
            actions: false,
            beside: None,
        }
    }
}

impl<I: SessionManager> AdminRouterBuilder<I> {
    /// Answers clients of any address that send this token, as in `Authorization: Bearer TOKEN`. The page asks for it, and
    /// keeps it until its tab is closed. The files of the page itself, which tell nothing of any session, need no token.
    /// The connection should be encrypted. At least 16 bytes, which should be random. Defaults to none.
    ///
    /// ```
    /// use rmcp_session_policy::PolicySessionManager;
    ///
    /// let sessions = PolicySessionManager::local().build()?;
    /// assert!(sessions.admin().token("0p3XkQ7yVt2mLr9w").build().is_ok());
    /// assert_eq!(sessions.admin().token("secret").build().unwrap_err().setting, "token");
    /// # Ok::<(), rmcp_session_policy::ConfigError>(())
    /// ```
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Answers all clients, because something in front of the router has authorized them, such as a proxy or a layer.
    /// `Host` and `Origin` are checked as always. Defaults to clients of the same machine.
    pub const fn authorized_outside(mut self) -> Self {
        self.authorized_outside = true;
        self
    }

    /// Sets the hosts under which the page may be asked for, at any port, besides `localhost` and loopback addresses. A
    /// request for another host is answered with 421, since a site could have its name point at this server. Each is a
    /// host name or an address, without scheme and port. Defaults to none.
    ///
    /// ```
    /// use rmcp_session_policy::PolicySessionManager;
    ///
    /// let sessions = PolicySessionManager::local().build()?;
    /// assert!(sessions.admin().hosts(["admin.example.com", "10.1.2.3"]).build().is_ok());
    /// let error = sessions.admin().hosts(["https://admin.example.com"]).build().unwrap_err();
    /// assert_eq!(error.setting, "hosts");
    /// # Ok::<(), rmcp_session_policy::ConfigError>(())
    /// ```
    pub fn hosts<T: Into<String>>(mut self, hosts: impl IntoIterator<Item = T>) -> Self {
        self.hosts = hosts.into_iter().map(Into::into).collect();
        self
    }

    /// Sets whether the page may terminate sessions and drain the server. Defaults to false: it only shows.
    pub const fn actions(mut self, actions: bool) -> Self {
        self.actions = actions;
        self
    }

    /// Serves other routes beside the page, behind the same checks and with the same headers, such as `/metrics`. They are
    /// asked for paths that the page does not have. With a token, they need it. Defaults to none.
    ///
    /// ```
    /// use axum::Router;
    /// use axum::routing::get;
    /// use rmcp_session_policy::PolicySessionManager;
    ///
    /// let sessions = PolicySessionManager::local().build()?;
    /// let metrics = Router::new().route("/metrics", get(|| async { "sessions 0" }));
    /// assert!(sessions.admin().beside(metrics).build().is_ok());
    /// # Ok::<(), rmcp_session_policy::ConfigError>(())
    /// ```
    pub fn beside(mut self, routes: axum::Router) -> Self {
        self.beside = Some(routes);
        self
    }

    /// Builds the router. Within a runtime it starts to note the numbers of sessions for its charts, every five seconds,
    /// until it is dropped; else the first request starts that.
    ///
    /// # Errors
    ///
    /// Returns the first setting that makes no sense.
    pub fn build(self) -> Result<axum::Router, ConfigError> {
        let hosts = Hosts::new(&self.hosts)?;
        let clients = match &self.token {
            Some(_) if self.authorized_outside => {
                let remedy = "set either a token or authorized_outside";
                return Err(ConfigError::new("authorized_outside", true, remedy));
            }
            Some(token) => Clients::Token(checked(token)?),
            None if self.authorized_outside => Clients::All,
            None => Clients::Loopback,
        };
        let console = Arc::new(Console::new(self.sessions, Access { hosts, clients }, self.actions));
        console.start_sampling();
        Ok(api::router(console, self.beside))
    }
}

/// The hash of a token that can be sent in a header. The error does not show the token.
fn checked(token: &str) -> Result<blake3::Hash, ConfigError> {
    let wrong = |value: &str, remedy| {
        let mut error = ConfigError::new("token", "", remedy);
        error.value = value.to_owned().into();
        error
    };
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong(
            "not sendable",
            "use printable ASCII without spaces, as the output of `openssl rand -hex 16`",
        ));
    }
    if token.len() < SHORTEST_TOKEN {
        let length = format!("{} bytes long", token.len());
        return Err(wrong(&length, "use at least 16 random characters, as the output of `openssl rand -hex 16`"));
    }
    Ok(blake3::hash(token.as_bytes()))
}

impl<I: SessionManager> fmt::Debug for AdminRouterBuilder<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminRouterBuilder")
            .field("token", &self.token.as_ref().map(|_| "set"))
            .field("authorized_outside", &self.authorized_outside)
            .field("hosts", &self.hosts)
            .field("actions", &self.actions)
            .finish_non_exhaustive()
    }
}
