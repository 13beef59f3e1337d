//! The last ends and rejections, each with its sentence.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use rmcp::transport::streamable_http_server::session::SessionManager;
use serde::Serialize;

use super::console::Console;
use crate::manager::PolicySessionManager;
use crate::session::Fingerprint;

/// One end or rejection.
#[derive(Debug, Serialize)]
pub(super) struct Explained {
    fingerprint: Option<String>,
    text: String,
}

pub(super) fn of<I: SessionManager>(_: &PolicySessionManager<I>, _: Fingerprint) -> Vec<Explained> {
    Vec::new()
}

pub(super) fn last<I: SessionManager>(_: &PolicySessionManager<I>, _: usize) -> Vec<Explained> {
    Vec::new()
}
