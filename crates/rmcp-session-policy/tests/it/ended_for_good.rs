//! docs/design.md, L10.
//!
//! A session that ended for good does not come back, even if that end falls into its eviction or its restore.

use std::sync::Arc;
use std::time::Duration;

use crate::parked::{is_not_there, is_restored, knows, local, parked, parking, ready, scripted};
use crate::scripted::{Act, Call};
use crate::service::{NOT_FOUND, WELL};
use crate::witness::Witness;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp_session_policy::eviction::SessionInfo;
use rmcp_session_policy::{ClientContext, CloseReason, Fingerprint, HOUR, MINUTE, SECOND};

#[tokio::test(start_paused = true)]
async fn only_sessions_closed_for_a_restorable_reason_are_parked() {
    for &reason in CloseReason::ALL {
        let (_inner, sessions) = scripted(|b| b.max_sessions(1));
        let (id, transport) = ready(&sessions).await;
        assert_eq!(sessions.terminate(sessions.list()[0].key, reason).await, 1);
        drop(transport);
        use CloseReason::{Drained, Evicted, Idle, Moved};
        let comes_back = matches!(reason, Evicted | Idle | Drained | Moved);
        assert_eq!(comes_back, reason.is_restorable(), "{reason}");
        assert_eq!(knows(&sessions, &id).await, comes_back, "{reason}");
        assert_eq!(sessions.stats().parked, usize::from(comes_back), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_foreign_store_an_id_that_ended_for_good_is_refused() {
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
async fn with_a_foreign_store_the_last_ids_that_ended_for_good_are_refused() {
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
async fn a_session_that_the_store_deletes_is_gone_live_or_parked() {
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
async fn a_session_revoked_while_it_is_restored_does_not_come_back_and_ends_as_revoked() {
    let witness = Witness::default();
    let (inner, sessions) = scripted(|b| b.max_sessions(1).observer(witness.clone()));
    let id = parked(&sessions).await;
    inner.set(Call::Restore, Act::Slow(Duration::from_millis(50)));
    let restore = tokio::spawn({
        let (sessions, id) = (Arc::clone(&sessions), Arc::clone(&id));
        async move { sessions.restore_session(id).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Revoked).await, 1);
    assert!(is_not_there(&restore.await.expect("no panic")));
    assert!(!knows(&sessions, &id).await);
    assert_eq!(witness.reasons(), [CloseReason::Evicted, CloseReason::Revoked]);
    witness.assert_one_end_each();
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_over_age_while_it_is_restored_ends_for_its_lifetime() {
    let witness = Witness::default();
    let (inner, sessions) = scripted(|b| b.max_sessions(1).max_lifetime(MINUTE).observer(witness.clone()));
    let id = parked(&sessions).await;
    inner.set(Call::Restore, Act::Slow(2 * MINUTE));
    let restore = tokio::spawn({
        let (sessions, id) = (Arc::clone(&sessions), Arc::clone(&id));
        async move { sessions.restore_session(id).await }
    });
    tokio::time::sleep(MINUTE).await;
    // Another request of its client finds that the lifetime is over.
    let asked = ClientContext::new().scope(sessions.has_session(&id)).await;
    assert!(!asked.expect("asks"));
    assert!(is_not_there(&restore.await.expect("no panic")));
    assert_eq!(witness.reasons(), [CloseReason::Evicted, CloseReason::Lifetime]);
    witness.assert_one_end_each();
}

#[tokio::test(start_paused = true)]
async fn a_session_revoked_between_load_and_restore_does_not_come_back() {
    let (inner, sessions) = scripted(|b| b.max_sessions(1));
    let id = parked(&sessions).await;
    assert!(knows(&sessions, &id).await, "rmcp has loaded it");
    let every_session = |_: &SessionInfo<'_>| true;
    assert_eq!(sessions.terminate(every_session, CloseReason::Revoked).await, 1);
    assert!(is_not_there(&sessions.restore_session(Arc::clone(&id)).await));
    assert_eq!((inner.calls(Call::Restore), sessions.stats().live), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_session_revoked_between_its_admission_and_its_restore_does_not_come_back() {
    let (inner, sessions) = scripted(|b| b.max_sessions(1).max_parked(1));
    let id = parked(&sessions).await;
    let (_other, _transport) = ready(&sessions).await;
    let request = async {
        assert!(!sessions.has_session(&id).await.expect("admitted"));
        assert!(knows(&sessions, &id).await, "though its victim took its room among the parked");
        let of_its_own = |session: &SessionInfo<'_>| session.fingerprint() == Fingerprint::of(&id);
        assert_eq!(sessions.terminate(of_its_own, CloseReason::Revoked).await, 1);
        assert!(!knows(&sessions, &id).await);
        sessions.restore_session(Arc::clone(&id)).await
    };
    assert!(is_not_there(&ClientContext::new().scope(request).await));
    assert_eq!((inner.calls(Call::Restore), sessions.stats().live, sessions.stats().reserved), (0, 0, 0));
}
