//! docs/design.md, L11.
//!
//! The manager wraps itself and is wrapped.

use std::sync::Arc;

use crate::service::{NOT_FOUND, Service, WELL};
use rmcp_session_policy::{CloseReason, PolicySessionManager};

#[tokio::test]
async fn what_the_outer_one_parks_comes_back_through_both() {
    let inner = PolicySessionManager::local().max_sessions(10).build().expect("valid");
    let outer = Arc::new(PolicySessionManager::builder(inner).max_sessions(1).build().expect("valid"));
    let service = Service::new(Arc::clone(&outer), Some(outer.parking()));
    let alice = service.open().await;
    let bob = service.open().await;
    for _ in 0..3 {
        assert_eq!(service.echo(&alice).await, WELL);
        assert_eq!(service.echo(&bob).await, WELL);
    }
    let (inside, stats) = (outer.inner().stats(), outer.stats());
    assert_eq!((inside.live, inside.parked, stats.live, stats.parked), (1, 0, 1, 1), "{inside:?} {stats:?}");
    // Inside, a session ended that nobody deleted.
    assert_eq!((inside.closed(CloseReason::Client), inside.closed(CloseReason::Ended)), (0, 7), "{inside:?}");
}

#[tokio::test]
async fn what_a_client_deletes_is_gone_from_both() {
    let inner = PolicySessionManager::local().max_sessions(10).build().expect("valid");
    let outer = Arc::new(PolicySessionManager::builder(inner).max_sessions(2).build().expect("valid"));
    let service = Service::new(Arc::clone(&outer), Some(outer.parking()));
    let alice = service.open().await;
    assert!(service.delete(&alice).await.is_success());
    assert_eq!(service.echo(&alice).await, NOT_FOUND);
    assert_eq!((outer.stats().live, outer.inner().stats().live), (0, 0));
    assert!(outer.inner().inner().sessions.read().await.is_empty());
}
