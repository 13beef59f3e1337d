//! [`Chosen`]: how a victim was chosen, and what for.

use crate::admission::ArrivalKind;
use crate::context::ClientContext;

/// How a victim was chosen, and what for.
#[derive(Clone, Copy)]
pub(super) struct Chosen<'a> {
    /// Why it was chosen, before "of 1,000 sessions".
    pub(super) phrase: &'static str,
    /// Among how many sessions.
    pub(super) among: usize,
    pub(super) room: Room<'a>,
}

/// What a victim made room for.
#[derive(Clone, Copy)]
pub(super) enum Room<'a> {
    /// An arrival of this client.
    Arrival(ArrivalKind, Option<&'a ClientContext>),
    /// Another session of its own client, at the limit of that client.
    OwnClient,
    /// Nothing: the capacity was lowered.
    LowerCapacity,
}
