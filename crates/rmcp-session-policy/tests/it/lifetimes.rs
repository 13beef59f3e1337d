//! docs/design.md, L5, L10 and L15.
//!
//! Idle timeout, maximum lifetime and init timeout end sessions on time, with any number of sessions.

use std::sync::Arc;
use std::time::Duration;

use crate::session::{Driver, Http, Silent, alive_tasks, initialize_params, settle};
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::{
    ClientContext, CloseReason, HOUR, MINUTE, Phase, PolicySessionManager, PolicySessionManagerBuilder, SECOND,
};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

type Manager = PolicySessionManager<LocalSessionManager>;

const MILLI: Duration = Duration::from_millis(1);

fn manager(
    configure: impl FnOnce(
        PolicySessionManagerBuilder<LocalSessionManager>,
    ) -> PolicySessionManagerBuilder<LocalSessionManager>,
) -> Arc<Manager> {
    Arc::new(configure(PolicySessionManager::local()).build().expect("valid"))
}

#[tokio::test(start_paused = true)]
async fn the_idle_clock_starts_at_the_end_of_the_last_activity() {
    let sessions = manager(|b| b.idle_timeout(10 * SECOND));
    let alice = Driver::ready(&sessions).await.expect("room");
    let call = alice.sleep(60_000).await.expect("lives");
    assert_eq!(call.text().await, "slept 60000");
    let ended = Instant::now();
    sleep_until(ended + 10 * SECOND - 5 * MILLI).await;
    assert_eq!(sessions.stats().live, 1);
    sleep_until(ended + 10 * SECOND + 5 * MILLI).await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.closed(CloseReason::Idle)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_disconnected_in_the_middle_of_a_call_is_not_idle() {
    let sessions = manager(|b| b.idle_timeout(10 * SECOND));
    let alice = Driver::ready(&sessions).await.expect("room");
    drop(alice.sleep(60_000).await.expect("lives"));
    sleep(65 * SECOND).await;
    assert!(alice.lives().await);
    sleep(6 * SECOND).await;
    assert_eq!(sessions.stats().closed(CloseReason::Idle), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_found_for_a_request_is_not_idle() {
    let sessions = manager(|b| b.idle_timeout(10 * SECOND));
    let alice = Driver::ready(&sessions).await.expect("room");
    let asks = async {
        assert!(sessions.has_session(&alice.id).await.expect("knows"));
        sleep(35 * SECOND).await;
        alice.echo("e").await
    };
    assert_eq!(ClientContext::new().scope(asks).await.expect("lives"), "e");
}

#[tokio::test(start_paused = true)]
async fn a_half_open_session_may_be_idle_before_its_init_timeout() {
    let sessions = manager(|b| b.idle_timeout(10 * SECOND).init_timeout(MINUTE));
    let half_open = Driver::open(&sessions).await.expect("room");
    half_open.initialize().await.expect("answers");
    sleep(10 * SECOND + 5 * MILLI).await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.closed(CloseReason::Idle)), (0, 1), "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn any_message_from_the_client_restarts_the_idle_clock() {
    let sessions = manager(|b| b.idle_timeout(10 * SECOND));
    let alice = Driver::ready(&sessions).await.expect("room");
    for _ in 0..3 {
        sleep(9 * SECOND).await;
        alice.ping().await.expect("lives");
        sleep(9 * SECOND).await;
        alice.notify("notifications/roots/list_changed", json!({})).await.expect("lives");
        sleep(9 * SECOND).await;
        alice.echo("e").await.expect("lives");
    }
    let last = Instant::now();
    sleep_until(last + 10 * SECOND - 5 * MILLI).await;
    assert_eq!(sessions.stats().live, 1);
    sleep_until(last + 10 * SECOND + 5 * MILLI).await;
    assert_eq!(sessions.stats().live, 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_listens_is_not_idle_and_the_clock_starts_when_it_stops() {
    let sessions = manager(|b| b.idle_timeout(10 * SECOND));
    let alice = Driver::ready(&sessions).await.expect("room");
    let listening = alice.listen().await.expect("lives");
    sleep(HOUR).await;
    assert!(alice.lives().await);
    assert_eq!(sessions.list()[0].open_streams, 1);
    drop(listening);
    let stopped = Instant::now();
    sleep_until(stopped + 10 * SECOND - 5 * MILLI).await;
    assert_eq!(sessions.stats().live, 1);
    sleep_until(stopped + 10 * SECOND + 5 * MILLI).await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.closed(CloseReason::Idle)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn without_an_idle_timeout_a_quiet_session_lives_on() {
    let sessions = manager(|b| b.idle_timeout(None));
    let alice = Driver::ready(&sessions).await.expect("room");
    sleep(1_000 * HOUR).await;
    assert_eq!(alice.echo("e").await.expect("lives"), "e");
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_at_its_maximum_lifetime_whatever_it_is_doing() {
    let sessions = manager(|b| b.max_lifetime(MINUTE));
    let born = Instant::now();
    let alice = Driver::ready(&sessions).await.expect("room");
    let _listening = alice.listen().await.expect("lives");
    let call =
        tokio::spawn(alice.call_as(json!("c"), "sleep", json!({ "millis": 600_000 })).await.expect("lives").error());
    sleep_until(born + MINUTE - 5 * MILLI).await;
    assert_eq!(sessions.stats().ready, 1);
    sleep_until(born + MINUTE + 5 * MILLI).await;
    assert_eq!(sessions.stats().closed(CloseReason::Lifetime), 1);
    assert_eq!(call.await.expect("no panic"), (json!("c"), 404));
    assert!(!alice.lives().await);
}

#[tokio::test(start_paused = true)]
async fn no_session_outlives_its_lifetime_under_load() {
    let sessions = manager(|b| b.max_lifetime(300 * MILLI));
    let mut drivers = Vec::new();
    for _ in 0..400 {
        drivers.push(Driver::ready(&sessions).await.expect("room"));
    }
    let drivers = Arc::new(drivers);
    let born = Instant::now();
    for _ in 0..4 {
        let drivers = Arc::clone(&drivers);
        tokio::spawn(async move {
            loop {
                for driver in drivers.iter() {
                    driver.lives().await;
                }
                sleep(MILLI).await;
            }
        });
    }
    sleep_until(born + 295 * MILLI).await;
    assert_eq!(sessions.stats().live, 400);
    sleep_until(born + 305 * MILLI).await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.closed(CloseReason::Lifetime)), (0, 400));
    assert_eq!(sessions.inner().sessions.read().await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn twenty_thousand_deadlines_at_once_leave_no_survivor() {
    const MANY: usize = 20_000;
    let sessions = PolicySessionManager::builder(Silent::default())
        .max_sessions(MANY)
        .max_lifetime(MINUTE)
        .init_timeout(HOUR)
        .idle_timeout(None)
        .build()
        .expect("valid");
    let mut transports = Vec::new();
    for _ in 0..MANY {
        transports.push(sessions.create_session().await.expect("room").1);
    }
    let born = Instant::now();
    sleep_until(born + MINUTE - 5 * MILLI).await;
    assert_eq!(sessions.stats().live, MANY);
    sleep_until(born + MINUTE + 10 * MILLI).await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.closing, stats.closed(CloseReason::Lifetime)), (0, 0, MANY as u64));
    assert_eq!(sessions.inner().sessions.lock().expect("no panic").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_is_not_finished_ends_at_the_init_timeout() {
    let sessions = manager(|b| b.init_timeout(10 * SECOND));
    let born = Instant::now();
    let _silent = Driver::open(&sessions).await.expect("room");
    let half = Driver::open(&sessions).await.expect("room");
    half.initialize().await.expect("answered");
    let finished = Driver::ready(&sessions).await.expect("room");
    // Some clients never say `initialized`; a request will do.
    let hasty = Driver::open(&sessions).await.expect("room");
    hasty.initialize().await.expect("answered");
    hasty.echo("e").await.expect("answered");
    // A ping proves no more than that the client is there.
    sleep_until(born + 10 * SECOND - 5 * MILLI).await;
    assert_eq!(sessions.stats().opening, 2);
    sleep_until(born + 10 * SECOND + 5 * MILLI).await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.closed(CloseReason::InitTimeout)), (2, 2));
    assert!(finished.lives().await && hasty.lives().await);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_shorter_than_the_init_timeout_is_kept_from_the_first_moment() {
    let sessions = manager(|b| b.init_timeout(MINUTE).idle_timeout(5 * SECOND));
    Driver::ready(&sessions).await.expect("room");
    sleep(5 * SECOND + 5 * MILLI).await;
    assert_eq!(sessions.stats().closed(CloseReason::Idle), 1);
    let sessions = manager(|b| b.init_timeout(MINUTE).max_lifetime(5 * SECOND));
    Driver::ready(&sessions).await.expect("room");
    sleep(5 * SECOND + 5 * MILLI).await;
    assert_eq!(sessions.stats().closed(CloseReason::Lifetime), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restored_session_keeps_its_first_opening() {
    let sessions = manager(|b| b.idle_timeout(20 * SECOND).max_lifetime(MINUTE));
    let http = Http::new(&sessions, Some(sessions.parking()));
    let born = Instant::now();
    let alice = http.open().await.expect("room");
    sleep_until(born + 50 * SECOND).await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.parked, stats.closed(CloseReason::Idle)), (0, 1, 1));
    assert_eq!(http.call(&alice, "echo", json!({ "text": "back" })).await.text().as_deref(), Some("back"));
    assert_eq!(sessions.stats().restored, 1);
    assert!(sessions.list()[0].restored);
    sleep_until(born + MINUTE - 5 * MILLI).await;
    assert_eq!(sessions.stats().live, 1);
    sleep_until(born + MINUTE + 5 * MILLI).await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.parked, stats.closed(CloseReason::Lifetime)), (0, 0, 1));
    assert_eq!(http.call(&alice, "echo", json!({ "text": "no" })).await.status, 404, "it cannot return");
}

#[tokio::test(start_paused = true)]
async fn a_parked_session_past_its_lifetime_cannot_return() {
    let sessions = manager(|b| b.idle_timeout(20 * SECOND).max_lifetime(MINUTE));
    let http = Http::new(&sessions, Some(sessions.parking()));
    let alice = http.open().await.expect("room");
    sleep(2 * MINUTE).await;
    assert_eq!(http.call(&alice, "echo", json!({ "text": "no" })).await.status, 404);
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.reserved, stats.parked, stats.restored), (0, 0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_restored_session_goes_idle_again() {
    let sessions = manager(|b| b.idle_timeout(20 * SECOND));
    let http = Http::new(&sessions, Some(sessions.parking()));
    let alice = http.open().await.expect("room");
    for turn in 0..3 {
        sleep(MINUTE).await;
        assert_eq!(sessions.stats().parked, 1, "turn {turn}");
        assert_eq!(http.call(&alice, "echo", json!({ "text": "back" })).await.text().as_deref(), Some("back"));
        let used = Instant::now();
        sleep_until(used + 20 * SECOND - 5 * MILLI).await;
        assert_eq!(sessions.stats().live, 1, "turn {turn}");
        sleep_until(used + 20 * SECOND + 5 * MILLI).await;
        assert_eq!(sessions.stats().live, 0, "turn {turn}");
    }
}

/// The body is dropped as soon as its head was read, as by a client that hangs up.
#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_its_initialize_leaves_a_half_open_session_for_the_init_timeout() {
    let sessions = manager(|b| b.init_timeout(10 * SECOND));
    let http = Http::new(&sessions, Some(sessions.parking()));
    let initialize = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": initialize_params() });
    drop(http.begin("POST", None, Some(&initialize)).await);
    assert_eq!(sessions.list()[0].phase, Phase::Opening);
    sleep(11 * SECOND).await;
    let stats = sessions.stats();
    // The answer was handed over with the session's id in its head: the client may have both.
    assert_eq!((stats.live, stats.parked, stats.closed(CloseReason::InitTimeout)), (0, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_lifecycle_task_ends_when_the_manager_and_its_last_session_are_gone() {
    assert_eq!(alive_tasks(), 0);
    let sessions = manager(|b| b);
    assert_eq!(alive_tasks(), 0, "started with the first session");
    let alice = Driver::ready(&sessions).await.expect("room");
    let bob = Driver::ready(&sessions).await.expect("room");
    sessions.close_session(&alice.id).await.expect("closes");
    sessions.close_session(&bob.id).await.expect("closes");
    sleep(10 * SECOND).await;
    assert_eq!(alive_tasks(), 1, "the manager is still there");
    drop((alice, bob, sessions));
    settle().await;
    assert_eq!(alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_in_time_after_its_manager_is_dropped() {
    let sessions = PolicySessionManager::builder(Silent::default()).init_timeout(10 * SECOND).build().expect("valid");
    let (_id, transport) = sessions.create_session().await.expect("room");
    drop(sessions);
    settle().await;
    assert_eq!(alive_tasks(), 1, "a task has to end the session");
    sleep(11 * SECOND).await;
    drop(transport);
    settle().await;
    assert_eq!(alive_tasks(), 0);
}
