//! A policy asked tier by tier.

use std::fmt;

use super::{Candidates, EvictionPolicy, SessionInfo};
use crate::session::SessionKey;

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

    fn tracks_access(&self) -> bool {
        self.rest.tracks_access()
    }

    fn on_access(&mut self, session: &SessionInfo<'_>) {
        self.policies().for_each(|policy| policy.on_access(session));
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

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::eviction::{EvictionPolicyExt, Lru};
    use crate::registry::test_registry::{TestRegistry, call, looks, touch};

    /// The default policy.
    fn stage() -> TestRegistry {
        TestRegistry::new(Lru::new().tiers([|session: &SessionInfo<'_>| session.open_streams() == 0]))
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_holds_no_stream_goes_first_and_then_anybody() {
        let mut stage = stage();
        let [one, two, _, four, _] = stage.ready_many();
        [&one, &two, &four].into_iter().for_each(|record| record.stream_opened());
        touch(&one);
        assert_eq!(stage.victims(), [3, 5, 2, 4, 1]);
        assert_eq!(stage.registry.overruled, 0);
    }

    #[test]
    fn it_sees_uses_if_its_policy_does() {
        let holds_none: fn(&SessionInfo<'_>) -> bool = |session| session.open_streams() == 0;
        assert!(!Lru::new().tiers([holds_none]).tracks_access());
        assert!(Watches.tiers([holds_none]).tracks_access());
    }

    #[derive(Clone, Debug)]
    struct Watches;

    impl EvictionPolicy for Watches {
        fn tracks_access(&self) -> bool {
            true
        }

        fn victim(&mut self, _: &Candidates<'_>) -> Option<SessionKey> {
            None
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whose_stream_closes_is_of_the_first_tier_again_in_its_old_order() {
        let mut stage = stage();
        let [one, two, _, four, _] = stage.ready_many();
        [&one, &two, &four].into_iter().for_each(|record| record.stream_opened());
        assert_eq!(stage.victim(), Some(3));
        two.stream_closed(Instant::now());
        one.stream_closed(Instant::now());
        assert_eq!(stage.victims(), [1, 2, 5, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_session_is_of_no_tier_until_it_is_done() {
        let mut stage = stage();
        let [one, two, _] = stage.ready_many();
        two.stream_opened();
        let calls = (call(&one), call(&two));
        assert_eq!((stage.victim(), stage.victim()), (Some(3), None));
        drop(calls);
        assert_eq!(stage.victims(), [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_victim_costs_does_not_grow_with_the_streams_that_are_open() {
        const SESSIONS: usize = 10_000;
        const CHOICES: usize = 5_000;
        let mut stage = stage();
        let crowd: Vec<_> = (0..SESSIONS).map(|_| stage.ready()).collect();
        crowd.iter().take(SESSIONS * 99 / 100).for_each(|record| record.stream_opened());
        let count = looks(|| {
            for _ in 0..CHOICES {
                stage.victim();
                stage.ready();
            }
        });
        assert!(count < SESSIONS + 3 * CHOICES, "{count} looks");
        // Nothing happens for a while: then those with a stream are asked again, but not all at once.
        tokio::time::advance(std::time::Duration::from_secs(60)).await;
        let count = looks(|| {
            stage.victim();
        });
        assert!(count < 10, "{count} looks");
    }
}
