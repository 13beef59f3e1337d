//! [`Drain`]: a drain that was begun on the page, and how far it is.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use rmcp::transport::streamable_http_server::session::SessionManager;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::api::read_body;
use super::console::Console;
use super::refusal::Refusal;
use super::rows::millis;
use crate::observe::DrainReport;

/// The longest deadline of a drain.
const LONGEST: u64 = 3_600;

/// A drain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    begun: Instant,
    deadline: Duration,
    /// Sessions that were live when it began.
    sessions: usize,
    /// When it was over, and what has happened.
    done: Option<(Instant, DrainReport)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    deadline_seconds: u64,
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

/// Answers `POST /api/drain`.
pub(super) async fn drain<I: SessionManager>(
    State(console): State<Arc<Console<I>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<Progress>), Refusal> {
    console.check_actions()?;
    let Wanted { deadline_seconds } = read_body(&headers, &body)?;
    if !(1..=LONGEST).contains(&deadline_seconds) {
        return Err(Refusal::bad("deadline_seconds is between 1 and 3,600"));
    }
    let deadline = Duration::from_secs(deadline_seconds);
    let begun = Instant::now();
    let sessions = console.look_at_all(|sessions| sessions.stats().live).await?;
    let drain = Drain { begun, deadline, sessions, done: None };
    {
        let mut known = console.drain.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_some() {
            return Err(Refusal::new(StatusCode::CONFLICT, "a drain was begun before"));
        }
        *known = Some(drain);
    }
    tracing::info!(deadline_seconds, "a drain was begun on the operator's page");
    // From here on each look says so.
    console.sessions.refuse_newcomers();
    let task = Arc::clone(&console);
    tokio::spawn(async move {
        let report = task.sessions.drain(deadline).await;
        let mut known = task.drain.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(Drain { done: Some((Instant::now(), report)), ..drain });
    });
    Ok((StatusCode::ACCEPTED, Json(drain.progress(begun))))
}
