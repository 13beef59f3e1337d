//! A policy restricted to some of the sessions.

use std::fmt;

use super::{Candidates, EvictionPolicy, SessionInfo};
use crate::registry::SessionKey;

/// Chooses among the sessions for which a predicate holds; made by [`only`](super::EvictionPolicyExt::only).
#[derive(Clone)]
pub struct Only<P, F> {
    policy: P,
    predicate: F,
}

impl<P, F> Only<P, F> {
    pub(super) const fn new(policy: P, predicate: F) -> Self {
        Self { policy, predicate }
    }
}

impl<P, F> EvictionPolicy for Only<P, F>
where
    P: EvictionPolicy,
    F: Fn(&SessionInfo<'_>) -> bool + Send + 'static,
{
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.policy.on_insert(session);
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        self.policy.on_remove(session);
    }

    fn on_idle(&mut self, session: &SessionInfo<'_>) {
        self.policy.on_idle(session);
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        let Self { policy, predicate } = self;
        candidates.filter(predicate, |few| policy.victim(few))
    }
}

impl<P: fmt::Debug, F> fmt::Debug for Only<P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Only").field("policy", &self.policy).finish_non_exhaustive()
    }
}
