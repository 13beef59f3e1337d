//! [`SessionOrigin`], and what all incarnations of a session share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

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

    /// Returns the number behind the name. Names are numbered in the order in which sessions were opened.
    pub(crate) const fn number(self) -> u64 {
        self.0
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
    /// What it did until now.
    pub(crate) history: History,
    /// Whether the incarnation that begins with it is a restored one.
    pub(crate) restored: bool,
    /// How often this process has restored it, with the incarnation that begins with it, at most 65,535.
    pub(crate) restores: u16,
}

impl Origin {
    /// Creates the origin of a new session.
    pub(crate) fn new(id: SessionId, context: Option<Arc<ClientContext>>, opened: Timestamp) -> Self {
        let history = History::new(opened);
        Self { id, serial: SessionOrigin::allocate(), context, history, restored: false, restores: 0 }
    }
}

/// What a session did in all its incarnations until one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct History {
    /// When the first incarnation was created; the lifetime counts from here.
    pub(crate) opened: Timestamp,
    pub(crate) last_used: Timestamp,
    pub(crate) last_seen: Timestamp,
    /// Requests other than `initialize` and `ping`.
    pub(crate) uses: u64,
    /// Requests that hosts do not make by themselves right after the handshake.
    pub(crate) calls: u32,
    /// How long the session was idle before its latest call.
    pub(crate) last_gap: Gap,
    /// When its last stream was lost; `None` if it never had one.
    pub(crate) stream_lost: Option<Timestamp>,
}

impl History {
    /// The history of a session that was opened at this moment and did nothing yet.
    pub(crate) const fn new(opened: Timestamp) -> Self {
        Self { opened, last_used: opened, last_seen: opened, uses: 0, calls: 0, last_gap: Gap::NONE, stream_lost: None }
    }
}

/// How long a session was idle before a call, in milliseconds and one more, at most 49 days. Zero for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap(pub(crate) u32);

impl Gap {
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn of(idle: Duration) -> Self {
        Self(u32::try_from(idle.as_millis()).unwrap_or(u32::MAX).saturating_add(1))
    }

    pub(crate) fn duration(self) -> Option<Duration> {
        self.0.checked_sub(1).map(|millis| Duration::from_millis(millis.into()))
    }
}
