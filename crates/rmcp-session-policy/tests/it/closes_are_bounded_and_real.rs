//! docs/design.md, L8.
//!
//! A close ends within its deadline, and the inner worker ends with it.

use std::sync::Arc;

use crate::session::{Driver, SlowToInitialize, Wedge, alive_tasks, settle};
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::eviction::{Lru, SessionInfo};
use rmcp_session_policy::{
    CloseReason, MINUTE, PolicyError, PolicySessionManager, PolicySessionManagerBuilder, SECOND,
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

fn wedge(
    configure: impl FnOnce(PolicySessionManagerBuilder<Wedge>) -> PolicySessionManagerBuilder<Wedge>,
) -> Arc<PolicySessionManager<Wedge>> {
    Arc::new(configure(PolicySessionManager::builder(Wedge::new()).eviction(Lru::new())).build().expect("valid"))
}

const fn every_session(_: &SessionInfo<'_>) -> bool {
    true
}

/// Starts the lifecycle task and closes its only session; returns how many tasks are left.
async fn tasks_without_sessions<M: SessionManager>(sessions: &Arc<M>) -> usize {
    let first = Driver::ready(sessions).await.unwrap_or_else(|_| panic!("room"));
    first.manager.close_session(&first.id).await.unwrap_or_else(|_| panic!("closes"));
    sleep(20 * SECOND).await;
    alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_its_call_is_terminated_within_the_deadline_and_its_worker_ends() {
    let sessions = manager(|b| b);
    let before = tasks_without_sessions(&sessions).await;
    let alice = Driver::ready(&sessions).await.expect("room");
    let unread = alice.call("chatter", json!({ "messages": 100 })).await.expect("lives");
    settle().await;
    assert!(alive_tasks() > before);
    let begun = Instant::now();
    assert_eq!(sessions.terminate(every_session, CloseReason::Revoked).await, 1);
    assert!(begun.elapsed() <= SECOND, "{:?}", begun.elapsed());
    assert_eq!(sessions.stats().live, 0);
    assert_eq!(sessions.inner().sessions.read().await.len(), 0);
    sleep(20 * SECOND).await;
    assert_eq!(alive_tasks(), before, "worker, service and handler have ended");
    // The stream has nothing more to give.
    assert!(unread.answers().await.len() <= 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_its_get_stream_is_terminated_within_the_deadline_and_its_worker_ends() {
    let sessions = manager(|b| b);
    let before = tasks_without_sessions(&sessions).await;
    let alice = Driver::ready(&sessions).await.expect("room");
    let unread = alice.listen().await.expect("lives");
    let call = alice.call_as(json!("a"), "announce", json!({ "messages": 100 })).await.expect("lives");
    let call = tokio::spawn(call.error());
    settle().await;
    let begun = Instant::now();
    assert_eq!(sessions.terminate(every_session, CloseReason::Revoked).await, 1);
    assert!(begun.elapsed() <= SECOND, "{:?}", begun.elapsed());
    assert_eq!(call.await.expect("no panic"), (json!("a"), 404), "its farewell comes out behind the stalled stream");
    sleep(20 * SECOND).await;
    assert_eq!(alive_tasks(), before);
    drop(unread);
}

#[tokio::test(start_paused = true)]
async fn past_max_busy_a_client_that_does_not_read_is_evicted_and_its_worker_ends() {
    let sessions = manager(|b| b.max_sessions(1).max_busy(MINUTE).idle_timeout(None));
    let before = tasks_without_sessions(&sessions).await;
    let alice = Driver::ready(&sessions).await.expect("room");
    let unread = alice.call("chatter", json!({ "messages": 100 })).await.expect("lives");
    sleep(MINUTE).await;
    let begun = Instant::now();
    let bob = Driver::ready(&sessions).await.expect("alice may go");
    assert!(begun.elapsed() <= SECOND, "{:?}", begun.elapsed());
    assert_eq!(sessions.inner().sessions.read().await.len(), 1);
    bob.manager.close_session(&bob.id).await.expect("closes");
    sleep(20 * SECOND).await;
    assert_eq!(alive_tasks(), before);
    drop(unread);
}

#[tokio::test(start_paused = true)]
async fn requests_beside_an_unread_stream_get_their_farewell() {
    let sessions = manager(|b| b);
    let alice = Arc::new(Driver::ready(&sessions).await.expect("room"));
    let running = alice.call_as(json!("running"), "sleep", json!({ "millis": 60_000 })).await.expect("lives");
    let running = tokio::spawn(running.error());
    let unread = alice.call("chatter", json!({ "messages": 100 })).await.expect("lives");
    settle().await;
    assert_eq!(sessions.terminate(every_session, CloseReason::Revoked).await, 1);
    assert_eq!(running.await.expect("no panic"), (json!("running"), 404));
    drop(unread);
}

/// The requests of a client in its own session, ended in four ways.
async fn farewells(sessions: &Arc<Manager>, end: impl AsyncFnOnce(&Arc<Manager>), code: i64) {
    let alice = Driver::ready(sessions).await.expect("room");
    let mut calls = Vec::new();
    for id in [json!(1), json!("1"), json!(2), json!("two")] {
        // They would be answered while the service drains.
        let call = alice.call_as(id.clone(), "sleep", json!({ "millis": 10_500 })).await.expect("lives");
        calls.push((id, tokio::spawn(call.error())));
    }
    sleep(10 * SECOND).await;
    let begun = Instant::now();
    end(sessions).await;
    for (id, call) in calls {
        assert_eq!(call.await.expect("no panic"), (id, code), "one answer, its own, before the stream ends");
    }
    assert!(begun.elapsed() < SECOND / 5, "{:?}", begun.elapsed());
    sleep(20 * SECOND).await;
    assert_eq!(sessions.stats().live, 0);
}

#[tokio::test(start_paused = true)]
async fn each_request_in_flight_is_answered_when_the_lifetime_ends() {
    let sessions = manager(|b| b.max_lifetime(10 * SECOND));
    farewells(&sessions, async |_| {}, 404).await;
    assert_eq!(sessions.stats().closed(CloseReason::Lifetime), 1);
}

#[tokio::test(start_paused = true)]
async fn each_request_in_flight_is_answered_when_the_session_is_revoked() {
    let sessions = manager(|b| b);
    farewells(
        &sessions,
        async |sessions| assert_eq!(sessions.terminate(every_session, CloseReason::Revoked).await, 1),
        404,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn each_request_in_flight_is_answered_when_the_drain_reaches_its_deadline() {
    let sessions = manager(|b| b);
    let drain = async |sessions: &Arc<Manager>| {
        let report = sessions.drain(SECOND / 20).await;
        assert_eq!((report.finished, report.cut_off, report.stuck), (0, 1, 0));
    };
    farewells(&sessions, drain, 503).await;
}

#[tokio::test(start_paused = true)]
async fn each_request_in_flight_is_answered_when_the_session_is_evicted_past_max_busy() {
    let sessions = manager(|b| b.max_sessions(1).max_busy(10 * SECOND));
    let evict = async |sessions: &Arc<Manager>| {
        let bob = Driver::ready(sessions).await.expect("alice may go");
        bob.manager.close_session(&bob.id).await.expect("closes");
    };
    farewells(&sessions, evict, 503).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_deletes_its_session_gets_an_answer_to_each_request_in_flight() {
    let sessions = manager(|b| b);
    let delete = async |sessions: &Arc<Manager>| {
        let id = sessions.inner().sessions.read().await.keys().next().cloned().expect("there");
        sessions.close_session(&id).await.expect("closes");
    };
    farewells(&sessions, delete, 404).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_while_its_session_is_closing_is_not_taken_in() {
    let sessions = wedge(|b| b);
    let alice = Driver::ready(&sessions).await.expect("room");
    sessions.inner().wedge(&alice.id);
    assert_eq!(sessions.terminate(every_session, CloseReason::Revoked).await, 1);
    assert!(matches!(alice.sleep(1).await.map(drop), Err(PolicyError::NotFound)));
    assert!(matches!(alice.initialized().await, Err(PolicyError::NotFound)));
    assert!(matches!(alice.listen().await.map(drop), Err(PolicyError::NotFound)));
    sessions.inner().free(&alice.id);
}

#[tokio::test(start_paused = true)]
async fn a_wedged_close_delays_no_other_request() {
    let sessions = wedge(|b| b.max_sessions(3));
    let alice = Driver::ready(&sessions).await.expect("room");
    sessions.inner().wedge(&alice.id);
    sleep(SECOND).await;
    let _bob = Driver::ready(&sessions).await.expect("room");
    let _carol = Driver::ready(&sessions).await.expect("room");
    let begun = Instant::now();
    let dave = Driver::ready(&sessions).await.expect("takes another when alice does not go");
    assert!(begun.elapsed() <= SECOND / 5, "{:?}", begun.elapsed());
    assert!(dave.lives().await);
    for _ in 0..20 {
        let begun = Instant::now();
        Driver::ready(&sessions).await.expect("room");
        assert_eq!(begun.elapsed(), std::time::Duration::ZERO, "alice is in no other client's way any more");
        sleep(SECOND / 10).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_wedged_session_keeps_its_place_shows_as_stuck_and_frees_the_place_when_it_is_gone() {
    let sessions = wedge(|b| b.max_sessions(2).close_deadline(5 * SECOND).refuse_when_full());
    let alice = Driver::ready(&sessions).await.expect("room");
    let _bob = Driver::ready(&sessions).await.expect("room");
    sessions.inner().wedge(&alice.id);
    let begun = Instant::now();
    let of_alice = sessions.list().iter().map(|snapshot| snapshot.key).min().expect("there");
    assert_eq!(sessions.terminate(of_alice, CloseReason::Revoked).await, 1);
    assert_eq!(begun.elapsed().as_secs(), 5, "it waits for as long as the deadline");
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.closing, stats.stuck), (2, 1, 1));
    assert!(matches!(Driver::open(&sessions).await.map(drop), Err(PolicyError::ServerFull(_))));
    sleep(10 * MINUTE).await;
    assert_eq!(sessions.stats().stuck, 1, "however long it takes");
    sessions.inner().free(&alice.id);
    settle().await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.closing, stats.stuck), (1, 0, 0));
    Driver::ready(&sessions).await.expect("alice's place is free");
    assert_eq!(sessions.inner().local.sessions.read().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_worker_of_a_wedged_session_ends_nevertheless() {
    let sessions = wedge(|b| b);
    let before = tasks_without_sessions(&sessions).await;
    let alice = Driver::ready(&sessions).await.expect("room");
    sessions.inner().wedge(&alice.id);
    assert_eq!(sessions.terminate(every_session, CloseReason::Revoked).await, 1);
    sleep(20 * SECOND).await;
    assert_eq!(alive_tasks(), before + 1, "what is left is the close itself");
    sessions.inner().free(&alice.id);
    settle().await;
    assert_eq!(alive_tasks(), before);
}

#[tokio::test(start_paused = true)]
async fn three_wedged_victims_are_the_most_a_newcomer_takes() {
    let sessions = wedge(|b| b.max_sessions(5));
    let mut drivers = Vec::new();
    for _ in 0..5 {
        let driver = Driver::ready(&sessions).await.expect("room");
        sessions.inner().wedge(&driver.id);
        drivers.push(driver);
    }
    let begun = Instant::now();
    assert!(matches!(Driver::open(&sessions).await.map(drop), Err(PolicyError::ServerFull(_))));
    assert!(begun.elapsed() <= SECOND / 2, "{:?}", begun.elapsed());
    let stats = sessions.stats();
    assert_eq!((stats.closing, stats.ready), (3, 2));
    for driver in &drivers {
        sessions.inner().free(&driver.id);
    }
    settle().await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.reserved), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn an_initialize_that_is_answered_too_slowly_ends_after_max_busy_and_its_place_is_free() {
    let sessions = manager(|b| b.max_sessions(1).init_timeout(SECOND).max_busy(10 * SECOND));
    let before = tasks_without_sessions(&sessions).await;
    let alice = Driver::open_with(&sessions, SlowToInitialize(MINUTE)).await.expect("room");
    let begun = Instant::now();
    let answer = alice.initialize().await;
    assert!(matches!(answer, Err(PolicyError::NotFound)), "{answer:?}");
    assert!(begun.elapsed() >= 10 * SECOND && begun.elapsed() <= 11 * SECOND, "{:?}", begun.elapsed());
    settle().await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.closed(CloseReason::InitTimeout), stats.closed(CloseReason::InitFailed)), (0, 1, 0));
    let bob = Driver::ready(&sessions).await.expect("room");
    assert_eq!(bob.echo("b").await.expect("lives"), "b");
    bob.manager.close_session(&bob.id).await.expect("closes");
    sleep(2 * MINUTE).await;
    assert_eq!(alive_tasks(), before);
}

/// While the close is wedged the worker still takes messages, and what it cannot route goes to the stream of the GET.
#[tokio::test(start_paused = true)]
async fn a_handler_that_finishes_after_the_farewell_gives_no_second_answer() {
    let sessions = wedge(|b| b);
    let alice = Driver::ready(&sessions).await.expect("room");
    let listening = tokio::spawn(alice.listen().await.expect("lives").rest());
    let call =
        tokio::spawn(alice.call_as(json!("c"), "sleep", json!({ "millis": 1_000 })).await.expect("lives").error());
    settle().await;
    sessions.inner().wedge(&alice.id);
    assert_eq!(sessions.terminate(every_session, CloseReason::Revoked).await, 1);
    assert_eq!(call.await.expect("no panic"), (json!("c"), 404));
    sessions.inner().free(&alice.id);
    assert_eq!(listening.await.expect("no panic"), Vec::<serde_json::Value>::new());
}

#[tokio::test(start_paused = true)]
async fn requests_queued_behind_an_unread_stream_are_answered_too() {
    let sessions = manager(|b| b);
    let before = tasks_without_sessions(&sessions).await;
    let alice = Arc::new(Driver::ready(&sessions).await.expect("room"));
    let unread = alice.call("chatter", json!({ "messages": 100 })).await.expect("lives");
    settle().await;
    let queued: Vec<_> = (0..40)
        .map(|n| {
            let alice = Arc::clone(&alice);
            tokio::spawn(async move {
                let id = json!(format!("queued {n}"));
                match alice.call_as(id.clone(), "sleep", json!({ "millis": 60_000 })).await {
                    Ok(replies) => assert_eq!(replies.error().await, (id, 404)),
                    Err(error) => assert!(matches!(error, PolicyError::NotFound), "{error:?}"),
                }
            })
        })
        .collect();
    settle().await;
    assert_eq!(sessions.list()[0].in_flight, 41);
    let begun = Instant::now();
    assert_eq!(sessions.terminate(every_session, CloseReason::Revoked).await, 1);
    assert!(begun.elapsed() <= SECOND, "{:?}", begun.elapsed());
    for request in queued {
        request.await.expect("answered");
    }
    assert!(begun.elapsed() <= SECOND, "{:?}", begun.elapsed());
    drop(unread);
    sleep(20 * SECOND).await;
    assert_eq!(alive_tasks(), before);
}

#[tokio::test(start_paused = true)]
async fn a_sent_answer_reaches_a_slow_reader() {
    let sessions = manager(|b| b);
    let alice = Driver::ready(&sessions).await.expect("room");
    let slow = alice.sleep(1_000).await.expect("lives");
    sleep(2 * SECOND).await;
    assert_eq!(sessions.stats().busy, 0);
    assert_eq!(sessions.terminate(every_session, CloseReason::Revoked).await, 1);
    sleep(20 * SECOND).await;
    assert_eq!(slow.text().await, "slept 1000");
}
