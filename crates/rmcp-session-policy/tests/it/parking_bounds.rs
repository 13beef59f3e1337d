//! docs/design.md, L10.
//!
//! How many sessions are parked, how many bytes they hold, and for how long.

use crate::parked::{Manager, is_not_there, is_restored, knows, park, parked, ready, ready_saying, scripted};
use crate::scripted::{Scripted, initialize_params};
use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use rmcp_session_policy::{HOUR, MINUTE};

#[tokio::test(start_paused = true)]
async fn the_oldest_parked_sessions_are_forgotten_beyond_max_parked() {
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
async fn no_session_is_parked_if_max_parked_is_zero() {
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
async fn the_parking_never_holds_more_than_max_parked_bytes() {
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
async fn the_parking_is_filled_to_the_byte() {
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
async fn a_session_with_a_large_initialize_is_not_parked() {
    let (_inner, sessions) = scripted(|b| b.max_parked_entry_bytes(1_024));
    let (talker, transport) = ready_saying(&sessions, params_of(1_025)).await;
    park(&sessions, &talker).await;
    drop(transport);
    assert!(!knows(&sessions, &talker).await);
    let modest = parked_among(&sessions).await;
    assert!(knows(&sessions, &modest).await);
}

#[tokio::test(start_paused = true)]
async fn a_session_larger_than_the_whole_parking_pushes_no_other_out() {
    let (_inner, sessions) = scripted(|b| b.max_parked_bytes(4_096));
    let modest = parked_among(&sessions).await;
    let (talker, transport) = ready_saying(&sessions, params_of(5_000)).await;
    park(&sessions, &talker).await;
    drop(transport);
    assert!(knows(&sessions, &modest).await);
    assert!(!knows(&sessions, &talker).await);
}

#[tokio::test(start_paused = true)]
async fn a_session_parked_longer_than_max_parked_age_is_forgotten() {
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
async fn a_restored_session_takes_no_room_in_the_parking() {
    let (_inner, sessions) = scripted(|b| b.max_sessions(1));
    let id = parked(&sessions).await;
    assert!(sessions.stats().parked_bytes > 0);
    let outcome = sessions.restore_session(id).await;
    assert!(is_restored(&outcome));
    assert_eq!((sessions.stats().parked, sessions.stats().parked_bytes), (0, 0));
}
