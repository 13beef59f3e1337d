//! docs/design.md, L5.
//!
//! A handler knows its session, and holds it busy for work of its own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::session::{Driver, settle};
use rmcp::handler::server::tool::Extension;
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::{ErrorData, RoleServer, tool, tool_router};
use rmcp_session_policy::eviction::{Lru, SessionInfo};
use rmcp_session_policy::{
    BusyGuard, CloseReason, CurrentSession, CurrentSessionError, MINUTE, PolicySessionManager,
    PolicySessionManagerBuilder, SECOND,
};
use serde_json::json;
use tokio::time::{Instant, sleep};

type Manager = PolicySessionManager<LocalSessionManager>;

fn manager(
    configure: impl FnOnce(
        PolicySessionManagerBuilder<LocalSessionManager>,
    ) -> PolicySessionManagerBuilder<LocalSessionManager>,
) -> Arc<Manager> {
    Arc::new(configure(PolicySessionManager::local().eviction(Lru::new())).build().expect("valid"))
}

/// Gives its session and guards away.
#[derive(Clone, Debug, Default)]
struct Worker {
    sessions: Arc<Mutex<Vec<CurrentSession>>>,
    guards: Arc<Mutex<Vec<BusyGuard>>>,
}

#[tool_router(server_handler)]
impl Worker {
    #[tool(description = "begins to work, and answers at once")]
    async fn begin(&self, context: RequestContext<RoleServer>) -> Result<String, ErrorData> {
        let current = CurrentSession::of(&context)?;
        let busy = current.keep_busy()?;
        self.sessions.lock().expect("no panic").push(current);
        self.guards.lock().expect("no panic").push(busy);
        Ok("begun".to_owned())
    }

    #[tool(description = "says which session it is")]
    async fn name(&self, Extension(current): Extension<CurrentSession>) -> String {
        self.sessions.lock().expect("no panic").push(current.clone());
        current.fingerprint().to_string()
    }
}

async fn ready<M: SessionManager>(sessions: &Arc<M>, worker: &Worker) -> Driver<M> {
    let driver = Driver::open_with(sessions, worker.clone()).await.expect("room");
    driver.initialize().await.expect("answers");
    driver.initialized().await.expect("lives");
    driver
}

async fn begin(alice: &Driver<Manager>) {
    assert_eq!(alice.call("begin", json!({})).await.expect("lives").text().await, "begun");
}

async fn is_refused(sessions: &Arc<Manager>) -> bool {
    Driver::open(sessions).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn a_handler_is_told_its_session_but_not_its_id() {
    let (sessions, worker) = (manager(|b| b), Worker::default());
    let alice = ready(&sessions, &worker).await;
    let told = alice.call("name", json!({})).await.expect("lives").text().await;
    let listed = &sessions.list()[0];
    assert_eq!(told, listed.fingerprint.to_string());
    let current = worker.sessions.lock().expect("no panic").remove(0);
    assert_eq!((current.key(), current.fingerprint()), (listed.key, listed.fingerprint));
    assert!(!format!("{current:?}").contains(&*alice.id));
    assert_eq!(listed.in_flight, 0, "to know it is not to hold it");
}

#[tokio::test(start_paused = true)]
async fn work_counts_as_a_request_in_flight_until_its_guard_is_dropped() {
    let (sessions, worker) = (manager(|b| b.max_sessions(1)), Worker::default());
    let alice = ready(&sessions, &worker).await;
    begin(&alice).await;
    begin(&alice).await;
    assert_eq!((sessions.stats().busy, sessions.list()[0].in_flight, sessions.list()[0].uses), (1, 2, 2));
    worker.guards.lock().expect("no panic").pop();
    assert!(is_refused(&sessions).await);
    worker.guards.lock().expect("no panic").clear();
    assert_eq!((sessions.stats().busy, sessions.list()[0].in_flight), (0, 0));
    Driver::ready(&sessions).await.expect("alice may go now");
}

#[tokio::test(start_paused = true)]
async fn work_protects_for_max_busy_and_anew_when_it_is_renewed() {
    let (sessions, worker) = (manager(|b| b.max_sessions(1).max_busy(MINUTE)), Worker::default());
    let alice = ready(&sessions, &worker).await;
    begin(&alice).await;
    for _ in 0..3 {
        sleep(59 * SECOND).await;
        assert!(is_refused(&sessions).await);
        worker.guards.lock().expect("no panic")[0].renew().expect("lives");
    }
    sleep(MINUTE).await;
    Driver::ready(&sessions).await.expect("alice may go now");
    assert_eq!(worker.guards.lock().expect("no panic")[0].renew(), Err(CurrentSessionError::Closing));
}

#[tokio::test(start_paused = true)]
async fn work_holds_up_the_idle_timeout_which_runs_from_its_end() {
    let (sessions, worker) = (manager(|b| b.idle_timeout(MINUTE)), Worker::default());
    let alice = ready(&sessions, &worker).await;
    begin(&alice).await;
    sleep(5 * MINUTE).await;
    worker.guards.lock().expect("no panic").clear();
    sleep(59 * SECOND).await;
    assert_eq!(sessions.stats().live, 1);
    sleep(2 * SECOND).await;
    assert_eq!(sessions.stats().closed(CloseReason::Idle), 1);
    drop(alice);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_work_and_any_other_end_does_not() {
    for drains in [true, false] {
        let (sessions, worker) = (manager(|b| b), Worker::default());
        let alice = ready(&sessions, &worker).await;
        begin(&alice).await;
        let guards = Arc::clone(&worker.guards);
        tokio::spawn(async move {
            sleep(10 * SECOND).await;
            guards.lock().expect("no panic").clear();
        });
        let begun = Instant::now();
        if drains {
            let report = sessions.drain(MINUTE).await;
            assert_eq!((report.finished, report.cut_off), (1, 0));
            assert_eq!(begun.elapsed(), 10 * SECOND);
        } else {
            assert_eq!(sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Revoked).await, 1);
            assert_eq!((begun.elapsed(), sessions.stats().live), (Duration::ZERO, 0));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_closing_takes_no_work() {
    let (sessions, worker) = (manager(|b| b), Worker::default());
    let alice = ready(&sessions, &worker).await;
    begin(&alice).await;
    sessions.terminate(sessions.list()[0].key, CloseReason::Evicted).await;
    let current = worker.sessions.lock().expect("no panic").remove(0);
    assert_eq!(current.keep_busy().err(), Some(CurrentSessionError::Closing));
    let mut guard = worker.guards.lock().expect("no panic").remove(0);
    assert_eq!(guard.renew(), Err(CurrentSessionError::Closing));
    assert_eq!(guard.renew(), Err(CurrentSessionError::Closing));
}

#[tokio::test(start_paused = true)]
async fn stacked_managers_are_both_kept_busy_and_the_outer_one_is_shown() {
    let inner = PolicySessionManager::local().build().expect("valid");
    // So that the keys are not the same.
    drop(inner.create_session().await.expect("room"));
    let outer = Arc::new(PolicySessionManager::builder(inner).build().expect("valid"));
    let worker = Worker::default();
    let alice = ready(&outer, &worker).await;
    assert_eq!(alice.call("begin", json!({})).await.expect("lives").text().await, "begun");
    settle().await;
    let in_flight = || (outer.list()[0].in_flight, outer.inner().list()[0].in_flight);
    assert_eq!(in_flight(), (1, 1));
    assert_ne!(outer.list()[0].key, outer.inner().list()[0].key);
    assert_eq!(worker.sessions.lock().expect("no panic")[0].key(), outer.list()[0].key);
    worker.guards.lock().expect("no panic").clear();
    assert_eq!(in_flight(), (0, 0));
}
