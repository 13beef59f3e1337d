//! [`SessionSnapshot`]: one session as operators see it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::context::ClientContext;
use crate::eviction::SessionInfo;
use crate::session::{Fingerprint, Phase, Record, SessionKey, SessionOrigin, Stream};

/// Holds what an operator may see of a session at one moment.
///
/// [`PolicySessionManager::list`](crate::PolicySessionManager::list) returns them.
///
/// ```
/// use rmcp::transport::streamable_http_server::session::SessionManager;
/// use rmcp_session_policy::{Phase, PolicySessionManager};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = PolicySessionManager::local().build()?;
/// let _session = sessions.create_session().await?;
/// let list = sessions.list();
/// assert_eq!(list.len(), 1);
/// assert_eq!((list[0].phase, list[0].uses), (Phase::Opening, 0));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionSnapshot {
    /// The key of this incarnation, for [`terminate`](crate::PolicySessionManager::terminate).
    pub key: SessionKey,
    /// The name of the session, which its incarnations share.
    pub origin: SessionOrigin,
    /// A hash of the id, which logs may show.
    pub fingerprint: Fingerprint,
    /// Where the session is in its life.
    pub phase: Phase,
    /// How long this incarnation has lived.
    pub age: Duration,
    /// How long ago the last activity began or ended, other than a `ping`, a hold, a listening stream or the replay of
    /// a handshake.
    pub idle: Duration,
    /// Requests other than `initialize` and `ping` so far, earlier incarnations included.
    pub uses: u64,
    /// Those of them that hosts do not make by themselves right after the handshake.
    pub calls: u64,
    /// Activities under way: requests, work of a handler, and for a moment a hold, a notification or the opening of a
    /// stream.
    pub in_flight: usize,
    /// Streams held open by GET.
    pub open_streams: usize,
    /// Whether the client listens, or did.
    pub stream: Stream,
    /// Whether this incarnation was restored.
    pub restored: bool,
    /// How often this process has restored the session, at most 65,535.
    pub restores: u32,
    /// The client that opened the session.
    pub context: Option<Arc<ClientContext>>,
    /// The name and version of the client's software. `None` until its `initialize` was seen.
    pub client: Option<(String, String)>,
}

impl SessionSnapshot {
    /// Reads the atomics of the record one by one, so a session that is in use meanwhile may show values of two
    /// moments.
    pub(crate) fn of(record: &Record, now: Instant) -> Self {
        let session = SessionInfo::of(record);
        Self {
            key: session.key(),
            origin: session.origin(),
            fingerprint: session.fingerprint(),
            phase: session.phase(),
            age: now.saturating_duration_since(session.created()),
            idle: now.saturating_duration_since(session.last_used()),
            uses: session.uses(),
            calls: session.calls(),
            in_flight: session.in_flight(),
            open_streams: session.open_streams(),
            stream: session.stream(),
            restored: record.restored,
            restores: record.restores.into(),
            context: record.entry.context.clone(),
            client: record.software.get().map(|client| (client.name().to_owned(), client.version().to_owned())),
        }
    }
}
