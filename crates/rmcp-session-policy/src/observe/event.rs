//! What an observer hears.

use std::fmt;
use std::time::Duration;

use super::reason::{CloseReason, RejectionReason};
use crate::admission::{ArrivalKind, Retry};
use crate::context::ClientContext;
use crate::eviction::SessionInfo;

/// Something that happened to a session, or to a newcomer.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum SessionEvent<'a> {
    /// A session was created.
    #[non_exhaustive]
    Opened {
        /// The session.
        session: SessionInfo<'a>,
    },
    /// A parked session came back.
    #[non_exhaustive]
    Restored {
        /// The session.
        session: SessionInfo<'a>,
    },
    /// A newcomer, a session that was to be restored, or a request was turned away.
    #[non_exhaustive]
    Rejected {
        /// What it asked for.
        kind: ArrivalKind,
        /// Why it was turned away.
        reason: RejectionReason,
        /// The policy that rejected it, or the part of the manager.
        policy: &'a str,
        /// When it may come back.
        retry: Retry,
        /// Who it was, if that is known.
        context: Option<&'a ClientContext>,
    },
    /// The end of a session began. Each session ends once.
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

/// Hears of every [`SessionEvent`], on the task where it happened and outside every lock of the manager.
///
/// A panic of an observer is caught.
///
/// ```
/// use rmcp_session_policy::{SessionEvent, SessionObserver};
///
/// #[derive(Debug)]
/// struct Print;
///
/// impl SessionObserver for Print {
///     fn observe(&self, event: &SessionEvent<'_>) {
///         if let SessionEvent::Closed { session, reason, age, .. } = event {
///             eprintln!("session {} ended after {age:?}: {reason}", session.fingerprint());
///         }
///     }
/// }
/// ```
pub trait SessionObserver: fmt::Debug + Send + Sync + 'static {
    /// Hears of one event. Must be quick: a request or a creation waits for it.
    fn observe(&self, event: &SessionEvent<'_>);
}
