//! [`LiveSettings`]: the settings that can change while the manager runs.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use super::client_limits::ClientShare;
use super::idle_timeout::IdleTimeout;
use super::settings::{Given, Protect};
use crate::admission::AdmissionPolicy;
use crate::call_rejection::CallRejection;
use crate::context::ClientContext;
use crate::eviction::{EvictionPolicy, SessionInfo};
use crate::registry::ClientOf;

/// The settings that [`reconfigure`](crate::PolicySessionManager::reconfigure) changes.
///
/// It starts with the settings in force. Each setter is named as that of the
/// [builder](crate::PolicySessionManagerBuilder) and documented there; what it says here is what a change does to the
/// sessions there are. What no setter changes stays as it is. A default that follows from another setting follows it here
/// too: without [`max_opening`](Self::max_opening) it is a tenth of whatever the capacity is.
///
/// ```
/// use rmcp_session_policy::{MINUTE, PolicySessionManager};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = PolicySessionManager::local().max_sessions(100).build()?;
/// sessions.reconfigure(|settings| settings.max_sessions(200).idle_timeout(5 * MINUTE)).await?;
/// assert_eq!(sessions.stats().max_sessions, 200);
///
/// // All or nothing.
/// let error = sessions.reconfigure(|settings| settings.max_sessions(300).max_opening(0)).await.unwrap_err();
/// assert_eq!((error.setting.as_ref(), sessions.stats().max_sessions), ("max_opening", 200));
/// # Ok(()) }
/// ```
#[must_use]
pub struct LiveSettings {
    pub(super) given: Given,
    /// The eviction policy that replaces the one in force, or `Some(None)` if none does.
    pub(super) eviction: Option<Option<Box<dyn EvictionPolicy>>>,
    /// The policies that replace those in force.
    pub(super) admission: Option<Box<dyn AdmissionPolicy>>,
    pub(super) requests: Option<Box<dyn AdmissionPolicy>>,
}

impl LiveSettings {
    pub(super) const fn new(given: Given) -> Self {
        Self { given, eviction: None, admission: None, requests: None }
    }

    /// Sets the capacity. Places that are added are given to what waits. If the capacity falls below the number of
    /// sessions, no session is cut off: sessions that may go are evicted, as the eviction policy chooses, 500 a second at
    /// most, and busy ones finish. Until there are no more than the new capacity, each place that is given back is
    /// withdrawn, and newcomers wait for their turn or are refused as by a full server.
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.given.max_sessions = sessions;
        self
    }

    /// Sets how many places half-open sessions may hold; `None` for the default.
    pub fn max_opening(mut self, sessions: impl Into<Option<usize>>) -> Self {
        self.given.max_opening = sessions.into();
        self
    }

    /// Sets how long a session may be idle. Counts for the sessions there are from the moments that they were last used.
    pub fn idle_timeout(mut self, timeout: impl Into<IdleTimeout>) -> Self {
        self.given.idle_timeout = timeout.into();
        self
    }

    /// Sets the longest life of a session; `None` for no limit. Sessions that are older are closed, and parked ones do not
    /// come back.
    pub fn max_lifetime(mut self, lifetime: impl Into<Option<Duration>>) -> Self {
        self.given.max_lifetime = lifetime.into();
        self
    }

    /// Sets how long a handshake may take. Counts for handshakes under way from their beginning.
    pub fn init_timeout(mut self, timeout: Duration) -> Self {
        self.given.init_timeout = timeout;
        self
    }

    /// Sets for how long after its last use a session is never evicted.
    pub fn min_idle(mut self, idle: Duration) -> Self {
        self.given.min_idle = idle;
        self
    }

    /// Sets for how long a request protects its session and keeps its lease. Counts for requests in flight too. What waits
    /// for the handler of a request without a session waits as it was told when the response ended.
    pub fn max_busy(mut self, busy: Duration) -> Self {
        self.given.max_busy = busy;
        self
    }

    /// Sets how long a close may take. Closes under way keep the deadline that they have.
    pub fn close_deadline(mut self, deadline: Duration) -> Self {
        self.given.close_deadline = deadline;
        self
    }

    /// Sets which sessions are protected from eviction, in place of those that were before.
    pub fn protect(mut self, predicate: impl Fn(&SessionInfo<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.given.protect = Some(Protect(Arc::new(predicate)));
        self
    }

    /// Protects no session any more.
    pub fn protect_none(mut self) -> Self {
        self.given.protect = None;
        self
    }

    /// Sets the share of the places that one client may hold at the cost of others; `None` for no share. It replaces the
    /// two shares below. A client that holds more makes room once no place is free.
    pub fn per_client_share(self, share: impl Into<Option<f64>>) -> Self {
        self.share("per_client_share", share.into(), ClientOf::per_client)
    }

    /// Sets the share of the places that one network may hold at the cost of others; `None` for no share.
    pub fn per_prefix_share(self, share: impl Into<Option<f64>>) -> Self {
        self.share("per_prefix_share", share.into(), ClientOf::per_prefix)
    }

    /// Sets the share of the places that the clients with one key may hold at the cost of others. `key` is called once for
    /// each session there is.
    pub fn per_key_share<K: Hash>(
        mut self,
        share: f64,
        key: impl Fn(&ClientContext) -> Option<K> + Send + Sync + 'static,
    ) -> Self {
        self.given.share = Some(ClientShare { setting: "per_key_share", share, of: ClientOf::per_key(key) });
        self
    }

    fn share(mut self, setting: &'static str, share: Option<f64>, of: impl Fn() -> ClientOf) -> Self {
        let same = self.given.share.take().filter(|before| before.setting == setting);
        self.given.share = share.map(|share| ClientShare { setting, share, of: same.map_or_else(of, |same| same.of) });
        self
    }

    /// Sets how many sessions one client may have; `None` for no limit. A client that has more keeps them until it opens or
    /// restores one: then those that it has used least recently make room, as many as it takes.
    pub fn per_client_max(mut self, sessions: impl Into<Option<usize>>) -> Self {
        self.given.client_max = sessions.into();
        self
    }

    /// Sets the policy that decides about new and restored sessions. If it has the same shape as the one in force, which is
    /// its type with the keys and predicates that it asks, the one in force takes over its numbers where it stands: what
    /// clients owe stays, and so do leases and open permits ([`retune`](AdmissionPolicy::retune)). Otherwise it takes its
    /// place: permits and leases of the old one end with that, and the new one starts empty, but
    /// [adopts](AdmissionPolicy::adopt) the live sessions, so that [`Concurrent`](crate::admission::Concurrent) knows them.
    /// A predicate or key that captures something makes another shape. [`Open`](crate::admission::Open) switches the limit off.
    ///
    /// ```
    /// use rmcp_session_policy::PolicySessionManager;
    /// use rmcp_session_policy::admission::{AdmissionPolicyExt, TokenBucket};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let sessions = PolicySessionManager::local().admission(TokenBucket::per_minute(10).per_client()).build()?;
    /// // Clients that owe tokens owe them still, and pay them back twice as fast.
    /// sessions.reconfigure(|settings| settings.admission(TokenBucket::per_minute(20).per_client())).await?;
    ///
    /// let none = sessions.reconfigure(|settings| settings.admission(TokenBucket::per_minute(0).per_client())).await;
    /// assert_eq!(none.unwrap_err().setting, "the rate of TokenBucket");
    /// # Ok(()) }
    /// ```
    pub fn admission(mut self, policy: impl AdmissionPolicy) -> Self {
        self.admission = Some(Box::new(policy));
        self
    }

    /// Sets the policy that decides about requests within a session, as [`admission`](Self::admission) does. Another policy
    /// does not know the requests in flight.
    pub fn requests(mut self, policy: impl AdmissionPolicy) -> Self {
        self.requests = Some(Box::new(policy));
        self
    }

    /// Sets the policy that chooses the session to evict. It meets the sessions there are, oldest first and with the moments
    /// and uses that they have, 1,000 in one hold of the lock; until it has met all, the policy before decides. Of sessions
    /// that are parked it hears when they come back. Give it also to keep the policy and forget what it has learned.
    pub fn eviction(mut self, policy: impl EvictionPolicy) -> Self {
        self.eviction = Some(Some(Box::new(policy)));
        self.given.evicts = true;
        self
    }

    /// Switches eviction off. A capacity that is lowered then evicts none either: it is reached as sessions end.
    pub fn refuse_when_full(mut self) -> Self {
        self.eviction = Some(None);
        self.given.evicts = false;
        self
    }

    /// Switches the guard against surges on or off. It learns anew when it is switched on.
    pub fn surge_guard(mut self, on: bool) -> Self {
        self.given.surge_guard = on;
        self
    }

    /// Sets how many sessions may be parked. If there are more, those go first that never called, and then the oldest.
    pub fn max_parked(mut self, sessions: usize) -> Self {
        self.given.limits.entries = sessions;
        self
    }

    /// Sets how many bytes the parked sessions may hold together. If they hold more, some are forgotten as by
    /// [`max_parked`](Self::max_parked).
    pub fn max_parked_bytes(mut self, bytes: usize) -> Self {
        self.given.limits.bytes = bytes;
        self
    }

    /// Sets how many bytes one parked session may hold. Those that are parked stay.
    pub fn max_parked_entry_bytes(mut self, bytes: usize) -> Self {
        self.given.limits.entry_bytes = bytes;
        self
    }

    /// Sets for how long a session stays parked. Those that were parked longer ago are forgotten.
    pub fn max_parked_age(mut self, age: Duration) -> Self {
        self.given.limits.age = age;
        self
    }

    /// Sets how many listening streams stay open while their sessions are parked; `None` for as many as sessions. If there
    /// are more, streams end: first those of clients that never called.
    pub fn max_parked_streams(mut self, streams: impl Into<Option<usize>>) -> Self {
        self.given.max_parked_streams = streams.into();
        self
    }

    /// Sets how many bytes the session data of one session may be; `None` for the default. Data that is larger stays until
    /// it is changed.
    pub fn max_session_data_bytes(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.given.max_data_bytes = bytes.into();
        self
    }

    /// Sets the form of the answer to a `tools/call` that is rejected. Requests in flight keep the form that they have.
    pub fn reject_calls_with(mut self, rejection: CallRejection) -> Self {
        self.given.call_rejection = rejection;
        self
    }

    /// Sets how long a hook for a final end may take. Those that run keep the deadline that they have.
    pub fn final_end_deadline(mut self, deadline: Duration) -> Self {
        self.given.final_end_deadline = deadline;
        self
    }

    /// Sets after how long clients should open their listening streams again after a drain.
    pub fn expected_downtime(mut self, downtime: Duration) -> Self {
        self.given.expected_downtime = downtime;
        self
    }
}

impl fmt::Debug for LiveSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveSettings")
            .field("given", &self.given)
            .field("eviction", &self.eviction)
            .field("admission", &self.admission)
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}
