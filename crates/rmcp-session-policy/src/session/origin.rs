//! What all incarnations of a session have in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rmcp::transport::streamable_http_server::session::SessionId;

use crate::context::ClientContext;
use crate::timestamp::Timestamp;

/// Names a session across its incarnations: a session that is parked and restored keeps it.
///
/// No two sessions of a process have the same one. It is not the session's id, and is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionOrigin(u64);

impl SessionOrigin {
    /// Names a session that did not exist before.
    pub(crate) fn allocate() -> Self {
        // Of the process, not of a manager: several managers may share one policy.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Relaxed))
    }
}

/// Where a session came from, kept across its incarnations.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) id: SessionId,
    pub(crate) serial: SessionOrigin,
    pub(crate) context: Option<Arc<ClientContext>>,
    /// When the first incarnation was created; the lifetime counts from here.
    pub(crate) opened: Timestamp,
    pub(crate) last_used: Timestamp,
    pub(crate) last_seen: Timestamp,
    pub(crate) uses: u64,
    /// Whether its client made a request that hosts do not make by themselves right after the handshake.
    pub(crate) called: bool,
    pub(crate) restored: bool,
}

impl Origin {
    /// The origin of a session that did not exist before.
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
