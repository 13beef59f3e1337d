//! Begins a drain.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use rmcp::transport::streamable_http_server::session::SessionManager;
use serde::Deserialize;
use tokio::time::Instant;

use super::body::read_body;
use super::console::Console;
use super::progress::{Drain, Progress};
use super::refusal::Refusal;

/// The longest deadline of a drain.
const LONGEST: u64 = 3_600;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    deadline_seconds: u64,
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
