//! The sessions that may go.

use std::fmt;

use tokio::time::Instant;

use super::info::SessionInfo;
use crate::context::ClientContext;
use crate::session::{Record, SessionKey};

/// What a choice of a victim sees of all sessions. The registry implements it, so that policies do not know the
/// registry.
pub(crate) trait View {
    /// Returns a session that is not closing, whether it may go or not. Costs one look.
    fn get(&self, key: SessionKey) -> Option<&Record>;

    /// Returns the sessions in the policy's order that may go. Costs a look at each session in the order.
    fn candidates(&self) -> Box<dyn Iterator<Item = &Record> + '_>;
}

/// The sessions at the moment of one choice. It is valid during one call of [`victim`](super::EvictionPolicy::victim).
#[derive(Clone, Copy)]
pub struct Candidates<'a> {
    view: &'a dyn View,
    now: Instant,
    newcomer: Option<&'a ClientContext>,
}

impl<'a> Candidates<'a> {
    pub(crate) const fn new(view: &'a dyn View, now: Instant, newcomer: Option<&'a ClientContext>) -> Self {
        Self { view, now, newcomer }
    }

    /// The moment of the choice.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// The client that the place is wanted for, if that is known. It opens a session, or its session is to be restored.
    #[must_use]
    pub const fn newcomer(&self) -> Option<&'a ClientContext> {
        self.newcomer
    }

    /// What is known of a session at this moment, whether it may go or not. `None` if it has ended. Constant time.
    ///
    /// For a policy that keeps an order of its own: it need not know which sessions may go.
    #[must_use]
    pub fn get(&self, key: SessionKey) -> Option<SessionInfo<'a>> {
        self.view.get(key).map(SessionInfo::of)
    }

    /// All sessions that may go, in no particular order, without the [suspended](super::EvictionPolicy::on_suspend)
    /// ones. Its cost grows with the number of sessions: for policies that must look at all of them, and for servers
    /// with few sessions.
    pub fn iter(&self) -> impl Iterator<Item = SessionInfo<'a>> + use<'a> {
        self.view.candidates().map(SessionInfo::of)
    }
}

impl fmt::Debug for Candidates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidates").field("now", &self.now).finish_non_exhaustive()
    }
}
