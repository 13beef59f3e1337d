//! The overview: the numbers of the manager, its limits, the last ten minutes, and the last ends and rejections.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use axum::Json;
use axum::extract::State;
use rmcp::transport::streamable_http_server::session::SessionManager;
use serde::Serialize;
use tokio::time::Instant;

use super::console::Console;
use super::explanations::{self, Sentence};
use super::progress::Progress;
use super::refusal::Refusal;
use super::rows::millis;
use super::samples::History;
use crate::manager::PolicySessionManager;
use crate::observe::{CloseReason, RejectionReason, Stats};

/// How many ends and rejections it has.
const LAST: usize = 20;

/// What the page shows first.
#[derive(Debug, Serialize)]
pub(super) struct Overview {
    /// Whether the router acts.
    actions: bool,
    limits: Limits,
    now: Now,
    counts: Counts,
    history: History,
    explanations: Vec<Sentence>,
    /// The drain that was begun here.
    drain: Option<Progress>,
}

#[derive(Debug, Serialize)]
struct Limits {
    sessions: usize,
    opening: usize,
    parked: usize,
    parked_streams: usize,
}

/// What there is.
#[derive(Debug, Serialize)]
struct Now {
    live: usize,
    opening: usize,
    ready: usize,
    closing: usize,
    stuck: usize,
    busy: usize,
    reserved: usize,
    parked: usize,
    parked_bytes: usize,
    parked_streams: usize,
    listeners: usize,
    draining: bool,
    /// For how long places have been asked for much faster than before.
    surge_ms: Option<u64>,
    directory_away: bool,
}

/// What has happened since the start.
#[derive(Debug, Serialize)]
struct Counts {
    opened: u64,
    restored: u64,
    requests: u64,
    sessionless: u64,
    overruled: u64,
    closed: BTreeMap<&'static str, u64>,
    rejected: BTreeMap<&'static str, u64>,
    rejected_requests: BTreeMap<&'static str, u64>,
}

/// Answers `GET /api/overview`.
pub(super) async fn overview<I: SessionManager>(
    State(console): State<Arc<Console<I>>>,
) -> Result<Json<Overview>, Refusal> {
    let look =
        |sessions: &PolicySessionManager<I>| (sessions.stats(), sessions.limits(), explanations::last(sessions, LAST));
    let (stats, limits, explanations) = console.look_at_all(look).await?;
    let now = Instant::now();
    let drain = console.drain.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|drain| drain.progress(now));
    Ok(Json(Overview {
        actions: console.actions,
        limits: Limits {
            sessions: limits.max_sessions,
            opening: limits.max_opening,
            parked: limits.max_parked,
            parked_streams: limits.max_parked_streams,
        },
        now: Now::of(&stats, now),
        counts: Counts::of(&stats),
        history: console.samples.history(now),
        explanations,
        drain,
    }))
}

impl Now {
    fn of(stats: &Stats, now: Instant) -> Self {
        Self {
            live: stats.live,
            opening: stats.opening,
            ready: stats.ready,
            closing: stats.closing,
            stuck: stats.stuck,
            busy: stats.busy,
            reserved: stats.reserved,
            parked: stats.parked,
            parked_bytes: stats.parked_bytes,
            parked_streams: stats.parked_streams,
            listeners: stats.listeners,
            draining: stats.draining,
            surge_ms: stats.surge_since.map(|since| millis(now.saturating_duration_since(since))),
            directory_away: stats.directory_away,
        }
    }
}

impl Counts {
    fn of(stats: &Stats) -> Self {
        let rejections = |count: &dyn Fn(RejectionReason) -> u64| {
            RejectionReason::ALL.iter().map(|reason| (reason.as_str(), count(*reason))).collect()
        };
        Self {
            opened: stats.opened,
            restored: stats.restored,
            requests: stats.requests,
            sessionless: stats.sessionless,
            overruled: stats.overruled,
            closed: CloseReason::ALL.iter().map(|reason| (reason.as_str(), stats.closed(*reason))).collect(),
            rejected: rejections(&|reason| stats.rejected(reason)),
            rejected_requests: rejections(&|reason| stats.rejected_requests(reason)),
        }
    }
}
