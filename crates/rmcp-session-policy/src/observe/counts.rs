//! How often.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::reason::{CloseReason, RefusalReason};
use crate::admission::ArrivalKind;

/// Counts since the manager was built.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) opened: AtomicU64,
    pub(crate) restored: AtomicU64,
    /// POSTs that came through the HTTP layer, within a session or to open one.
    pub(crate) requests: AtomicU64,
    /// POSTs that came through the HTTP layer and belong to no session.
    pub(crate) sessionless: AtomicU64,
    closed: [AtomicU64; CloseReason::ALL.len()],
    refused: [AtomicU64; RefusalReason::ALL.len()],
    refused_requests: [AtomicU64; RefusalReason::ALL.len()],
}

impl Tally {
    pub(crate) fn count_closed(&self, reason: CloseReason) {
        self.closed[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn count_refused(&self, kind: ArrivalKind, reason: RefusalReason) {
        let refused = match kind {
            ArrivalKind::Create | ArrivalKind::Restore => &self.refused,
            ArrivalKind::Request => &self.refused_requests,
        };
        refused[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn fill(&self, stats: &mut Stats) {
        stats.opened = self.opened.load(Relaxed);
        stats.restored = self.restored.load(Relaxed);
        stats.requests = self.requests.load(Relaxed);
        stats.sessionless = self.sessionless.load(Relaxed);
        stats.closed = CloseReason::ALL.map(|reason| (reason, self.closed[reason as usize].load(Relaxed)));
        stats.refused = RefusalReason::ALL.map(|reason| (reason, self.refused[reason as usize].load(Relaxed)));
        stats.refused_requests =
            RefusalReason::ALL.map(|reason| (reason, self.refused_requests[reason as usize].load(Relaxed)));
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
    /// Sessions ended, by reason.
    pub closed: [(CloseReason, u64); CloseReason::ALL.len()],
    /// Sessions refused, by reason: newcomers, and parked sessions that were to be restored.
    pub refused: [(RefusalReason, u64); RefusalReason::ALL.len()],
    /// Requests refused, by reason: within a session, and without one.
    pub refused_requests: [(RefusalReason, u64); RefusalReason::ALL.len()],
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
            closed: CloseReason::ALL.map(|reason| (reason, 0)),
            refused: RefusalReason::ALL.map(|reason| (reason, 0)),
            refused_requests: RefusalReason::ALL.map(|reason| (reason, 0)),
            overruled: 0,
        }
    }

    /// How many sessions ended for a reason.
    #[must_use]
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason as usize].1
    }

    /// How many sessions were refused for a reason: newcomers, and parked ones that were to be restored.
    #[must_use]
    pub fn refused(&self, reason: RefusalReason) -> u64 {
        self.refused[reason as usize].1
    }

    /// How many requests were refused for a reason, within a session or without one.
    #[must_use]
    pub fn refused_requests(&self, reason: RefusalReason) -> u64 {
        self.refused_requests[reason as usize].1
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
