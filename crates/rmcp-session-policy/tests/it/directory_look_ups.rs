//! docs/design.md, L14 and L9.
//!
//! An id that is unknown here costs one bounded look-up in the directory, and no client is told that its session has ended
//! while the directory is away.

use std::time::Duration;

use axum::http::StatusCode;
use futures_util::future::join_all;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp_session_policy::PolicySessionManager;
use rmcp_session_policy::testing::directory::MemoryDirectory;
use serde_json::json;
use tokio::time::{Instant, advance};

use crate::edge::Edge;
use crate::web::{Server, call, header};

fn edge(directory: &MemoryDirectory) -> Edge {
    Edge::new(PolicySessionManager::local().directory(directory.clone()))
}

/// A session of a server that was killed, and the next server.
async fn killed() -> (String, Edge, MemoryDirectory) {
    let directory = MemoryDirectory::new();
    let id = edge(&directory).open().await;
    directory.crash();
    let directory = directory.another_server();
    (id, edge(&directory), directory)
}

#[tokio::test]
async fn a_client_may_ask_for_ten_unknown_ids_a_second_and_others_are_not_touched() {
    let directory = MemoryDirectory::new();
    let server = Server::start(PolicySessionManager::local().directory(directory.clone())).await;
    let ask = async |user: &str, id: &str| {
        let request = server.post(Some(id), &call(7, "echo", &json!({"text": "hello"}))).header("x-user", user);
        request.send().await.expect("answers")
    };
    for number in 0..10 {
        assert_eq!(ask("mallory", &format!("unknown {number}")).await.status(), 404);
    }
    let refused = ask("mallory", "unknown 10").await;
    assert_eq!(refused.status(), 503);
    assert_eq!(header(refused.headers(), "retry-after"), Some("1"));
    let body: serde_json::Value = refused.json().await.expect("a JSON-RPC error");
    assert_eq!((&body["id"], &body["error"]["data"]["policy"]), (&json!(7), &json!("unknown_sessions")));
    assert_eq!(directory.looks(), 10, "the eleventh was refused without one");
    assert_eq!(ask("alice", "unknown").await.status(), 404);
    assert_eq!(server.sessions.stats().rejected(rmcp_session_policy::RejectionReason::Overload), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_found_is_not_counted() {
    let directory = MemoryDirectory::new();
    let first = edge(&directory);
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(first.open().await);
    }
    directory.crash();
    let directory = directory.another_server();
    let second = edge(&directory);
    for id in &ids {
        assert!(second.say(id, "hello").await);
    }
    assert_eq!(directory.looks(), 50);
}

#[tokio::test(start_paused = true)]
async fn sessions_that_are_known_are_not_looked_up() {
    let directory = MemoryDirectory::new();
    let edge = Edge::new(PolicySessionManager::local().max_sessions(1).directory(directory.clone()));
    let parked = edge.open().await;
    let live = edge.open().await;
    directory.delay(Duration::from_millis(10));
    let began = Instant::now();
    assert!(edge.say(&live, "hello").await);
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(edge.say(&parked, "hello").await);
    assert_eq!((began.elapsed(), directory.looks(), directory.claims()), (Duration::from_millis(10), 0, 1));
}

#[tokio::test(start_paused = true)]
async fn requests_of_one_session_share_its_restore() {
    let (id, edge, directory) = killed().await;
    directory.delay(Duration::from_millis(10));
    let answers = join_all((0..20).map(|_| edge.say(&id, "hello"))).await;
    assert!(answers.iter().all(|answered| *answered));
    assert_eq!((edge.sessions.stats().restored, directory.claims()), (1, 1));
    assert!(directory.looks() <= 20, "{}", directory.looks());
}

#[tokio::test(start_paused = true)]
async fn look_ups_of_one_id_come_one_after_the_other() {
    let directory = MemoryDirectory::new();
    let edge = edge(&directory);
    directory.delay(Duration::from_millis(10));
    let began = Instant::now();
    let answers = join_all((0..5).map(|_| edge.say_raw("unknown", "hello"))).await;
    assert!(answers.iter().all(|(status, _)| *status == StatusCode::NOT_FOUND));
    assert_eq!(began.elapsed(), Duration::from_millis(50));
    let answers = join_all(
        (0..5).map(|id| async move { id.to_string() }).map(|id| async { edge.say_raw(&id.await, "hello").await.0 }),
    )
    .await;
    assert_eq!(answers, [StatusCode::NOT_FOUND; 5]);
    assert_eq!(began.elapsed(), Duration::from_millis(60), "those of different ids run beside each other");
}

#[tokio::test(start_paused = true)]
async fn while_the_directory_is_away_an_unknown_id_is_503_and_all_else_goes_on() {
    let (id, edge, directory) = killed().await;
    let live = edge.open().await;
    directory.be_away(true);
    for _ in 0..20 {
        let (status, body) = edge.say_raw(&id, "hello").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    }
    assert_eq!(edge.delete(&id).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(edge.get(&id).await.err(), Some(StatusCode::SERVICE_UNAVAILABLE));
    assert!(edge.say(&live, "hello").await);
    let meanwhile = edge.open().await;
    assert!(edge.sessions.stats().directory_away);
    let began = Instant::now();
    assert_eq!(edge.delete(&live).await, StatusCode::ACCEPTED);
    assert_eq!((began.elapsed(), edge.sessions.stats().directory_late), (Duration::from_millis(50), 1));
    directory.be_away(false);
    assert!(edge.say(&id, "hello").await);
    let stats = edge.sessions.stats();
    assert_eq!((stats.restored, stats.directory_away), (1, false));
    // What was opened meanwhile is durable now.
    directory.crash();
    let directory = directory.another_server();
    let next = self::edge(&directory);
    assert!(next.say(&meanwhile, "hello").await);
}

#[tokio::test(start_paused = true)]
async fn a_look_up_is_waited_for_50_ms() {
    let (id, edge, directory) = killed().await;
    directory.delay(Duration::from_secs(1));
    let began = Instant::now();
    assert_eq!(edge.say_raw(&id, "hello").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(began.elapsed(), Duration::from_millis(50));
    directory.delay(Duration::ZERO);
    advance(Duration::from_secs(2)).await;
    assert!(edge.say(&id, "hello").await);
}

/// Requests for one id wait for each other's look-ups. If they were not refused before they wait, each would wake all.
#[tokio::test(start_paused = true)]
async fn a_flood_for_one_unknown_id_costs_ten_look_ups() {
    let directory = MemoryDirectory::new();
    let edge = edge(&directory);
    directory.delay(Duration::from_millis(10));
    let known = |number: u8| rmcp_session_policy::ClientContext::new().with_peer([192, 0, 2, number].into());
    let began = Instant::now();
    let asked = (0..200).map(|_| {
        let sessions = std::sync::Arc::clone(&edge.sessions);
        known(1).scope(async move { sessions.has_session(&"unknown".into()).await })
    });
    let refused = join_all(asked).await.into_iter().filter(Result::is_err).count();
    assert_eq!((refused, directory.looks(), began.elapsed()), (190, 10, Duration::from_millis(100)));
}

/// To a client that must not know of a session, its id is as any other, also when no look-up is made.
#[tokio::test]
async fn a_stranger_cannot_tell_a_session_that_is_here_from_an_unknown_one() {
    let directory = MemoryDirectory::new();
    let server = Server::start(PolicySessionManager::local().max_sessions(1).directory(directory.clone())).await;
    let [parked, live] = [server.open_as("alice").await, server.open_as("alice").await];
    let ask = async |user: &str, id: &str| {
        let request = server.post(Some(id), &call(7, "echo", &json!({"text": "hello"}))).header("x-user", user);
        let answer = request.send().await.expect("answers");
        let (status, mut headers) = (answer.status().as_u16(), answer.headers().clone());
        headers.remove("date");
        let body = answer.text().await.expect("a body");
        // The clock goes on from one request to the next.
        (status, headers, body.split("retryAfterMs").next().map(str::to_owned))
    };
    let alike = async |user: &str, status: u16| {
        let unknown = ask(user, "unknown").await;
        assert_eq!(unknown.0, status);
        for id in [&parked, &live] {
            assert_eq!(ask(user, id).await, unknown);
        }
    };
    for _ in 0..3 {
        alike("mallory", 404).await;
    }
    assert_eq!((ask("mallory", &live).await.0, directory.looks()), (404, 10), "each is a look-up and a miss");
    alike("mallory", 503).await;
    assert_eq!(directory.looks(), 10);
    directory.be_away(true);
    alike("eve", 503).await;
    assert_eq!(ask("alice", &live).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn clients_of_one_address_come_back_though_one_in_ten_is_too_late() {
    let directory = MemoryDirectory::new();
    let first = edge(&directory);
    let mut ids = Vec::new();
    for _ in 0..200 {
        ids.push(first.open().await);
    }
    directory.crash();
    let directory = directory.another_server();
    let second = edge(&directory);
    for (number, id) in ids.iter().enumerate() {
        assert!(second.say(id, "hello").await, "{number}");
        if number % 10 == 9 {
            assert_eq!(second.say_raw(&format!("ended {number}"), "hello").await.0, StatusCode::NOT_FOUND);
        }
    }
    assert_eq!(directory.looks(), 220);
}
