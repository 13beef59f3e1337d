//! The sentences for operators.

use std::fmt::{self, Write};

use super::client::cut;
use super::explanation::{Cause, End, Eviction, Explanation, Facts, LONGEST_NAME, MadeRoom, Rejection};
use super::figures::{Count, Number, Time, Wait};
use crate::admission::{ArrivalKind, Retry};
use crate::observe::{CloseReason, RejectionReason};

/// Makes the sentence of an end or a rejection.
pub(super) fn sentence(explanation: &Explanation) -> String {
    let mut text = String::new();
    // Writing to a `String` does not fail.
    let _written: fmt::Result = match &explanation.facts {
        Facts::Ended(end) => ended(&mut text, end),
        Facts::Rejected(rejection) => rejected(&mut text, rejection, explanation),
    };
    text
}

fn ended(text: &mut String, end: &End) -> fmt::Result {
    let (age, idle) = (Time(end.age), Time(end.idle));
    match (end.reason, &end.cause) {
        (CloseReason::Evicted, Cause::Evicted(eviction)) => evicted(text, end, eviction)?,
        (CloseReason::Evicted, _) => write!(text, "evicted after {idle} without a use")?,
        (CloseReason::Idle, Cause::Timeout(timeout)) => {
            let timeout = Time(*timeout).to_string();
            if timeout == idle.to_string() {
                write!(text, "idle for {idle}, the idle timeout")?;
            } else {
                write!(text, "idle for {idle}, and the idle timeout is {timeout}")?;
            }
        }
        (CloseReason::Idle, Cause::Worth) => write!(text, "idle for {idle}, and worth less than its place")?,
        (CloseReason::Idle, _) => write!(text, "idle for {idle}")?,
        (CloseReason::Lifetime, Cause::Timeout(lifetime)) => {
            write!(text, "reached the maximum lifetime of {}", Time(*lifetime))?;
        }
        (CloseReason::Lifetime, _) => text.push_str("reached the maximum lifetime"),
        (CloseReason::InitTimeout, Cause::Timeout(timeout)) => {
            write!(text, "its client did not go on with the handshake for {}", Time(*timeout))?;
        }
        (CloseReason::InitTimeout, Cause::Unanswered(timeout)) => {
            write!(text, "its handler did not answer `initialize` within {}", Time(*timeout))?;
        }
        (CloseReason::InitTimeout, _) => text.push_str("its handshake was not finished in time"),
        (CloseReason::InitFailed, _) => {
            text.push_str("`initialize` was answered with an error, or its client did not wait for the answer");
        }
        (CloseReason::Client, _) => write!(text, "closed by its client after {age}")?,
        (CloseReason::Ended, _) => write!(text, "its service ended after {age}")?,
        (CloseReason::Revoked, Cause::Handler) => write!(text, "closed by its handler after {age}")?,
        (CloseReason::Revoked, _) => write!(text, "terminated by an operator after {age}")?,
        (CloseReason::Drained, _) => write!(text, "closed by a drain, idle for {idle}")?,
        (CloseReason::Moved, _) => write!(text, "another server has it now, idle for {idle}")?,
    }
    // `initialize` itself is not told once more.
    if end.waiting > 0 && !matches!(end.cause, Cause::Unanswered(_)) {
        write!(text, ", with {} in flight", Count(end.waiting as u64, "request"))?;
    }
    Ok(())
}

fn evicted(text: &mut String, end: &End, eviction: &Eviction) -> fmt::Result {
    let Eviction { phrase, among, room } = eviction;
    let (phrase, sessions, idle) =
        (cut(phrase, LONGEST_NAME).escape_debug(), Count(*among as u64, "session"), Time(end.idle));
    match room {
        MadeRoom::ForOwnClient => write!(
            text,
            "evicted: {phrase} of {sessions} of its client, idle for {idle}, to make room for another of them"
        ),
        MadeRoom::For(ArrivalKind::Restore, client) => {
            write!(text, "evicted: {phrase} of {sessions}, idle for {idle}, to make room for a restore of {client}")
        }
        MadeRoom::For(_, client) => {
            write!(text, "evicted: {phrase} of {sessions}, idle for {idle}, to make room for {client}")
        }
        MadeRoom::ForNothing => {
            write!(text, "evicted: {phrase} of {sessions}, idle for {idle}, as the capacity was lowered")
        }
    }
}

fn rejected(text: &mut String, rejection: &Rejection, explanation: &Explanation) -> fmt::Result {
    let Rejection { kind, reason, policy, retry, limit, period, note, times } = rejection;
    let asked = match kind {
        ArrivalKind::Create => "a new session",
        ArrivalKind::Restore => "a restore",
        ArrivalKind::Request => "a request",
    };
    text.push_str("rejected");
    if note.is_none() && *reason != RejectionReason::ServerFull {
        write!(text, " by {}", policy.escape_debug())?;
    }
    write!(text, ": {asked} of {}", explanation.client)?;
    match (reason, note, limit) {
        (_, Some(note), _) => write!(text, ", {note}")?,
        (RejectionReason::ServerFull, _, Some(limit)) if policy == "listeners" => {
            write!(text, ", all listening streams without a session ({}) are taken", Number(*limit))?;
        }
        (RejectionReason::ServerFull, _, Some(limit)) => {
            write!(text, ", all places ({}) are taken and no session may go", Number(*limit))?;
        }
        (RejectionReason::NoCapacity, ..) => text.push_str(", no room"),
        (RejectionReason::Overload, ..) => text.push_str(", too much to do"),
        (RejectionReason::Backend, ..) => text.push_str(", what it depends on failed"),
        _ => {}
    }
    if let Some(limit) = limit.filter(|_| *reason != RejectionReason::ServerFull) {
        write!(text, ", limit {}", Number(limit))?;
        if let Some(period) = period {
            write!(text, " in {}", Time(*period))?;
        }
    }
    match (retry, retry.seconds()) {
        (Retry::After(_), Some(seconds)) => write!(text, ", may come back in {}", Wait(seconds))?,
        (Retry::Never, _) => text.push_str(", need not come back"),
        _ if *reason == RejectionReason::Draining => {}
        _ => text.push_str(", may come back at any time"),
    }
    if *times > 1 {
        write!(text, ", {} times in a row", Number(*times))?;
    }
    Ok(())
}
