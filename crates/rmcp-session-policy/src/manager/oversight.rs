//! What the operator's page reads of a manager beyond its public API.

use std::sync::Arc;

use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use tokio::time::Instant;

use super::PolicySessionManager;
use crate::observe::SessionSnapshot;
use crate::timestamp::Timestamp;

/// The limits that are in force.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_sessions: usize,
    pub(crate) max_opening: usize,
    pub(crate) max_parked: usize,
    pub(crate) max_parked_streams: usize,
}

impl<I: SessionManager> PolicySessionManager<I> {
    /// Returns another handle of the same manager.
    pub(crate) fn share(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }

    pub(crate) fn limits(&self) -> Limits {
        let in_force = self.shared.in_force.load();
        Limits {
            max_sessions: in_force.given.max_sessions,
            max_opening: in_force.max_opening,
            max_parked: in_force.given.limits.entries,
            max_parked_streams: in_force.max_parked_streams,
        }
    }

    /// Lists the parked sessions for which `wanted` holds. They have no key and no streams, and the software of their
    /// clients is not known.
    pub(crate) fn list_parked(&self, wanted: impl Fn(&SessionSnapshot) -> bool) -> Vec<SessionSnapshot> {
        let shared = &self.shared;
        let now = Instant::now();
        shared.parking.expire(now);
        let now = Timestamp::at(now).instant();
        let snapshot = |(id, parked): (SessionId, super::parked::Parked)| {
            SessionSnapshot::of(&parked.record(id, &shared.signals), now)
        };
        shared.parking.all().into_iter().map(snapshot).filter(wanted).collect()
    }
}
