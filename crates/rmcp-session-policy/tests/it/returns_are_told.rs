//! docs/design.md, 5.2.
//!
//! A policy that learns hears of each session that comes back, also from the parking, and once of each that never will.

use std::sync::{Arc, Mutex};

use crate::parked::{local, parking};
use crate::service::WELL;
use axum::http::StatusCode;
use rmcp_session_policy::eviction::{Candidates, EvictionPolicy, IdlePeriod, Lru, SessionInfo};
use rmcp_session_policy::{CloseReason, HOUR, MINUTE, SECOND, SessionKey, SessionOrigin, Stream};

/// What the policy was told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    Inserted { calls: u64, gap: Option<u64> },
    Removed,
    Returned { seconds: u64, calls: u64, gap: Option<u64>, stream: Stream },
    Forgotten,
}

/// Evicts as `Lru` does, and writes down what it was told, each with the session.
#[derive(Clone, Debug, Default)]
struct Recorder {
    told: Arc<Mutex<Vec<(SessionOrigin, Told)>>>,
    lru: Lru,
}

impl Recorder {
    fn note(&self, session: SessionOrigin, told: Told) {
        self.told.lock().expect("no panic").push((session, told));
    }

    /// What it was told of the session that it heard of as the `nth` one.
    fn of(&self, nth: usize) -> Vec<Told> {
        let told = self.told.lock().expect("no panic");
        let mut sessions: Vec<_> = told.iter().map(|(session, _)| *session).collect();
        sessions.sort();
        sessions.dedup();
        told.iter().filter(|(session, _)| *session == sessions[nth]).map(|(_, told)| *told).collect()
    }
}

impl EvictionPolicy for Recorder {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        let gap = session.last_gap().map(|gap| gap.as_secs());
        self.note(session.origin(), Told::Inserted { calls: session.calls(), gap });
        self.lru.on_insert(session);
    }
    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        self.note(session.origin(), Told::Removed);
        self.lru.on_remove(session);
    }
    fn on_suspend(&mut self, session: &SessionInfo<'_>) {
        self.lru.on_suspend(session);
    }
    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        self.lru.on_resume(session);
    }
    fn tracks_returns(&self) -> bool {
        true
    }
    fn on_return(&mut self, session: &SessionInfo<'_>, idle: &IdlePeriod) {
        let (seconds, gap) = (idle.lasted.as_secs(), idle.last_gap.map(|gap| gap.as_secs()));
        self.note(session.origin(), Told::Returned { seconds, calls: idle.calls, gap, stream: idle.stream });
    }
    fn on_forgotten(&mut self, session: SessionOrigin) {
        self.note(session, Told::Forgotten);
    }
    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        self.lru.victim(candidates)
    }
}

const NEW: Told = Told::Inserted { calls: 0, gap: None };

const fn returned(seconds: u64, calls: u64, gap: Option<u64>) -> Told {
    Told::Returned { seconds, calls, gap, stream: Stream::Never }
}

#[tokio::test(start_paused = true)]
async fn the_time_in_the_parking_is_idle_time_and_the_facts_come_back_with_the_session() {
    let policy = Recorder::default();
    let sessions = local(|b| b.max_sessions(1).eviction(policy.clone()));
    let service = parking(&sessions);
    let alice = service.open().await;
    assert_eq!(service.echo(&alice).await, WELL);
    tokio::time::sleep(7 * SECOND).await;
    assert_eq!(service.echo(&alice).await, WELL);
    tokio::time::sleep(5 * SECOND).await;
    let _bob = service.open().await;
    tokio::time::sleep(MINUTE).await;
    assert_eq!(service.echo(&alice).await, WELL, "restored");
    let _carol = service.open().await;
    let expected = [NEW, returned(7, 1, None), Told::Removed, Told::Inserted { calls: 2, gap: Some(7) }];
    assert_eq!(policy.of(0)[..4], expected);
    assert_eq!(policy.of(0)[4..], [returned(65, 2, Some(7)), Told::Removed], "evicted again for carol");
    assert_eq!(policy.of(1), [NEW, Told::Removed], "parked, and not forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_session_is_forgotten_once_when_it_can_come_back_no_more() {
    let policy = Recorder::default();
    let sessions = local(|b| b.max_sessions(1).max_parked(1).max_lifetime(24 * HOUR).eviction(policy.clone()));
    let service = parking(&sessions);
    let deleted = service.open().await;
    assert_eq!(service.delete(&deleted).await, StatusCode::ACCEPTED);
    let _pushed_out = service.open().await;
    let revoked = service.open().await;
    assert_eq!(service.echo(&revoked).await, WELL);
    let _third = service.open().await;
    assert_eq!(sessions.stats().parked, 1);
    let called = |session: &SessionInfo<'_>| session.calls() == 1;
    assert_eq!(sessions.terminate(called, CloseReason::Revoked).await, 1);
    let _fourth = service.open().await;
    for nth in [0, 1, 2] {
        assert_eq!(policy.of(nth), [NEW, Told::Removed, Told::Forgotten], "the session {nth}");
    }
    assert_eq!(policy.of(3), [NEW, Told::Removed], "parked");
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_does_not_ask_hears_of_neither() {
    #[derive(Clone, Debug, Default)]
    struct Deaf(Recorder);
    impl EvictionPolicy for Deaf {
        fn on_return(&mut self, session: &SessionInfo<'_>, idle: &IdlePeriod) {
            self.0.on_return(session, idle);
        }
        fn on_forgotten(&mut self, session: SessionOrigin) {
            self.0.on_forgotten(session);
        }
        fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
            candidates.iter().next().map(|session| session.key())
        }
    }
    let policy = Deaf::default();
    let sessions = local(|b| b.max_sessions(2).eviction(policy.clone()));
    let service = parking(&sessions);
    let alice = service.open().await;
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(service.echo(&alice).await, WELL);
    assert_eq!(service.delete(&alice).await, StatusCode::ACCEPTED);
    let _bob = service.open().await;
    assert!(policy.0.told.lock().unwrap().is_empty());
}
