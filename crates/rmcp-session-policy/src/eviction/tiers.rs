//! A policy asked tier by tier.

use std::fmt;

use super::{Candidates, EvictionPolicy, SessionInfo};
use crate::registry::SessionKey;

/// Asks a policy once per tier; made by [`tiers`](super::EvictionPolicyExt::tiers).
///
/// Each tier has an order of its own, so that a session which one tier sets aside is still met by the next; asking one
/// order with several filters would scan past everybody whom the filter hides, at each choice.
#[derive(Clone)]
pub struct Tiers<P, F> {
    tiers: Vec<(F, P)>,
    rest: P,
}

impl<P: Clone, F> Tiers<P, F> {
    pub(super) fn new<const N: usize>(policy: P, predicates: [F; N]) -> Self {
        Self { tiers: predicates.into_iter().map(|predicate| (predicate, policy.clone())).collect(), rest: policy }
    }
}

impl<P, F> Tiers<P, F> {
    fn policies(&mut self) -> impl Iterator<Item = &mut P> {
        self.tiers.iter_mut().map(|(_, policy)| policy).chain(std::iter::once(&mut self.rest))
    }
}

impl<P, F> EvictionPolicy for Tiers<P, F>
where
    P: EvictionPolicy,
    F: Fn(&SessionInfo<'_>) -> bool + Send + 'static,
{
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.policies().for_each(|policy| policy.on_insert(session));
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        self.policies().for_each(|policy| policy.on_remove(session));
    }

    fn on_idle(&mut self, session: &SessionInfo<'_>) {
        self.policies().for_each(|policy| policy.on_idle(session));
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        let Self { tiers, rest } = self;
        tiers
            .iter_mut()
            .find_map(|(predicate, policy)| candidates.filter(predicate, |few| policy.victim(few)))
            .or_else(|| rest.victim(candidates))
    }
}

impl<P: fmt::Debug, F> fmt::Debug for Tiers<P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiers").field("tiers", &self.tiers.len()).field("policy", &self.rest).finish()
    }
}
