//! docs/design.md, L10.
//!
//! The handshake that rmcp replays to restore a session: what its failures do, and what waits for it.

use std::sync::Arc;
use std::time::Duration;

use crate::parked::{park_any, parked, parking, scripted};
use crate::scripted::{Act, Call, Scripted, initialize};
use crate::service::{NOT_FOUND, WELL};
use rmcp::transport::streamable_http_server::session::{RestoreOutcome, SessionManager};
use rmcp_session_policy::{MINUTE, PolicySessionManager, SECOND};
use tokio::time::Instant;

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
async fn a_request_during_a_replay_waits_until_the_replay_is_over() {
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
async fn a_request_during_an_overlong_replay_finds_the_session() {
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
