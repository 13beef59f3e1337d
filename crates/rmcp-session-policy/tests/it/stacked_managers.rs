//! docs/design.md, L11.
//!
//! A manager works as the inner manager of another one.

use std::sync::Arc;

use crate::service::{NOT_FOUND, Service, WELL};
use rmcp_session_policy::{CloseReason, PolicySessionManager};

#[tokio::test]
async fn a_session_that_the_outer_manager_parks_is_restored_through_both() {
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
    // The inner manager counts these ends as `Ended`: no client deleted a session.
    assert_eq!((inside.closed(CloseReason::Client), inside.closed(CloseReason::Ended)), (0, 7), "{inside:?}");
}

#[tokio::test]
async fn a_session_that_its_client_deletes_is_gone_from_both_managers() {
    let inner = PolicySessionManager::local().max_sessions(10).build().expect("valid");
    let outer = Arc::new(PolicySessionManager::builder(inner).max_sessions(2).build().expect("valid"));
    let service = Service::new(Arc::clone(&outer), Some(outer.parking()));
    let alice = service.open().await;
    assert!(service.delete(&alice).await.is_success());
    assert_eq!(service.echo(&alice).await, NOT_FOUND);
    assert_eq!((outer.stats().live, outer.inner().stats().live), (0, 0));
    assert!(outer.inner().inner().sessions.read().await.is_empty());
}
