//! One session, live or parked, with what was explained of it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use rmcp::transport::streamable_http_server::session::SessionManager;
use serde::Serialize;

use super::console::Console;
use super::explanations::{self, Sentence};
use super::refusal::Refusal;
use super::rows::Row;
use crate::manager::PolicySessionManager;
use crate::session::Fingerprint;

/// The most sessions of one fingerprint that are shown. Two of 100,000 may have the same one.
const MOST: usize = 8;

/// The sessions with one fingerprint.
#[derive(Debug, Serialize)]
pub(super) struct Found {
    fingerprint: String,
    /// Those in the inner manager.
    live: Vec<Row>,
    /// Those which their next request restores.
    parked: Vec<Row>,
    /// Its last ends and rejections, newest first.
    explanations: Vec<Sentence>,
}

/// Answers `GET /api/sessions/{fingerprint}`.
pub(super) async fn one_session<I: SessionManager>(
    State(console): State<Arc<Console<I>>>,
    Path(fingerprint): Path<String>,
) -> Result<Json<Found>, Refusal> {
    let Some(fingerprint) = Fingerprint::parse(&fingerprint) else {
        return Err(Refusal::bad("a fingerprint has eight hexadecimal digits"));
    };
    let look = move |sessions: &PolicySessionManager<I>| {
        let live = sessions.list();
        let live = live.iter().filter(|session| session.fingerprint == fingerprint);
        let parked = sessions.list_parked(|session| session.fingerprint == fingerprint);
        Found {
            fingerprint: fingerprint.to_string(),
            live: live.take(MOST).map(Row::of).collect(),
            parked: parked.iter().take(MOST).map(Row::parked).collect(),
            explanations: explanations::of(sessions, fingerprint),
        }
    };
    console.look_at_all(look).await.map(Json)
}
