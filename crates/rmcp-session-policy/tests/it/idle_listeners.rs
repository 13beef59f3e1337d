//! docs/design.md, L10.
//!
//! Sessions that only listen do not take the listening streams of sessions that call.

use crate::edge::{Edge, ended, heard};
use axum::http::StatusCode;
use rmcp_session_policy::CloseReason;
use rmcp_session_policy::eviction::SessionInfo;

async fn park(edge: &Edge) {
    edge.sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Evicted).await;
}

/// Sessions that only listened once held all slots, so a session that was evicted then lost its stream and was answered
/// 503.
#[tokio::test(start_paused = true)]
async fn uncalled_sessions_take_no_listening_stream_of_called_ones() {
    let edge = Edge::local(|b| b.max_sessions(2).max_parked_streams(2));
    let mut idlers = Vec::new();
    for _ in 0..2 {
        let id = edge.open().await;
        idlers.push((edge.listen(&id).await, id));
        park(&edge).await;
    }
    let user = edge.open().await;
    let mut hers = edge.listen(&user).await;
    assert!(edge.say(&user, "1").await);
    park(&edge).await;
    assert_eq!((edge.parked_streams(), hers.hear().await), (2, heard("hello 1")));
    assert_eq!(idlers[0].0.hear().await, ended("hello"), "the oldest gives its slot");
    assert_eq!(idlers[1].0.hear().await, heard("hello"));

    // The same for one that was parked without a stream, and asks for one while the server is full.
    let another = edge.open().await;
    assert!(edge.say(&another, "2").await);
    park(&edge).await;
    let _places = (edge.open().await, edge.open().await);
    assert_eq!(edge.get(&idlers[0].1).await.err(), Some(StatusCode::SERVICE_UNAVAILABLE));
    let mut theirs = edge.get(&another).await.expect("the last that never called gives its slot");
    assert_eq!((edge.parked_streams(), theirs.hear().await), (2, heard("")));
    assert_eq!((idlers[1].0.hear().await, hers.hear().await), (ended(""), heard("")));

    // A session that has called is never displaced.
    park(&edge).await;
    let third = edge.open().await;
    assert!(edge.say(&third, "3").await);
    park(&edge).await;
    let _places = (edge.open().await, edge.open().await);
    assert_eq!(edge.get(&third).await.err(), Some(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!((edge.parked_streams(), theirs.hear().await, hers.hear().await), (2, heard(""), heard("")));
}
