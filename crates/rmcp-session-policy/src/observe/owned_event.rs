//! [`OwnedEvent`]: an event that may be told later.

use std::time::Duration;

use super::event::SessionEvent;
use super::reason::{CloseReason, RejectionReason};
use crate::admission::{ArrivalKind, Retry};
use crate::context::ClientContext;
use crate::eviction::SessionInfo;
use crate::session::Record;

/// An event with all it says, which lasts. Its session is a copy that shows the session as it was when the event happened.
/// A rejection has a copy of its client, with the headers that are kept of it.
#[derive(Debug)]
pub(super) enum OwnedEvent {
    Opened(Box<Record>),
    Restored(Box<Record>),
    Rejected {
        kind: ArrivalKind,
        reason: RejectionReason,
        policy: String,
        retry: Retry,
        context: Option<Box<ClientContext>>,
    },
    Closed {
        session: Box<Record>,
        reason: CloseReason,
        age: Duration,
    },
}

impl OwnedEvent {
    pub(super) fn of(event: &SessionEvent<'_>) -> Self {
        match *event {
            SessionEvent::Opened { session } => Self::Opened(session.record()),
            SessionEvent::Restored { session } => Self::Restored(session.record()),
            SessionEvent::Rejected { kind, reason, policy, retry, context } => {
                let (policy, context) = (policy.to_owned(), context.cloned().map(Box::new));
                Self::Rejected { kind, reason, policy, retry, context }
            }
            SessionEvent::Closed { session, reason, age } => Self::Closed { session: session.record(), reason, age },
        }
    }

    pub(super) fn event(&self) -> SessionEvent<'_> {
        match self {
            Self::Opened(session) => SessionEvent::Opened { session: SessionInfo::of(session) },
            Self::Restored(session) => SessionEvent::Restored { session: SessionInfo::of(session) },
            Self::Rejected { kind, reason, policy, retry, context } => SessionEvent::Rejected {
                kind: *kind,
                reason: *reason,
                policy,
                retry: *retry,
                context: context.as_deref(),
            },
            Self::Closed { session, reason, age } => {
                SessionEvent::Closed { session: SessionInfo::of(session), reason: *reason, age: *age }
            }
        }
    }
}
