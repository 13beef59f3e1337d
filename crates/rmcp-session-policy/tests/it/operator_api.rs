//! docs/design.md, L15.
//!
//! The API for operators: stats, list, terminate, drain, observers.

use std::sync::Arc;
use std::time::Duration;

use crate::session::{Diary, Driver, Http, Refuses, Wedge, error_code, settle};
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::eviction::{Lru, SessionInfo};
use rmcp_session_policy::{
    ClientContext, CloseReason, Fingerprint, HOUR, Phase, PolicyError, PolicySessionManager,
    PolicySessionManagerBuilder, RejectionReason, SECOND, SessionEvent, SessionObserver,
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

fn of(principal: &'static str) -> impl Fn(&SessionInfo<'_>) -> bool {
    move |session| session.context().and_then(ClientContext::principal) == Some(principal)
}

#[tokio::test(start_paused = true)]
async fn stats_count_live_and_ended_sessions() {
    let sessions = Arc::new(
        PolicySessionManager::builder(Wedge::new()).max_sessions(4).eviction(Lru::new()).build().expect("valid"),
    );
    let stats = sessions.stats();
    assert_eq!((stats.max_sessions, stats.live, stats.reserved, stats.opened), (4, 0, 0, 0));
    let opening = Driver::open(&sessions).await.expect("room");
    opening.initialize().await.expect("answered");
    let _idle = Driver::ready(&sessions).await.expect("room");
    let busy = Driver::ready(&sessions).await.expect("room");
    let call = busy.sleep(60_000).await.expect("lives");
    let wedged = Driver::ready(&sessions).await.expect("room");
    sessions.inner().wedge(&wedged.id);
    let key = sessions.list().iter().map(|snapshot| snapshot.key).max().expect("there");
    let terminating = {
        let sessions = Arc::clone(&sessions);
        tokio::spawn(async move { sessions.terminate(key, CloseReason::Revoked).await })
    };
    settle().await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.opening, stats.ready, stats.closing), (4, 1, 2, 1), "{stats:?}");
    assert_eq!((stats.busy, stats.stuck, stats.reserved), (1, 0, 0), "{stats:?}");
    assert_eq!((stats.opened, stats.closed(CloseReason::Revoked)), (4, 1), "{stats:?}");
    assert_eq!(terminating.await.expect("no panic"), 1);
    assert_eq!(sessions.stats().stuck, 1);
    sessions.inner().free(&wedged.id);
    settle().await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.stuck), (3, 0), "{stats:?}");
    drop(call);
}

#[tokio::test(start_paused = true)]
async fn list_shows_every_live_session() {
    let sessions = manager(|b| b);
    let as_alice = ClientContext::new().with_principal("alice").with_peer([192, 0, 2, 1].into());
    let alice = as_alice.scope(Driver::ready(&sessions)).await.expect("room");
    sleep(10 * SECOND).await;
    assert_eq!(alice.echo("e").await.expect("lives"), "e");
    alice.ping().await.expect("lives");
    sleep(5 * SECOND).await;
    let _listening = alice.listen().await.expect("lives");
    let call = alice.sleep(1_000).await.expect("lives");
    let [snapshot] = &sessions.list()[..] else { panic!("one session") };
    assert_eq!(snapshot.fingerprint, Fingerprint::of(&alice.id));
    assert_eq!(snapshot.phase, Phase::Ready);
    assert_eq!((snapshot.age, snapshot.idle), (15 * SECOND, Duration::ZERO));
    assert_eq!((snapshot.uses, snapshot.in_flight, snapshot.open_streams), (2, 1, 1));
    assert!(!snapshot.restored);
    assert_eq!(snapshot.context.as_ref().and_then(|context| context.principal()), Some("alice"));
    assert_eq!(snapshot.client, Some(("driver".to_owned(), "1.0".to_owned())));
    assert_eq!(call.text().await, "slept 1000");
    sleep(7 * SECOND).await;
    assert_eq!(sessions.list()[0].idle, 7 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn terminate_ends_the_session_with_that_key_and_no_other() {
    let sessions = manager(|b| b);
    let alice = Driver::ready(&sessions).await.expect("room");
    let bob = Driver::ready(&sessions).await.expect("room");
    let print = Fingerprint::of(&alice.id);
    let key = sessions.list().into_iter().find(|snapshot| snapshot.fingerprint == print).expect("there").key;
    assert_eq!(sessions.terminate(key, CloseReason::Revoked).await, 1);
    assert!(!alice.lives().await && bob.lives().await);
    assert_eq!(sessions.stats().live, 1, "it is gone when terminate returns");
    assert_eq!(sessions.terminate(key, CloseReason::Revoked).await, 0, "a key names one incarnation");
    let carol = Driver::ready(&sessions).await.expect("room");
    assert_eq!(sessions.terminate(key, CloseReason::Revoked).await, 0, "though its index is used again");
    assert!(carol.lives().await);
}

#[tokio::test(start_paused = true)]
async fn terminate_by_predicate_ends_live_and_parked_sessions() {
    let sessions = manager(|b| b.max_sessions(4));
    let http = Http::new(&sessions, Some(sessions.parking()));
    let mut mallory = Vec::new();
    for _ in 0..4 {
        mallory.push(ClientContext::new().with_principal("mallory").scope(http.open()).await.expect("room"));
        sleep(SECOND).await;
    }
    let mut alice = Vec::new();
    for _ in 0..2 {
        alice.push(ClientContext::new().with_principal("alice").scope(http.open()).await.expect("room"));
        sleep(SECOND).await;
    }
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.parked), (4, 2));
    assert!(stats.parked_bytes > 0);
    assert_eq!(sessions.terminate(of("mallory"), CloseReason::Revoked).await, 4);
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.parked, stats.parked_bytes), (2, 0, 0));
    assert_eq!(stats.closed(CloseReason::Revoked), 2, "the parked ones had ended before");
    for id in &mallory {
        assert_eq!(http.call(id, "count", json!({})).await.status, 404, "revoked ones cannot return");
    }
    for id in &alice {
        assert_eq!(http.call(id, "count", json!({})).await.text().as_deref(), Some("1"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_terminated_for_a_restorable_reason_comes_back() {
    let sessions = manager(|b| b);
    let http = Http::new(&sessions, Some(sessions.parking()));
    let alice = ClientContext::new().with_principal("alice").scope(http.open()).await.expect("room");
    assert_eq!(sessions.terminate(of("alice"), CloseReason::Idle).await, 1);
    assert_eq!(sessions.stats().parked, 1);
    assert_eq!(http.call(&alice, "count", json!({})).await.text().as_deref(), Some("1"));
    let snapshot = &sessions.list()[0];
    assert_eq!(snapshot.context.as_ref().and_then(|context| context.principal()), Some("alice"), "it keeps its owner");
}

#[tokio::test(start_paused = true)]
async fn drain_lets_calls_finish_and_closes_the_others_at_once() {
    let sessions = manager(|b| b);
    let busy = Driver::ready(&sessions).await.expect("room");
    let idle = Driver::ready(&sessions).await.expect("room");
    let half = Driver::open(&sessions).await.expect("room");
    half.initialize().await.expect("answered");
    let call = tokio::spawn(busy.sleep(10_000).await.expect("lives").text());
    let begun = Instant::now();
    let draining = {
        let sessions = Arc::clone(&sessions);
        tokio::spawn(async move { sessions.drain(HOUR).await })
    };
    settle().await;
    assert!(busy.lives().await && !idle.lives().await && !half.lives().await);
    assert!(matches!(Driver::open(&sessions).await.map(drop), Err(PolicyError::Draining)));
    let report = draining.await.expect("no panic");
    assert!((10 * SECOND..11 * SECOND).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!((report.finished, report.cut_off, report.stuck), (3, 0, 0));
    assert_eq!(call.await.expect("no panic"), "slept 10000");
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.closed(CloseReason::Drained), stats.rejected(RejectionReason::Draining)), (0, 3, 1));
    assert!(matches!(Driver::open(&sessions).await.map(drop), Err(PolicyError::Draining)), "for good");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_comes_while_the_server_drains_is_answered_with_an_error() {
    let sessions = manager(|b| b);
    let http = Http::new(&sessions, Some(sessions.parking()));
    let alice = Driver::ready(&sessions).await.expect("room");
    let running = tokio::spawn(alice.sleep(10_000).await.expect("lives").text());
    let draining = {
        let sessions = Arc::clone(&sessions);
        tokio::spawn(async move { sessions.drain(HOUR).await })
    };
    settle().await;
    let answer = alice.call_as(json!("late"), "echo", json!({ "text": "e" })).await.expect("a stream");
    assert_eq!(answer.error().await, (json!("late"), 503));
    alice.ping().await.expect("a ping needs no place");
    let reply = http.call(&alice.id, "echo", json!({ "text": "e" })).await;
    assert_eq!(reply.status, 200);
    assert_eq!((&reply.answers()[0]["id"], error_code(&reply.answers()[0])), (&json!(1), Some(503)));
    // The client may still take back what it asked for before.
    alice.notify("notifications/cancelled", json!({ "requestId": "nothing" })).await.expect("lives");
    assert_eq!(running.await.expect("no panic"), "slept 10000");
    assert_eq!(draining.await.expect("no panic").finished, 1);
}

#[tokio::test(start_paused = true)]
async fn drain_closes_the_rest_at_its_deadline_with_a_farewell() {
    let sessions =
        Arc::new(PolicySessionManager::builder(Wedge::new()).close_deadline(5 * SECOND).build().expect("valid"));
    let idle = Driver::ready(&sessions).await.expect("room");
    let quick = Driver::ready(&sessions).await.expect("room");
    let slow = Driver::ready(&sessions).await.expect("room");
    let stuck = Driver::ready(&sessions).await.expect("room");
    sessions.inner().wedge(&stuck.id);
    let answered = tokio::spawn(quick.sleep(5_000).await.expect("lives").text());
    let cut =
        tokio::spawn(slow.call_as(json!("s"), "sleep", json!({ "millis": 60_000 })).await.expect("lives").error());
    let begun = Instant::now();
    let report = sessions.drain(10 * SECOND).await;
    assert!((15 * SECOND..16 * SECOND).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!((report.finished, report.cut_off, report.stuck), (3, 1, 1));
    assert_eq!(answered.await.expect("no panic"), "slept 5000");
    assert_eq!(cut.await.expect("no panic"), (json!("s"), 503));
    assert_eq!(sessions.stats().live, 1, "the stuck one");
    sessions.inner().free(&stuck.id);
    settle().await;
    assert_eq!(sessions.stats().live, 0);
    drop(idle);
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_sessions_is_done_at_once() {
    let sessions = manager(|b| b);
    let begun = Instant::now();
    assert_eq!(sessions.drain(HOUR).await, rmcp_session_policy::DrainReport::default());
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_drained_session_is_parked_but_not_restored_here() {
    let sessions = manager(|b| b);
    let http = Http::new(&sessions, Some(sessions.parking()));
    let alice = http.open().await.expect("room");
    assert!(!sessions.is_draining());
    assert_eq!(sessions.drain(SECOND).await.finished, 1);
    assert!(sessions.is_draining());
    assert_eq!(sessions.stats().parked, 1);
    let reply = http.call(&alice, "count", json!({})).await;
    assert_ne!(reply.status, 200, "{reply:?}");
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.parked, stats.restored, stats.rejected(RejectionReason::Draining)), (0, 1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_answered_does_not_hold_up_a_drain_beyond_its_deadline() {
    let sessions = manager(|b| b);
    let alice = Driver::ready(&sessions).await.expect("room");
    let silence =
        tokio::spawn(alice.call_as(json!("x"), "sleep", json!({ "millis": 600_000 })).await.expect("lives").error());
    let begun = Instant::now();
    let report = sessions.drain(20 * SECOND).await;
    assert!((20 * SECOND..21 * SECOND).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!((report.finished, report.cut_off), (0, 1));
    assert_eq!(silence.await.expect("no panic"), (json!("x"), 503));
}

#[tokio::test(start_paused = true)]
async fn an_observer_hears_of_each_event_once() {
    let diary = Diary::default();
    let sessions = manager(|b| b.max_sessions(1).idle_timeout(HOUR).max_lifetime(24 * HOUR).observer(diary.clone()));
    let http = Http::new(&sessions, Some(sessions.parking()));
    let alice = http.open().await.expect("room");
    assert_eq!(diary.take(), ["opened"]);
    let bob = http.open().await.expect("room");
    assert_eq!(diary.take(), ["closed evicted", "opened"]);
    http.call(&alice, "count", json!({})).await;
    assert_eq!(diary.take(), ["closed evicted", "restored"]);
    sleep(HOUR + SECOND).await;
    assert_eq!(diary.take(), ["closed idle"]);
    http.call(&bob, "count", json!({})).await;
    assert_eq!(diary.take(), ["restored"]);
    assert_eq!(http.request("DELETE", Some(&bob), None).await.status, 202);
    sleep(10 * SECOND).await;
    assert_eq!(diary.take(), ["closed client"], "rmcp closes twice, the session ends once");
    let busy = Driver::ready(&sessions).await.expect("room");
    let call = busy.sleep(30 * 60 * 1_000).await.expect("lives");
    assert!(Driver::open(&sessions).await.is_err());
    assert_eq!(diary.take(), ["opened", "refused at_capacity"]);
    assert_eq!(sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Revoked).await, 2, "busy, and alice parked");
    drop(call);
    sleep(10 * SECOND).await;
    assert_eq!(diary.take(), ["closed revoked"]);
    let refused = Driver::open_with(&sessions, Refuses).await.expect("room");
    assert!(refused.initialize().await.expect("answered").get("error").is_some());
    sleep(10 * SECOND).await;
    assert_eq!(diary.take(), ["opened", "closed init_failed"]);
    let old = Driver::ready(&sessions).await.expect("room");
    let listening = old.listen().await.expect("lives");
    sleep(25 * HOUR).await;
    assert_eq!(diary.take(), ["opened", "closed lifetime"]);
    drop(listening);
    let half = Driver::open(&sessions).await.expect("room");
    sleep(HOUR).await;
    assert_eq!(diary.take(), ["opened", "closed init_timeout"]);
    drop(half);
    let (_, transport) = sessions.create_session().await.expect("room");
    drop(transport);
    assert_eq!(diary.take(), ["opened", "closed ended"]);
    Driver::ready(&sessions).await.expect("room");
    sessions.drain(SECOND).await;
    assert!(Driver::open(&sessions).await.is_err());
    assert_eq!(diary.take(), ["opened", "closed drained", "refused draining"]);
    let stats = sessions.stats();
    assert_eq!(stats.opened, CloseReason::ALL.iter().map(|reason| stats.closed(*reason)).sum::<u64>() - stats.restored);
}

#[derive(Debug)]
struct Panics;

impl SessionObserver for Panics {
    fn observe(&self, _event: &SessionEvent<'_>) {
        panic!("as asked")
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_changes_no_outcome() {
    let sessions = manager(|b| b.max_sessions(1).observer(Panics));
    for _ in 0..3 {
        let driver = Driver::ready(&sessions).await.expect("room");
        assert_eq!(driver.echo("e").await.expect("lives"), "e");
    }
    sessions.drain(SECOND).await;
    assert_eq!(sessions.stats().live, 0);
}

#[tokio::test(start_paused = true)]
async fn two_drains_at_a_time_both_come_to_an_end() {
    let sessions = manager(|b| b);
    let alice = Driver::ready(&sessions).await.expect("room");
    let _bob = Driver::ready(&sessions).await.expect("room");
    let call = tokio::spawn(alice.sleep(10_000).await.expect("lives").text());
    let (one, two) = tokio::join!(sessions.drain(HOUR), sessions.drain(20 * SECOND));
    assert_eq!(call.await.expect("no panic"), "slept 10000");
    assert_eq!((one.finished + two.finished, one.cut_off + two.cut_off, one.stuck + two.stuck), (2, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_that_waits_for_its_victim_when_the_drain_begins_leaves_nothing_behind() {
    let sessions = Arc::new(
        PolicySessionManager::builder(Wedge::new()).max_sessions(1).eviction(Lru::new()).build().expect("valid"),
    );
    let alice = Driver::ready(&sessions).await.expect("room");
    sessions.inner().wedge(&alice.id);
    let newcomer = {
        let sessions = Arc::clone(&sessions);
        tokio::spawn(async move { Driver::open(&sessions).await.map(drop) })
    };
    settle().await;
    let draining = {
        let sessions = Arc::clone(&sessions);
        tokio::spawn(async move { sessions.drain(SECOND).await })
    };
    settle().await;
    sessions.inner().free(&alice.id);
    assert!(matches!(newcomer.await.expect("no panic"), Err(PolicyError::Draining)));
    assert_eq!(draining.await.expect("no panic").stuck, 0);
    settle().await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.reserved), (0, 0), "{stats:?}");
    assert_eq!(sessions.inner().local.sessions.read().await.len(), 0);
}
