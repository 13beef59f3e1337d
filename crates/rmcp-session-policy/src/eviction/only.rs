//! A policy restricted to some of the sessions.

use std::fmt;

use super::{Candidates, EvictionPolicy, SessionInfo};
use crate::session::SessionKey;

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

    fn tracks_access(&self) -> bool {
        self.policy.tracks_access()
    }

    fn on_access(&mut self, session: &SessionInfo<'_>) {
        self.policy.on_access(session);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::{EvictionPolicyExt, Lru};
    use crate::registry::test_registry::{TestRegistry, touch};

    #[tokio::test(start_paused = true)]
    async fn the_chosen_few_go_first_and_then_the_oldest() {
        let mut stage = TestRegistry::new(Lru::new().only(|session| session.uses() > 0));
        let [_, two, _, four] = stage.ready_many();
        [&four, &two].into_iter().for_each(touch);
        assert_eq!([stage.victim(), stage.victim()], [Some(4), Some(2)]);
        assert_eq!(stage.registry.overruled, 0);
        assert_eq!(stage.victims(), [1, 3], "it orders, it does not protect");
        assert_eq!(stage.registry.overruled, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn whom_a_use_lets_in_is_found_at_once() {
        let mut stage = TestRegistry::new(Lru::new().only(|session| session.uses() > 0));
        let [_, two, _] = stage.ready_many();
        assert_eq!(stage.victim(), Some(1), "nobody passes");
        touch(&two);
        assert_eq!((stage.victim(), stage.registry.overruled), (Some(2), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn whom_time_alone_lets_in_is_found_a_second_later() {
        use std::time::Duration;
        let old = |session: &SessionInfo<'_>| session.created().elapsed() >= Duration::from_secs(10);
        let mut stage = TestRegistry::new(Lru::new().only(old));
        let crowd = stage.ready_many::<3>();
        touch(&crowd[0]);
        assert_eq!((stage.victim(), stage.registry.overruled), (Some(1), 1));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!((stage.victim(), stage.registry.overruled), (Some(2), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_changes_while_the_predicate_looks_is_not_lost() {
        use std::sync::{Arc, Mutex};
        // A stream that closes just after the predicate has seen it open.
        let open = Arc::new(Mutex::new(None::<Arc<crate::session::Record>>));
        let closing = Arc::clone(&open);
        let mut stage = TestRegistry::new(Lru::new().only(move |session| {
            let free = session.open_streams() == 0;
            if let Some(record) = closing.lock().unwrap().take() {
                record.stream_closed(tokio::time::Instant::now());
            }
            free
        }));
        let one = stage.ready();
        one.stream_opened();
        *open.lock().unwrap() = Some(one);
        assert_eq!((stage.victim(), stage.registry.overruled), (Some(1), 0));
    }
}
