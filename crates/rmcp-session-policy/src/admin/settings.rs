//! The settings that are in force.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Json;
use axum::extract::State;
use rmcp::transport::streamable_http_server::session::SessionManager;
use serde::Serialize;

use super::console::Console;
use super::rows::millis;
use crate::manager::{IdleTimeout, SettingsInForce};

/// The settings that can change while the manager runs, and since when they are in force.
#[derive(Debug, Serialize)]
pub(super) struct InForce {
    /// Milliseconds since 1970.
    since_ms: u64,
    /// How often they were changed.
    changes: u64,
    settings: Settings,
}

/// Each has the name of its setter. `null` stands for no limit.
#[derive(Debug, Serialize)]
struct Settings {
    max_sessions: usize,
    max_opening: usize,
    /// `after` a time, `never`, or by `worth`.
    idle_timeout: &'static str,
    idle_timeout_ms: Option<u64>,
    max_lifetime_ms: Option<u64>,
    init_timeout_ms: u64,
    min_idle_ms: u64,
    max_busy_ms: u64,
    close_deadline_ms: u64,
    client_share: Option<f64>,
    per_client_max: Option<usize>,
    surge_guard: bool,
    evicts: bool,
    max_parked: usize,
    max_parked_bytes: usize,
    max_parked_entry_bytes: usize,
    max_parked_age_ms: u64,
    max_parked_streams: usize,
    max_session_data_bytes: usize,
    final_end_deadline_ms: u64,
    expected_downtime_ms: u64,
}

/// Answers `GET /api/settings`.
pub(super) async fn settings<I: SessionManager>(State(console): State<Arc<Console<I>>>) -> Json<InForce> {
    let settings = console.sessions.settings();
    Json(InForce {
        since_ms: settings.since.duration_since(UNIX_EPOCH).map_or(0, millis),
        changes: settings.changes,
        settings: Settings::of(&settings),
    })
}

impl Settings {
    fn of(settings: &SettingsInForce) -> Self {
        let (idle_timeout, idle_timeout_ms) = match settings.idle_timeout {
            IdleTimeout::After(timeout) => ("after", Some(millis(timeout))),
            IdleTimeout::Never => ("never", None),
            IdleTimeout::Worth(_) => ("worth", None),
        };
        Self {
            max_sessions: settings.max_sessions,
            max_opening: settings.max_opening,
            idle_timeout,
            idle_timeout_ms,
            max_lifetime_ms: settings.max_lifetime.map(millis),
            init_timeout_ms: millis(settings.init_timeout),
            min_idle_ms: millis(settings.min_idle),
            max_busy_ms: millis(settings.max_busy),
            close_deadline_ms: millis(settings.close_deadline),
            client_share: settings.client_share.map(|(_, share)| share),
            per_client_max: settings.per_client_max,
            surge_guard: settings.surge_guard,
            evicts: settings.evicts,
            max_parked: settings.max_parked,
            max_parked_bytes: settings.max_parked_bytes,
            max_parked_entry_bytes: settings.max_parked_entry_bytes,
            max_parked_age_ms: millis(settings.max_parked_age),
            max_parked_streams: settings.max_parked_streams,
            max_session_data_bytes: settings.max_session_data_bytes,
            final_end_deadline_ms: millis(settings.final_end_deadline),
            expected_downtime_ms: millis(settings.expected_downtime),
        }
    }
}
