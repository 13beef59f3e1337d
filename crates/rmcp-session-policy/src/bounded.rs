//! The ready-made preset: as many sessions as you say, the oldest goes first.
//!
//! Everything public in the crate `mcp-session` 0.2.0 is here, under the same names, for rmcp 3.9: who uses that crate
//! depends on this one instead and writes `use rmcp_session_policy::bounded::` for `use mcp_session::`.
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
//! # let _ = sessions;
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

/// Why a [`BoundedSessionManager`] did not do what it was asked for.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BoundedSessionError {
    /// The inner [`LocalSessionManager`] failed. Its own text may name a session, so it is only in the source.
    #[error("the inner session manager failed")]
    Inner(#[from] LocalSessionManagerError),
    /// There were too many new sessions of late.
    #[error("session creation rate limit exceeded")]
    RateLimited,
    /// Every place is taken, and no session may go now.
    #[error("{0}")]
    ServerFull(ServerFull),
    /// There is no such session (any more).
    #[error("session not found")]
    NotFound,
    /// The server is about to stop and takes no newcomers.
    #[error("the server is draining")]
    Draining,
}

/// As it reads: the inner error stays out, it may name the session.
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
            // `LocalSessionManager` makes random ids.
            PolicyError::NotFound | PolicyError::UnknownEvent | PolicyError::DuplicateId => Self::NotFound,
        }
    }
}

/// Why a session was closed, as the log says it.
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

/// Keeps at most so many sessions: the oldest goes first, an idle one before a busy one.
///
/// It is a [`PolicySessionManager`] over a [`LocalSessionManager`], with [`Fifo`] for eviction and a
/// [`SlidingWindow`] for admission; [`policies`](Self::policies) gives it, for its `layer`, `stats` and `drain`.
/// The bound is exact.
pub struct BoundedSessionManager {
    sessions: PolicySessionManager<LocalSessionManager>,
    settings: Settings,
}

/// What it was made from; a rate limit may be added later.
#[derive(Clone, Debug)]
struct Settings {
    config: SessionConfig,
    max_sessions: usize,
    max_lifetime: Option<Duration>,
    rate_limit: Option<(usize, Duration)>,
}

impl Settings {
    fn new(config: SessionConfig, max_sessions: usize) -> Self {
        assert!(max_sessions >= 1, "max_sessions must be at least 1, got 0");
        Self { config, max_sessions, max_lifetime: None, rate_limit: None }
    }

    fn limit(&mut self, max_creates: usize, window: Duration) {
        assert!(max_creates >= 1, "max_creates must be at least 1; pass no rate limit instead of 0");
        self.rate_limit = Some((max_creates, window));
    }

    fn build(self) -> BoundedSessionManager {
        // Any duration is taken: a shorter one than the timer's tick is the tick, a longer one than it reaches is that.
        let kept = |time: Duration| time.clamp(Duration::from_millis(1), 365 * 24 * HOUR);
        let mut inner = LocalSessionManager::default();
        inner.session_config = self.config.clone();
        // rmcp's own timers cut calls that run and listeners that are quiet: ours take their place.
        inner.session_config.keep_alive = None;
        inner.session_config.init_timeout = None;
        let builder = PolicySessionManager::builder(inner)
            .max_sessions(self.max_sessions.min(u32::MAX as usize))
            .eviction(Fifo::new().tiers([|session: &SessionInfo<'_>| session.in_flight() == 0]))
            // Busy sessions go last, but they go: there is always room for a newcomer.
            .busy_may_go()
            .idle_timeout(self.config.keep_alive.map(kept))
            .init_timeout(self.config.init_timeout.map_or(365 * 24 * HOUR, kept))
            .max_lifetime(self.max_lifetime.map(kept))
            .max_parked(0)
            .observer(Log)
            .without_log();
        let builder = match self.rate_limit {
            // In a window of no length there is never anybody.
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
    /// Its `keep_alive` is the idle timeout, its `init_timeout` the time a handshake may take.
    ///
    /// # Panics
    ///
    /// If `max_sessions` is 0.
    #[must_use]
    pub fn new(session_config: SessionConfig, max_sessions: usize) -> Self {
        Settings::new(session_config, max_sessions).build()
    }

    /// Lets at most `max_creates` sessions come to be in any `window`. More are refused, and nobody is evicted for them.
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

    /// How many sessions there are.
    #[expect(clippy::unused_async, reason = "async in the crate whose place this takes")]
    pub async fn active_session_count(&self) -> usize {
        self.sessions.stats().live
    }

    /// The manager underneath, for its `layer`, `stats`, `list`, `terminate` and `drain`.
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

/// Settings of a [`BoundedSessionManager`] to be.
#[derive(Debug)]
#[must_use]
pub struct BoundedSessionManagerBuilder {
    max_sessions: usize,
    idle_timeout: Option<Duration>,
    max_lifetime: Option<Duration>,
    session_config: Option<SessionConfig>,
    rate_limit: Option<(usize, Duration)>,
}

impl BoundedSessionManagerBuilder {
    /// Begins with a bound and nothing else.
    ///
    /// # Panics
    ///
    /// If `max_sessions` is 0.
    pub fn new(max_sessions: usize) -> Self {
        let Settings { max_sessions, .. } = Settings::new(SessionConfig::default(), max_sessions);
        Self { max_sessions, idle_timeout: None, max_lifetime: None, session_config: None, rate_limit: None }
    }

    /// Closes a session not heard of for so long. Goes before the `keep_alive` of a [`SessionConfig`].
    pub const fn idle_timeout(mut self, duration: Duration) -> Self {
        self.idle_timeout = Some(duration);
        self
    }

    /// Closes a session so long after it was opened, whatever it is doing.
    pub const fn max_lifetime(mut self, duration: Duration) -> Self {
        self.max_lifetime = Some(duration);
        self
    }

    /// Sets the settings of the [`LocalSessionManager`] underneath.
    pub const fn session_config(mut self, config: SessionConfig) -> Self {
        self.session_config = Some(config);
        self
    }

    /// Lets at most `max_creates` sessions come to be in any `window`.
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

/// Says who came and went, in the words of the crate whose place this takes; a fingerprint stands for the id.
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
