//! docs/design.md, L10.
//!
//! A restore takes a place, counts against admission and evicts a victim as a creation does.

use std::sync::Arc;
use std::time::Duration;

use crate::parked::{is_restored, knows, local, parked, parking, ready, scripted};
use crate::scripted::{Act, Call, list_tools};
use crate::service::WELL;
use axum::http::StatusCode;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp_session_policy::admission::Concurrent;
use rmcp_session_policy::{ClientContext, CloseReason, MINUTE, PolicyError, SECOND};

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
    assert!(matches!(get().await, Err(PolicyError::ServerFull(_))), "no session is evicted for a listener");
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
    assert_eq!(service.echo(&bob).await, WELL, "and no session was evicted");
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
async fn an_admission_kept_for_one_session_restores_no_other() {
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
async fn a_restored_session_and_its_victim_swap_places_in_a_full_parking() {
    let sessions = local(|b| b.max_sessions(1).max_parked(1));
    let service = parking(&sessions);
    let (mut parked, mut live) = (service.open().await, service.open().await);
    for _ in 0..10 {
        assert_eq!(service.echo(&parked).await, WELL, "its victim is parked, and there is room for one");
        assert_eq!(sessions.stats().parked, 1);
        std::mem::swap(&mut parked, &mut live);
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_without_a_place_is_refused_at_has_session() {
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
async fn a_drained_manager_restores_no_session() {
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
