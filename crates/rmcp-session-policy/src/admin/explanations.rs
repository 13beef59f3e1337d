//! The last ends and rejections, each with its sentence.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use rmcp::transport::streamable_http_server::session::SessionManager;
use serde::{Deserialize, Serialize};

use super::console::Console;
use super::refusal::Refusal;
use super::rows::millis;
use crate::explain::{Explained, Explanation};
use crate::manager::PolicySessionManager;
use crate::session::Fingerprint;

/// The most explanations of one answer. A sentence has at most 1,024 bytes.
const MOST: usize = 50;

/// How many are asked for.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wanted {
    count: usize,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { count: MOST }
    }
}

/// One end or rejection.
#[derive(Debug, Serialize)]
pub(super) struct Sentence {
    /// Milliseconds since 1970.
    at_ms: u64,
    what: &'static str,
    reason: &'static str,
    fingerprint: Option<String>,
    client: Option<String>,
    text: String,
    /// How often it happened in a row.
    times: u64,
}

impl Sentence {
    fn of(explanation: &Explanation) -> Self {
        let (what, reason) = match explanation.what() {
            Explained::Ended(reason) => ("ended", reason.as_str()),
            Explained::Rejected { reason, .. } => ("rejected", reason.as_str()),
        };
        Self {
            at_ms: explanation.when().duration_since(UNIX_EPOCH).map_or(0, millis),
            what,
            reason,
            fingerprint: explanation.fingerprint().map(|session| session.to_string()),
            client: explanation.client(),
            text: explanation.for_operator(),
            times: explanation.times(),
        }
    }
}

/// Answers `GET /api/explanations`.
pub(super) async fn explanations<I: SessionManager>(
    State(console): State<Arc<Console<I>>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Vec<Sentence>>, Refusal> {
    let Query(Wanted { count }) = wanted.map_err(|wrong| Refusal::bad(wrong.body_text()))?;
    if !(1..=MOST).contains(&count) {
        return Err(Refusal::bad("count is between 1 and 50"));
    }
    console.look_at_all(move |sessions| last(sessions, count)).await.map(Json)
}

/// The last ones, newest first.
pub(super) fn last<I: SessionManager>(sessions: &PolicySessionManager<I>, most: usize) -> Vec<Sentence> {
    sessions.recent(most).iter().map(Sentence::of).collect()
}

/// Those of one session, newest first.
pub(super) fn of<I: SessionManager>(sessions: &PolicySessionManager<I>, session: Fingerprint) -> Vec<Sentence> {
    sessions.explain(session).iter().take(MOST).map(Sentence::of).collect()
}
