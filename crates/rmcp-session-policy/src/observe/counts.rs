//! Counts of what the manager has done, and the numbers that operators read.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::reason::{CloseReason, RejectionReason};
use crate::admission::ArrivalKind;

/// Counts since the manager was built.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) opened: AtomicU64,
    pub(crate) restored: AtomicU64,
    /// POSTs that came through the HTTP layer, within a session or to open one.
    pub(crate) requests: AtomicU64,
    /// POSTs that came through the HTTP layer and belong to no session.
    pub(crate) sessionless: AtomicU64,
    closed: [AtomicU64; CloseReason::ALL.len()],
    rejected: [AtomicU64; RejectionReason::ALL.len()],
    rejected_requests: [AtomicU64; RejectionReason::ALL.len()],
}

impl Counters {
    pub(crate) fn count_closed(&self, reason: CloseReason) {
        self.closed[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn count_rejected(&self, kind: ArrivalKind, reason: RejectionReason) {
        let rejected = match kind {
            ArrivalKind::Create | ArrivalKind::Restore => &self.rejected,
            ArrivalKind::Request => &self.rejected_requests,
        };
        rejected[reason as usize].fetch_add(1, Relaxed);
    }

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

/// The manager in numbers: what is now, and what was since it was built.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// The capacity.
    pub max_sessions: usize,
    /// Sessions in the inner manager, those that are closing included.
    pub live: usize,
    /// Of these, half-open.
    pub opening: usize,
    /// Of these, with the handshake finished and no end begun.
    pub ready: usize,
    /// Of these, closing.
    pub closing: usize,
    /// Of the closing ones, not gone when their deadline passed. They keep their places.
    pub stuck: usize,
    /// Sessions with a request in flight.
    pub busy: usize,
    /// Places reserved for sessions that are being created.
    pub reserved: usize,
    /// Whether newcomers are refused because the server is about to stop.
    pub draining: bool,
    /// Listening streams without a session.
    pub listeners: usize,
    /// Sessions without a place whose next request restores them.
    pub parked: usize,
    /// What the parked ones hold, in bytes.
    pub parked_bytes: usize,
    /// Listening streams that stay open while their sessions are parked.
    pub parked_streams: usize,
    /// Sessions created.
    pub opened: u64,
    /// Sessions restored.
    pub restored: u64,
    /// POSTs that came through the HTTP layer, within a session or to open one.
    pub requests: u64,
    /// POSTs that came through the HTTP layer and belong to no session (protocol 2026-07-28).
    pub sessionless: u64,
    // Private: a new reason must not change the type.
    closed: ByReason<CloseReason, { CloseReason::ALL.len() }>,
    rejected: ByReason<RejectionReason, { RejectionReason::ALL.len() }>,
    rejected_requests: ByReason<RejectionReason, { RejectionReason::ALL.len() }>,
    /// Choices in which the eviction policy panicked or was overruled.
    pub overruled: u64,
}

impl Stats {
    pub(crate) fn empty(max_sessions: usize) -> Self {
        Self {
            max_sessions,
            live: 0,
            opening: 0,
            ready: 0,
            closing: 0,
            stuck: 0,
            busy: 0,
            reserved: 0,
            draining: false,
            listeners: 0,
            parked: 0,
            parked_bytes: 0,
            parked_streams: 0,
            opened: 0,
            restored: 0,
            requests: 0,
            sessionless: 0,
            closed: ByReason::none(CloseReason::ALL),
            rejected: ByReason::none(RejectionReason::ALL),
            rejected_requests: ByReason::none(RejectionReason::ALL),
            overruled: 0,
        }
    }

    /// The number of sessions that ended for a reason.
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

    /// The number of sessions that were rejected for a reason: newcomers, and parked sessions that were to be restored.
    #[must_use]
    pub fn rejected(&self, reason: RejectionReason) -> u64 {
        self.rejected.counts[reason as usize]
    }

    /// The number of requests that were rejected for a reason, within a session or without one.
    #[must_use]
    pub fn rejected_requests(&self, reason: RejectionReason) -> u64 {
        self.rejected_requests.counts[reason as usize]
    }
}

/// One count for each reason, at the reason's place in `ALL`.
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

/// What a drain came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainReport {
    /// Sessions closed with no request in flight.
    pub finished: usize,
    /// Sessions whose requests had to be answered with an error.
    pub cut_off: usize,
    /// Sessions not gone when their close deadline passed.
    pub stuck: usize,
    /// Requests without a session, through the layer, that were under way and ended by themselves.
    pub calls_finished: usize,
    /// Requests without a session that had to be answered with an error, or that nobody read to the end.
    pub calls_cut_off: usize,
    /// Listening streams without a session that were ended.
    pub listeners: usize,
}
