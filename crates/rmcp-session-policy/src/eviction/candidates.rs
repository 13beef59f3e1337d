//! Who may go.

use std::fmt;

use tokio::time::Instant;

use super::info::SessionInfo;
use crate::context::ClientContext;
use crate::registry::Roster;
use crate::session::SessionKey;

/// The sessions that may go at this moment, as one choice of a victim sees them.
///
/// A session for which [`contains`](Self::contains) or [`get`](Self::get) answers no is remembered as *met*: when it
/// may have become a candidate, the policy's [`on_idle`](super::EvictionPolicy::on_idle) hears of it before the next
/// choice. So a policy can set it aside instead of passing it by again and again.
#[derive(Clone, Copy)]
pub struct Candidates<'a> {
    roster: &'a Roster<'a>,
    filter: Option<&'a Filter<'a>>,
}

struct Filter<'a> {
    predicate: &'a dyn Fn(&SessionInfo<'_>) -> bool,
    outer: Option<&'a Self>,
}

impl<'a> Candidates<'a> {
    pub(crate) const fn of(roster: &'a Roster<'a>) -> Self {
        Self { roster, filter: None }
    }

    /// The moment of the choice.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.roster.now()
    }

    /// Who the place is wanted for, if that is known.
    #[must_use]
    pub const fn newcomer(&self) -> Option<&'a ClientContext> {
        self.roster.newcomer()
    }

    /// Whether the session may go. Constant time.
    #[must_use]
    pub fn contains(&self, key: SessionKey) -> bool {
        self.get(key).is_some()
    }

    /// The session, if it may go. Constant time.
    #[must_use]
    pub fn get(&self, key: SessionKey) -> Option<SessionInfo<'a>> {
        let session = self.roster.meet(key)?;
        if self.passes(&session) { Some(session) } else { self.roster.hide(session, || self.passes(&session)) }
    }

    /// All that may go, in no particular order. Its cost grows with the number of sessions: for policies that must
    /// look at everybody, and for servers with few sessions.
    pub fn iter(&self) -> impl Iterator<Item = SessionInfo<'a>> {
        let this = *self;
        self.roster.iter().filter(move |session| this.passes(session))
    }

    /// Asks `choose` with only those candidates for which `predicate` holds.
    ///
    /// ```
    /// use rmcp_session_policy::{eviction::Candidates, SessionKey};
    ///
    /// fn any_anonymous(candidates: &Candidates<'_>) -> Option<SessionKey> {
    ///     candidates.filter(&|session| session.context().is_none(), |few| few.iter().next().map(|s| s.key()))
    /// }
    /// ```
    pub fn filter<R>(
        &self,
        predicate: &dyn Fn(&SessionInfo<'_>) -> bool,
        choose: impl FnOnce(&Candidates<'_>) -> R,
    ) -> R {
        let filter = Filter { predicate, outer: self.filter };
        choose(&Candidates { roster: self.roster, filter: Some(&filter) })
    }

    fn passes(&self, session: &SessionInfo<'_>) -> bool {
        let mut filter = self.filter;
        while let Some(Filter { predicate, outer }) = filter {
            if !predicate(session) {
                return false;
            }
            filter = *outer;
        }
        true
    }
}

impl fmt::Debug for Candidates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidates").field("filtered", &self.filter.is_some()).finish_non_exhaustive()
    }
}
