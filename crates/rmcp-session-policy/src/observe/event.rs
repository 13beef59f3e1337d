//! [`SessionEvent`] and [`SessionObserver`]: events, and the trait that receives them.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::reason::{CloseReason, RejectionReason};
use crate::admission::{ArrivalKind, Retry};
use crate::context::ClientContext;
use crate::eviction::SessionInfo;

/// Describes what happened to a session, a newcomer or a request.
///
/// ```
/// use rmcp_session_policy::SessionEvent;
///
/// fn line(event: &SessionEvent<'_>) -> String {
///     match event {
///         SessionEvent::Opened { session, .. } => format!("{} opened", session.fingerprint()),
///         SessionEvent::Restored { session, .. } => format!("{} restored", session.fingerprint()),
///         SessionEvent::Rejected { reason, policy, .. } => format!("rejected by {policy}: {reason}"),
///         SessionEvent::Closed { session, reason, .. } => format!("{} closed: {reason}", session.fingerprint()),
///         _ => "a newer event".to_owned(),
///     }
/// }
/// # let _: fn(&SessionEvent<'_>) -> String = line;
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum SessionEvent<'a> {
    /// A session was created. Its handshake has not begun yet.
    #[non_exhaustive]
    Opened {
        /// The session.
        session: SessionInfo<'a>,
    },
    /// A parked session was restored, as a new incarnation with a key of its own. Its handshake is not replayed yet.
    #[non_exhaustive]
    Restored {
        /// The session.
        session: SessionInfo<'a>,
    },
    /// A newcomer, a session that was to be restored, or a request was rejected.
    #[non_exhaustive]
    Rejected {
        /// What it asked for.
        kind: ArrivalKind,
        /// Why it was rejected.
        reason: RejectionReason,
        /// The name of the policy that rejected it, or of the part of the manager.
        policy: &'a str,
        /// When it may come back.
        retry: Retry,
        /// The client, if it is known.
        context: Option<&'a ClientContext>,
    },
    /// A session began to close. Each incarnation closes once.
    #[non_exhaustive]
    Closed {
        /// The session.
        session: SessionInfo<'a>,
        /// Why it ended.
        reason: CloseReason,
        /// How long this incarnation lived.
        age: Duration,
    },
}

/// Receives every [`SessionEvent`], on the task where it happened and outside every lock of the manager.
///
/// The manager catches a panic of an observer.
///
/// A request or a creation waits for it, so what takes time belongs into a [`Queued`](crate::Queued). A manager has one
/// observer; a tuple of two is one, which tells its first and then its second, and may be nested.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
///
/// use rmcp::transport::streamable_http_server::session::SessionManager;
/// use rmcp_session_policy::{PolicySessionManager, SessionEvent, SessionObserver};
///
/// #[derive(Clone, Debug, Default)]
/// struct CountOpened(Arc<AtomicU32>);
///
/// impl SessionObserver for CountOpened {
///     fn observe(&self, event: &SessionEvent<'_>) {
///         if let SessionEvent::Opened { .. } = event {
///             self.0.fetch_add(1, SeqCst);
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let opened = CountOpened::default();
/// let sessions = PolicySessionManager::local().observer(opened.clone()).build()?;
/// let _session = sessions.create_session().await?;
/// assert_eq!(opened.0.load(SeqCst), 1);
/// # Ok(()) }
/// ```
pub trait SessionObserver: fmt::Debug + Send + Sync + 'static {
    /// Receives one event. It should return quickly, since a request or a creation waits for it.
    fn observe(&self, event: &SessionEvent<'_>);
}

impl<O: SessionObserver + ?Sized> SessionObserver for Box<O> {
    fn observe(&self, event: &SessionEvent<'_>) {
        (**self).observe(event);
    }
}

impl<O: SessionObserver + ?Sized> SessionObserver for Arc<O> {
    fn observe(&self, event: &SessionEvent<'_>) {
        (**self).observe(event);
    }
}

/// Tells both, also if the first panics.
impl<A: SessionObserver, B: SessionObserver> SessionObserver for (A, B) {
    fn observe(&self, event: &SessionEvent<'_>) {
        let first = catch_unwind(AssertUnwindSafe(|| self.0.observe(event)));
        self.1.observe(event);
        if let Err(panic) = first {
            resume_unwind(panic);
        }
    }
}
