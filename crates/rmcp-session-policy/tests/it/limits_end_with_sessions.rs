//! docs/design.md, L4.
//!
//! A limit per session covers all incarnations of the session and ends with it. Policies are told of each end once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::scripted::{Act, Call, Scripted};
use crate::service::{NOT_FOUND, Service, WELL};
use async_trait::async_trait;
use axum::http::StatusCode;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp_session_policy::admission::{
    AdmissionPolicy, AdmissionPolicyExt, Arrival, Concurrent, Permit, Rejection, SlidingWindow,
};
use rmcp_session_policy::eviction::SessionInfo;
use rmcp_session_policy::{
    ClientContext, CloseReason, HOUR, MINUTE, PolicySessionManager, PolicySessionManagerBuilder, SECOND, SessionOrigin,
};
use tokio::sync::Semaphore;

/// Notes which sessions it is asked about, and which ends it is told of.
#[derive(Clone, Debug, Default)]
struct Ends {
    asked: Arc<Mutex<Vec<SessionOrigin>>>,
    told: Arc<Mutex<Vec<SessionOrigin>>>,
}

impl Ends {
    fn asked(&self) -> Vec<SessionOrigin> {
        self.asked.lock().expect("no panic").clone()
    }

    fn told(&self) -> Vec<SessionOrigin> {
        self.told.lock().expect("no panic").clone()
    }
}

#[async_trait]
impl AdmissionPolicy for Ends {
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        self.asked.lock().expect("no panic").extend(arrival.origin());
        Ok(Permit::free())
    }

    fn on_session_end(&self, session: SessionOrigin) {
        self.told.lock().expect("no panic").push(session);
    }
}

struct Stage {
    ends: Ends,
    inner: Scripted,
    sessions: Arc<PolicySessionManager<Scripted>>,
    service: Service<PolicySessionManager<Scripted>>,
}

impl Stage {
    fn new(
        configure: impl FnOnce(PolicySessionManagerBuilder<Scripted>) -> PolicySessionManagerBuilder<Scripted>,
    ) -> Self {
        let (ends, inner) = (Ends::default(), Scripted::relaying());
        let builder = configure(PolicySessionManager::builder(inner.clone()).max_sessions(3).requests(ends.clone()));
        let sessions = Arc::new(builder.build().expect("valid"));
        let service = Service::new(Arc::clone(&sessions), Some(sessions.parking()));
        Self { ends, inner, sessions, service }
    }

    /// Opens a session and calls it once.
    async fn user(&self) -> String {
        let id = self.service.open().await;
        assert_eq!(self.service.echo(&id).await, WELL);
        id
    }

    /// Opens a session, calls it once, and parks it.
    async fn parked_user(&self) -> String {
        let id = self.user().await;
        self.terminate(CloseReason::Evicted).await;
        assert_eq!(self.sessions.stats().parked, 1);
        self.assert_told(0);
        id
    }

    async fn terminate(&self, reason: CloseReason) {
        assert_eq!(self.sessions.terminate(|_: &SessionInfo<'_>| true, reason).await, 1);
    }

    /// Asserts that the policy was told once of the end of each of the first `sessions` sessions it was asked about, and of
    /// no other end.
    fn assert_told(&self, sessions: usize) {
        let mut asked = self.ends.asked();
        asked.dedup();
        assert_eq!(self.ends.told(), asked[..sessions], "of {asked:?}");
    }
}

/// Lets everything run that can.
async fn pause() {
    tokio::time::sleep(SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_parked_and_restored_is_one_session_and_has_not_ended() {
    let stage = Stage::new(|b| b);
    let id = stage.user().await;
    for _ in 0..3 {
        stage.terminate(CloseReason::Evicted).await;
        pause().await;
        assert_eq!(stage.service.echo(&id).await, WELL);
    }
    let asked = stage.ends.asked();
    assert_eq!((asked.len(), asked[0]), (4, asked[3]));
    stage.assert_told(0);
}

#[tokio::test(start_paused = true)]
async fn policies_hear_of_a_session_end_when_its_client_deletes_it() {
    let stage = Stage::new(|b| b);
    let id = stage.user().await;
    assert_eq!(stage.service.delete(&id).await, StatusCode::ACCEPTED);
    pause().await;
    stage.assert_told(1);
}

#[tokio::test(start_paused = true)]
async fn policies_hear_of_a_session_end_when_its_reason_is_not_restorable() {
    for reason in CloseReason::ALL.iter().copied().filter(|reason| !reason.is_restorable()) {
        let stage = Stage::new(|b| b);
        stage.user().await;
        stage.terminate(reason).await;
        pause().await;
        stage.assert_told(1);
    }
}

#[tokio::test(start_paused = true)]
async fn policies_hear_of_a_session_end_when_it_is_never_parked() {
    let none: fn(PolicySessionManagerBuilder<Scripted>) -> PolicySessionManagerBuilder<Scripted> = |b| b.max_parked(0);
    for configure in [none, |b| b.max_parked_entry_bytes(64), |b| b.max_parked_bytes(64)] {
        let stage = Stage::new(configure);
        stage.user().await;
        stage.terminate(CloseReason::Evicted).await;
        pause().await;
        assert_eq!(stage.sessions.stats().parked, 0);
        stage.assert_told(1);
    }
}

#[tokio::test(start_paused = true)]
async fn policies_hear_of_a_session_end_when_another_takes_its_parking_space() {
    let stage = Stage::new(|b| b.max_parked(1));
    stage.parked_user().await;
    stage.user().await;
    stage.terminate(CloseReason::Evicted).await;
    stage.assert_told(1);
}

#[tokio::test(start_paused = true)]
async fn policies_hear_of_a_session_end_when_the_parking_has_no_room() {
    let stage = Stage::new(|b| b.max_parked(1));
    stage.parked_user().await;
    let _never_called = stage.service.open().await;
    stage.terminate(CloseReason::Evicted).await;
    let told = stage.ends.told();
    assert!(told.len() == 1 && !stage.ends.asked().contains(&told[0]), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn policies_hear_of_a_session_end_when_max_parked_age_passes_without_requests() {
    let stage = Stage::new(|b| b.max_parked_age(HOUR));
    stage.parked_user().await;
    tokio::time::sleep(59 * MINUTE).await;
    stage.assert_told(0);
    tokio::time::sleep(MINUTE + SECOND).await;
    stage.assert_told(1);
}

#[tokio::test(start_paused = true)]
async fn max_parked_age_passes_while_nothing_else_is_due() {
    let stage = Stage::new(|b| b.max_parked_age(MINUTE).idle_timeout(HOUR));
    let id = stage.user().await;
    tokio::time::sleep(30 * MINUTE).await;
    assert_eq!(stage.service.echo(&id).await, WELL);
    stage.terminate(CloseReason::Evicted).await;
    tokio::time::sleep(59 * SECOND).await;
    stage.assert_told(0);
    tokio::time::sleep(2 * SECOND).await;
    stage.assert_told(1);
}

#[tokio::test(start_paused = true)]
async fn policies_hear_of_a_session_end_when_it_is_deleted_while_parked() {
    let stage = Stage::new(|b| b);
    let id = stage.parked_user().await;
    stage.sessions.parking().delete(&id).await.expect("deletes");
    stage.assert_told(1);
    ClientContext::new().scope(stage.sessions.close_session(&id.into())).await.expect("closes");
    pause().await;
    stage.assert_told(1);
}

#[tokio::test(start_paused = true)]
async fn policies_hear_of_a_session_end_when_it_is_revoked_while_parked() {
    let stage = Stage::new(|b| b);
    let id = stage.parked_user().await;
    stage.terminate(CloseReason::Revoked).await;
    stage.assert_told(1);
    assert_eq!(stage.service.echo(&id).await, NOT_FOUND);
    stage.assert_told(1);
}

#[tokio::test(start_paused = true)]
async fn policies_hear_of_a_session_end_when_its_lifetime_ends_while_it_is_parked() {
    let stage = Stage::new(|b| b.max_lifetime(HOUR));
    let id = stage.parked_user().await;
    tokio::time::sleep(HOUR).await;
    assert_eq!(stage.service.echo(&id).await, NOT_FOUND);
    stage.assert_told(1);
}

#[tokio::test(start_paused = true)]
async fn policies_hear_of_a_session_end_when_its_replay_fails() {
    let stage = Stage::new(|b| b);
    let id = stage.parked_user().await;
    stage.inner.set(Call::Initialize, Act::Error);
    assert!(!stage.service.echo(&id).await.1);
    pause().await;
    stage.assert_told(1);
}

#[tokio::test(start_paused = true)]
async fn policies_hear_of_a_session_end_when_it_is_deleted_or_revoked_during_a_restore() {
    for revoked in [false, true] {
        let stage = Stage::new(|b| b);
        let id = stage.parked_user().await;
        stage.inner.set(Call::Restore, Act::Slow(SECOND));
        let ends = async {
            tokio::time::sleep(SECOND / 2).await;
            stage.assert_told(0);
            if revoked {
                stage.terminate(CloseReason::Revoked).await;
            } else {
                stage.sessions.parking().delete(&id).await.expect("deletes");
            }
        };
        let (answer, ()) = tokio::join!(stage.service.echo(&id), ends);
        assert_eq!(answer, NOT_FOUND);
        pause().await;
        stage.assert_told(1);
        let stats = stage.sessions.stats();
        assert_eq!((stats.live, stats.parked, stats.reserved, stage.inner.existing()), (0, 0, 0, 0), "{stats:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn policies_hear_of_no_session_end_when_a_restore_is_given_up_or_refused() {
    let stage = Stage::new(|b| b.max_sessions(1));
    let id = stage.parked_user().await;
    stage.inner.set(Call::Restore, Act::Never);
    assert!(tokio::time::timeout(SECOND, stage.service.echo(&id)).await.is_err());
    stage.inner.set(Call::Restore, Act::Error);
    assert!(!stage.service.echo(&id).await.1);
    stage.inner.set(Call::Restore, Act::Ok);
    pause().await;
    stage.assert_told(0);
    assert_eq!(stage.sessions.stats().parked, 1);
    assert_eq!(stage.service.echo(&id).await, WELL);
}

// Limits

#[tokio::test(start_paused = true)]
async fn a_limit_per_session_does_not_start_anew_at_a_restore() {
    let limit = Arc::new(SlidingWindow::new(1, HOUR).per_session());
    let sessions = Arc::new(PolicySessionManager::local().requests(Arc::clone(&limit)).build().expect("valid"));
    let service = Service::new(Arc::clone(&sessions), Some(sessions.parking()));
    let id = service.open().await;
    assert_eq!(service.echo(&id).await, WELL);
    for _ in 0..5 {
        assert_eq!(service.echo(&id).await, (StatusCode::OK, false), "one an hour");
        assert_eq!(sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Evicted).await, 1);
    }
    assert_eq!((sessions.stats().restored, limit.keys()), (4, 1));
    tokio::time::sleep(HOUR).await;
    assert_eq!(service.echo(&id).await, WELL);
}

#[tokio::test(start_paused = true)]
async fn no_keys_of_ended_sessions_stay() {
    let limit = Arc::new(SlidingWindow::new(1, HOUR).per_session().max_keys(10));
    let builder = PolicySessionManager::local().max_sessions(2).max_parked(3).max_parked_age(HOUR);
    let sessions = Arc::new(builder.requests(Arc::clone(&limit)).build().expect("valid"));
    let service = Service::new(Arc::clone(&sessions), Some(sessions.parking()));
    for user in 0..100 {
        let id = service.open().await;
        assert_eq!(service.echo(&id).await, WELL, "a brand-new session has a limit of its own");
        assert!(limit.keys() <= 5);
        if user % 3 == 0 {
            assert_eq!(service.delete(&id).await, StatusCode::ACCEPTED);
            tokio::time::sleep(SECOND).await;
        }
    }
    tokio::time::sleep(2 * HOUR).await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.parked, limit.keys()), (0, 0, 0), "{stats:?}");
}

/// Lets a request in once its gate is open.
#[derive(Debug)]
struct Gate(Semaphore);

#[async_trait]
impl AdmissionPolicy for Gate {
    async fn admit(&self, _arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        self.0.acquire().await.expect("never closed").forget();
        Ok(Permit::free())
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_while_a_request_is_decided_leaves_no_key() {
    for (hangs_up, parked) in [(false, false), (true, false), (false, true), (true, true)] {
        let (gate, limit) = (Arc::new(Gate(Semaphore::new(0))), Arc::new(Concurrent::new(1).per_session()));
        let requests = Arc::clone(&limit).and(Arc::clone(&gate)).and(Arc::clone(&limit));
        let sessions = Arc::new(PolicySessionManager::local().requests(requests).build().expect("valid"));
        let service = Service::new(Arc::clone(&sessions), Some(sessions.parking()));
        let id = service.open().await;
        let request = tokio::spawn({
            let (service, id) = (service.clone(), id.clone());
            async move { service.echo(&id).await }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(limit.keys(), 1, "it is being decided");
        if parked {
            assert_eq!(sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Evicted).await, 1);
            assert_eq!(limit.keys(), 1);
        }
        assert_eq!(sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Revoked).await, 1);
        assert_eq!(limit.keys(), 0);
        if hangs_up {
            request.abort();
        }
        gate.0.add_permits(1);
        assert_ne!(request.await.unwrap_or(NOT_FOUND), WELL);
        assert_eq!(limit.keys(), 0, "hangs up: {hangs_up}, was parked: {parked}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_panics_on_a_session_end_does_no_harm() {
    #[derive(Debug)]
    struct Panics;

    #[async_trait]
    impl AdmissionPolicy for Panics {
        async fn admit(&self, _arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
            Ok(Permit::free())
        }

        fn on_session_end(&self, _session: SessionOrigin) {
            panic!("as asked")
        }
    }

    let ends = Ends::default();
    let builder = PolicySessionManager::local().max_sessions(1).max_parked(0).admission(Panics);
    let sessions = Arc::new(builder.requests(ends.clone()).build().expect("valid"));
    let service = Service::new(Arc::clone(&sessions), Some(sessions.parking()));
    for user in 0..5 {
        let id = service.open().await;
        assert_eq!(service.echo(&id).await, WELL);
        assert_eq!(ends.told().len(), user);
    }
}
