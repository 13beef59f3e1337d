//! Who is here.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::context::ClientContext;
use crate::eviction::SessionInfo;
use crate::session::{Fingerprint, Phase, Record, SessionKey};

/// A session at one moment, for the eyes of operators.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionSnapshot {
    /// The name of this incarnation; good for `terminate`.
    pub key: SessionKey,
    /// What stands for the id.
    pub fingerprint: Fingerprint,
    /// Where the session is in its life.
    pub phase: Phase,
    /// How long this incarnation has lived.
    pub age: Duration,
    /// How long ago the last activity other than `ping` began or ended.
    pub idle: Duration,
    /// Requests other than `initialize` and `ping` so far.
    pub uses: u64,
    /// Requests under way.
    pub in_flight: usize,
    /// Streams held open by GET.
    pub open_streams: usize,
    /// Whether the session was parked before.
    pub restored: bool,
    /// Who opened the session.
    pub context: Option<Arc<ClientContext>>,
    /// The name and version of the client's software.
    pub client: Option<(String, String)>,
}

impl SessionSnapshot {
    pub(crate) fn of(record: &Record, now: Instant) -> Self {
        let session = SessionInfo::of(record);
        Self {
            key: session.key(),
            fingerprint: session.fingerprint(),
            phase: session.phase(),
            age: now.saturating_duration_since(session.created()),
            idle: now.saturating_duration_since(session.last_used()),
            uses: session.uses(),
            in_flight: session.in_flight(),
            open_streams: session.open_streams(),
            restored: record.restored,
            context: record.context.clone(),
            client: record.software.get().map(|client| (client.name.to_string(), client.version.to_string())),
        }
    }
}
