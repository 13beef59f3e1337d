//! docs/design.md, L5.
//!
//! A session is busy exactly while a request is in flight, whether or not its HTTP stream is open.

use std::sync::Arc;
use std::time::Duration;

use crate::session::{Driver, settle};
use async_trait::async_trait;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::admission::{AdmissionPolicy, Arrival, Concurrent, Permit, Rejection};
use rmcp_session_policy::eviction::{Lru, SessionInfo, victim_fn};
use rmcp_session_policy::{
    ClientContext, CloseReason, MINUTE, PolicyError, PolicySessionManager, PolicySessionManagerBuilder, SECOND,
};
use serde_json::json;
use tokio::time::{Instant, advance, sleep};

type Manager = PolicySessionManager<LocalSessionManager>;

fn manager(
    configure: impl FnOnce(
        PolicySessionManagerBuilder<LocalSessionManager>,
    ) -> PolicySessionManagerBuilder<LocalSessionManager>,
) -> Arc<Manager> {
    Arc::new(configure(PolicySessionManager::local().eviction(Lru::new())).build().expect("valid"))
}

async fn is_refused(sessions: &Arc<Manager>) -> bool {
    matches!(Driver::open(sessions).await.map(drop), Err(PolicyError::ServerFull(_)))
}

#[tokio::test(start_paused = true)]
async fn a_session_with_a_call_in_flight_is_not_evicted() {
    let sessions = manager(|b| b.max_sessions(1));
    let alice = Driver::ready(&sessions).await.expect("room");
    let replies = alice.sleep(10_000).await.expect("lives");
    assert!(is_refused(&sessions).await);
    assert_eq!(sessions.stats().busy, 1);
    assert_eq!(replies.text().await, "slept 10000");
    assert_eq!(sessions.stats().busy, 0);
    Driver::ready(&sessions).await.expect("alice may go now");
    assert!(!alice.lives().await);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_disconnected_in_the_middle_of_a_call_is_not_evicted_before_the_answer_is_out() {
    let sessions = manager(|b| b.max_sessions(1));
    let alice = Driver::ready(&sessions).await.expect("room");
    drop(alice.sleep(10_000).await.expect("lives"));
    settle().await;
    assert!(is_refused(&sessions).await);
    sleep(9 * SECOND).await;
    assert!(is_refused(&sessions).await);
    sleep(2 * SECOND).await;
    assert_eq!(sessions.stats().busy, 0);
    Driver::ready(&sessions).await.expect("alice may go now");
    assert!(!alice.lives().await);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_call_counts_as_a_use() {
    let sessions = manager(|b| b.max_sessions(2));
    let alice = Driver::ready(&sessions).await.expect("room");
    let long = alice.sleep(10_000).await.expect("lives");
    sleep(SECOND).await;
    // Bob's last use begins and ends after alice's call began, but before it ended.
    let bob = Driver::ready(&sessions).await.expect("room");
    assert_eq!(bob.echo("b").await.expect("lives"), "b");
    sleep(SECOND).await;
    assert_eq!(long.text().await, "slept 10000");
    let _carol = Driver::ready(&sessions).await.expect("room");
    assert!(alice.lives().await, "alice was used last");
    assert!(!bob.lives().await);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_answered_protects_until_max_busy_and_no_longer() {
    let sessions = manager(|b| b.max_sessions(1).max_busy(MINUTE));
    let alice = Driver::ready(&sessions).await.expect("room");
    let _silence = alice.sleep(1_000_000_000).await.expect("lives");
    sleep(59 * SECOND).await;
    assert!(is_refused(&sessions).await, "it is busy");
    sleep(SECOND).await;
    Driver::ready(&sessions).await.expect("alice may go now");
    assert!(!alice.lives().await);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_answered_does_not_hold_up_the_idle_clock_beyond_max_busy() {
    let sessions = manager(|b| b.max_busy(10 * MINUTE).idle_timeout(30 * MINUTE));
    let alice = Driver::ready(&sessions).await.expect("room");
    let _silence = alice.sleep(1_000_000_000).await.expect("lives");
    sleep(29 * MINUTE).await;
    assert_eq!(sessions.stats().live, 1);
    sleep(2 * MINUTE).await;
    assert_eq!(sessions.stats().closed(CloseReason::Idle), 1);
    assert!(!alice.lives().await);
}

#[tokio::test(start_paused = true)]
async fn a_call_older_than_max_busy_protects_no_longer_though_it_is_still_running() {
    let sessions = manager(|b| b.max_sessions(1).max_busy(5 * SECOND));
    let alice = Driver::ready(&sessions).await.expect("room");
    let replies = alice.call_as(json!("long"), "sleep", json!({ "millis": 100_000 })).await.expect("lives");
    let farewell = tokio::spawn(replies.error());
    sleep(4 * SECOND).await;
    assert!(is_refused(&sessions).await);
    sleep(SECOND).await;
    Driver::ready(&sessions).await.expect("alice may go now");
    assert_eq!(farewell.await.expect("no panic"), (json!("long"), 503));
}

#[tokio::test(start_paused = true)]
async fn a_newer_call_protects_beside_one_older_than_max_busy() {
    let sessions = manager(|b| b.max_sessions(1).max_busy(5 * SECOND));
    let alice = Driver::ready(&sessions).await.expect("room");
    let _silence = alice.sleep(1_000_000_000).await.expect("lives");
    sleep(10 * SECOND).await;
    let newer = alice.sleep(3_000).await.expect("lives");
    assert!(is_refused(&sessions).await);
    assert_eq!(newer.text().await, "slept 3000");
    Driver::ready(&sessions).await.expect("alice may go now");
}

/// Lets a call in once it has waited for 50 seconds.
#[derive(Debug)]
struct Queues;

#[async_trait]
impl AdmissionPolicy for Queues {
    async fn admit(&self, _: &Arrival<'_>) -> Result<Permit, Rejection> {
        sleep(50 * SECOND).await;
        Ok(Permit::free())
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_had_to_wait_for_its_admission_protects_from_when_it_was_let_in() {
    let sessions = manager(|b| b.max_sessions(1).max_busy(MINUTE).requests(Queues));
    let alice = Driver::ready(&sessions).await.expect("room");
    for scope in [false, true] {
        let call = async {
            assert!(alice.lives().await);
            alice.sleep(1_000_000).await.expect("lives")
        };
        let _silence = match scope {
            true => ClientContext::new().scope(call).await,
            false => call.await,
        };
        sleep(59 * SECOND).await;
        assert!(is_refused(&sessions).await, "it was let in less than a minute ago");
    }
    sleep(SECOND).await;
    Driver::ready(&sessions).await.expect("alice may go now");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_is_in_flight_until_its_handler_is_done() {
    let sessions = manager(|b| b.max_sessions(1));
    let alice = Driver::ready(&sessions).await.expect("room");
    let _first = alice.call_as(json!(7), "sleep", json!({ "millis": 100_000 })).await.expect("lives");
    settle().await;
    alice.notify("notifications/cancelled", json!({ "requestId": 7 })).await.expect("lives");
    sleep(99 * SECOND).await;
    assert_eq!((sessions.stats().busy, sessions.list()[0].in_flight), (1, 1));
    assert!(is_refused(&sessions).await);
    sleep(2 * SECOND).await;
    assert_eq!((sessions.stats().busy, sessions.list()[0].in_flight), (0, 0));
    Driver::ready(&sessions).await.expect("alice may go now");
    assert!(!alice.lives().await);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_protects_until_max_busy_and_no_longer() {
    let sessions = manager(|b| b.max_sessions(1).max_busy(MINUTE));
    let alice = Driver::ready(&sessions).await.expect("room");
    let _first = alice.call_as(json!(7), "sleep", json!({ "millis": 1_000_000 })).await.expect("lives");
    alice.notify("notifications/cancelled", json!({ "requestId": 7 })).await.expect("lives");
    sleep(59 * SECOND).await;
    assert!(is_refused(&sessions).await);
    sleep(SECOND).await;
    Driver::ready(&sessions).await.expect("alice may go now");
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_handler_panicked_is_in_flight_no_longer() {
    let sessions = manager(|b| b.max_sessions(1).requests(Concurrent::new(1)));
    let alice = Driver::ready(&sessions).await.expect("room");
    let _silence = alice.call("explode", json!({})).await.expect("lives");
    settle().await;
    assert_eq!((sessions.stats().busy, sessions.list()[0].in_flight), (0, 0));
    assert_eq!(alice.echo("again").await.expect("lives"), "again", "nor is its lease held");
    Driver::ready(&sessions).await.expect("alice may go now");
}

/// The end of a session does not wait for a handler if no client waits for its answer.
#[tokio::test(start_paused = true)]
async fn a_cancelled_call_does_not_hold_up_the_end_of_its_session() {
    let sessions = manager(|b| b);
    let alice = Driver::ready(&sessions).await.expect("room");
    let first = alice.call_as(json!(7), "sleep", json!({ "millis": 100_000 })).await.expect("lives");
    let first = tokio::spawn(first.answers());
    settle().await;
    alice.notify("notifications/cancelled", json!({ "requestId": 7 })).await.expect("lives");
    settle().await;
    let begun = Instant::now();
    sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Revoked).await;
    assert_eq!((begun.elapsed(), sessions.stats().live), (Duration::ZERO, 0));
    assert!(first.await.expect("no panic").is_empty(), "what was cancelled gets no answer");
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_handler_of_a_cancelled_call() {
    let sessions = manager(|b| b);
    let alice = Driver::ready(&sessions).await.expect("room");
    let _first = alice.call_as(json!(7), "sleep", json!({ "millis": 10_000 })).await.expect("lives");
    settle().await;
    alice.notify("notifications/cancelled", json!({ "requestId": 7 })).await.expect("lives");
    let begun = Instant::now();
    let report = sessions.drain(MINUTE).await;
    assert_eq!((report.finished, report.cut_off), (1, 0));
    assert!((9 * SECOND..11 * SECOND).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_cancellation_of_another_request_changes_nothing() {
    let sessions = manager(|b| b.max_sessions(1));
    let alice = Driver::ready(&sessions).await.expect("room");
    let call = alice.call_as(json!(7), "sleep", json!({ "millis": 5_000 })).await.expect("lives");
    alice.notify("notifications/cancelled", json!({ "requestId": "7" })).await.expect("lives");
    alice.notify("notifications/cancelled", json!({ "requestId": 8 })).await.expect("lives");
    settle().await;
    assert_eq!(sessions.stats().busy, 1);
    assert_eq!(call.text().await, "slept 5000");
}

/// The worker waits for a stream that is not read, so the second call is still queued in front of it.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_still_queued_inside_protects_its_session() {
    let sessions = manager(|b| b.max_sessions(1).max_busy(MINUTE));
    let alice = Arc::new(Driver::ready(&sessions).await.expect("room"));
    let unread = alice.call("chatter", json!({ "messages": 100 })).await.expect("lives");
    settle().await;
    sleep(50 * SECOND).await;
    let asker = Arc::clone(&alice);
    let queued = tokio::spawn(async move { Ok::<_, PolicyError<_>>(asker.sleep(1_000).await?.text().await) });
    settle().await;
    sleep(20 * SECOND).await;
    // The chatter is older than max_busy by now; what protects is the queued one alone.
    assert_eq!(sessions.list()[0].in_flight, 2);
    assert!(is_refused(&sessions).await);
    assert_eq!(unread.text().await, "said it all");
    assert_eq!(queued.await.expect("no panic").expect("lives"), "slept 1000");
}

/// A policy that names the busy session over and over is overruled, whether or not the call is still queued.
#[tokio::test(start_paused = true)]
async fn a_policy_that_insists_on_a_busy_session_is_overruled() {
    let sessions = Arc::new(
        PolicySessionManager::local()
            .max_sessions(2)
            .eviction(victim_fn({
                let first = std::sync::OnceLock::new();
                move |candidates| {
                    let oldest = candidates.iter().min_by_key(|session| session.created()).map(|session| session.key());
                    Some(*first.get_or_init(|| oldest.expect("a session")))
                }
            }))
            .build()
            .expect("valid"),
    );
    let alice = Driver::ready(&sessions).await.expect("room");
    let bob = Driver::ready(&sessions).await.expect("room");
    advance(SECOND).await;
    let carol = Driver::ready(&sessions).await.expect("room");
    assert!(!alice.lives().await && bob.lives().await, "alice is the one it names");
    let call = bob.sleep(1_000).await.expect("lives");
    let _dave = Driver::ready(&sessions).await.expect("room");
    assert!(bob.lives().await && !carol.lives().await, "bob is busy");
    assert_eq!(call.text().await, "slept 1000");
    assert!(sessions.stats().overruled > 0);
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_no_use_of_a_session() {
    let sessions = manager(|b| b.max_sessions(2));
    let alice = Driver::ready(&sessions).await.expect("room");
    advance(SECOND).await;
    let bob = Driver::ready(&sessions).await.expect("room");
    advance(SECOND).await;
    alice.ping().await.expect("lives");
    Driver::ready(&sessions).await.expect("room");
    assert!(!alice.lives().await, "her ping does not make her the more recent one");
    assert!(bob.lives().await);
}

#[tokio::test(start_paused = true)]
async fn a_ping_keeps_a_session_alive() {
    let sessions = manager(|b| b.idle_timeout(10 * SECOND));
    let alice = Driver::ready(&sessions).await.expect("room");
    let bob = Driver::ready(&sessions).await.expect("room");
    for _ in 0..5 {
        sleep(Duration::from_secs(9)).await;
        alice.ping().await.expect("lives");
    }
    assert!(alice.lives().await);
    assert!(!bob.lives().await);
}

#[tokio::test(start_paused = true)]
async fn stacked_managers_agree_on_what_is_in_flight() {
    let inner = PolicySessionManager::local().build().expect("valid");
    let outer = Arc::new(PolicySessionManager::builder(inner).build().expect("valid"));
    let alice = Driver::ready(&outer).await.expect("room");
    let call = alice.call_as(json!(1), "sleep", json!({ "millis": 1_000 })).await.expect("lives");
    let _silence = alice.call_as(json!(2), "sleep", json!({ "millis": 5_000 })).await.expect("lives");
    settle().await;
    let in_flight = || (outer.list()[0].in_flight, outer.inner().list()[0].in_flight);
    assert_eq!(in_flight(), (2, 2));
    assert_eq!(call.text().await, "slept 1000");
    assert_eq!(in_flight(), (1, 1));
    alice.notify("notifications/cancelled", json!({ "requestId": 2 })).await.expect("lives");
    settle().await;
    assert_eq!(in_flight(), (1, 1), "its handler runs on");
    sleep(5 * SECOND).await;
    assert_eq!(in_flight(), (0, 0));
    assert_eq!((outer.stats().busy, outer.inner().stats().busy), (0, 0));
}
