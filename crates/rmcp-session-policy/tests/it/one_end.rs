//! docs/design.md, L4.
//!
//! Each session ends once: one reason, one event, one release of its place. Later closes change nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::scripted::{Act, Call, Scripted};
use crate::service::{NOT_FOUND, Service, WELL, read};
use crate::witness::{Heard, Witness};
use axum::http::{Method, StatusCode};
use rmcp::transport::Transport;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::session::{RestoreOutcome, SessionId, SessionManager, SessionState};
use rmcp_session_policy::{ClientContext, CloseReason, MINUTE, PolicySessionManager, SECOND};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

type Local = PolicySessionManager<LocalSessionManager>;
type Sessions = PolicySessionManager<Scripted>;

fn local(places: usize) -> (Witness, Arc<Local>) {
    let witness = Witness::default();
    let sessions = PolicySessionManager::local().max_sessions(places).observer(witness.clone()).build();
    (witness, Arc::new(sessions.expect("valid")))
}

fn scripted(places: usize) -> (Witness, Scripted, Arc<Sessions>) {
    let (witness, inner) = (Witness::default(), Scripted::new());
    let sessions = PolicySessionManager::builder(inner.clone()).max_sessions(places).observer(witness.clone()).build();
    (witness, inner, Arc::new(sessions.expect("valid")))
}

/// Lets all tasks come to rest.
async fn settle() {
    tokio::time::sleep(SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_delete_and_its_late_close_are_one_end() {
    let (witness, sessions) = local(2);
    let service = Service::new(Arc::clone(&sessions), Some(sessions.parking()));
    let id = service.open().await;
    assert_eq!(service.delete(&id).await, StatusCode::ACCEPTED);
    settle().await;
    assert_eq!(witness.reasons(), [CloseReason::Client]);
    witness.assert_one_end_each();
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.reserved, stats.parked, stats.closed(CloseReason::Client)), (0, 0, 0, 1));
    assert_eq!(service.echo(&id).await, NOT_FOUND);
    // Both places can be had again, and no third.
    let (_one, _two) = (sessions.create_session().await.expect("room"), sessions.create_session().await.expect("room"));
    assert_eq!(sessions.stats().live, 2);
}

#[tokio::test(start_paused = true)]
async fn many_closes_of_one_session_at_once_are_one_end() {
    let (witness, inner, sessions) = scripted(1);
    inner.set(Call::Close, Act::Slow(Duration::from_millis(30)));
    let (id, transport) = sessions.create_session().await.expect("room");
    let closes = (0..16).map(|_| sessions.close_session(&id));
    for closed in futures_util::future::join_all(closes).await {
        closed.expect("closes");
    }
    drop(transport);
    sessions.close_session(&id).await.expect("closes");
    settle().await;
    assert_eq!(witness.reasons(), [CloseReason::Client]);
    assert_eq!(inner.calls(Call::Close), 1);
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.reserved), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn closes_of_unknown_ids_change_nothing() {
    let (witness, inner, sessions) = scripted(1);
    let (id, _transport) = sessions.create_session().await.expect("room");
    for stranger in ["", "unknown", "session-"] {
        let stranger: SessionId = stranger.into();
        sessions.close_session(&stranger).await.expect("no error");
        ClientContext::new().scope(sessions.close_session(&stranger)).await.expect("no error");
    }
    assert_eq!((witness.reasons(), inner.calls(Call::Close)), (vec![], 0));
    assert!(sessions.has_session(&id).await.expect("asks"));
    assert_eq!(sessions.stats().live, 1);
}

#[tokio::test(start_paused = true)]
async fn concurrent_ends_of_all_kinds_end_a_session_once() {
    let (witness, inner, sessions) = scripted(1);
    inner.set(Call::Close, Act::Slow(Duration::from_millis(30)));
    let (id, transport) = sessions.create_session().await.expect("room");
    let key = sessions.list()[0].key;
    let (store, newcomer) = (sessions.parking(), sessions.create_session());
    let (closed, terminated, deleted, newcomer, _dropped) = tokio::join!(
        sessions.close_session(&id),
        sessions.terminate(key, CloseReason::Revoked),
        store.delete(&id),
        newcomer,
        async { drop(transport) },
    );
    closed.expect("closes");
    deleted.expect("deletes");
    assert_eq!(terminated, 0, "it was ending already");
    let (_id, _transport) = newcomer.expect("the place of the one that ends");
    assert_eq!(witness.closed().len(), 1);
    assert_eq!((inner.calls(Call::Close), inner.most()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_late_close_after_an_eviction_spares_the_restored_session() {
    let (witness, sessions) = local(1);
    let service = Service::new(Arc::clone(&sessions), Some(sessions.parking()));
    let alice = service.open().await;
    for round in 1..=5 {
        let bob = service.open().await;
        assert_eq!(service.echo(&alice).await, WELL, "restored, round {round}");
        // The old incarnation's trailing close has come by now.
        settle().await;
        assert_eq!(service.echo(&alice).await, WELL, "still there, round {round}");
        assert_eq!(service.delete(&bob).await, StatusCode::ACCEPTED);
    }
    witness.assert_one_end_each();
    assert_eq!(witness.reasons().iter().filter(|reason| **reason != CloseReason::Evicted).count(), 0);
    assert_eq!(witness.heard().iter().filter(|heard| matches!(heard, Heard::Restored(_))).count(), 5);
    assert_eq!(sessions.stats().live, 1);
}

/// Opens a session that can be parked.
async fn open_by_hand(sessions: &Sessions) -> (SessionId, <Sessions as SessionManager>::Transport) {
    let (id, transport) = sessions.create_session().await.expect("room");
    let state = SessionState::new(serde_json::from_value(crate::scripted::initialize_params()).expect("valid"));
    sessions.parking().store(&id, &state).await.expect("stores");
    (id, transport)
}

/// Serves a transport as rmcp does: asks it for messages on a task of its own, and closes the session from there once it
/// is over and `trail` is told.
fn serve(
    sessions: &Arc<Sessions>,
    id: &SessionId,
    mut transport: <Sessions as SessionManager>::Transport,
    trail: oneshot::Receiver<()>,
) -> JoinHandle<()> {
    let (sessions, id) = (Arc::clone(sessions), Arc::clone(id));
    tokio::spawn(async move {
        while transport.receive().await.is_some() {}
        drop(transport);
        trail.await.expect("told");
        sessions.close_session(&id).await.expect("closes once more");
    })
}

/// Ends a session so that it is parked, and brings it back.
async fn come_back(sessions: &Sessions, id: &SessionId) -> <Sessions as SessionManager>::Transport {
    sessions.terminate(sessions.list()[0].key, CloseReason::Evicted).await;
    let Ok(RestoreOutcome::Restored(transport)) = sessions.restore_session(Arc::clone(id)).await else {
        panic!("not restored")
    };
    transport
}

#[tokio::test(start_paused = true)]
async fn late_closes_of_three_incarnations_spare_the_fourth() {
    let (witness, _inner, sessions) = scripted(1);
    let (id, mut transport) = open_by_hand(&sessions).await;
    let mut services = Vec::new();
    for _ in 0..3 {
        let (trail, told) = oneshot::channel();
        services.push((trail, serve(&sessions, &id, transport, told)));
        settle().await;
        transport = come_back(&sessions, &id).await;
    }
    for (trail, service) in services.into_iter().rev() {
        trail.send(()).expect("waits");
        service.await.expect("closes");
        assert!(sessions.has_session(&id).await.expect("asks"), "the newest incarnation lives");
    }
    sessions.close_session(&id).await.expect("a client's close");
    assert!(!sessions.has_session(&id).await.expect("asks"));
    drop(transport);
    assert_eq!(witness.reasons()[3..], [CloseReason::Client]);
    witness.assert_one_end_each();
}

/// A late close of the service and a close by the client are told apart, although without a layer both come without a
/// context.
#[tokio::test(start_paused = true)]
async fn a_close_by_the_client_is_not_taken_for_a_late_close() {
    for parked in [false, true] {
        let (_witness, _inner, sessions) = scripted(1);
        let (id, first) = open_by_hand(&sessions).await;
        let (trail, told) = oneshot::channel();
        let service = serve(&sessions, &id, first, told);
        settle().await;
        let second = come_back(&sessions, &id).await;
        if parked {
            sessions.terminate(sessions.list()[0].key, CloseReason::Evicted).await;
            assert_eq!(sessions.stats().parked, 1);
        }
        sessions.close_session(&id).await.expect("the client's close");
        assert!(!sessions.has_session(&id).await.expect("asks"));
        assert_eq!((sessions.stats().live, sessions.stats().parked), (0, 0));
        trail.send(()).expect("waits");
        service.await.expect("closes");
        drop(second);
    }
}

/// A service may begin only after its session is gone.
#[tokio::test(start_paused = true)]
async fn a_service_that_begins_late_spares_the_next_incarnation() {
    let (_witness, _inner, sessions) = scripted(1);
    let (id, late) = open_by_hand(&sessions).await;
    let _second = come_back(&sessions, &id).await;
    let (trail, told) = oneshot::channel();
    let service = serve(&sessions, &id, late, told);
    trail.send(()).expect("waits");
    service.await.expect("closes");
    assert!(sessions.has_session(&id).await.expect("asks"), "the new incarnation lives");
}

#[tokio::test(start_paused = true)]
async fn a_delete_of_a_parked_session_forgets_it_without_an_event() {
    let (witness, sessions) = local(1);
    let service = Service::new(Arc::clone(&sessions), Some(sessions.parking()));
    let alice = service.open().await;
    let _bob = service.open().await;
    settle().await;
    let heard = witness.heard();
    assert_eq!(service.delete(&alice).await, StatusCode::ACCEPTED);
    assert_eq!(service.delete(&alice).await, StatusCode::ACCEPTED, "again");
    assert_eq!(service.echo(&alice).await, NOT_FOUND);
    assert_eq!(witness.heard(), heard);
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.parked), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_idle_timeout_and_its_late_close_are_one_end() {
    let (witness, sessions) = local(1);
    let service = Service::new(Arc::clone(&sessions), Some(sessions.parking()));
    let id = service.open().await;
    tokio::time::sleep(31 * MINUTE).await;
    assert_eq!(witness.reasons(), [CloseReason::Idle]);
    assert_eq!(service.echo(&id).await, WELL, "restored");
    settle().await;
    assert_eq!(service.echo(&id).await, WELL, "the trailing close spared it");
    witness.assert_one_end_each();
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_is_refused_is_one_end() {
    let (witness, sessions) = local(1);
    let service = Service::new(Arc::clone(&sessions), Some(sessions.parking()));
    let mut initialize = crate::service::initialize();
    initialize["params"]["protocolVersion"] = 7.into();
    let answer = service.send(Method::POST, None, Some(initialize)).await;
    read(answer).await;
    settle().await;
    assert!(witness.closed().len() <= 1);
    witness.assert_one_end_each();
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.reserved, stats.parked), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_drained_session_ends_once() {
    let (witness, sessions) = local(4);
    let service = Service::new(Arc::clone(&sessions), Some(sessions.parking()));
    for _ in 0..4 {
        service.open().await;
    }
    let (one, two) = tokio::join!(sessions.drain(SECOND), sessions.drain(SECOND));
    assert_eq!(one.finished + two.finished, 4);
    settle().await;
    assert_eq!(witness.reasons(), [CloseReason::Drained; 4]);
    witness.assert_one_end_each();
    assert_eq!(sessions.stats().live, 0);
}

/// On drop, moves its transport to a new task, as a server does that is about to serve a session.
struct SpawnsWhenDropped<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Drop for SpawnsWhenDropped<T> {
    fn drop(&mut self) {
        let held = self.0.take();
        drop(tokio::spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        }));
    }
}

#[test]
fn a_session_that_is_about_to_be_served_when_its_runtime_shuts_down_ends() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let sessions = Arc::new(PolicySessionManager::local().max_sessions(1).build().expect("valid"));
    let (_id, transport) = runtime.block_on(sessions.create_session()).expect("a free place");
    runtime.spawn(async move {
        let _spawns = SpawnsWhenDropped(Some(transport));
        std::future::pending::<()>().await;
    });
    runtime.block_on(tokio::task::yield_now());
    drop(runtime);
    assert_eq!(sessions.stats().live, 0);
}
