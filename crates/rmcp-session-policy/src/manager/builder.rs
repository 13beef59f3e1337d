//! The builder of a manager: the settings and their defaults. `setting_checks.rs` has the checks of
//! [`build`](PolicySessionManagerBuilder::build).

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::session::{EventStore, SessionManager};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client_limits::ClientShare;
use super::final_end::FinalEnd;
use super::final_ends::Hook;
use super::idle_timeout::IdleTimeout;
use super::in_force::InForce;
use super::live_settings::LiveSettings;
use super::manager_inner::ManagerInner;
use super::policies::Policies;
use super::settings::{Given, Protect, Settings};
use super::{PolicySessionManager, setting_checks};
use crate::admission::AdmissionPolicy;
use crate::call_rejection::CallRejection;
use crate::config_error::ConfigError;
use crate::context::ClientContext;
use crate::data::DataTypes;
use crate::directory::SessionDirectory;
use crate::event_store::BestEffort;
use crate::eviction::{EvictionPolicy, Prospects, SessionInfo};
#[cfg(feature = "metrics")]
use crate::metrics::{Instruments, Metrics};
use crate::observe::SessionObserver;
use crate::registry::ClientOf;
use crate::transport::ProbeTimes;

/// Builds a [`PolicySessionManager`]. [`local`](PolicySessionManager::local) and
/// [`builder`](PolicySessionManager::builder) create it.
///
/// Each setter replaces the value that was set before. [`build`](Self::build) checks all settings together.
///
/// ```
/// use rmcp_session_policy::admission::{AdmissionPolicyExt, TokenBucket};
/// use rmcp_session_policy::eviction::Lfu;
/// use rmcp_session_policy::{HOUR, MINUTE, PolicySessionManager, SECOND};
///
/// let sessions = PolicySessionManager::local()
///     // Capacity, and the policies.
///     .max_sessions(500)
///     .max_opening(50)
///     .admission(TokenBucket::per_minute(10).burst(10).per_client())
///     .eviction(Lfu::new())
///     .min_idle(5 * SECOND)
///     .protect(|session| session.context().and_then(|client| client.principal()) == Some("monitor"))
///     // Times.
///     .idle_timeout(10 * MINUTE)
///     .max_lifetime(24 * HOUR)
///     .init_timeout(10 * SECOND)
///     .max_busy(5 * MINUTE)
///     .close_deadline(2 * SECOND)
///     // Parking.
///     .max_parked(2_000)
///     .max_parked_bytes(16 << 20)
///     .max_parked_entry_bytes(16 << 10)
///     .max_parked_age(HOUR)
///     .max_parked_streams(100)
///     .build()?;
/// assert_eq!(sessions.stats().max_sessions, 500);
///
/// let error = PolicySessionManager::local().max_sessions(10).max_opening(11).build().unwrap_err();
/// assert_eq!(error.setting, "max_opening");
/// # Ok::<(), rmcp_session_policy::ConfigError>(())
/// ```
#[must_use]
pub struct PolicySessionManagerBuilder<I> {
    inner: I,
    settings: Settings,
    given: Given,
    admission: Option<Box<dyn AdmissionPolicy>>,
    requests: Option<Box<dyn AdmissionPolicy>>,
    eviction: Option<Box<dyn EvictionPolicy>>,
    observer: Option<Arc<dyn SessionObserver>>,
    data_types: DataTypes,
    #[cfg(feature = "metrics")]
    metrics: Option<Metrics>,
}

impl PolicySessionManagerBuilder<LocalSessionManager> {
    /// Sets the event store from which clients get what they have missed when they resume a stream. It is wrapped in
    /// [`BestEffort`], so that no client loses an answer because the store is in trouble. Defaults to none: then rmcp keeps
    /// the last 16 messages of each stream while its session lives.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use rmcp::transport::streamable_http_server::session::EventStore;
    /// use rmcp_session_policy::PolicySessionManager;
    ///
    /// # fn serve(store: Arc<dyn EventStore>) -> Result<(), Box<dyn std::error::Error>> {
    /// let sessions = PolicySessionManager::local().events(store).build()?;
    /// # Ok(()) }
    /// ```
    pub fn events(mut self, store: Arc<dyn EventStore>) -> Self {
        self.inner = self.inner.with_event_store(Arc::new(BestEffort::new(store)));
        self
    }
}

impl<I: SessionManager> PolicySessionManagerBuilder<I> {
    pub(super) fn new(inner: I) -> Self {
        Self {
            inner,
            settings: Settings {
                listener_probes: None,
                logs_ends: true,
                busy_may_go: false,
                directory: None,
                data_types: Arc::default(),
                final_end: None,
                explanations: 10_000,
                #[cfg(feature = "metrics")]
                metrics: None,
            },
            given: Given::default(),
            admission: None,
            requests: None,
            eviction: Some(Box::new(Prospects::new())),
            observer: None,
            data_types: DataTypes::default(),
            #[cfg(feature = "metrics")]
            metrics: None,
        }
    }

    /// Sets the capacity: the most sessions that may exist in the inner manager at one time. Defaults to 1,000.
    pub const fn max_sessions(mut self, sessions: usize) -> Self {
        self.given.max_sessions = sessions;
        self
    }

    /// Sets the policy that decides whether a new session may be opened and a parked one restored. Defaults to
    /// [`Open`](crate::admission::Open), which admits all.
    pub fn admission(mut self, policy: impl AdmissionPolicy) -> Self {
        self.admission = Some(Box::new(policy));
        self
    }

    /// Sets the policy that decides about each request within a session except `ping`. A rejected `tools/call` is
    /// answered as [`reject_calls_with`](Self::reject_calls_with) says, any other rejected request with a JSON-RPC
    /// error; the session stays open. A permit is held until the request's handler is done, even if the client has
    /// cancelled the request, and for [`max_busy`](Self::max_busy) at most. Defaults to no policy: all requests are
    /// admitted.
    ///
    /// ```
    /// # use rmcp_session_policy::PolicySessionManager;
    /// use rmcp_session_policy::admission::{AdmissionPolicyExt, Concurrent, TokenBucket};
    ///
    /// // Ten a second, and four at once, in each session.
    /// let limit = TokenBucket::per_second(10).per_session().and(Concurrent::new(4).per_session());
    /// let sessions = PolicySessionManager::local().requests(limit).build()?;
    /// # let _ = sessions.stats();
    /// # Ok::<(), rmcp_session_policy::ConfigError>(())
    /// ```
    pub fn requests(mut self, policy: impl AdmissionPolicy) -> Self {
        self.requests = Some(Box::new(policy));
        self
    }

    /// Sets the form of the answer to a `tools/call` that is rejected within a session, or cut off by the end of its
    /// session. Defaults to [`CallRejection::Result`], which a model can read.
    ///
    /// ```
    /// use rmcp_session_policy::{CallRejection, PolicySessionManager};
    ///
    /// let sessions = PolicySessionManager::local().reject_calls_with(CallRejection::Error).build()?;
    /// # let _ = sessions.stats();
    /// # Ok::<(), rmcp_session_policy::ConfigError>(())
    /// ```
    pub const fn reject_calls_with(mut self, rejection: CallRejection) -> Self {
        self.given.call_rejection = rejection;
        self
    }

    /// Sets the policy that chooses the session to evict when the server is full. Defaults to [`Prospects`].
    pub fn eviction(mut self, policy: impl EvictionPolicy) -> Self {
        self.eviction = Some(Box::new(policy));
        self
    }

    /// Switches eviction off, for half-open sessions too: a full server rejects newcomers. Defaults to eviction, see
    /// [`eviction`](Self::eviction).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use rmcp::transport::streamable_http_server::session::SessionManager;
    /// use rmcp_session_policy::{PolicyError, PolicySessionManager};
    ///
    /// let sessions = PolicySessionManager::local().max_sessions(1).refuse_when_full().build()?;
    /// let (_id, _transport) = sessions.create_session().await?;
    /// assert!(matches!(sessions.create_session().await, Err(PolicyError::ServerFull(_))));
    /// # Ok(()) }
    /// ```
    pub fn refuse_when_full(mut self) -> Self {
        self.eviction = None;
        self
    }

    /// Switches the guard against surges on or off. It is no policy: in a surge it decides among which sessions the
    /// [`eviction`](Self::eviction) policy chooses, so that a flood of newcomers, or a crowd, costs no session at work its
    /// place. Nothing is rejected. Defaults to on.
    ///
    /// There is a surge while places are asked for (by sessions that are opened or restored, without those that were
    /// rejected) more than four times as fast as in the last hour and 0.2 a second, until it is less than one and a half
    /// times as fast and 0.1 a second. None begins in the first half hour. Victims then are, in this order:
    ///
    /// 1. sessions that have been idle for longer than victims used to be before the surge;
    /// 2. the oldest half-open session, if its handshake has taken more than five seconds;
    /// 3. sessions that were opened in the surge, those without a [principal](crate::ClientContext::principal) first, and
    ///    then those that were restored in it;
    /// 4. all others.
    ///
    /// Newcomers that come to work in a surge pay for it, since nothing tells them from the others: they lose their place
    /// to each other, and are restored from the [parking](PolicySessionManager::parking). Cost: O(1) for each place that is
    /// asked for, and a sample of 32 sessions for each victim in a surge. See [`Stats::surge_since`](crate::Stats::surge_since).
    ///
    /// ```
    /// use rmcp_session_policy::PolicySessionManager;
    ///
    /// let sessions = PolicySessionManager::local().surge_guard(false).build()?;
    /// assert_eq!(sessions.stats().surge_since, None);
    /// # Ok::<(), rmcp_session_policy::ConfigError>(())
    /// ```
    pub const fn surge_guard(mut self, on: bool) -> Self {
        self.given.surge_guard = on;
        self
    }

    /// Sets the share of the places that one client may hold at the cost of others, such as 0.05. A client is its
    /// principal, or its address (IPv6 by /64) if it has none.
    ///
    /// When no place is free and an arrival is of a client that holds its share or more, one of that client's own sessions
    /// makes room: one that was opened in the present surge, if there is one, and else the choice of the
    /// [`eviction`](Self::eviction) policy, among 32 of the client's sessions at most. The arrival is not rejected, and
    /// while places are free a client may hold any number. If none of its own sessions may go, the usual choice decides. A
    /// client of which neither principal nor address is known has no share. The share is rounded down to full places, and
    /// is at least one.
    ///
    /// The users of an office or a hosted connector share one address: give them principals,
    /// or a share that they fit in. Cost: O(1) for each session that begins or ends, and memory for each client that has one.
    ///
    /// This, [`per_prefix_share`](Self::per_prefix_share) and [`per_key_share`](Self::per_key_share) replace each other.
    /// Defaults to no share.
    ///
    /// ```
    /// use rmcp_session_policy::PolicySessionManager;
    ///
    /// let sessions = PolicySessionManager::local().max_sessions(1_000).per_client_share(0.05).build()?;
    /// # let _ = sessions.stats();
    /// let error = PolicySessionManager::local().per_client_share(5.0).build().unwrap_err();
    /// assert_eq!(error.to_string(), "per_client_share is 5.0: allow more than 0 and at most 1");
    /// # Ok::<(), rmcp_session_policy::ConfigError>(())
    /// ```
    pub fn per_client_share(mut self, share: f64) -> Self {
        self.given.share = Some(ClientShare { setting: "per_client_share", share, of: ClientOf::per_client() });
        self
    }

    /// Sets the share of the places that one network may hold at the cost of others, as
    /// [`per_client_share`](Self::per_client_share) does. A client is its principal, or the /24 of its IPv4 address or the
    /// /48 of its IPv6 address if it has none. Defaults to no share.
    ///
    /// ```
    /// use rmcp_session_policy::PolicySessionManager;
    ///
    /// let sessions = PolicySessionManager::local().per_prefix_share(0.1).build()?;
    /// # let _ = sessions.stats();
    /// # Ok::<(), rmcp_session_policy::ConfigError>(())
    /// ```
    pub fn per_prefix_share(mut self, share: f64) -> Self {
        self.given.share = Some(ClientShare { setting: "per_prefix_share", share, of: ClientOf::per_prefix() });
        self
    }

    /// Sets the share of the places that the clients with one key may hold at the cost of others, as
    /// [`per_client_share`](Self::per_client_share) does. A client for which `key` returns `None` has no share. `key` is
    /// called once for each session that is opened or restored. Defaults to no share.
    ///
    /// ```
    /// use rmcp_session_policy::PolicySessionManager;
    ///
    /// // The layer keeps the header: `sessions.layer().keep_headers(..)`.
    /// let sessions = PolicySessionManager::local()
    ///     .per_key_share(0.2, |client| client.header("x-tenant").map(str::to_owned))
    ///     .build()?;
    /// # let _ = sessions.stats();
    /// # Ok::<(), rmcp_session_policy::ConfigError>(())
    /// ```
    pub fn per_key_share<K: Hash>(
        mut self,
        share: f64,
        key: impl Fn(&ClientContext) -> Option<K> + Send + Sync + 'static,
    ) -> Self {
        self.given.share = Some(ClientShare { setting: "per_key_share", share, of: ClientOf::per_key(key) });
        self
    }

    /// Sets how many sessions one client may have, also while places are free. A client is its principal, or its address
    /// (IPv6 by /64) if it has none; a client of which neither is known has no limit.
    ///
    /// When a client at its limit opens a session, or restores a parked one, its least recently used session makes room
    /// (beyond 128 sessions: of 128 that are drawn). Busy and [protected](Self::protect) sessions and those used less than
    /// [`min_idle`](Self::min_idle) ago do not; half-open ones do, once 100 ms have passed since the last step of their
    /// handshake. If none may go within 20 ms, or the one that goes is not gone within 300 ms, the arrival is rejected
    /// with the class [`Quota`](crate::admission::RejectionClass::Quota), and so with 429. The number is exact: sessions
    /// that are closing and newcomers on their way count.
    ///
    /// It closes sessions with [`refuse_when_full`](Self::refuse_when_full) too. Cost: O(1) for each session that begins or
    /// ends; at the limit a look at each of the client's sessions, 128 at most. Defaults to no limit.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use rmcp::transport::streamable_http_server::session::SessionManager;
    /// use rmcp_session_policy::{ClientContext, PolicySessionManager};
    ///
    /// let sessions = PolicySessionManager::local().per_client_max(2).build()?;
    /// let mut transports = Vec::new();
    /// for client in ["alice", "alice", "alice", "bob"] {
    ///     let client = ClientContext::new().with_principal(client);
    ///     let (_id, transport) = client.scope(sessions.create_session()).await?;
    ///     transports.push(transport);
    /// }
    /// assert_eq!(sessions.stats().live, 3, "two of alice, one of bob");
    /// # Ok(()) }
    /// ```
    pub const fn per_client_max(mut self, sessions: usize) -> Self {
        self.given.client_max = Some(sessions);
        self
    }

    /// Sets how long a session may receive nothing from its client, with no request in flight and no open stream,
    /// before it is closed and parked. `None` means no limit. Defaults to 30 minutes.
    ///
    /// [`Worth::keep(0.95)`](crate::Worth) learns the time for each kind of session instead, and needs a fraction of the
    /// places.
    pub fn idle_timeout(mut self, timeout: impl Into<IdleTimeout>) -> Self {
        self.given.idle_timeout = timeout.into();
        self
    }

    /// Sets how long after it was first opened a session is closed, even if it is busy. `None` means no limit. Defaults
    /// to `None`.
    pub fn max_lifetime(mut self, lifetime: impl Into<Option<Duration>>) -> Self {
        self.given.max_lifetime = lifetime.into();
        self
    }

    /// Sets how long a client may take to finish its handshake before its session is closed. The time counts from the
    /// answer to `initialize`; the handler has up to [`max_busy`](Self::max_busy) for that answer. If the answer was
    /// sent, the closed session is parked. Defaults to 30 seconds.
    pub const fn init_timeout(mut self, timeout: Duration) -> Self {
        self.given.init_timeout = timeout;
        self
    }

    /// Sets how many places half-open sessions may hold before a newcomer takes the place of the oldest one. Defaults
    /// to a tenth of the capacity, but to no less than the smaller of 5 and a quarter of the capacity, and to at least
    /// 1.
    pub const fn max_opening(mut self, sessions: usize) -> Self {
        self.given.max_opening = Some(sessions);
        self
    }

    /// Sets for how long after its last use a session is never evicted. Defaults to zero.
    pub const fn min_idle(mut self, idle: Duration) -> Self {
        self.given.min_idle = idle;
        self
    }

    /// Sets for how long a request in flight protects its session and keeps the lease of its admission. It also bounds
    /// the answer to `initialize`: after that time the session is closed and its client is told to try again. A request
    /// is in flight until its handler is done, or for as long as the handler keeps a copy of the request's context.
    /// Defaults to 10 minutes.
    pub const fn max_busy(mut self, busy: Duration) -> Self {
        self.given.max_busy = busy;
        self
    }

    /// Sets how long the close of a session may take before the session counts as stuck. A stuck session keeps its
    /// place until its close is done. Defaults to 5 seconds.
    pub const fn close_deadline(mut self, deadline: Duration) -> Self {
        self.given.close_deadline = deadline;
        self
    }

    /// Protects the sessions for which `predicate` holds from eviction. The manager calls it when a session is about to
    /// be evicted. It calls it again for a protected session when something happens to that session, and otherwise
    /// about once a second (for ten thousand sessions a second at most). The manager holds its lock during the call, so
    /// the predicate must not call [`stats`](PolicySessionManager::stats), [`list`](PolicySessionManager::list) or any
    /// other method of this manager. Defaults to no protection.
    pub fn protect(mut self, predicate: impl Fn(&SessionInfo<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.given.protect = Some(Protect(Arc::new(predicate)));
        self
    }

    /// Sets how many sessions may be parked; 0 parks none. Beyond the limit, the manager first forgets sessions that
    /// never called (see [`SessionInfo::has_called`]), oldest first, and then the oldest of the others. Defaults
    /// to 10,000.
    pub const fn max_parked(mut self, sessions: usize) -> Self {
        self.given.limits.entries = sessions;
        self
    }

    /// Sets how many bytes the parked sessions may hold together, counted as
    /// [`max_parked_entry_bytes`](Self::max_parked_entry_bytes) says. Defaults to 64 MiB.
    pub const fn max_parked_bytes(mut self, bytes: usize) -> Self {
        self.given.limits.bytes = bytes;
        self
    }

    /// Sets how many bytes one parked session may hold; a larger session is not parked. The count includes the
    /// parameters of `initialize`, the context that the session was opened with (principal, kept headers), the
    /// session's id, and about 200 bytes for the entry. Defaults to 64 KiB.
    pub const fn max_parked_entry_bytes(mut self, bytes: usize) -> Self {
        self.given.limits.entry_bytes = bytes;
        self
    }

    /// Sets for how long a session stays parked without a message from its client. Defaults to 24 hours.
    pub const fn max_parked_age(mut self, age: Duration) -> Self {
        self.given.limits.age = age;
        self
    }

    /// Sets how many listening streams (GETs) stay open while their sessions are parked, at most one per session; 0
    /// keeps none. A stream that stays open goes on with the next incarnation of its session, so its client misses
    /// nothing. Requires [`layer`](PolicySessionManager::layer). Defaults to [`max_sessions`](Self::max_sessions).
    pub const fn max_parked_streams(mut self, streams: usize) -> Self {
        self.given.max_parked_streams = Some(streams);
        self
    }

    /// Sets how often listening streams (GETs) are probed, and how long a client has to answer. Behind some proxies a stream
    /// stays open when its client has gone; its session would count as connected for ever.
    ///
    /// A probe is an MCP `ping` on the stream, sent when `every` has passed since the stream was opened and since each answer. Each stream
    /// is probed, also if a client has several, and while its session is parked. Without an answer `within` that time, the
    /// stream is closed and counts as [lost](crate::Stream::Lost), and its session goes on. A client that is merely cut off
    /// opens another stream. Any answer will do, an error too. An answer is no use of its session: it neither moves a moment
    /// of the session nor restores a parked one.
    ///
    /// `answer_within` is at most `every`. Some seconds are enough for a client that reads its stream; one that stops reading
    /// for longer loses it. Cost: O(1) for each stream that is opened, probed or answered, and about a hundred bytes for each
    /// stream; 6,400 streams are probed in a second at most, and the manager's task wakes once a second while probes are
    /// open. Requires [`layer`](PolicySessionManager::layer). Streams without a session (protocol 2026-07-28) are not probed.
    /// See [`Stats::dead_streams`](crate::Stats::dead_streams). Defaults to no probes.
    ///
    /// ```
    /// use rmcp_session_policy::{MINUTE, PolicySessionManager, SECOND};
    ///
    /// let sessions = PolicySessionManager::local().probe_listeners(MINUTE, 20 * SECOND).build()?;
    /// assert_eq!(sessions.stats().dead_streams, 0);
    ///
    /// let error = PolicySessionManager::local().probe_listeners(SECOND, MINUTE).build().unwrap_err();
    /// assert_eq!(error.to_string(), "answer_within of probe_listeners is 60s: allow at most every, which is 1s");
    /// # Ok::<(), rmcp_session_policy::ConfigError>(())
    /// ```
    pub const fn probe_listeners(mut self, every: Duration, answer_within: Duration) -> Self {
        self.settings.listener_probes = Some(ProbeTimes { every, answer_within });
        self
    }

    /// Sets the directory that keeps sessions beyond the process, so that the next server answers them under their old ids.
    ///
    /// Each session is in it from the answer to its `initialize` until it ends for good; parked ones stay in it when the
    /// parking forgets them. A request with an id that is neither live nor parked here costs a look-up, and the session
    /// comes back if the directory has it and it belongs to the client that asks. rmcp still gets the
    /// [`parking`](PolicySessionManager::parking) as its store; without it nothing is written. Requests need a scope: put
    /// the [`layer`](PolicySessionManager::layer) around rmcp's service, or use [`ClientContext::scope`].
    ///
    /// Sessions that are live or parked here wait for the directory only when a parked one is restored: 50 ms at most.
    /// Defaults to none: sessions end with the process.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # #[cfg(feature = "testing")] {
    /// use rmcp_session_policy::PolicySessionManager;
    /// use rmcp_session_policy::testing::directory::MemoryDirectory;
    ///
    /// let directory = MemoryDirectory::new();
    /// let first = PolicySessionManager::local().directory(directory.clone()).build()?;
    /// // After a restart, in a server that outlives neither: another one over the same sessions.
    /// let second = PolicySessionManager::local().directory(directory.another_server()).build()?;
    /// # let _ = (first.stats(), second.stats());
    /// # }
    /// # Ok(()) }
    /// ```
    pub fn directory(mut self, directory: impl SessionDirectory) -> Self {
        self.settings.directory = Some(Arc::new(directory));
        self
    }

    /// Registers a type of [session data](crate::CurrentSession::data) under a name and a version. With a
    /// [`directory`](Self::directory), its values are stored as JSON, and come back after a restart and at another server.
    /// A value that was stored under another version is none for this server: change the version when older releases
    /// cannot read what this one stores. Each type and each name is registered once; values of types that are not
    /// registered stay in memory.
    ///
    /// ```
    /// use rmcp_session_policy::PolicySessionManager;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Cart {
    ///     items: Vec<String>,
    /// }
    ///
    /// let sessions = PolicySessionManager::local().session_data::<Cart>("cart", 1).build()?;
    /// # let _ = sessions.stats();
    /// let error = PolicySessionManager::local().session_data::<Cart>("", 1).build().unwrap_err();
    /// assert_eq!(error.to_string(), "session_data is \"\": allow a name of 1 to 64 bytes");
    /// # Ok::<(), rmcp_session_policy::ConfigError>(())
    /// ```
    pub fn session_data<T>(mut self, name: &str, version: u32) -> Self
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        self.data_types.register::<T>(name, version);
        self
    }

    /// Sets how many bytes the [session data](crate::CurrentSession::data) of one session may be. A value of a registered
    /// type counts as its JSON and its name, another one as the size of its type. All sessions together then have no more
    /// than [`max_sessions`](Self::max_sessions) times as many, and what is parked is within
    /// [`max_parked_bytes`](Self::max_parked_bytes). Defaults to 64 KiB, or to a quarter of `max_parked_bytes` if that is
    /// less. At most 512 KiB, and half of `max_parked_bytes`.
    ///
    /// ```
    /// use rmcp_session_policy::PolicySessionManager;
    ///
    /// let error = PolicySessionManager::local().max_session_data_bytes(1 << 20).build().unwrap_err();
    /// assert_eq!(error.setting, "max_session_data_bytes");
    /// ```
    pub const fn max_session_data_bytes(mut self, bytes: usize) -> Self {
        self.given.max_data_bytes = Some(bytes);
        self
    }

    /// Sets what is done when a session with [session data](crate::CurrentSession::data) has ended and does not come back,
    /// live or parked: close a browser, kill a child process, roll a transaction back. It is called once for each such
    /// session, on a task of its own, and dropped after [`final_end_deadline`](Self::final_end_deadline).
    /// [`drain`](PolicySessionManager::drain) waits for it within its deadline. A panic in it is logged.
    ///
    /// With a [`directory`](Self::directory), a session that was parked or handed over goes on, so it is not called then;
    /// what is only in memory is dropped. It is called by one of the servers when that session is over its age or lifetime in
    /// the directory, within about half a minute after that. A call that did not return before its process was killed is
    /// repeated by the next one, with what was stored ([`Unfinished`](crate::FinalEndReason::Unfinished)). Each server should
    /// have such a hook, or none. It is not called for what a full directory forgets.
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::Arc;
    ///
    /// use rmcp_session_policy::{FinalEnd, PolicySessionManager};
    ///
    /// struct Browser;
    /// impl Browser {
    ///     async fn quit(&self) {}
    /// }
    ///
    /// let sessions = PolicySessionManager::local()
    ///     .on_final_end(async |end: FinalEnd| {
    ///         if let Ok(Some(browser)) = end.data::<Browser>() {
    ///             browser.quit().await;
    ///         }
    ///     })
    ///     .build()?;
    /// # let _ = sessions.stats();
    /// # Ok(()) }
    /// ```
    pub fn on_final_end<F>(mut self, hook: impl Fn(FinalEnd) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.settings.final_end = Some(Hook::new(hook));
        self
    }

    /// Sets how long a call of [`on_final_end`](Self::on_final_end) may take. Defaults to 10 seconds.
    pub const fn final_end_deadline(mut self, deadline: Duration) -> Self {
        self.given.final_end_deadline = deadline;
        self
    }

    /// Sets after how long clients should open their listening streams again when the server has been
    /// [drained](PolicySessionManager::drain): how long the next process needs to start. A drain ends each listening stream
    /// with this time as its SSE `retry`, in whole milliseconds. Clients try a few times and then give the stream up, but not
    /// the session, so it should not be too short. Defaults to 3 seconds, as rmcp's `sse_retry`.
    pub const fn expected_downtime(mut self, downtime: Duration) -> Self {
        self.given.expected_downtime = downtime;
        self
    }

    /// Sets how many ends of sessions and rejections are kept, so that [`recent`](PolicySessionManager::recent) and
    /// [`explain`](PolicySessionManager::explain) can say why; 0 keeps none, and costs nothing. Rejections leave half of
    /// them to ends, and ends half to rejections. An entry is about 200 bytes. Defaults to 10,000; at most 1,000,000.
    ///
    /// ```
    /// use rmcp_session_policy::PolicySessionManager;
    ///
    /// let sessions = PolicySessionManager::local().explanations(100).build()?;
    /// assert!(sessions.recent(10).is_empty());
    /// let error = PolicySessionManager::local().explanations(2_000_000).build().unwrap_err();
    /// assert_eq!(error.to_string(), "explanations is 2000000: keep at most 1,000,000; 0 keeps none");
    /// # Ok::<(), rmcp_session_policy::ConfigError>(())
    /// ```
    pub const fn explanations(mut self, entries: usize) -> Self {
        self.settings.explanations = entries;
        self
    }

    /// Sets the observer that receives the events of sessions and rejections, in line: what causes an event waits for it. Put
    /// one that takes time into a [`Queued`](crate::Queued). For several, give a tuple. Defaults to no observer.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicUsize, Ordering};
    ///
    /// use rmcp::transport::streamable_http_server::session::SessionManager;
    /// use rmcp_session_policy::{PolicySessionManager, SessionEvent, SessionObserver};
    ///
    /// #[derive(Clone, Debug, Default)]
    /// struct Opened(Arc<AtomicUsize>);
    ///
    /// impl SessionObserver for Opened {
    ///     fn observe(&self, event: &SessionEvent<'_>) {
    ///         if let SessionEvent::Opened { .. } = event {
    ///             self.0.fetch_add(1, Ordering::Relaxed);
    ///         }
    ///     }
    /// }
    ///
    /// let opened = Opened::default();
    /// let sessions = PolicySessionManager::local().observer(opened.clone()).build()?;
    /// let (_id, _transport) = sessions.create_session().await?;
    /// assert_eq!(opened.0.load(Ordering::Relaxed), 1);
    /// # Ok(()) }
    /// ```
    pub fn observer(mut self, observer: impl SessionObserver) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Has the manager record [metrics](Metrics). Install the recorder before [`build`](Self::build), and call
    /// [`publish_metrics`](PolicySessionManager::publish_metrics) before each render. Defaults to no metrics.
    #[cfg(feature = "metrics")]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Offers busy sessions to the eviction policy too. Defaults to idle sessions only.
    pub(crate) const fn busy_may_go(mut self) -> Self {
        self.settings.busy_may_go = true;
        self
    }

    /// Leaves the log of closes to the observer. Defaults to a log entry for each close.
    pub(crate) const fn without_log(mut self) -> Self {
        self.settings.logs_ends = false;
        self
    }

    /// Changes settings as [`reconfigure`](PolicySessionManager::reconfigure) does later, so that one function serves both.
    ///
    /// ```
    /// use rmcp_session_policy::{LiveSettings, MINUTE, PolicySessionManager};
    ///
    /// /// What the configuration says.
    /// fn configured(settings: LiveSettings) -> LiveSettings {
    ///     settings.max_sessions(500).idle_timeout(10 * MINUTE)
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let sessions = PolicySessionManager::local().settings(configured).build()?;
    /// assert_eq!(sessions.stats().max_sessions, 500);
    /// // Later, when the configuration has changed.
    /// sessions.reconfigure(configured).await?;
    /// # Ok(()) }
    /// ```
    pub fn settings(mut self, change: impl FnOnce(LiveSettings) -> LiveSettings) -> Self {
        let LiveSettings { given, eviction, admission, requests } = change(LiveSettings::new(self.given));
        self.given = given;
        self.admission = admission.or(self.admission);
        self.requests = requests.or(self.requests);
        if let Some(eviction) = eviction {
            self.eviction = eviction;
        }
        self
    }

    /// Checks the settings and builds the manager.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first invalid setting, its value, and a remedy.
    pub fn build(mut self) -> Result<PolicySessionManager<I>, ConfigError> {
        setting_checks::explanations(self.settings.explanations)?;
        setting_checks::listener_probes(self.settings.listener_probes)?;
        self.given.evicts = self.eviction.is_some();
        let in_force = InForce::check(self.given, None)?;
        if let Some(policy) = &mut self.eviction {
            setting_checks::keep_resumptions(in_force.given.idle_timeout, &mut **policy)?;
        }
        self.data_types.check()?;
        *self.data_types.max_bytes.get_mut() = in_force.max_data_bytes;
        self.settings.data_types = Arc::new(self.data_types);
        for policy in [&self.admission, &self.requests].into_iter().flatten() {
            policy.validate()?;
        }
        #[cfg(feature = "metrics")]
        {
            self.settings.metrics = self.metrics.map(Instruments::new).transpose()?.map(Arc::new);
        }
        let shared = ManagerInner::new(
            self.inner,
            self.settings,
            in_force,
            Policies { admission: self.admission.map(Arc::from), requests: self.requests.map(Arc::from) },
            self.eviction,
            self.observer,
        );
        let no_bytes = |error| ConfigError::new("the key of event ids", error, "run where there are random bytes");
        Ok(PolicySessionManager { shared: Arc::new(shared.map_err(no_bytes)?) })
    }
}

impl<I> fmt::Debug for PolicySessionManagerBuilder<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicySessionManagerBuilder")
            .field("settings", &self.given)
            .field("admission", &self.admission)
            .field("eviction", &self.eviction)
            .finish_non_exhaustive()
    }
}
