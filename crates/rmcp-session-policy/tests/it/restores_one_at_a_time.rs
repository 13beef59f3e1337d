//! docs/design.md, L10.
//!
//! Restores of one id run one at a time; other requests for that id wait, bounded.

use std::sync::Arc;
use std::time::Duration;

use crate::parked::{is_restored, knows, local, park, park_any, parked, parking, ready, scripted};
use crate::scripted::{Act, Call, Scripted, initialized};
use crate::service::WELL;
use axum::http::StatusCode;
use rmcp::transport::streamable_http_server::session::{RestoreOutcome, SessionId, SessionManager};
use rmcp_session_policy::{ClientContext, CloseReason, PolicySessionManager, SECOND};
use tokio::time::{Instant, timeout};

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

#[tokio::test(start_paused = true)]
async fn a_second_request_waits_no_longer_than_the_restore_takes() {
    let sessions = local(|b| b.max_sessions(1));
    let service = parking(&sessions);
    let id = service.open().await;
    assert_eq!(sessions.terminate(sessions.list()[0].key, CloseReason::Evicted).await, 1);
    let begun = Instant::now();
    let (one, two) = tokio::join!(service.echo(&id), service.echo(&id));
    assert_eq!((one, two), (WELL, WELL));
    assert_eq!((sessions.stats().restored, begun.elapsed()), (1, Duration::ZERO));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_up_waits_for_a_close_that_begins_meanwhile() {
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
    // With 20 clients, rmcp has forgotten the last restore of each when it comes back. rmcp takes a session that comes
    // back sooner for restored already, and the layer answers 503.
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
async fn a_hang_up_during_a_restore_does_not_block_the_next_request() {
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
async fn a_hang_up_during_a_restore_loses_no_parked_session() {
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
async fn a_session_that_only_the_inner_manager_has_is_closed_and_restored() {
    let (inner, sessions) = scripted(|b| b.max_sessions(4));
    let id: SessionId = "of another process".into();
    let RestoreOutcome::Restored(_line) = inner.restore_session(Arc::clone(&id)).await.expect("opens") else {
        panic!("not restored")
    };
    assert!(!sessions.has_session(&id).await.expect("asks"), "it did not come through this manager");
    assert!(is_restored(&sessions.restore_session(id).await));
}

#[tokio::test(start_paused = true)]
async fn a_request_while_a_session_closes_waits_until_it_is_parked() {
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
    // `has_session` waits for the close, and then perhaps for the restore; either answer is right.
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
