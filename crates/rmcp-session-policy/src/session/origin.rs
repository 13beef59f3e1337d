//! [`SessionOrigin`], and the state that all incarnations of a session share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rmcp::transport::streamable_http_server::session::SessionId;

use crate::context::ClientContext;
use crate::timestamp::Timestamp;

/// Names a session across its incarnations. A session that is parked and restored keeps its origin.
///
/// Each session of a process has a different origin. It is not the session id, and not a secret.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::{Arc, Mutex};
///
/// use rmcp::transport::streamable_http_server::session::SessionManager;
/// use rmcp_session_policy::{PolicySessionManager, SessionEvent, SessionObserver, SessionOrigin};
///
/// #[derive(Clone, Debug, Default)]
/// struct Origins(Arc<Mutex<Vec<SessionOrigin>>>);
///
/// impl SessionObserver for Origins {
///     fn observe(&self, event: &SessionEvent<'_>) {
///         if let SessionEvent::Opened { session, .. } | SessionEvent::Restored { session, .. } = event {
///             self.0.lock().expect("no panic").push(session.origin());
///         }
///     }
/// }
///
/// let origins = Origins::default();
/// let sessions = PolicySessionManager::local().observer(origins.clone()).build()?;
/// let (_alice, _transport) = sessions.create_session().await?;
/// let (_bob, _transport) = sessions.create_session().await?;
/// let origins = origins.0.lock().expect("no panic");
/// assert_ne!(origins[0], origins[1]);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionOrigin(u64);

impl SessionOrigin {
    /// Allocates the name of a new session.
    pub(crate) fn allocate() -> Self {
        // One counter for the process, because several managers may share one policy.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Relaxed))
    }
}

/// The state of a session that is kept across its incarnations.
///
/// A record takes it over when an incarnation begins. The parking keeps the same while the session is parked, and makes
/// a new one for the restore. The moments and the uses go along, so a client does not get a better place in a policy's
/// order by a restore (L10).
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) id: SessionId,
    pub(crate) serial: SessionOrigin,
    /// The client that opened the session, as the HTTP layer knows it. A restore does not change it.
    pub(crate) context: Option<Arc<ClientContext>>,
    /// When the first incarnation was created; the lifetime counts from here.
    pub(crate) opened: Timestamp,
    pub(crate) last_used: Timestamp,
    pub(crate) last_seen: Timestamp,
    pub(crate) uses: u64,
    /// Whether its client made a request that hosts do not make by themselves right after the handshake.
    pub(crate) called: bool,
    /// Whether the incarnation that begins with it is a restored one.
    pub(crate) restored: bool,
}

impl Origin {
    /// Creates the origin of a new session.
    pub(crate) fn new(id: SessionId, context: Option<Arc<ClientContext>>, opened: Timestamp) -> Self {
        Self {
            id,
            serial: SessionOrigin::allocate(),
            context,
            opened,
            last_used: opened,
            last_seen: opened,
            uses: 0,
            called: false,
            restored: false,
        }
    }
}
