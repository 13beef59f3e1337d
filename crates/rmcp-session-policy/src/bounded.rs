//! A preset with the API of the crate `mcp-session`: a bound on the number of sessions, and the oldest is evicted first.
//!
//! This module has every public name of the crate `mcp-session` 0.2.0, for rmcp 3.9. To move a program, depend on this
//! crate instead and replace `use mcp_session::` by `use rmcp_session_policy::bounded::`.
//! [`docs/moving-from-mcp-session.md`](https://github.com/rmcp-session-policy/rmcp-session-policy/blob/main/docs/moving-from-mcp-session.md)
//! lists what differs.
//!
//! ```
//! use std::time::Duration;
//!
//! use rmcp_session_policy::bounded::BoundedSessionManagerBuilder;
//!
//! let sessions = BoundedSessionManagerBuilder::new(100)
//!     .idle_timeout(Duration::from_secs(4 * 60 * 60))
//!     .max_lifetime(Duration::from_secs(24 * 60 * 60))
//!     .rate_limit(10, Duration::from_secs(60))
//!     .build();
//! assert_eq!(sessions.policies().stats().max_sessions, 100);
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
pub use rmcp::transport::streamable_http_server::session::SessionId;
pub use rmcp::transport::streamable_http_server::session::local::SessionConfig;
use rmcp::transport::streamable_http_server::session::local::{LocalSessionManager, LocalSessionManagerError};
use rmcp::transport::streamable_http_server::session::{EventStore, RestoreOutcome, ServerSseMessage, SessionManager};

use crate::admission::SlidingWindow;
use crate::error::ServerFull;
use crate::eviction::{EvictionPolicyExt, Fifo, SessionInfo};
use crate::time::HOUR;
use crate::{PolicyError, PolicySessionManager, SessionEvent, SessionObserver};

/// Says why a call of a [`BoundedSessionManager`] failed.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BoundedSessionError {
    /// The inner [`LocalSessionManager`] failed. Its own text may name a session, so it is only in the source.
    #[error("the inner session manager failed")]
    Inner(#[from] LocalSessionManagerError),
    /// There were too many new sessions within the window of the rate limit. No session was evicted for it.
    #[error("session creation rate limit exceeded")]
    RateLimited,
    /// Every place is taken, and no session may go now.
    #[error("{0}")]
    ServerFull(ServerFull),
    /// There is no such session (any more), or a client asked for an event that is not there.
    #[error("session not found")]
    NotFound,
    /// The server is about to stop and takes no newcomers.
    #[error("the server is draining")]
    Draining,
}

/// Shows the display text, without the inner error, which may name the session.
impl fmt::Debug for BoundedSessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BoundedSessionError({self})")
    }
}

impl From<PolicyError<LocalSessionManagerError>> for BoundedSessionError {
    fn from(error: PolicyError<LocalSessionManagerError>) -> Self {
        match error {
            PolicyError::Rejected(_) => Self::RateLimited,
            PolicyError::ServerFull(full) => Self::ServerFull(full),
            PolicyError::Draining => Self::Draining,
            PolicyError::Inner(error) => Self::Inner(error),
            // `LocalSessionManager` makes random ids, and there is no directory.
            PolicyError::NotFound
            | PolicyError::UnknownEvent
            | PolicyError::DuplicateId
            | PolicyError::Away
            | PolicyError::Elsewhere => Self::NotFound,
        }
    }
}

/// Says why a session was closed, in the words of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// A newcomer needed its place.
    Evicted,
    /// It reached the maximum lifetime.
    MaxLifetime,
    /// Anything else: its client closed it, it was idle, its service ended.
    Closed,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl From<crate::CloseReason> for CloseReason {
    fn from(reason: crate::CloseReason) -> Self {
        match reason {
            crate::CloseReason::Evicted => Self::Evicted,
            crate::CloseReason::Lifetime => Self::MaxLifetime,
            _ => Self::Closed,
        }
    }
}

/// Keeps at most `max_sessions` sessions, exactly. It evicts the oldest first, and idle sessions before busy ones.
///
/// It is a [`PolicySessionManager`] over a [`LocalSessionManager`], with [`Fifo`] for eviction and a
/// [`SlidingWindow`] for admission. [`policies`](Self::policies) returns that manager, for its `layer`, `stats` and
/// `drain`.
///
/// ```
/// use rmcp::transport::streamable_http_server::session::SessionManager;
/// use rmcp_session_policy::bounded::{BoundedSessionManager, SessionConfig};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = BoundedSessionManager::new(SessionConfig::default(), 100);
/// let _session = sessions.create_session().await?;
/// assert_eq!(sessions.active_session_count().await, 1);
/// # Ok(()) }
/// ```
pub struct BoundedSessionManager {
    /// The manager that does the work. All calls are passed to it.
    sessions: PolicySessionManager<LocalSessionManager>,
    /// What it was made from. [`with_rate_limit`](Self::with_rate_limit) makes it anew from these.
    settings: Settings,
}

/// Holds the settings that a manager was made from, since a rate limit may be added later.
#[derive(Clone, Debug)]
struct Settings {
    /// The settings of the manager underneath. Its timers are turned off there, and used here.
    config: SessionConfig,
    max_sessions: usize,
    max_lifetime: Option<Duration>,
    /// The most new sessions, and the window in which they count.
    rate_limit: Option<(usize, Duration)>,
}

impl Settings {
    /// Begins without a limit on lifetimes or rates. Panics if `max_sessions` is 0, as the replaced crate does.
    fn new(config: SessionConfig, max_sessions: usize) -> Self {
        assert!(max_sessions >= 1, "max_sessions must be at least 1, got 0");
        Self { config, max_sessions, max_lifetime: None, rate_limit: None }
    }

    /// Sets the rate limit. Panics if `max_creates` is 0, as the replaced crate does.
    fn limit(&mut self, max_creates: usize, window: Duration) {
        assert!(max_creates >= 1, "max_creates must be at least 1; pass no rate limit instead of 0");
        self.rate_limit = Some((max_creates, window));
    }

    /// Makes the manager. It does not fail: what the builder underneath would reject is made to fit first.
    ///
    /// No session is parked: in the replaced crate, a session that is closed is gone. What these settings do not name
    /// has the default of the policy manager, such as the limit on half-open sessions.
    fn build(self) -> BoundedSessionManager {
        // Every duration is accepted, and clamped to what the timer can do.
        let kept = |time: Duration| time.clamp(Duration::from_millis(1), 365 * 24 * HOUR);
        let mut inner = LocalSessionManager::default();
        inner.session_config = self.config.clone();
        // rmcp's own timers cut running calls and quiet listeners. The timers of the policy manager replace them.
        inner.session_config.keep_alive = None;
        inner.session_config.init_timeout = None;
        let builder = PolicySessionManager::builder(inner)
            .max_sessions(self.max_sessions.min(u32::MAX as usize))
            .eviction(Fifo::new().tiers([|session: &SessionInfo<'_>| session.in_flight() == 0]))
            // The oldest goes, whatever comes.
            .surge_guard(false)
            // Busy sessions are evicted last, so that there is always room for a newcomer.
            .busy_may_go()
            .idle_timeout(self.config.keep_alive.map(kept))
            .init_timeout(self.config.init_timeout.map_or(365 * 24 * HOUR, kept))
            .max_lifetime(self.max_lifetime.map(kept))
            .max_parked(0)
            .observer(Log)
            .without_log();
        let builder = match self.rate_limit {
            // A window of no length never holds an admission, so there is nothing to limit.
            Some((creates, window)) if !window.is_zero() => {
                builder.admission(SlidingWindow::new(creates.min(i32::MAX as usize), window.min(365 * 24 * HOUR)))
            }
            _ => builder,
        };
        #[expect(clippy::expect_used, reason = "every setting was checked or made to fit above")]
        let sessions = builder.build().expect("settings that fit");
        BoundedSessionManager { sessions, settings: self }
    }
}

impl BoundedSessionManager {
    /// Bounds the sessions of a [`LocalSessionManager`] with these settings to `max_sessions`.
    ///
    /// The setting `keep_alive` is the idle timeout, and `init_timeout` the longest time of a handshake.
    ///
    /// # Panics
    ///
    /// If `max_sessions` is 0.
    #[must_use]
    pub fn new(session_config: SessionConfig, max_sessions: usize) -> Self {
        Settings::new(session_config, max_sessions).build()
    }

    /// Sets a rate limit: at most `max_creates` new sessions in any `window`. It rejects more, and evicts no session for
    /// them. Defaults to no limit.
    ///
    /// It builds the manager anew, without the sessions of the old one, so call it before the first session.
    ///
    /// # Panics
    ///
    /// If `max_creates` is 0.
    #[must_use]
    pub fn with_rate_limit(self, max_creates: usize, window: Duration) -> Self {
        let mut settings = self.settings;
        settings.limit(max_creates, window);
        settings.build()
    }

    /// Returns the number of sessions, those that are closing included.
    #[expect(clippy::unused_async, reason = "async in the crate whose place this takes")]
    pub async fn active_session_count(&self) -> usize {
        self.sessions.stats().live
    }

    /// Returns the policy manager underneath, for its `layer`, `stats`, `list`, `terminate` and `drain`.
    #[must_use]
    pub const fn policies(&self) -> &PolicySessionManager<LocalSessionManager> {
        &self.sessions
    }
}

impl fmt::Debug for BoundedSessionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedSessionManager").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Collects the settings of a [`BoundedSessionManager`], and builds it. The [module](self) has an example.
#[derive(Debug)]
#[must_use]
pub struct BoundedSessionManagerBuilder {
    /// At least 1: [`new`](Self::new) has checked it.
    max_sessions: usize,
    /// If it is set, it counts more than the `keep_alive` of `session_config`.
    idle_timeout: Option<Duration>,
    max_lifetime: Option<Duration>,
    /// `None` for the default.
    session_config: Option<SessionConfig>,
    /// The most new sessions and their window. Both were checked when they were set.
    rate_limit: Option<(usize, Duration)>,
}

impl BoundedSessionManagerBuilder {
    /// Begins with the largest number of sessions, and defaults for the rest.
    ///
    /// # Panics
    ///
    /// If `max_sessions` is 0.
    pub fn new(max_sessions: usize) -> Self {
        let Settings { max_sessions, .. } = Settings::new(SessionConfig::default(), max_sessions);
        Self { max_sessions, idle_timeout: None, max_lifetime: None, session_config: None, rate_limit: None }
    }

    /// Sets how long a session may be idle before it is closed. Overrides the `keep_alive` of a [`SessionConfig`],
    /// which is the default.
    pub const fn idle_timeout(mut self, duration: Duration) -> Self {
        self.idle_timeout = Some(duration);
        self
    }

    /// Sets how long a session may live before it is closed, also while it is busy. Defaults to no limit.
    pub const fn max_lifetime(mut self, duration: Duration) -> Self {
        self.max_lifetime = Some(duration);
        self
    }

    /// Sets the settings of the [`LocalSessionManager`] underneath. Defaults to [`SessionConfig::default`].
    pub const fn session_config(mut self, config: SessionConfig) -> Self {
        self.session_config = Some(config);
        self
    }

    /// Sets a rate limit: at most `max_creates` new sessions in any `window`. Defaults to no limit.
    ///
    /// # Panics
    ///
    /// If `max_creates` is 0.
    pub fn rate_limit(mut self, max_creates: usize, window: Duration) -> Self {
        let mut settings = Settings::new(SessionConfig::default(), 1);
        settings.limit(max_creates, window);
        self.rate_limit = settings.rate_limit;
        self
    }

    /// Builds the manager.
    #[must_use]
    pub fn build(self) -> Arc<BoundedSessionManager> {
        let Self { max_sessions, idle_timeout, max_lifetime, session_config, rate_limit } = self;
        if idle_timeout.is_some() && session_config.as_ref().is_some_and(|config| config.keep_alive.is_some()) {
            tracing::warn!("idle_timeout overrides SessionConfig::keep_alive");
        }
        let mut config = session_config.unwrap_or_default();
        config.keep_alive = idle_timeout.or(config.keep_alive);
        Arc::new(Settings { config, max_sessions, max_lifetime, rate_limit }.build())
    }
}

/// Logs the sessions that are opened and closed, in the words of the crate `mcp-session`, with a fingerprint in place of
/// the id.
#[derive(Debug)]
struct Log;

impl SessionObserver for Log {
    fn observe(&self, event: &SessionEvent<'_>) {
        match event {
            SessionEvent::Opened { session, .. } => {
                tracing::info!(session_id = %session.fingerprint(), "session created");
            }
            SessionEvent::Closed { session, reason, age, .. } => {
                tracing::info!(
                    session_id = %session.fingerprint(),
                    duration_secs = age.as_secs_f64(),
                    reason = %CloseReason::from(*reason),
                    "session closed"
                );
            }
            _ => {}
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl SessionManager for BoundedSessionManager {
    type Error = BoundedSessionError;
    type Transport = <PolicySessionManager<LocalSessionManager> as SessionManager>::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        Ok(self.sessions.create_session().await?)
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        Ok(self.sessions.initialize_session(id, message).await?)
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        Ok(self.sessions.has_session(id).await?)
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        Ok(self.sessions.close_session(id).await?)
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(self.sessions.create_stream(id, message).await?)
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        Ok(self.sessions.accept_message(id, message).await?)
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(self.sessions.create_standalone_stream(id).await?)
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(self.sessions.resume(id, last_event_id).await?)
    }

    async fn restore_session(&self, id: SessionId) -> Result<RestoreOutcome<Self::Transport>, Self::Error> {
        Ok(self.sessions.restore_session(id).await?)
    }

    fn event_store(&self) -> Option<Arc<dyn EventStore>> {
        self.sessions.event_store()
    }
}
