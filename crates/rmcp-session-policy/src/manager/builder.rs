//! The settings, and what makes sense of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rmcp::transport::streamable_http_server::session::SessionManager;

use super::PolicySessionManager;
use super::manager_inner::ManagerInner;
use super::parking_state::Limits;
use crate::admission::AdmissionPolicy;
use crate::call_rejection::CallRejection;
use crate::config_error::ConfigError;
use crate::eviction::{EvictionPolicy, EvictionPolicyExt, Lru, SessionInfo};
use crate::observe::SessionObserver;
use crate::registry::{Predicate, Rules};
use crate::time::{HOUR, MINUTE, SECOND};

/// Times that have to be kept.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) max_sessions: usize,
    pub(crate) max_opening: usize,
    pub(crate) max_parked_streams: usize,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) init_timeout: Duration,
    pub(crate) max_busy: Duration,
    pub(crate) close_deadline: Duration,
    /// Whether each end is logged; its observer may do so in its own words.
    pub(crate) logs_ends: bool,
    /// How a refused or cut-off `tools/call` within a session is answered.
    pub(crate) call_rejection: CallRejection,
}

/// Settings of a [`PolicySessionManager`] to be.
#[must_use]
pub struct PolicySessionManagerBuilder<I> {
    inner: I,
    settings: Settings,
    max_opening: Option<usize>,
    max_parked_streams: Option<usize>,
    min_idle: Duration,
    busy_may_go: bool,
    protect: Option<Predicate>,
    limits: Limits,
    admission: Option<Box<dyn AdmissionPolicy>>,
    requests: Option<Box<dyn AdmissionPolicy>>,
    eviction: Option<Box<dyn EvictionPolicy>>,
    observer: Option<Arc<dyn SessionObserver>>,
}

impl<I: SessionManager> PolicySessionManagerBuilder<I> {
    pub(super) fn new(inner: I) -> Self {
        let without_stream: fn(&SessionInfo<'_>) -> bool = |session| session.open_streams() == 0;
        Self {
            inner,
            settings: Settings {
                max_sessions: 1_000,
                max_opening: 0,
                max_parked_streams: 0,
                idle_timeout: Some(30 * MINUTE),
                max_lifetime: None,
                init_timeout: 30 * SECOND,
                max_busy: 10 * MINUTE,
                close_deadline: 5 * SECOND,
                logs_ends: true,
                call_rejection: CallRejection::Result,
            },
            max_opening: None,
            max_parked_streams: None,
            min_idle: Duration::ZERO,
            busy_may_go: false,
            protect: None,
            limits: Limits { entries: 10_000, bytes: 64 << 20, entry_bytes: 64 << 10, age: 24 * HOUR },
            admission: None,
            requests: None,
            eviction: Some(Box::new(Lru::new().tiers([without_stream]))),
            observer: None,
        }
    }

    /// Sets the capacity: the most sessions that may exist in the inner manager at one time. Defaults to 1,000.
    pub const fn max_sessions(mut self, sessions: usize) -> Self {
        self.settings.max_sessions = sessions;
        self
    }

    /// Sets who may come in. Defaults to everybody.
    pub fn admission(mut self, policy: impl AdmissionPolicy) -> Self {
        self.admission = Some(Box::new(policy));
        self
    }

    /// Sets which requests within a session are let in, `ping` apart. A refused `tools/call` is answered as
    /// [`reject_calls_with`](Self::reject_calls_with) says, any other request with a JSON-RPC error; the session lives
    /// on. What a permit holds is held until the request's handler is done, also where the client has cancelled the
    /// request, and for [`max_busy`](Self::max_busy) at most. Defaults to all.
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

    /// Sets how a `tools/call` within a session is answered that is refused, or that the end of its session cuts off.
    /// Defaults to [`CallRejection::Result`], which a model can read.
    pub const fn reject_calls_with(mut self, rejection: CallRejection) -> Self {
        self.settings.call_rejection = rejection;
        self
    }

    /// Sets who goes when there is no room. Defaults to the least recently used among those without an open stream,
    /// then the least recently used of all.
    pub fn eviction(mut self, policy: impl EvictionPolicy) -> Self {
        self.eviction = Some(Box::new(policy));
        self
    }

    /// Lets nobody be thrown out, half-open sessions included: a newcomer is refused when there is no room.
    pub fn refuse_when_full(mut self) -> Self {
        self.eviction = None;
        self
    }

    /// Closes a session that was not heard of for so long, and has neither a request in flight nor an open stream;
    /// `None` never does. Defaults to 30 minutes.
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.idle_timeout = timeout.into();
        self
    }

    /// Closes a session so long after it was first opened, whatever it is doing; `None` never does. Defaults to `None`.
    pub fn max_lifetime(mut self, lifetime: impl Into<Option<Duration>>) -> Self {
        self.settings.max_lifetime = lifetime.into();
        self
    }

    /// Closes a session whose client does not finish its handshake in that time. It counts from the answer to `initialize`:
    /// a handler that takes long to answer has up to [`max_busy`](Self::max_busy). If the answer was sent, the session is
    /// parked. Defaults to 30 seconds.
    pub const fn init_timeout(mut self, timeout: Duration) -> Self {
        self.settings.init_timeout = timeout;
        self
    }

    /// Sets how many places half-open sessions may hold before a newcomer takes the oldest one's place. Defaults to a
    /// tenth of the capacity, but not under the lesser of 5 and a quarter of it, and at least 1.
    pub const fn max_opening(mut self, sessions: usize) -> Self {
        self.max_opening = Some(sessions);
        self
    }

    /// Sets for how long after its last use a session is never a victim. Defaults to zero.
    pub const fn min_idle(mut self, idle: Duration) -> Self {
        self.min_idle = idle;
        self
    }

    /// Sets for how long a request in flight protects its session and keeps the lease of its admission, and how long the
    /// answer to `initialize` may take before the session is closed and its client is told to come back. A request is in
    /// flight until its handler is done, or for as long as the handler keeps a copy of the request's context. Defaults
    /// to 10 minutes.
    pub const fn max_busy(mut self, busy: Duration) -> Self {
        self.settings.max_busy = busy;
        self
    }

    /// Sets how long the close of a session may take before the session counts as stuck. It keeps its place until it is
    /// gone. Defaults to 5 seconds.
    pub const fn close_deadline(mut self, deadline: Duration) -> Self {
        self.settings.close_deadline = deadline;
        self
    }

    /// Makes sessions for which `predicate` holds never a victim. It is asked when a session is about to be one; whom it
    /// protects is looked at again when something happens to the session, and else about once a second (ten thousand
    /// sessions a second at most). It is called while the manager holds its lock, so it must not call
    /// [`stats`](PolicySessionManager::stats), [`list`](PolicySessionManager::list) or anything else of this manager.
    /// Defaults to nobody.
    pub fn protect(mut self, predicate: impl Fn(&SessionInfo<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.protect = Some(Arc::new(predicate));
        self
    }

    /// Sets how many sessions may be parked; 0 parks none. When there are more, those go first whose clients never called
    /// (see [`SessionInfo::has_called`]), the oldest first, and then the oldest of the others. Defaults to 10,000.
    pub const fn max_parked(mut self, sessions: usize) -> Self {
        self.limits.entries = sessions;
        self
    }

    /// Sets how many bytes the parked sessions may hold together, counted as
    /// [`max_parked_entry_bytes`](Self::max_parked_entry_bytes) says. Defaults to 64 MiB.
    pub const fn max_parked_bytes(mut self, bytes: usize) -> Self {
        self.limits.bytes = bytes;
        self
    }

    /// Sets how many bytes one parked session may hold; one that would hold more is not parked. Counted are what the client
    /// said in `initialize`, the context it was opened with (principal, kept headers), the session's id, and about 200 bytes
    /// for the entry. Defaults to 64 KiB.
    pub const fn max_parked_entry_bytes(mut self, bytes: usize) -> Self {
        self.limits.entry_bytes = bytes;
        self
    }

    /// Sets for how long a session stays parked that is not heard of. Defaults to 24 hours.
    pub const fn max_parked_age(mut self, age: Duration) -> Self {
        self.limits.age = age;
        self
    }

    /// Sets how many listening streams (GETs) stay open while their sessions are parked, one a session; 0 keeps none. A
    /// stream that stays open goes on with its session's next incarnation, so its client misses nothing. It takes
    /// [`layer`](PolicySessionManager::layer). Defaults to [`max_sessions`](Self::max_sessions).
    pub const fn max_parked_streams(mut self, streams: usize) -> Self {
        self.max_parked_streams = Some(streams);
        self
    }

    /// Sets who hears of what happens. Defaults to nobody.
    pub fn observer(mut self, observer: impl SessionObserver) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Makes busy sessions candidates too: the eviction policy says when they go.
    pub(crate) const fn busy_may_go(mut self) -> Self {
        self.busy_may_go = true;
        self
    }

    /// Leaves it to the observer to log who goes.
    pub(crate) const fn without_log(mut self) -> Self {
        self.settings.logs_ends = false;
        self
    }

    /// Checks the settings and builds the manager.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first setting that makes no sense, its value, and what would do.
    pub fn build(mut self) -> Result<PolicySessionManager<I>, ConfigError> {
        let settings = &mut self.settings;
        let most = settings.max_sessions;
        if most == 0 {
            return Err(ConfigError::new("max_sessions", most, "allow at least 1 session"));
        }
        if most > u32::MAX as usize {
            return Err(ConfigError::new("max_sessions", most, "allow at most 4,294,967,295 sessions"));
        }
        let opening = self.max_opening.unwrap_or_else(|| default_opening(most));
        if opening == 0 {
            return Err(ConfigError::new("max_opening", opening, "allow at least 1 half-open session"));
        }
        if opening > most {
            let remedy = format!("allow at most max_sessions, which is {most}");
            return Err(ConfigError::new("max_opening", opening, remedy));
        }
        settings.max_opening = opening;
        if let Some(streams) = self.max_parked_streams
            && streams > self.limits.entries
        {
            let remedy = format!("allow at most max_parked, which is {}; 0 keeps none", self.limits.entries);
            return Err(ConfigError::new("max_parked_streams", streams, remedy));
        }
        settings.max_parked_streams = self.max_parked_streams.unwrap_or(most);
        let durations = [
            ("idle_timeout", settings.idle_timeout, "allow more than zero, or None for no timeout"),
            ("max_lifetime", settings.max_lifetime, "allow more than zero, or None for no limit"),
            ("init_timeout", Some(settings.init_timeout), "allow more than zero"),
            ("max_busy", Some(settings.max_busy), "allow more than zero"),
            ("close_deadline", Some(settings.close_deadline), "allow more than zero"),
            ("max_parked_age", Some(self.limits.age), "allow more than zero; max_parked(0) parks nobody"),
            ("min_idle", Some(self.min_idle).filter(|idle| !idle.is_zero()), ""),
        ];
        for (setting, duration, remedy) in durations {
            if duration == Some(Duration::ZERO) {
                return Err(ConfigError::new(setting, Duration::ZERO, remedy));
            }
            // The timer wheel reaches two years; a session that old is none.
            if duration.is_some_and(|duration| duration > 365 * 24 * HOUR) {
                return Err(ConfigError::new(setting, duration.unwrap_or_default(), "allow at most 365 days"));
            }
        }
        if self.limits.entries > 0 && (self.limits.bytes == 0 || self.limits.entry_bytes == 0) {
            let setting = if self.limits.bytes == 0 { "max_parked_bytes" } else { "max_parked_entry_bytes" };
            return Err(ConfigError::new(setting, 0, "allow at least 1 KiB; max_parked(0) parks no session"));
        }
        for policy in [&self.admission, &self.requests].into_iter().flatten() {
            policy.validate()?;
        }
        let max_busy = if self.busy_may_go { Duration::ZERO } else { settings.max_busy };
        let rules = Rules { min_idle: self.min_idle, max_busy, protect: self.protect };
        let shared = ManagerInner::new(
            self.inner,
            self.settings,
            rules,
            self.limits,
            [self.admission, self.requests].map(|policy| policy.map(Arc::from)),
            self.eviction,
            self.observer,
        );
        let no_bytes = |error| ConfigError::new("the key of event ids", error, "run where there are random bytes");
        Ok(PolicySessionManager { shared: Arc::new(shared.map_err(no_bytes)?) })
    }
}

/// How many of `most` places half-open sessions may hold.
fn default_opening(most: usize) -> usize {
    (most / 10).max((most / 4).min(5)).max(1)
}

impl<I> fmt::Debug for PolicySessionManagerBuilder<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicySessionManagerBuilder")
            .field("settings", &self.settings)
            .field("admission", &self.admission)
            .field("eviction", &self.eviction)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_open_sessions_hold_a_tenth_of_the_places_but_not_under_the_lesser_of_5_and_a_quarter() {
        let defaults = [1, 3, 4, 8, 19, 20, 49, 60, 100, 1_000].map(default_opening);
        assert_eq!(defaults, [1, 1, 1, 2, 4, 5, 5, 6, 10, 100]);
    }
}
