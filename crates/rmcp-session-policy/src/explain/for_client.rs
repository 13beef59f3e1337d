//! The sentences for clients. They name no other client, no policy and no address.

use std::fmt::{self, Write};

use super::explanation::{Cause, End, Eviction, Explanation, Facts, MadeRoom, Rejection};
use super::figures::{Number, Time, Wait};
use crate::admission::{ArrivalKind, Retry};
use crate::observe::{CloseReason, RejectionReason};

/// Makes the sentence of an end or a rejection.
pub(super) fn sentence(explanation: &Explanation) -> String {
    let mut text = String::new();
    // Writing to a `String` does not fail.
    let _written: fmt::Result = match &explanation.facts {
        Facts::Ended(end) => ended(&mut text, end),
        Facts::Rejected(rejection) => rejected(&mut text, rejection),
    };
    text
}

fn ended(text: &mut String, end: &End) -> fmt::Result {
    let idle = Time(end.idle);
    match (end.reason, &end.cause) {
        (CloseReason::Client, _) => text.push_str("the session was closed by its client"),
        (CloseReason::Evicted, Cause::Evicted(Eviction { room: MadeRoom::ForOwnClient, .. })) => {
            text.push_str("another session of the same client needed its place");
        }
        (CloseReason::Evicted, _) => {
            write!(text, "the server was full, and the session had not been used for {idle}")?;
        }
        (CloseReason::Idle, _) => write!(text, "the session was idle for {idle}")?,
        (CloseReason::Lifetime, Cause::Timeout(lifetime)) => {
            write!(text, "the session reached its longest lifetime of {}", Time(*lifetime))?;
        }
        (CloseReason::Lifetime, _) => text.push_str("the session reached its longest lifetime"),
        (CloseReason::InitTimeout, Cause::Timeout(timeout)) => {
            write!(text, "the client did not go on with the handshake for {}", Time(*timeout))?;
        }
        (CloseReason::InitTimeout, Cause::Unanswered(timeout)) => {
            write!(text, "the server did not answer `initialize` within {}", Time(*timeout))?;
        }
        (CloseReason::InitTimeout, _) => text.push_str("the handshake was not finished in time"),
        (CloseReason::InitFailed, _) => {
            text.push_str("`initialize` was answered with an error, or the client did not wait for the answer");
        }
        (CloseReason::Ended, _) | (CloseReason::Revoked, Cause::Handler) => {
            text.push_str("the server ended the session");
        }
        (CloseReason::Revoked, _) => text.push_str("the operator of the server ended the session"),
        (CloseReason::Drained, _) => text.push_str("the server was about to stop"),
        (CloseReason::Moved, _) => text.push_str("another server has the session now"),
    }
    if end.reason.is_restorable() {
        text.push_str("; try again");
    }
    Ok(())
}

fn rejected(text: &mut String, rejection: &Rejection) -> fmt::Result {
    let Rejection { kind, reason, retry, limit, period, note, .. } = rejection;
    let (one, several) = match kind {
        ArrivalKind::Create if period.is_some() => ("a new session", "new sessions"),
        ArrivalKind::Create => ("a new session", "sessions"),
        ArrivalKind::Restore => ("the session", "sessions"),
        ArrivalKind::Request => ("the request", "requests"),
    };
    match (reason, note, limit) {
        (RejectionReason::ServerFull, ..) => text.push_str("the server is full"),
        (RejectionReason::Draining, ..) => text.push_str("the server is about to stop"),
        (_, Some(note), None) => text.push_str(note),
        (RejectionReason::Quota, _, Some(limit)) => {
            write!(text, "too many {several}, at most {}", Number(*limit))?;
            match period {
                Some(period) => write!(text, " in {}", Time(*period))?,
                None => text.push_str(" at once"),
            }
        }
        (RejectionReason::Quota, ..) => write!(text, "the server does not allow {one}")?,
        (RejectionReason::NoCapacity, ..) => write!(text, "the server has no room for {one}")?,
        (RejectionReason::Overload, ..) => text.push_str("the server has too much to do"),
        (RejectionReason::Backend, ..) => text.push_str("the server cannot decide now"),
        (RejectionReason::CutOff, ..) => text.push_str("the session was closed before the answer"),
    }
    match (retry, retry.seconds()) {
        (Retry::After(_), Some(seconds)) => write!(text, ", come back in {}", Wait(seconds))?,
        (Retry::Never, _) => text.push_str(", so do not try again"),
        _ => text.push_str(", come back later"),
    }
    Ok(())
}
