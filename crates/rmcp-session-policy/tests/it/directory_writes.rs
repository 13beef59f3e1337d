//! docs/design.md, L17.
//!
//! What a manager writes to its directory: each step of a session once, with its epoch, and nothing that opens a session.

use std::time::Duration;

use axum::http::StatusCode;
use rmcp_session_policy::PolicySessionManager;
use rmcp_session_policy::directory::{Change, SessionDigest};
use rmcp_session_policy::testing::directory::MemoryDirectory;
use tokio::time::{advance, sleep};

use crate::directory::Recorder;
use crate::edge::Edge;
use crate::web::Server;

fn edge(places: usize) -> (Edge, Recorder) {
    let recorder = Recorder::new(MemoryDirectory::new());
    (Edge::new(PolicySessionManager::local().max_sessions(places).directory(recorder.clone())), recorder)
}

#[tokio::test(start_paused = true)]
async fn each_step_is_written_once_with_its_epoch() {
    let (edge, recorder) = edge(1);
    let id = edge.open().await;
    edge.say(&id, "hello").await;
    edge.say(&id, "hello").await;
    assert_eq!(recorder.of(&id), [("opened", 1), ("ready", 1)]);
    sleep(Duration::from_secs(6)).await;
    assert_eq!(recorder.of(&id)[2..], [("used", 1)], "once for both uses");
    sleep(Duration::from_secs(20)).await;
    assert_eq!(recorder.of(&id).len(), 3, "it was not used since");
    let other = edge.open().await;
    assert_eq!(recorder.of(&id)[3..], [("parked", 1)]);
    assert!(edge.say(&id, "hello").await);
    assert_eq!(recorder.of(&other), [("opened", 1), ("ready", 1), ("parked", 1)]);
    assert_eq!(edge.delete(&id).await, StatusCode::ACCEPTED);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(recorder.of(&id)[4..], [("dead", 2)]);
    assert_eq!(edge.delete(&other).await, StatusCode::ACCEPTED, "a parked one");
    assert_eq!(recorder.of(&other)[3..], [("dead", 2)], "claimed first, so that no other server has it");
    assert!(recorder.memory.is_empty());
}

#[tokio::test(start_paused = true)]
async fn usage_goes_along() {
    let (edge, recorder) = edge(1);
    let id = edge.open().await;
    for _ in 0..3 {
        advance(Duration::from_secs(60)).await;
        edge.say(&id, "hello").await;
    }
    advance(Duration::from_secs(10)).await;
    sleep(Duration::from_secs(6)).await;
    let used = recorder.writes().into_iter().rev().find_map(|(_, _, change)| match change {
        Change::Used(usage) => Some(usage),
        _ => None,
    });
    let used = used.expect("was written");
    assert_eq!((used.uses, used.calls, used.last_gap), (3, 3, Some(Duration::from_secs(60))));
    edge.open().await;
    let parked = recorder.writes().into_iter().rev().find_map(|(_, _, change)| match change {
        Change::Parked(session) => Some(session),
        _ => None,
    });
    let parked = parked.expect("was written");
    assert_eq!((parked.age, parked.usage.idle), (Duration::from_secs(196), Duration::from_secs(16)));
    assert!(parked.ready);
}

#[tokio::test(start_paused = true)]
async fn what_the_parking_forgets_stays_in_the_directory() {
    let recorder = Recorder::new(MemoryDirectory::new());
    let builder = PolicySessionManager::local().max_sessions(1).max_parked(0).max_parked_streams(0);
    let edge = Edge::new(builder.directory(recorder.clone()));
    let ids = [edge.open().await, edge.open().await, edge.open().await];
    for id in &ids {
        assert!(edge.say(id, "hello").await, "{:?}", recorder.of(id));
    }
    let stats = edge.sessions.stats();
    assert_eq!((stats.parked, stats.restored, stats.live), (0, 3, 1));
}

#[tokio::test(start_paused = true)]
async fn without_rmcps_store_nothing_is_written() {
    let recorder = Recorder::new(MemoryDirectory::new());
    let sessions = PolicySessionManager::local().directory(recorder.clone());
    let server = crate::session::Driver::ready(&std::sync::Arc::new(sessions.build().expect("valid"))).await;
    drop(server.expect("opens"));
    assert!(recorder.writes().is_empty());
}

#[tokio::test]
async fn no_session_id_is_given_to_a_directory() {
    let recorder = Recorder::new(MemoryDirectory::new());
    let builder = PolicySessionManager::local().max_sessions(1).directory(recorder.clone());
    let server = Server::start(builder).await;
    let ids = [server.open_as("alice").await, server.open_as("bob").await];
    let mut texts = Vec::new();
    for (digest, _, change) in recorder.writes() {
        texts.push(format!("{digest:?} {change:?}").into_bytes());
        if let Change::Opened(session) | Change::Parked(session) = change {
            texts.push(session.body.as_bytes().to_vec());
        }
    }
    assert!(texts.len() >= 8, "two sessions that were opened and became ready, and one that was parked");
    let has = |needle: &str| texts.iter().any(|text| text.windows(needle.len()).any(|part| part == needle.as_bytes()));
    for id in &ids {
        assert!(!has(id));
        assert!(has(&SessionDigest::of(id).to_string()));
    }
    assert!(has("alice"), "the principal is part of what is kept on purpose");
}
