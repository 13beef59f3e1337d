//! A policy restricted to some of the sessions.

use super::{Fifo, Tiers};

/// Chooses among the sessions for which a predicate holds, and when none of them may go takes the oldest of the others;
/// made by [`only`](super::EvictionPolicyExt::only).
pub type Only<P, F> = Tiers<P, F, Fifo>;

#[cfg(test)]
mod tests {
    use crate::eviction::{EvictionPolicyExt, Lru, SessionInfo};
    use crate::registry::test_registry::{TestRegistry, call, touch};

    #[tokio::test(start_paused = true)]
    async fn the_chosen_few_go_first_and_then_the_oldest() {
        let mut stage = TestRegistry::new(Lru::new().only(|session| session.uses() > 0));
        let [_, two, _, four] = stage.ready_many();
        [&four, &two].into_iter().for_each(touch);
        assert_eq!([stage.victim(), stage.victim()], [Some(4), Some(2)]);
        assert_eq!(stage.victims(), [1, 3], "it orders, it does not protect");
        assert_eq!(stage.registry.overruled, 0, "that is no fault");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_a_use_lets_in_is_found_at_once() {
        let mut stage = TestRegistry::new(Lru::new().only(|session| session.uses() > 0));
        let [_, two, _] = stage.ready_many();
        assert_eq!(stage.victim(), Some(1), "none passes");
        touch(&two);
        assert_eq!((stage.victim(), stage.registry.overruled), (Some(2), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_time_alone_lets_in_is_found_once_something_happens_to_it() {
        use std::time::Duration;
        let old = |session: &SessionInfo<'_>| session.created().elapsed() >= Duration::from_secs(10);
        let mut stage = TestRegistry::new(Lru::new().only(old));
        let [_, _, three, _] = stage.ready_many();
        assert_eq!(stage.victim(), Some(1));
        tokio::time::advance(Duration::from_secs(10)).await;
        touch(&three);
        assert_eq!(stage.victims(), [3, 2, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_time_alone_shuts_out_is_found_when_it_is_to_be_named() {
        use std::time::Duration;
        let young = |session: &SessionInfo<'_>| session.created().elapsed() < Duration::from_secs(10);
        let mut stage = TestRegistry::new(Lru::new().only(young));
        let [_, two] = stage.ready_many();
        tokio::time::advance(Duration::from_secs(10)).await;
        stage.ready();
        drop(call(&two));
        assert_eq!(stage.victims(), [3, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_changes_while_the_predicate_looks_is_not_lost() {
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
        let [one, two] = stage.ready_many();
        two.stream_opened();
        drop(call(&one));
        *open.lock().unwrap() = Some(two);
        assert_eq!((stage.victim(), stage.registry.overruled), (Some(2), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_queued_than_there_are_sessions_while_no_victim_is_wanted() {
        let mut stage = TestRegistry::new(Lru::new().only(|session| session.uses() > 1));
        for _ in 0..100 {
            let session = stage.ready();
            touch(&session);
            session.entry.state.close();
            stage.registry.remove(session.entry.key);
        }
        assert!(stage.signals.changed.len() <= 1);
    }
}
