//! What happens to a manager in a history: [`Event`], and random [`histories`] of them.

use proptest::collection::vec;
use proptest::prelude::*;

/// What happens; numbers pick among the sessions there ever were, dead ones included.
///
/// An event that does not fit the session that it picks has no effect.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A client comes, and finishes its handshake.
    Open,
    /// A client comes, and does not finish its handshake.
    HalfOpen,
    /// A client finishes its handshake.
    Finish(u8),
    /// The inner manager fails to create a session. A victim that was closed for it stays closed.
    FailToOpen,
    /// A client is gone before its session exists: the inner manager does not return, and the request is dropped.
    GiveUp,
    /// The inner manager fails to restore sessions, and one is called. If it is parked, it stays parked, and its client
    /// is told to come back. A victim that was closed for it stays closed.
    FailToRestore(u8),
    /// A call that is answered at once. If the session is parked, the call may restore it.
    Call(u8),
    /// A call that is never answered, so the session is busy until the call is cancelled or the session ends.
    Hang(u8),
    /// A client cancels the oldest of its calls that hang, and the handler stops.
    Cancel(u8),
    /// A client hangs up on one of its calls, which goes on: the session stays busy.
    HangUp(u8),
    /// A client deletes its session, live or parked. The session does not come back.
    Delete(u8),
    /// An operator revokes a live session. The session does not come back, and its calls in flight are cut off.
    Revoke(u8),
    /// An hour passes, and idle sessions are parked.
    Hour,
}

/// Random histories of at least one event and fewer than `most`.
///
/// Creations and calls are the most frequent events.
pub fn histories(most: usize) -> impl Strategy<Value = Vec<Event>> {
    let pick = any::<u8>;
    let event = prop_oneof![
        5 => Just(Event::Open),
        2 => Just(Event::HalfOpen),
        1 => pick().prop_map(Event::Finish),
        1 => Just(Event::FailToOpen),
        1 => Just(Event::GiveUp),
        1 => pick().prop_map(Event::FailToRestore),
        6 => pick().prop_map(Event::Call),
        3 => pick().prop_map(Event::Hang),
        2 => pick().prop_map(Event::Cancel),
        1 => pick().prop_map(Event::HangUp),
        1 => pick().prop_map(Event::Delete),
        1 => pick().prop_map(Event::Revoke),
        1 => Just(Event::Hour),
    ];
    vec(event, 1..most.max(2))
}
