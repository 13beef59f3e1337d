//! docs/design.md, L6.
//!
//! Which sessions are never evicted, and that a flood of handshakes does not block other clients.

use std::sync::{Arc, Mutex};

use crate::session::{Driver, SlowToInitialize, Wedge, settle};
use futures_util::future::join_all;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::admission::{AdmissionPolicy, Arrival, Permit, Rejection};
use rmcp_session_policy::eviction::{Lru, SessionInfo, victim_fn};
use rmcp_session_policy::{
    ClientContext, CloseReason, Fingerprint, Phase, PolicyError, PolicySessionManager, PolicySessionManagerBuilder,
    RejectionReason, SECOND, SessionKey,
};
use tokio::time::{Instant, sleep};

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

async fn survivors(drivers: &[Driver<Manager>]) -> usize {
    join_all(drivers.iter().map(Driver::lives)).await.into_iter().filter(|lives| *lives).count()
}

/// A session that only began its handshake.
async fn half_open(sessions: &Arc<Manager>) -> Result<Driver<Manager>, <Manager as SessionManager>::Error> {
    let driver = Driver::open(sessions).await?;
    driver.initialize().await?;
    Ok(driver)
}

#[tokio::test(start_paused = true)]
async fn a_policy_is_offered_only_sessions_that_may_go() {
    let offered = Arc::new(Mutex::new(Vec::<(SessionKey, Phase, usize)>::new()));
    let log = Arc::clone(&offered);
    let policy = victim_fn(move |candidates| {
        let mut log = log.lock().expect("no panic");
        log.extend(candidates.iter().map(|session| (session.key(), session.phase(), session.in_flight())));
        candidates.iter().map(|session| session.key()).next()
    });
    let sessions =
        Arc::new(PolicySessionManager::builder(Wedge::new()).max_sessions(4).eviction(policy).build().expect("valid"));
    let busy = Driver::ready(&sessions).await.expect("room");
    let call = busy.sleep(60_000).await.expect("lives");
    let closing = Driver::ready(&sessions).await.expect("room");
    sessions.inner().wedge(&closing.id);
    let key = sessions.list().iter().map(|snapshot| snapshot.key).max().expect("there");
    let terminating = {
        let sessions = Arc::clone(&sessions);
        tokio::spawn(async move { sessions.terminate(key, CloseReason::Revoked).await })
    };
    settle().await;
    let idle = Driver::ready(&sessions).await.expect("room");
    let idle_key = sessions.list().iter().map(|snapshot| snapshot.key).max().expect("there");
    // The fourth place: still between its creation and its `initialize`, but below max_opening's reach.
    let newcomer = Driver::ready(&sessions).await.expect("room");
    let newcomer_key = sessions.list().iter().map(|snapshot| snapshot.key).max().expect("there");
    Driver::ready(&sessions).await.expect("the idle ones may go");
    let offered = offered.lock().expect("no panic").clone();
    assert!(!offered.is_empty());
    for (key, phase, in_flight) in offered {
        assert!(key == idle_key || key == newcomer_key, "neither the busy nor the closing one: {key:?}");
        assert_eq!((phase, in_flight), (Phase::Ready, 0));
    }
    assert!(busy.lives().await);
    assert!(!(idle.lives().await && newcomer.lives().await));
    drop(call);
    sessions.inner().free(&closing.id);
    assert_eq!(terminating.await.expect("no panic"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_used_less_than_min_idle_ago_stays() {
    let sessions = manager(|b| b.max_sessions(2).min_idle(10 * SECOND));
    let alice = Driver::ready(&sessions).await.expect("room");
    let bob = Driver::ready(&sessions).await.expect("room");
    sleep(6 * SECOND).await;
    assert_eq!(bob.echo("b").await.expect("lives"), "b");
    sleep(3 * SECOND).await;
    assert!(is_refused(&sessions).await);
    sleep(SECOND).await;
    let _carol = Driver::ready(&sessions).await.expect("alice may go");
    assert!(!alice.lives().await);
    assert!(is_refused(&sessions).await, "neither bob nor carol may go yet");
    sleep(6 * SECOND).await;
    Driver::ready(&sessions).await.expect("bob may go");
    assert!(!bob.lives().await);
}

#[tokio::test(start_paused = true)]
async fn a_half_open_session_stays_until_its_init_timeout() {
    let sessions = manager(|b| b.max_sessions(2).max_opening(2).init_timeout(30 * SECOND));
    let alice = half_open(&sessions).await.expect("room");
    let bob = Driver::ready(&sessions).await.expect("room");
    let call = bob.sleep(100_000).await.expect("lives");
    sleep(29 * SECOND).await;
    assert!(is_refused(&sessions).await);
    assert!(alice.lives().await);
    sleep(SECOND).await;
    settle().await;
    assert_eq!(sessions.stats().closed(CloseReason::InitTimeout), 1);
    Driver::ready(&sessions).await.expect("alice's place is free");
    assert!(bob.lives().await);
    drop(call);
}

#[tokio::test(start_paused = true)]
async fn a_protected_session_stays() {
    let admin = |session: &SessionInfo<'_>| session.context().and_then(ClientContext::principal) == Some("admin");
    let sessions = manager(|b| b.max_sessions(2).protect(admin));
    let as_admin = ClientContext::new().with_principal("admin");
    let admin = as_admin.clone().scope(Driver::ready(&sessions)).await.expect("room");
    for _ in 0..10 {
        Driver::ready(&sessions).await.expect("the other may go");
        assert!(admin.lives().await);
    }
    let second = as_admin.scope(Driver::ready(&sessions)).await.expect("the other may go");
    assert!(is_refused(&sessions).await, "both are protected");
    assert!(admin.lives().await && second.lives().await);
}

#[tokio::test(start_paused = true)]
async fn a_predicate_that_stops_protecting_is_heard_within_a_second() {
    let protects = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let asked = Arc::clone(&protects);
    let sessions = manager(|b| b.max_sessions(1).protect(move |_| asked.load(std::sync::atomic::Ordering::SeqCst)));
    let alice = Driver::ready(&sessions).await.expect("room");
    assert!(is_refused(&sessions).await);
    protects.store(false, std::sync::atomic::Ordering::SeqCst);
    sleep(SECOND).await;
    Driver::ready(&sessions).await.expect("alice may go");
    assert!(!alice.lives().await);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_is_refused_if_no_session_may_go_and_none_is_evicted() {
    let sessions = manager(|b| b.max_sessions(3));
    let gone = Driver::ready(&sessions).await.expect("room");
    sessions.close_session(&gone.id).await.expect("closes");
    let mut drivers = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..3 {
        let driver = Driver::ready(&sessions).await.expect("room");
        calls.push(driver.sleep(60_000).await.expect("lives"));
        drivers.push(driver);
    }
    let begun = Instant::now();
    let Err(PolicyError::ServerFull(full)) = Driver::open(&sessions).await.map(drop) else { panic!("not refused") };
    assert_eq!(full.max_sessions, 3);
    assert_eq!(survivors(&drivers).await, 3);
    assert!(begun.elapsed() < SECOND / 20, "there is nothing to wait for: {:?}", begun.elapsed());
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.reserved, stats.rejected(RejectionReason::ServerFull)), (3, 0, 1));
    for call in calls {
        assert_eq!(call.text().await, "slept 60000");
    }
}

#[tokio::test(start_paused = true)]
async fn refuse_when_full_evicts_no_session_half_open_or_not() {
    let sessions = manager(|b| b.max_sessions(2).refuse_when_full());
    let alice = Driver::ready(&sessions).await.expect("room");
    let bob = half_open(&sessions).await.expect("room");
    let begun = Instant::now();
    for _ in 0..10 {
        assert!(is_refused(&sessions).await);
    }
    assert_eq!(
        begun.elapsed(),
        std::time::Duration::ZERO,
        "no session can become a victim, so there is nothing to wait for"
    );
    assert!(alice.lives().await && bob.lives().await);
    alice.manager.close_session(&alice.id).await.expect("closes");
    Driver::ready(&sessions).await.expect("room again");
    assert!(bob.lives().await);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_handshakes_costs_at_most_a_quarter_of_the_places() {
    let sessions = manager(|b| b.max_sessions(16));
    let mut users = Vec::new();
    for _ in 0..16 {
        users.push(Driver::ready(&sessions).await.expect("room"));
        sleep(SECOND).await;
    }
    let mut flood = Vec::new();
    for _ in 0..200 {
        flood.push(half_open(&sessions).await.expect("takes the oldest half-open one's place"));
        assert!(sessions.stats().opening <= 4);
        assert_eq!(sessions.stats().live, 16);
    }
    assert_eq!(survivors(&users).await, 12);
    // All at once, too.
    let more: Vec<_> = join_all((0..50).map(|_| half_open(&sessions))).await.into_iter().flatten().collect();
    assert!(!more.is_empty());
    assert_eq!(survivors(&users).await, 12);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_handshakes_does_not_lock_the_server() {
    let sessions = manager(|b| b.max_sessions(8));
    let mut flood = Vec::new();
    for _ in 0..100 {
        flood.push(half_open(&sessions).await.expect("takes the oldest half-open one's place"));
    }
    assert_eq!(sessions.stats().opening, 8, "while places were free the flood evicted no session");
    // Users come through, though half-open ones hold every place; each costs the flood a place for good.
    let mut users = Vec::new();
    for _ in 0..6 {
        users.push(Driver::ready(&sessions).await.expect("takes the oldest half-open one's place"));
        for _ in 0..20 {
            flood.push(half_open(&sessions).await.expect("takes the oldest half-open one's place"));
        }
    }
    assert_eq!(survivors(&users).await, 6);
    assert_eq!(sessions.stats().opening, 2);
    for user in &users {
        assert_eq!(user.echo("hi").await.expect("lives"), "hi");
    }
}

/// One request spans both, as behind an HTTP layer.
#[tokio::test(start_paused = true)]
async fn a_session_is_not_evicted_between_its_creation_and_its_initialize() {
    let sessions = manager(|b| b.max_sessions(1));
    let newcomer = |sessions: &Arc<_>| {
        let sessions = Arc::clone(sessions);
        tokio::spawn(async move { Driver::ready(&sessions).await.map(drop) })
    };
    let request = async {
        let alice = Driver::open(&sessions).await.expect("room");
        let newcomer = newcomer(&sessions);
        sleep(SECOND / 20).await;
        alice.initialize().await.expect("not evicted");
        (newcomer,)
    };
    let (newcomer,) = ClientContext::new().scope(request).await;
    newcomer.await.expect("no panic").expect("alice may go now");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_never_initialized_keeps_no_place() {
    let sessions = manager(|b| b.max_sessions(1));
    let alice = Driver::open(&sessions).await.expect("room");
    Driver::ready(&sessions).await.expect("takes it");
    assert!(!alice.lives().await);
}

/// 200 clients initialize at the same moment on a server with two places. No admitted session is evicted before its
/// `initialize` is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admitted_newcomer_is_answered_amid_a_flood() {
    let sessions = manager(|b| b.max_sessions(2));
    let clients = (0..200).map(|_| {
        let sessions = Arc::clone(&sessions);
        tokio::spawn(async move {
            let request = async {
                match Driver::open(&sessions).await {
                    Ok(driver) => driver.initialize().await.map(drop),
                    Err(_refused) => Ok(()),
                }
            };
            ClientContext::new().scope(request).await
        })
    });
    for answer in join_all(clients).await {
        answer.expect("no panic").expect("answered");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_is_not_evicted_while_its_initialize_is_being_answered() {
    let sessions = manager(|b| b.max_sessions(1));
    let alice = Driver::open_with(&sessions, SlowToInitialize(5 * SECOND)).await.expect("room");
    let begun = Instant::now();
    let alice = tokio::spawn(async move { alice.initialize().await.map(|_| alice) });
    settle().await;
    assert!(is_refused(&sessions).await);
    assert!(begun.elapsed() < 2 * SECOND, "a newcomer does not wait for ever");
    let alice = alice.await.expect("no panic").expect("answered");
    assert!(alice.lives().await);
    Driver::ready(&sessions).await.expect("alice never finished her handshake");
    assert!(!alice.lives().await);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_waits_a_moment_for_a_handshake_to_be_answered() {
    let sessions = manager(|b| b.max_sessions(1));
    let slow = Driver::open_with(&sessions, SlowToInitialize(SECOND / 20)).await.expect("room");
    let slow = tokio::spawn(async move { slow.initialize().await });
    settle().await;
    Driver::ready(&sessions).await.expect("takes the place once the handshake was answered");
    slow.await.expect("no panic").expect("answered");
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_waits_a_moment_for_a_call_to_be_answered_and_no_longer() {
    let sessions = manager(|b| b.max_sessions(1));
    let busy = Driver::ready(&sessions).await.expect("room");
    let call = tokio::spawn(busy.sleep(10).await.expect("lives").text());
    let begun = Instant::now();
    Driver::ready(&sessions).await.expect("takes the place once the call was answered");
    assert_eq!(begun.elapsed(), SECOND / 100);
    assert_eq!(call.await.expect("no panic"), "slept 10");
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_waits_for_its_victim_to_be_gone() {
    let sessions = Arc::new(
        PolicySessionManager::builder(Wedge::new()).max_sessions(1).eviction(Lru::new()).build().expect("valid"),
    );
    let victim = Driver::ready(&sessions).await.expect("room");
    sessions.inner().wedge(&victim.id);
    let newcomer = {
        let sessions = Arc::clone(&sessions);
        tokio::spawn(async move { Driver::open(&sessions).await.map(drop) })
    };
    sleep(SECOND / 5).await;
    assert!(!newcomer.is_finished());
    sessions.inner().free(&victim.id);
    newcomer.await.expect("no panic").expect("the place of its victim");
}

#[tokio::test(start_paused = true)]
async fn a_half_open_session_is_kept_briefly_for_the_next_message_of_its_client() {
    let sessions = manager(|b| b.max_sessions(1).max_opening(1));
    let answered = half_open(&sessions).await.expect("room");
    let begun = Instant::now();
    let newcomer = {
        let sessions = Arc::clone(&sessions);
        tokio::spawn(async move { half_open(&sessions).await })
    };
    sleep(SECOND / 20).await;
    assert!(answered.lives().await && !newcomer.is_finished());
    let newcomer = newcomer.await.expect("no panic").expect("its place, once it said nothing");
    assert!((SECOND / 10..SECOND / 5).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert!(!answered.lives().await && newcomer.lives().await);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_half_open_until_its_client_says_initialized() {
    let sessions = manager(|b| b);
    let opening = half_open(&sessions).await.expect("room");
    opening.notify("notifications/roots/list_changed", serde_json::json!({})).await.expect("lives");
    assert_eq!(sessions.list()[0].phase, Phase::Opening);
    opening.initialized().await.expect("lives");
    assert_eq!(sessions.list()[0].phase, Phase::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_found_for_a_request_stays_until_the_request_comes() {
    let sessions = manager(|b| b.max_sessions(1));
    let found = Driver::ready(&sessions).await.expect("room");
    let asks = async {
        assert!(sessions.has_session(&found.id).await.expect("knows"));
        assert!(is_apart_refused(&sessions).await, "no other session has its place");
        assert_eq!(found.echo("e").await.expect("lives"), "e");
    };
    ClientContext::new().scope(asks).await;
    assert!(!is_refused(&sessions).await, "afterwards another session has");
}

/// Takes its time over each request.
#[derive(Debug)]
struct Slow;

#[async_trait::async_trait]
impl AdmissionPolicy for Slow {
    async fn admit(&self, _: &Arrival<'_>) -> Result<Permit, Rejection> {
        sleep(SECOND).await;
        Ok(Permit::free())
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_stays_while_its_request_waits_to_be_let_in() {
    let sessions = manager(|b| b.max_sessions(1).requests(Slow));
    let found = Driver::ready(&sessions).await.expect("room");
    let asks = async {
        assert!(sessions.has_session(&found.id).await.expect("knows"));
        let newcomer = async {
            sleep(SECOND / 2).await;
            is_apart_refused(&sessions).await
        };
        tokio::join!(found.echo("e"), newcomer)
    };
    let (answer, refused) = ClientContext::new().scope(asks).await;
    assert_eq!((answer.expect("lives"), refused), ("e".to_owned(), true));
}

/// Whether a newcomer in another request is refused.
async fn is_apart_refused(sessions: &Arc<Manager>) -> bool {
    let sessions = Arc::clone(sessions);
    tokio::spawn(async move { is_refused(&sessions).await }).await.expect("no panic")
}

#[tokio::test(start_paused = true)]
async fn a_hold_for_one_session_protects_no_other() {
    let sessions = manager(|b| b);
    let one = Driver::ready(&sessions).await.expect("room");
    let other = Driver::ready(&sessions).await.expect("room");
    let in_flight = |driver: &Driver<Manager>| {
        let print = Fingerprint::of(&driver.id);
        sessions.list().into_iter().find(|session| session.fingerprint == print).expect("there").in_flight
    };
    let asks = async {
        assert!(sessions.has_session(&one.id).await.expect("knows"));
        other.sleep(60_000).await.expect("lives")
    };
    let call = ClientContext::new().scope(asks).await;
    assert_eq!((in_flight(&one), in_flight(&other)), (0, 1));
    drop(call);
}
