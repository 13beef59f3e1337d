//! docs/design.md, L10.
//!
//! A session that comes back obeys the laws of any newcomer, and does not come back once it was ended for good.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::scripted::{Act, Call, Line, Scripted, initialize, initialize_params, initialized, list_tools};
use crate::server::Server;
use crate::service::{NOT_FOUND, Service, WELL};
use crate::witness::Witness;
use axum::http::StatusCode;
use futures_util::StreamExt;
use rmcp::transport::Transport;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::session::{RestoreOutcome, SessionId, SessionManager, SessionState};
use rmcp_session_policy::admission::Concurrent;
use rmcp_session_policy::{
    ClientContext, CloseReason, HOUR, MINUTE, PolicyError, PolicySessionManager, PolicySessionManagerBuilder,
    PolicyTransport, RejectionReason, SECOND, Stats,
};
use tokio::time::{Instant, timeout};

type Manager<I> = Arc<PolicySessionManager<I>>;

fn local(
    configure: impl FnOnce(
        PolicySessionManagerBuilder<LocalSessionManager>,
    ) -> PolicySessionManagerBuilder<LocalSessionManager>,
) -> Manager<LocalSessionManager> {
    Arc::new(configure(PolicySessionManager::local()).build().expect("valid"))
}

/// A service whose sessions come back.
fn parking<I: SessionManager>(sessions: &Manager<I>) -> Service<PolicySessionManager<I>> {
    Service::new(Arc::clone(sessions), Some(sessions.parking()))
}

fn scripted(
    configure: impl FnOnce(PolicySessionManagerBuilder<Scripted>) -> PolicySessionManagerBuilder<Scripted>,
) -> (Scripted, Manager<Scripted>) {
    let inner = Scripted::new();
    let sessions = configure(PolicySessionManager::builder(inner.clone())).build().expect("valid");
    (inner, Arc::new(sessions))
}

/// Creates a session over the scripted manager, ready and with something to park.
async fn ready(sessions: &Manager<Scripted>) -> (SessionId, PolicyTransport<Line>) {
    ready_saying(sessions, initialize_params()).await
}

async fn ready_saying(sessions: &Manager<Scripted>, params: serde_json::Value) -> (SessionId, PolicyTransport<Line>) {
    let (id, transport) = sessions.create_session().await.expect("room");
    sessions.initialize_session(&id, initialize()).await.expect("answers");
    let state = SessionState::new(serde_json::from_value(params).expect("valid"));
    sessions.parking().store(&id, &state).await.expect("stores");
    sessions.accept_message(&id, initialized()).await.expect("accepts");
    (id, transport)
}

/// Creates a session and evicts it.
async fn parked(sessions: &Manager<Scripted>) -> SessionId {
    let (id, transport) = ready(sessions).await;
    park(sessions, &id).await;
    drop(transport);
    id
}

async fn park(sessions: &Manager<Scripted>, id: &SessionId) {
    let fingerprint = rmcp_session_policy::Fingerprint::of(id);
    let this = move |session: &rmcp_session_policy::eviction::SessionInfo<'_>| session.fingerprint() == fingerprint;
    assert_eq!(sessions.terminate(this, CloseReason::Evicted).await, 1);
}

fn is_restored<T>(outcome: &Result<RestoreOutcome<T>, PolicyError<crate::scripted::Failed>>) -> bool {
    matches!(outcome, Ok(RestoreOutcome::Restored(_)))
}

fn is_not_there<T>(outcome: &Result<RestoreOutcome<T>, PolicyError<crate::scripted::Failed>>) -> bool {
    matches!(outcome, Ok(RestoreOutcome::NotSupported))
}

async fn knows(sessions: &Manager<Scripted>, id: &SessionId) -> bool {
    sessions.parking().load(id).await.expect("loads").is_some()
}

// Places

#[tokio::test(start_paused = true)]
async fn a_restore_takes_a_victims_place_like_any_newcomer() {
    let sessions = local(|b| b.max_sessions(1));
    let service = parking(&sessions);
    let alice = service.open().await;
    let bob = service.open().await;
    for _ in 0..20 {
        assert_eq!(service.echo(&alice).await, WELL);
        assert_eq!(sessions.stats().live, 1);
        assert_eq!(sessions.inner().sessions.read().await.len(), 1);
        assert_eq!(service.echo(&bob).await, WELL);
    }
    assert_eq!(sessions.stats().restored, 40);
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_finds_no_place_is_refused_and_stays_parked() {
    let (inner, sessions) = scripted(|b| b.max_sessions(1));
    let id = parked(&sessions).await;
    let (other, _transport) = ready(&sessions).await;
    let _busy = sessions.create_stream(&other, list_tools(1)).await.expect("a call under way");
    assert!(matches!(sessions.restore_session(Arc::clone(&id)).await, Err(PolicyError::ServerFull(_))));
    assert!(knows(&sessions, &id).await);
    assert_eq!((inner.calls(Call::Restore), inner.most()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_restore_counts_against_admission() {
    let (_inner, sessions) = scripted(|b| b.max_sessions(5).admission(Concurrent::new(1)));
    let id = parked(&sessions).await;
    let (_other, _transport) = ready(&sessions).await;
    assert!(matches!(sessions.restore_session(Arc::clone(&id)).await, Err(PolicyError::Rejected(_))));
    assert!(knows(&sessions, &id).await);
}

#[tokio::test(start_paused = true)]
async fn a_passive_restore_takes_only_a_free_place() {
    let (_inner, sessions) = scripted(|b| b.max_sessions(1));
    let id = parked(&sessions).await;
    let (other, transport) = ready(&sessions).await;
    let get = || ClientContext::new().passive().scope(sessions.restore_session(Arc::clone(&id)));
    assert!(matches!(get().await, Err(PolicyError::ServerFull(_))), "nobody goes for a listener");
    assert!(sessions.has_session(&other).await.expect("asks"));
    assert!(knows(&sessions, &id).await);
    drop(transport);
    assert!(is_restored(&get().await));
}

#[tokio::test(start_paused = true)]
async fn clients_that_only_listen_cannot_evict_each_other_in_circles() {
    let sessions = local(|b| b.max_sessions(1));
    let service = parking(&sessions);
    let alice = service.open().await;
    let bob = service.open().await;
    for _ in 0..10 {
        assert_ne!(service.get(&alice).await.status(), StatusCode::OK, "no place is free");
    }
    assert_eq!(service.echo(&bob).await, WELL, "and nobody was evicted");
    assert_eq!(sessions.stats().closed(CloseReason::Evicted), 1);
    assert_eq!(service.delete(&bob).await, StatusCode::ACCEPTED);
    tokio::time::sleep(SECOND).await;
    assert_eq!(service.get(&alice).await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_passive_restore_keeps_last_used_and_an_active_one_renews_it() {
    let sessions = local(|b| b.max_sessions(2).idle_timeout(10 * MINUTE));
    let service = parking(&sessions);
    let id = service.open().await;
    tokio::time::sleep(15 * MINUTE).await;
    let listener = service.get(&id).await;
    assert_eq!(listener.status(), StatusCode::OK);
    let back = &sessions.list()[0];
    assert!(back.restored && back.age < SECOND, "{back:?}");
    assert!(back.idle >= 15 * MINUTE, "a listener is no use: {back:?}");
    assert_eq!(service.echo(&id).await, WELL);
    assert!(sessions.list()[0].idle < SECOND);
    drop(listener);
}

#[tokio::test(start_paused = true)]
async fn the_least_recently_used_goes_though_it_was_restored_last() {
    let (_inner, sessions) = scripted(|b| b.max_sessions(2));
    let stale = parked(&sessions).await;
    tokio::time::sleep(MINUTE).await;
    let (fresh, _transport) = ready(&sessions).await;
    let outcome = ClientContext::new().passive().scope(sessions.restore_session(Arc::clone(&stale))).await;
    assert!(is_restored(&outcome));
    drop(sessions.create_standalone_stream(&stale).await.expect("listens"));
    tokio::time::sleep(6 * SECOND).await;
    let (_newcomer, _its) = sessions.create_session().await.expect("room");
    assert!(sessions.has_session(&fresh).await.expect("asks"));
    assert!(!sessions.has_session(&stale).await.expect("asks"));
}

#[tokio::test(start_paused = true)]
async fn what_was_kept_for_one_session_restores_no_other() {
    let (_inner, sessions) = scripted(|b| b.max_sessions(3));
    let alice = ClientContext::new().with_principal("alice").scope(parked(&sessions)).await;
    let bob = ClientContext::new().with_principal("bob").scope(parked(&sessions)).await;
    let asks = async {
        assert!(!sessions.has_session(&alice).await.expect("may come back"));
        sessions.restore_session(Arc::clone(&bob)).await
    };
    let outcome = ClientContext::new().scope(asks).await;
    assert!(is_restored(&outcome));
    let list = sessions.list();
    let [back] = &list[..] else { panic!("one session") };
    assert_eq!(back.context.as_ref().and_then(|context| context.principal()), Some("bob"));
    assert!(knows(&sessions, &alice).await && !knows(&sessions, &bob).await);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_restore_waits_no_longer_than_it_takes() {
    let sessions = local(|b| b.max_sessions(1));
    let service = parking(&sessions);
    let id = service.open().await;
    assert_eq!(sessions.terminate(sessions.list()[0].key, CloseReason::Evicted).await, 1);
    let begun = Instant::now();
    let (one, two) = tokio::join!(service.echo(&id), service.echo(&id));
    assert_eq!((one, two), (WELL, WELL));
    assert_eq!((sessions.stats().restored, begun.elapsed()), (1, Duration::ZERO));
}

// Not after a good end

#[tokio::test(start_paused = true)]
async fn what_ended_for_good_does_not_come_back() {
    for &reason in CloseReason::ALL {
        let (_inner, sessions) = scripted(|b| b.max_sessions(1));
        let (id, transport) = ready(&sessions).await;
        assert_eq!(sessions.terminate(sessions.list()[0].key, reason).await, 1);
        drop(transport);
        let comes_back = matches!(reason, CloseReason::Evicted | CloseReason::Idle | CloseReason::Drained);
        assert_eq!(comes_back, reason.is_restorable(), "{reason}");
        assert_eq!(knows(&sessions, &id).await, comes_back, "{reason}");
        assert_eq!(sessions.stats().parked, usize::from(comes_back), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_store_of_somebody_else_what_ended_for_good_is_refused() {
    for reason in [CloseReason::Client, CloseReason::Lifetime, CloseReason::Revoked] {
        let (inner, sessions) = scripted(|b| b.max_sessions(1));
        let (id, _transport) = sessions.create_session().await.expect("room");
        assert_eq!(sessions.terminate(sessions.list()[0].key, reason).await, 1);
        assert!(is_not_there(&sessions.restore_session(id).await), "{reason}");
        assert_eq!(inner.calls(Call::Restore), 0);
        let stranger = sessions.restore_session("of another process".into()).await;
        assert!(is_restored(&stranger), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_store_of_somebody_else_the_last_that_ended_for_good_are_refused() {
    let (_inner, sessions) = scripted(|b| b.max_sessions(3).max_parked(2));
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (id, transport) = sessions.create_session().await.expect("room");
        sessions.close_session(&id).await.expect("deletes");
        drop(transport);
        ids.push(id);
    }
    let [first, others @ ..] = &*ids else { panic!("three") };
    for id in others {
        assert!(is_not_there(&sessions.restore_session(Arc::clone(id)).await));
    }
    assert!(is_restored(&sessions.restore_session(Arc::clone(first)).await), "no more are remembered than are parked");
}

#[tokio::test(start_paused = true)]
async fn what_the_store_is_told_to_delete_is_deleted() {
    let witness = Witness::default();
    let (_inner, sessions) = scripted(|b| b.max_sessions(2).observer(witness.clone()));
    let parked = parked(&sessions).await;
    sessions.parking().delete(&parked).await.expect("deletes");
    assert!(!knows(&sessions, &parked).await);
    assert!(is_not_there(&sessions.restore_session(parked).await));
    let (live, transport) = ready(&sessions).await;
    sessions.parking().delete(&live).await.expect("deletes");
    drop(transport);
    assert!(!sessions.has_session(&live).await.expect("asks"));
    assert_eq!(
        (sessions.stats().live, sessions.stats().parked, sessions.stats().closed(CloseReason::Client)),
        (0, 0, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_parked_session_does_not_outlive_its_lifetime() {
    let sessions = local(|b| b.max_sessions(1).max_lifetime(HOUR));
    let service = parking(&sessions);
    let alice = service.open().await;
    let _bob = service.open().await;
    tokio::time::sleep(59 * MINUTE).await;
    assert_eq!(service.echo(&alice).await, WELL);
    let _carol = service.open().await;
    tokio::time::sleep(2 * MINUTE).await;
    assert_eq!(service.echo(&alice).await, NOT_FOUND, "its lifetime counts from its first incarnation");
}

#[tokio::test(start_paused = true)]
async fn a_restored_session_ends_when_its_lifetime_does() {
    let sessions = local(|b| b.max_sessions(1).max_lifetime(HOUR));
    let service = parking(&sessions);
    let alice = service.open().await;
    let _bob = service.open().await;
    tokio::time::sleep(59 * MINUTE).await;
    assert_eq!(service.echo(&alice).await, WELL);
    tokio::time::sleep(2 * MINUTE).await;
    assert_eq!(service.echo(&alice).await, NOT_FOUND);
    assert_eq!(sessions.stats().closed(CloseReason::Lifetime), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_deleted_while_its_eviction_is_under_way_does_not_come_back() {
    let (inner, sessions) = scripted(|b| b.max_sessions(1));
    let (id, transport) = ready(&sessions).await;
    inner.set(Call::Close, Act::Slow(Duration::from_millis(50)));
    let newcomer = tokio::spawn({
        let sessions = Arc::clone(&sessions);
        async move { sessions.create_session().await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(sessions.stats().closing, 1);
    // As rmcp answers a DELETE.
    ClientContext::new().scope(sessions.close_session(&id)).await.expect("closes");
    sessions.parking().delete(&id).await.expect("deletes");
    drop(transport);
    let _newcomer = newcomer.await.expect("no panic").expect("the place");
    assert!(!knows(&sessions, &id).await);
    assert_eq!(sessions.stats().parked, 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_revoked_while_its_eviction_is_under_way_does_not_come_back() {
    let (inner, sessions) = scripted(|b| b.max_sessions(1));
    let (id, transport) = ready(&sessions).await;
    inner.set(Call::Close, Act::Slow(Duration::from_millis(50)));
    let key = sessions.list()[0].key;
    let evicted = tokio::spawn({
        let sessions = Arc::clone(&sessions);
        async move { sessions.terminate(key, CloseReason::Evicted).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    sessions.terminate(key, CloseReason::Revoked).await;
    drop(transport);
    assert_eq!(evicted.await.expect("no panic"), 1);
    assert!(!knows(&sessions, &id).await);
}

#[tokio::test(start_paused = true)]
async fn a_session_deleted_while_it_is_restored_does_not_come_back_and_frees_its_place() {
    let witness = Witness::default();
    let (inner, sessions) = scripted(|b| b.max_sessions(1).observer(witness.clone()));
    let id = parked(&sessions).await;
    inner.set(Call::Restore, Act::Slow(Duration::from_millis(50)));
    let restore = tokio::spawn({
        let (sessions, id) = (Arc::clone(&sessions), Arc::clone(&id));
        async move { sessions.restore_session(id).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    ClientContext::new().scope(sessions.close_session(&id)).await.expect("closes");
    sessions.parking().delete(&id).await.expect("deletes");
    assert!(is_not_there(&restore.await.expect("no panic")));
    tokio::time::sleep(SECOND).await;
    assert!(!sessions.has_session(&id).await.expect("asks"));
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.parked, stats.reserved, inner.existing()), (0, 0, 0, 0), "{stats:?}");
    assert!(sessions.create_session().await.is_ok(), "the place is free");
    witness.assert_one_end_each();
}

#[tokio::test(start_paused = true)]
async fn a_session_revoked_between_load_and_restore_does_not_come_back() {
    let (inner, sessions) = scripted(|b| b.max_sessions(1));
    let id = parked(&sessions).await;
    assert!(knows(&sessions, &id).await, "rmcp has loaded it");
    let everybody = |_: &rmcp_session_policy::eviction::SessionInfo<'_>| true;
    assert_eq!(sessions.terminate(everybody, CloseReason::Revoked).await, 1);
    assert!(is_not_there(&sessions.restore_session(Arc::clone(&id)).await));
    assert_eq!((inner.calls(Call::Restore), sessions.stats().live), (0, 0));
}

// One at a time

#[tokio::test(start_paused = true)]
async fn restores_of_one_id_go_one_at_a_time_and_are_never_answered_already_present() {
    let (inner, sessions) = scripted(|b| b.max_sessions(4));
    let id = parked(&sessions).await;
    inner.set(Call::Restore, Act::Slow(Duration::from_millis(50)));
    let restores = futures_util::future::join_all((0..8).map(|_| sessions.restore_session(Arc::clone(&id)))).await;
    assert_eq!(restores.iter().filter(|outcome| is_restored(outcome)).count(), 1);
    assert!(!restores.iter().any(|outcome| matches!(outcome, Ok(RestoreOutcome::AlreadyPresent))));
    assert_eq!((inner.calls(Call::Restore), inner.most(), sessions.stats().live), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_end_begins_while_it_is_asked_for_is_waited_for() {
    let (_inner, sessions) = scripted(|b| b.max_sessions(2));
    for _ in 0..1_000 {
        let (id, transport) = ready(&sessions).await;
        let evicted = tokio::spawn({
            let (sessions, id) = (Arc::clone(&sessions), Arc::clone(&id));
            async move {
                park(&sessions, &id).await;
                drop(transport);
            }
        });
        let until_it_is_not_there = async { while sessions.has_session(&id).await.expect("asks") {} };
        ClientContext::new().scope(until_it_is_not_there).await;
        // rmcp looks for it in the store next.
        assert!(knows(&sessions, &id).await, "neither there nor parked");
        evicted.await.expect("no panic");
        sessions.close_session(&id).await.expect("deletes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_is_refused_does_not_keep_the_next_request_from_its_session() {
    let sessions = local(|b| b.max_sessions(1));
    let service = parking(&sessions);
    // So many that rmcp has forgotten the last restore of each when it comes back: it takes whoever comes too soon for
    // restored already, which ends in the layer's 503.
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(service.open().await);
    }
    for alice in clients.iter().cycle().take(500) {
        // There is no place for a listener, but a call takes one.
        let listener = tokio::spawn({
            let (service, alice) = (service.clone(), alice.clone());
            async move { service.get(&alice).await.status() }
        });
        assert_eq!(service.echo(alice).await, WELL);
        assert_ne!(listener.await.expect("no panic"), StatusCode::NOT_FOUND);
    }
}

#[tokio::test(start_paused = true)]
async fn who_hangs_up_during_a_restore_does_not_keep_the_next_request_from_its_session() {
    let inner = Scripted::relaying();
    let sessions = Arc::new(PolicySessionManager::builder(inner.clone()).max_sessions(1).build().expect("valid"));
    let service = parking(&sessions);
    let id = service.open().await;
    park_any(&sessions).await;
    inner.set(Call::Restore, Act::Never);
    let echo = || {
        let (service, id) = (service.clone(), id.clone());
        tokio::spawn(async move { service.echo(&id).await })
    };
    let first = echo();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let second = echo();
    tokio::time::sleep(Duration::from_millis(1)).await;
    inner.set(Call::Restore, Act::Ok);
    first.abort();
    assert_eq!(second.await.expect("no panic"), WELL);
}

#[tokio::test(start_paused = true)]
async fn who_hangs_up_during_a_restore_costs_nobody_the_session_though_the_parking_is_full() {
    let inner = Scripted::relaying();
    let builder = PolicySessionManager::builder(inner.clone()).max_sessions(1).max_parked(2);
    let sessions = Arc::new(builder.build().expect("valid"));
    let service = parking(&sessions);
    let mut users = Vec::new();
    for _ in 0..3 {
        let id = service.open().await;
        assert_eq!(service.echo(&id).await, WELL);
        users.push(id);
    }
    for call in [Call::Restore, Call::Initialize] {
        for _ in 0..3 {
            let mut parked = Vec::new();
            for id in &users {
                if knows(&sessions, &id.as_str().into()).await {
                    parked.push(id.clone());
                }
            }
            inner.set(call, Act::Never);
            let (asking, id) = (service.clone(), parked[0].clone());
            let asking = tokio::spawn(async move { asking.echo(&id).await });
            tokio::time::sleep(Duration::from_millis(1)).await;
            asking.abort();
            inner.set(call, Act::Ok);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for id in &users {
            assert_eq!(service.echo(id).await, WELL, "{call:?}");
        }
        assert_eq!((sessions.stats().live, sessions.stats().parked), (1, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_inner_manager_has_by_itself_is_closed_and_restored() {
    let (inner, sessions) = scripted(|b| b.max_sessions(4));
    let id: SessionId = "of another process".into();
    let RestoreOutcome::Restored(_line) = inner.restore_session(Arc::clone(&id)).await.expect("opens") else {
        panic!("not restored")
    };
    assert!(!sessions.has_session(&id).await.expect("asks"), "it did not come through this manager");
    assert!(is_restored(&sessions.restore_session(id).await));
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_while_a_session_closes_waits_until_it_is_parked() {
    let (inner, sessions) = scripted(|b| b.max_sessions(1));
    let (id, transport) = ready(&sessions).await;
    inner.set(Call::Close, Act::Slow(SECOND));
    let begun = Instant::now();
    let evicted = tokio::spawn({
        let sessions = Arc::clone(&sessions);
        let key = sessions.list()[0].key;
        async move { sessions.terminate(key, CloseReason::Evicted).await }
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    let (has, restored) = tokio::join!(sessions.has_session(&id), async {
        let outcome = sessions.restore_session(Arc::clone(&id)).await;
        (is_restored(&outcome), begun.elapsed() >= SECOND, outcome)
    });
    assert!((restored.0, restored.1) == (true, true), "restored, and not before it was closed");
    // It waits for the end, and then for the restore or not; either answer is true of some moment.
    has.expect("asks");
    evicted.await.expect("no panic");
    drop(transport);
    assert_eq!(inner.most(), 1, "never both incarnations");
}

#[tokio::test(start_paused = true)]
async fn waits_for_a_close_or_restore_that_never_ends_are_bounded() {
    let (inner, sessions) = scripted(|b| b.max_sessions(2).close_deadline(5 * SECOND));
    let id = parked(&sessions).await;
    inner.set(Call::Restore, Act::Never);
    let restore = tokio::spawn({
        let (sessions, id) = (Arc::clone(&sessions), Arc::clone(&id));
        async move { sessions.restore_session(id).await }
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    let bound = Duration::from_secs(6);
    assert!(!timeout(bound, sessions.has_session(&id)).await.expect("bounded").expect("asks"));
    assert!(timeout(bound, sessions.restore_session(Arc::clone(&id))).await.expect("bounded").is_err());
    restore.abort();
    assert!(restore.await.is_err());
    inner.set(Call::Restore, Act::Ok);
    let Ok(RestoreOutcome::Restored(_transport)) = sessions.restore_session(Arc::clone(&id)).await else {
        panic!("not restored")
    };
    sessions.accept_message(&id, initialized()).await.expect("accepts");
    inner.set(Call::Close, Act::Never);
    timeout(bound, park_any(&sessions)).await.expect("bounded");
    assert!(!timeout(bound, sessions.has_session(&id)).await.expect("bounded").expect("asks"));
    assert!(timeout(bound, sessions.restore_session(Arc::clone(&id))).await.expect("bounded").is_err());
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.stuck, stats.parked), (1, 1, 0), "a stuck session is not parked: {stats:?}");
}

async fn park_any(sessions: &PolicySessionManager<Scripted>) {
    sessions.terminate(|_: &rmcp_session_policy::eviction::SessionInfo<'_>| true, CloseReason::Evicted).await;
}

#[tokio::test(start_paused = true)]
async fn concurrent_requests_of_a_parked_client_are_all_answered() {
    let sessions = local(|b| b.max_sessions(1));
    let service = parking(&sessions);
    let alice = service.open().await;
    for round in 0..20 {
        let _bob = service.open().await;
        let answers = futures_util::future::join_all((0..8).map(|_| service.echo(&alice))).await;
        assert_eq!(answers, [WELL; 8], "round {round}");
    }
    assert_eq!(sessions.stats().restored, 20);
}

// What may be parked

#[tokio::test(start_paused = true)]
async fn no_more_are_parked_than_allowed_and_the_oldest_are_forgotten() {
    let (_inner, sessions) = scripted(|b| b.max_parked(3));
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(parked_among(&sessions).await);
    }
    assert_eq!(sessions.stats().parked, 3);
    let mut known = Vec::new();
    for id in &ids {
        known.push(knows(&sessions, id).await);
    }
    assert_eq!(known, [false, false, true, true, true]);
}

async fn parked_among(sessions: &Manager<Scripted>) -> SessionId {
    let (id, transport) = ready(sessions).await;
    park(sessions, &id).await;
    drop(transport);
    id
}

#[tokio::test(start_paused = true)]
async fn nobody_is_parked_if_nobody_may_be() {
    let (_inner, sessions) = scripted(|b| b.max_parked(0));
    let id = parked_among(&sessions).await;
    assert!(!knows(&sessions, &id).await);
    assert_eq!((sessions.stats().parked, sessions.stats().parked_bytes), (0, 0));
}

fn params_of(bytes: usize) -> serde_json::Value {
    let mut params = initialize_params();
    params["clientInfo"]["name"] = "x".repeat(bytes).into();
    params
}

#[tokio::test(start_paused = true)]
async fn no_more_bytes_are_parked_than_allowed() {
    let (_inner, sessions) = scripted(|b| b.max_parked_bytes(4_096));
    let mut transports = Vec::new();
    for _ in 0..10 {
        let (id, transport) = ready_saying(&sessions, params_of(1_000)).await;
        transports.push(transport);
        park(&sessions, &id).await;
        let stats = sessions.stats();
        assert!(stats.parked_bytes <= 4_096 && stats.parked_bytes >= 1_000 * stats.parked, "{stats:?}");
    }
    assert_eq!(sessions.stats().parked, 3);
}

#[tokio::test(start_paused = true)]
async fn as_many_bytes_are_parked_as_allowed() {
    let (_inner, sessions) = scripted(|b| b);
    drop(parked(&sessions).await);
    let bytes = sessions.stats().parked_bytes;
    let (_inner, sessions) = scripted(|b| b.max_parked_bytes(2 * bytes));
    for _ in 0..3 {
        drop(parked(&sessions).await);
    }
    assert_eq!((sessions.stats().parked, sessions.stats().parked_bytes), (2, 2 * bytes));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_too_much_is_not_parked() {
    let (_inner, sessions) = scripted(|b| b.max_parked_entry_bytes(1_024));
    let (talker, transport) = ready_saying(&sessions, params_of(1_025)).await;
    park(&sessions, &talker).await;
    drop(transport);
    assert!(!knows(&sessions, &talker).await);
    let modest = parked_among(&sessions).await;
    assert!(knows(&sessions, &modest).await);
}

#[tokio::test(start_paused = true)]
async fn one_client_that_says_more_than_all_may_does_not_push_the_others_out() {
    let (_inner, sessions) = scripted(|b| b.max_parked_bytes(4_096));
    let modest = parked_among(&sessions).await;
    let (talker, transport) = ready_saying(&sessions, params_of(5_000)).await;
    park(&sessions, &talker).await;
    drop(transport);
    assert!(knows(&sessions, &modest).await);
    assert!(!knows(&sessions, &talker).await);
}

#[tokio::test(start_paused = true)]
async fn what_is_parked_too_long_is_forgotten() {
    let (_inner, sessions) = scripted(|b| b.max_parked_age(HOUR));
    let id = parked(&sessions).await;
    tokio::time::sleep(59 * MINUTE).await;
    assert!(knows(&sessions, &id).await);
    tokio::time::sleep(2 * MINUTE).await;
    assert!(!knows(&sessions, &id).await);
    assert_eq!((sessions.stats().parked, sessions.stats().parked_bytes), (0, 0));
    assert!(is_not_there(&sessions.restore_session(id).await), "rmcp may have loaded it just before");
}

#[tokio::test(start_paused = true)]
async fn what_is_restored_takes_no_room_among_the_parked() {
    let (_inner, sessions) = scripted(|b| b.max_sessions(1));
    let id = parked(&sessions).await;
    assert!(sessions.stats().parked_bytes > 0);
    let outcome = sessions.restore_session(id).await;
    assert!(is_restored(&outcome));
    assert_eq!((sessions.stats().parked, sessions.stats().parked_bytes), (0, 0));
}

// Replays

#[tokio::test(start_paused = true)]
async fn a_replay_that_fails_forgets_the_session() {
    let inner = Scripted::relaying();
    let sessions = Arc::new(PolicySessionManager::builder(inner.clone()).max_sessions(1).build().expect("valid"));
    let service = parking(&sessions);
    let id = service.open().await;
    park_any(&sessions).await;
    assert_eq!(sessions.stats().parked, 1);
    inner.set(Call::Initialize, Act::Error);
    assert!(!service.echo(&id).await.1);
    inner.set(Call::Initialize, Act::Ok);
    tokio::time::sleep(SECOND).await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.parked, stats.reserved, inner.existing()), (0, 0, 0, 0), "{stats:?}");
    assert_eq!(service.echo(&id).await, NOT_FOUND);
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_never_ends_is_bounded_and_forgets_the_session() {
    let inner = Scripted::relaying();
    let sessions = Arc::new(PolicySessionManager::builder(inner.clone()).max_sessions(1).build().expect("valid"));
    let service = parking(&sessions);
    let id = service.open().await;
    park_any(&sessions).await;
    inner.set(Call::Initialize, Act::Never);
    let request = tokio::spawn({
        let (service, id) = (service.clone(), id.clone());
        async move { service.echo(&id).await }
    });
    tokio::time::sleep(MINUTE).await;
    assert_eq!((sessions.stats().live, sessions.stats().parked, inner.existing()), (0, 0, 0));
    request.abort();
    inner.set(Call::Initialize, Act::Ok);
    assert!(request.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_during_a_replay_waits_until_it_is_over() {
    for step in [Call::Initialize, Call::Accept] {
        let inner = Scripted::relaying();
        let sessions = Arc::new(PolicySessionManager::builder(inner.clone()).max_sessions(1).build().expect("valid"));
        let service = parking(&sessions);
        let id = service.open().await;
        park_any(&sessions).await;
        inner.set(step, Act::Slow(SECOND));
        let begun = Instant::now();
        let request = tokio::spawn({
            let (service, id) = (service.clone(), id.clone());
            async move { service.echo(&id).await }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(sessions.stats().live, 1);
        assert!(sessions.has_session(&id.as_str().into()).await.expect("asks"), "{step:?}");
        assert!(begun.elapsed() >= SECOND, "{step:?}: after {:?}", begun.elapsed());
        assert_eq!(request.await.expect("no panic"), WELL, "{step:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_during_a_replay_that_takes_too_long_is_told_that_the_session_is_there() {
    let (inner, sessions) = scripted(|b| b.max_sessions(1).close_deadline(5 * SECOND));
    let id = parked(&sessions).await;
    let RestoreOutcome::Restored(_transport) = sessions.restore_session(Arc::clone(&id)).await.expect("a place") else {
        panic!("not restored")
    };
    inner.set(Call::Initialize, Act::Never);
    let replay = tokio::spawn({
        let (sessions, id) = (Arc::clone(&sessions), Arc::clone(&id));
        async move { sessions.initialize_session(&id, initialize()).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    let begun = Instant::now();
    assert!(sessions.has_session(&id).await.expect("asks"));
    assert_eq!(begun.elapsed(), 5 * SECOND);
    replay.abort();
}

#[tokio::test(start_paused = true)]
async fn a_session_that_comes_back_is_not_lost_to_its_own_victim() {
    let sessions = local(|b| b.max_sessions(1).max_parked(1));
    let service = parking(&sessions);
    let (mut parked, mut live) = (service.open().await, service.open().await);
    for _ in 0..10 {
        assert_eq!(
            service.echo(&parked).await,
            WELL,
            "whom it takes the place of is parked, and there is room for one"
        );
        assert_eq!(sessions.stats().parked, 1);
        std::mem::swap(&mut parked, &mut live);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_revoked_between_its_admission_and_its_restore_does_not_come_back() {
    let (inner, sessions) = scripted(|b| b.max_sessions(1).max_parked(1));
    let id = parked(&sessions).await;
    let (_other, _transport) = ready(&sessions).await;
    let request = async {
        assert!(!sessions.has_session(&id).await.expect("admitted"));
        assert!(knows(&sessions, &id).await, "though its victim took its room among the parked");
        let of_its_own = |session: &rmcp_session_policy::eviction::SessionInfo<'_>| {
            session.fingerprint() == rmcp_session_policy::Fingerprint::of(&id)
        };
        assert_eq!(sessions.terminate(of_its_own, CloseReason::Revoked).await, 1);
        assert!(!knows(&sessions, &id).await);
        sessions.restore_session(Arc::clone(&id)).await
    };
    assert!(is_not_there(&ClientContext::new().scope(request).await));
    assert_eq!((inner.calls(Call::Restore), sessions.stats().live, sessions.stats().reserved), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn whoever_may_not_come_back_is_told_when_it_asks() {
    let (inner, sessions) = scripted(|b| b.max_sessions(1));
    let id = parked(&sessions).await;
    let (other, _transport) = ready(&sessions).await;
    let busy = sessions.create_stream(&other, list_tools(1)).await.expect("a call under way");
    let asked = ClientContext::new().scope(sessions.has_session(&id)).await;
    assert!(matches!(asked, Err(PolicyError::ServerFull(_))), "{asked:?}");
    assert!(!sessions.has_session(&id).await.expect("out of a scope it is only asked"));
    assert_eq!((inner.calls(Call::Restore), sessions.stats().parked), (0, 1));
    drop(busy);
}

#[tokio::test(start_paused = true)]
async fn a_restored_session_has_its_owner_and_history() {
    let sessions = local(|b| b.max_sessions(1));
    let service = parking(&sessions);
    let alice = service.open().await;
    for _ in 0..3 {
        assert_eq!(service.echo(&alice).await, WELL);
    }
    let before = sessions.list()[0].clone();
    let bob = service.open().await;
    assert_eq!(service.delete(&bob).await, StatusCode::ACCEPTED);
    assert_eq!(service.echo(&alice).await, WELL);
    let back = sessions.list()[0].clone();
    assert_eq!((back.fingerprint, back.context, back.uses), (before.fingerprint, before.context, 4));
    assert_ne!(back.key, before.key, "a new incarnation");
    assert_eq!(back.client, before.client);
}

#[tokio::test(start_paused = true)]
async fn drained_no_session_is_restored_here() {
    let (_inner, sessions) = scripted(|b| b.max_sessions(1));
    let id = parked(&sessions).await;
    sessions.drain(SECOND).await;
    assert!(matches!(sessions.restore_session(Arc::clone(&id)).await, Err(PolicyError::Draining)));
    assert!(knows(&sessions, &id).await);
}

#[tokio::test(start_paused = true)]
async fn a_drain_in_the_middle_of_a_restore_parks_the_session_again() {
    let (inner, sessions) = scripted(|b| b.max_sessions(1));
    let id = parked(&sessions).await;
    inner.set(Call::Restore, Act::Slow(Duration::from_millis(50)));
    let (outcome, _report) = tokio::join!(sessions.restore_session(Arc::clone(&id)), sessions.drain(SECOND));
    assert!(matches!(outcome, Err(PolicyError::Draining)));
    tokio::time::sleep(SECOND).await;
    assert!(knows(&sessions, &id).await);
    assert_eq!((sessions.stats().live, inner.existing()), (0, 0));
}

/// Answers other than the one asked for, and how many of each.
type Bad = BTreeMap<(u16, String), usize>;

/// Lets clients share eight sessions, in different orders: 2,400 requests.
async fn race(places: usize, clients: usize) -> (Bad, Stats) {
    let sessions = local(|b| b.max_sessions(places));
    let server = Server::with_layer(Arc::clone(&sessions)).await;
    let http = reqwest::Client::new();
    let post = |id: Option<&str>, body: serde_json::Value| {
        let post = http.post(&server.url).header("accept", "application/json, text/event-stream").json(&body);
        if let Some(id) = id { post.header("mcp-session-id", id) } else { post }.send()
    };
    let mut ids = Vec::new();
    for _ in 0..8 {
        let answer = post(None, crate::service::initialize()).await.expect("answers");
        assert_eq!(answer.status(), 200);
        let id = answer.headers()["mcp-session-id"].to_str().expect("text").to_owned();
        answer.text().await.expect("a body");
        assert_eq!(post(Some(&id), crate::service::initialized()).await.expect("answers").status(), 202);
        ids.push(id);
    }
    let requests = (0..clients).map(async |client| {
        let mut bad = Vec::new();
        for turn in 0..2_400 / clients {
            let call = serde_json::json!({ "jsonrpc": "2.0", "id": client * 10_000 + turn, "method": "tools/call",
                "params": { "name": "echo", "arguments": { "text": "here" } } });
            let answer = post(Some(&ids[(turn * (client + 1)) % ids.len()]), call).await.expect("answers");
            let status = answer.status().as_u16();
            let body = answer.text().await.unwrap_or_default();
            if status != 200 || !body.contains("\"text\":\"here\"") {
                bad.push((status, body));
            }
        }
        bad
    });
    let mut bad = Bad::new();
    for answer in futures_util::future::join_all(requests).await.into_iter().flatten() {
        *bad.entry(answer).or_default() += 1;
    }
    assert!(sessions.inner().sessions.read().await.len() <= places);
    (bad, sessions.stats())
}

/// Takes out the answers that say, with 200 and a result that is an error, to come again.
fn come_again(bad: &mut Bad) -> usize {
    let says_so = |(status, body): &(u16, String)| *status == 200 && body.contains(r#""code":503"#);
    let told = bad.iter().filter(|(answer, _)| says_so(answer)).map(|(_, count)| count).sum();
    bad.retain(|answer, _| !says_so(answer));
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evictions_and_restores_of_one_id_racing_each_other_lose_no_answer() {
    let (mut bad, stats) = race(4, 3).await;
    assert!(stats.restored > 100, "it was a race: {stats:?}");
    // rmcp remembers a restore for a moment after it is done: who asks then is sent on to a session that may be gone.
    let misled = come_again(&mut bad);
    assert!(bad.is_empty(), "{bad:#?} {stats:?}");
    assert!(misled <= 24, "more than one in a hundred: {misled}");
}

/// With more clients at work than places, some must be refused, and are told so, and nothing worse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_every_place_busy_restores_are_refused_and_nothing_worse() {
    let (mut bad, stats) = race(2, 12).await;
    let refused = come_again(&mut bad) as u64;
    assert!(bad.is_empty(), "{bad:#?} {stats:?}");
    let honest = stats.rejected(RejectionReason::ServerFull);
    assert!(honest <= refused && refused <= honest + 24, "{refused} told, {honest} counted");
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_only_when_the_inner_transport_has_the_answers_on_their_way() {
    let (inner, sessions) = scripted(|b| b.max_sessions(1));
    let (id, mut transport) = ready(&sessions).await;
    assert!(transport.receive().await.is_some(), "initialized");
    let mut stream = Box::pin(sessions.create_stream(&id, list_tools(1)).await.expect("a call"));
    assert!(futures_util::poll!(stream.next()).is_pending());
    assert!(transport.receive().await.is_some());
    let answer = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "result": { "tools": [] } });
    let sending = transport.send(serde_json::from_value(answer).expect("an answer"));
    assert_eq!(sessions.stats().busy, 0, "its client may come again before the send returns");
    let mut newcomer = Box::pin(sessions.create_session());
    assert!(futures_util::poll!(&mut newcomer).is_pending());
    assert_eq!((sessions.stats().closing, inner.calls(Call::Close)), (1, 0), "its end waits for the answer");
    sending.await.expect("sends");
    assert!(newcomer.await.is_ok());
    assert!(stream.next().await.is_some_and(|event| event.message.is_some()), "the answer");
}

#[tokio::test(start_paused = true)]
async fn a_late_reader_of_an_old_incarnation_gets_nothing_of_the_new_one() {
    let (_inner, sessions) = scripted(|b| b.max_sessions(1));
    let (id, mut old) = ready(&sessions).await;
    park(&sessions, &id).await;
    let Ok(RestoreOutcome::Restored(mut new)) = sessions.restore_session(Arc::clone(&id)).await else {
        panic!("not restored")
    };
    sessions.accept_message(&id, initialized()).await.expect("accepts");
    assert!(old.receive().await.is_none());
    assert!(new.receive().await.is_some());
    drop(old);
    assert!(sessions.has_session(&id).await.expect("asks"), "the drop of the old transport ends nothing");
}
