//! [`Drain`]: a drain that was begun on the page, and how far it is.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::rows::millis;
use crate::observe::DrainReport;

/// A drain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    pub(super) begun: Instant,
    pub(super) deadline: Duration,
    /// Sessions that were live when it began.
    pub(super) sessions: usize,
    /// When it was over, and what has happened.
    pub(super) done: Option<(Instant, DrainReport)>,
}

/// How far a drain is.
#[derive(Debug, Serialize)]
pub(super) struct Progress {
    /// For how long it has run, or did.
    for_ms: u64,
    deadline_ms: u64,
    sessions: usize,
    report: Option<Report>,
}

/// The result of a drain: the fields of [`DrainReport`].
#[derive(Debug, Serialize)]
struct Report {
    finished: usize,
    cut_off: usize,
    stuck: usize,
    calls_finished: usize,
    calls_cut_off: usize,
    listeners: usize,
}

impl Drain {
    pub(super) fn progress(&self, now: Instant) -> Progress {
        let until = self.done.map_or(now, |(at, _)| at);
        let report = |(_, report): (_, DrainReport)| Report {
            finished: report.finished,
            cut_off: report.cut_off,
            stuck: report.stuck,
            calls_finished: report.calls_finished,
            calls_cut_off: report.calls_cut_off,
            listeners: report.listeners,
        };
        Progress {
            for_ms: millis(until.saturating_duration_since(self.begun)),
            deadline_ms: millis(self.deadline),
            sessions: self.sessions,
            report: self.done.map(report),
        }
    }
}
