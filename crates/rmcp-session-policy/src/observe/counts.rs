//! [`Stats`] and [`DrainReport`]: the numbers that operators read, and the counters behind them.
//!
//! Counts that grow are atomics, which each part of the manager raises where something happens. The numbers of what
//! there is now are not kept here: `stats()` counts them when it is asked.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::time::Instant;

use super::reason::{CloseReason, RejectionReason};
use crate::admission::ArrivalKind;

/// Counts since the manager was built.
///
/// Each is relaxed: [`Stats`] read while something happens may have one of two counts that belong together.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Sessions that were registered as new.
    pub(crate) opened: AtomicU64,
    /// Incarnations that were registered by a restore.
    pub(crate) restored: AtomicU64,
    /// POSTs that came through the HTTP layer, within a session or to open one.
    pub(crate) requests: AtomicU64,
    /// POSTs that came through the HTTP layer and belong to no session.
    pub(crate) sessionless: AtomicU64,
    /// Incarnations that began to close, by the place of the reason in [`CloseReason::ALL`].
    closed: [AtomicU64; CloseReason::ALL.len()],
    /// Rejected creations and restores, by the place of the reason in [`RejectionReason::ALL`].
    rejected: [AtomicU64; RejectionReason::ALL.len()],
    /// Rejected requests, within a session or without one, in the same way.
    rejected_requests: [AtomicU64; RejectionReason::ALL.len()],
}

impl Counters {
    /// It is called once for each incarnation, when its close begins.
    pub(crate) fn count_closed(&self, reason: CloseReason) {
        self.closed[reason as usize].fetch_add(1, Relaxed);
    }

    /// Counts a rejection. Creations and restores count apart from requests.
    pub(crate) fn count_rejected(&self, kind: ArrivalKind, reason: RejectionReason) {
        let rejected = match kind {
            ArrivalKind::Create | ArrivalKind::Restore => &self.rejected,
            ArrivalKind::Request => &self.rejected_requests,
        };
        rejected[reason as usize].fetch_add(1, Relaxed);
    }

    /// Copies the counts into `stats`. It leaves the numbers of what there is now as they are.
    pub(crate) fn fill(&self, stats: &mut Stats) {
        stats.opened = self.opened.load(Relaxed);
        stats.restored = self.restored.load(Relaxed);
        stats.requests = self.requests.load(Relaxed);
        stats.sessionless = self.sessionless.load(Relaxed);
        stats.closed = ByReason::of(CloseReason::ALL, &self.closed);
        stats.rejected = ByReason::of(RejectionReason::ALL, &self.rejected);
        stats.rejected_requests = ByReason::of(RejectionReason::ALL, &self.rejected_requests);
    }
}

/// Holds the numbers of a manager: what there is now, and what has happened since it was built.
///
/// ```
/// use rmcp_session_policy::PolicySessionManager;
///
/// let stats = PolicySessionManager::local().max_sessions(10).build()?.stats();
/// assert_eq!((stats.max_sessions, stats.live, stats.parked, stats.opened), (10, 0, 0, 0));
/// assert!(!stats.draining);
/// # Ok::<(), rmcp_session_policy::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// The largest number of sessions in the inner manager at one time.
    pub max_sessions: usize,
    /// Sessions in the inner manager, those that are closing included. Each holds a place.
    pub live: usize,
    /// Live sessions that have not finished their handshake.
    pub opening: usize,
    /// Live sessions that have finished their handshake and are not closing.
    pub ready: usize,
    /// Live sessions that are closing.
    pub closing: usize,
    /// Closing sessions that were not gone when their deadline passed. They keep their places.
    pub stuck: usize,
    /// Sessions with an activity under way that are not closing: a request in flight, a hold, a stream being opened, or
    /// work of a handler.
    pub busy: usize,
    /// Streams that clients of live sessions hold open by GET.
    pub streams: usize,
    /// Places reserved for sessions that are being created or restored.
    pub reserved: usize,
    /// Whether the manager rejects newcomers because the server is about to stop.
    pub draining: bool,
    /// Since when places are asked for much faster than before, so that the guard chooses the victims: see
    /// [`surge_guard`](crate::PolicySessionManagerBuilder::surge_guard). `None` if they are not, or the guard is off.
    pub surge_since: Option<Instant>,
    /// Listening streams without a session.
    pub listeners: usize,
    /// Parked sessions: they hold no place, and their next request restores them.
    pub parked: usize,
    /// The memory of the parked sessions, in bytes.
    pub parked_bytes: usize,
    /// Listening streams that stay open while their sessions are parked.
    pub parked_streams: usize,
    /// Listening streams of sessions that were closed because their clients did not answer a
    /// [probe](crate::PolicySessionManagerBuilder::probe_listeners).
    pub dead_streams: u64,
    /// Sessions created. Restored ones are not counted again.
    pub opened: u64,
    /// Sessions restored. A session counts once for each restore.
    pub restored: u64,
    /// POSTs that came through the HTTP layer, within a session or to open one. A POST with an id that is unknown to
    /// the layer is not counted.
    pub requests: u64,
    /// POSTs that came through the HTTP layer and belong to no session (protocol 2026-07-28).
    pub sessionless: u64,
    // Private, so that a new reason does not change the public type.
    closed: ByReason<CloseReason, { CloseReason::ALL.len() }>,
    rejected: ByReason<RejectionReason, { RejectionReason::ALL.len() }>,
    rejected_requests: ByReason<RejectionReason, { RejectionReason::ALL.len() }>,
    /// Whether the [directory](crate::directory) did not answer when it was asked last. False without one.
    pub directory_away: bool,
    /// Sessions that clients deleted, of which the end was not yet in the directory when they were answered, after 50 ms.
    pub directory_late: u64,
    /// Choices in which the eviction policy panicked or was overruled.
    pub overruled: u64,
    /// Returns of sessions that the eviction policy did not hear of, because 4,096 waited to be told.
    pub missed_returns: u64,
    /// The share of LRU's restores that the eviction policy avoided lately. `None` if the policy does not know: see
    /// [`EvictionPolicy::advantage`](crate::eviction::EvictionPolicy::advantage).
    pub advantage: Option<f64>,
}

impl Stats {
    /// Makes the numbers of a manager in which nothing has happened. `stats()` fills them.
    pub(crate) fn empty(max_sessions: usize) -> Self {
        Self {
            max_sessions,
            live: 0,
            opening: 0,
            ready: 0,
            closing: 0,
            stuck: 0,
            busy: 0,
            streams: 0,
            reserved: 0,
            draining: false,
            surge_since: None,
            listeners: 0,
            parked: 0,
            parked_bytes: 0,
            parked_streams: 0,
            dead_streams: 0,
            opened: 0,
            restored: 0,
            requests: 0,
            sessionless: 0,
            closed: ByReason::none(CloseReason::ALL),
            rejected: ByReason::none(RejectionReason::ALL),
            rejected_requests: ByReason::none(RejectionReason::ALL),
            directory_away: false,
            directory_late: 0,
            overruled: 0,
            missed_returns: 0,
            advantage: None,
        }
    }

    /// Returns the number of sessions that ended for a reason.
    ///
    /// ```
    /// use rmcp_session_policy::{CloseReason, PolicySessionManager};
    ///
    /// let stats = PolicySessionManager::local().build()?.stats();
    /// let ended: u64 = CloseReason::ALL.iter().map(|reason| stats.closed(*reason)).sum();
    /// assert_eq!(ended, 0);
    /// # Ok::<(), rmcp_session_policy::ConfigError>(())
    /// ```
    #[must_use]
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed.counts[reason as usize]
    }

    /// Returns the number of sessions that were rejected for a reason: new ones, and parked ones that were to be
    /// restored.
    #[must_use]
    pub fn rejected(&self, reason: RejectionReason) -> u64 {
        self.rejected.counts[reason as usize]
    }

    /// Returns the number of requests that were rejected for a reason, within a session or without one.
    #[must_use]
    pub fn rejected_requests(&self, reason: RejectionReason) -> u64 {
        self.rejected_requests.counts[reason as usize]
    }
}

/// Holds one count for each reason, at the reason's place in `ALL`.
///
/// Its `Debug` shows the names of the reasons.
#[derive(Clone)]
struct ByReason<R: 'static, const N: usize> {
    all: &'static [R],
    counts: [u64; N],
}

impl<R, const N: usize> ByReason<R, N> {
    const fn none(all: &'static [R]) -> Self {
        Self { all, counts: [0; N] }
    }

    fn of(all: &'static [R], counts: &[AtomicU64; N]) -> Self {
        Self { all, counts: counts.each_ref().map(|count| count.load(Relaxed)) }
    }
}

impl<R: fmt::Debug, const N: usize> fmt::Debug for ByReason<R, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.all.iter().zip(self.counts)).finish()
    }
}

/// Holds the result of a [drain](crate::PolicySessionManager::drain).
///
/// ```
/// use rmcp_session_policy::{DrainReport, PolicySessionManager, SECOND};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), rmcp_session_policy::ConfigError> {
/// let sessions = PolicySessionManager::local().build()?;
/// let report = sessions.drain(SECOND).await;
/// assert_eq!(report, DrainReport::default(), "there was nothing to end");
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Sessions closed with no request in flight.
    pub finished: usize,
    /// Sessions closed with requests in flight, which were answered with an error.
    pub cut_off: usize,
    /// Sessions that were not gone when their close deadline passed.
    pub stuck: usize,
    /// Requests without a session, through the layer, that ended by themselves during the drain.
    pub calls_finished: usize,
    /// Requests without a session that were answered with an error, or that the client did not read to the end.
    pub calls_cut_off: usize,
    /// Listening streams without a session that the drain ended.
    pub listeners: usize,
}
