//! [`Chosen`]: how a victim was chosen.

use crate::admission::ArrivalKind;
use crate::context::ClientContext;

/// How a victim was chosen, and what for.
#[derive(Clone, Copy)]
pub(super) struct Chosen<'a> {
    /// Why it was chosen, before "of 1,000 sessions".
    pub(super) phrase: &'static str,
    /// Among how many sessions.
    pub(super) among: usize,
    /// What needed its place. `None` if it was another session of its own client, at the limit of that client.
    pub(super) arrival: Option<(ArrivalKind, Option<&'a ClientContext>)>,
}
