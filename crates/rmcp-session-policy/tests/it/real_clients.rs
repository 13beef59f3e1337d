//! docs/design.md, L10.
//!
//! rmcp clients against a server on loopback: after an eviction they go on.

use std::sync::Arc;

use crate::server::Server;
use rmcp_session_policy::PolicySessionManager;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_parking_an_evicted_client_initializes_anew() {
    let sessions = Arc::new(PolicySessionManager::local().max_sessions(1).build().expect("valid"));
    let server = Server::start(Arc::clone(&sessions), None).await;
    let alice = server.connect().await;
    assert_eq!(alice.count().await.expect("answers"), "1");
    assert_eq!(alice.count().await.expect("answers"), "2");
    let bob = server.connect().await;
    assert_eq!(bob.echo("hi").await.expect("answers"), "hi");
    assert_eq!(alice.count().await.expect("initializes anew"), "1");
    assert_eq!(sessions.inner().sessions.read().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_parking_the_next_call_of_an_evicted_client_succeeds() {
    let sessions = Arc::new(PolicySessionManager::local().max_sessions(1).build().expect("valid"));
    let server = Server::start(Arc::clone(&sessions), Some(sessions.parking())).await;
    let alice = server.connect().await;
    let bob = server.connect().await;
    for turn in 0..50 {
        assert_eq!(alice.echo("a").await.expect("answers"), "a", "turn {turn}");
        assert_eq!(bob.echo("b").await.expect("answers"), "b", "turn {turn}");
    }
    let stats = sessions.stats();
    assert_eq!((stats.opened, stats.live + stats.parked), (2, 2), "{stats:?}");
    assert!(stats.restored >= 98, "{stats:?}");
}
