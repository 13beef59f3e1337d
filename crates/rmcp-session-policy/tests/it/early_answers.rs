//! docs/design.md, L9.
//!
//! An answer that is sent before the request body was read reaches the client, and the connection stays usable.

use std::time::Duration;

use crate::web::{Server, call, initialize};
use reqwest::{Method, StatusCode};
use rmcp_session_policy::admission::SlidingWindow;
use rmcp_session_policy::{HOUR, PolicySessionManager};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SIZES: [usize; 5] = [100, 9_000, 100_000, 1_000_000, 4_000_000];

/// Each of the answers that need no body: 404, 403, 429 and 503, on a server of its own.
async fn servers() -> Vec<(Server, StatusCode)> {
    let once = SlidingWindow::new(1, HOUR);
    let refusing = Server::start(PolicySessionManager::local().admission(once)).await;
    refusing.open().await;
    let draining = Server::start(PolicySessionManager::local()).await;
    draining.sessions.drain(Duration::ZERO).await;
    let anonymous = Server::with(PolicySessionManager::local(), true, |layer| {
        layer.peer(|_| None).principal(|_| None).refuse_anonymous()
    });
    vec![
        (Server::start(PolicySessionManager::local()).await, StatusCode::NOT_FOUND),
        (anonymous.await, StatusCode::FORBIDDEN),
        (refusing, StatusCode::TOO_MANY_REQUESTS),
        (draining, StatusCode::SERVICE_UNAVAILABLE),
    ]
}

fn padded(message: &Value, size: usize) -> String {
    let text = message.to_string();
    let padding = " ".repeat(size.saturating_sub(text.len()));
    text + &padding
}

/// The whole of a response, by raw HTTP/1: head, and body by its length.
async fn read_response(tcp: &mut TcpStream) -> String {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while !text.ends_with(b"\r\n\r\n") {
        assert_eq!(tcp.read(&mut byte).await.expect("reads"), 1, "{}", String::from_utf8_lossy(&text));
        text.push(byte[0]);
    }
    let head = String::from_utf8(text).expect("text");
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    tcp.read_exact(&mut body).await.expect("a body");
    head + &String::from_utf8_lossy(&body)
}

#[tokio::test]
async fn the_next_request_on_the_connection_is_answered() {
    for (server, status) in servers().await {
        let address = server.url.trim_start_matches("http://").trim_end_matches("/mcp").to_owned();
        for size in SIZES {
            let mut tcp = TcpStream::connect(&address).await.expect("connects");
            let id = if status == 404 { "mcp-session-id: never-was\r\n" } else { "" };
            for _ in 0..3 {
                let body = padded(&initialize(7), size);
                let head = format!(
                    "POST /mcp HTTP/1.1\r\nhost: localhost\r\naccept: application/json, text/event-stream\r\n\
                     content-type: application/json\r\n{id}content-length: {}\r\n\r\n",
                    body.len()
                );
                tcp.write_all(head.as_bytes()).await.expect("sends");
                tcp.write_all(body.as_bytes()).await.expect("sends the body");
                let response = read_response(&mut tcp).await;
                assert!(response.starts_with(&format!("HTTP/1.1 {}", status.as_u16())), "{size} {response}");
                // While draining the connection is to end.
                assert_eq!(response.contains("connection: close"), status == 503, "{size} {response}");
                if status == 503 {
                    tcp = TcpStream::connect(&address).await.expect("connects");
                }
            }
        }
    }
}

#[tokio::test]
async fn the_next_request_is_answered_over_http_2_too() {
    let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
    for (server, status) in servers().await {
        for size in SIZES {
            let mut request = client.request(Method::POST, &server.url).header("content-type", "application/json");
            if status == 404 {
                request = request.header("mcp-session-id", "never-was");
            }
            let response = request
                .header("accept", "application/json, text/event-stream")
                .body(padded(&initialize(7), size))
                .send()
                .await
                .expect("answers");
            assert_eq!(response.status(), status, "{size}");
        }
    }
}

#[tokio::test]
async fn a_client_that_waits_to_be_told_to_send_hears_the_answer_instead() {
    for (server, status) in servers().await {
        let address = server.url.trim_start_matches("http://").trim_end_matches("/mcp").to_owned();
        let mut tcp = TcpStream::connect(&address).await.expect("connects");
        let id = if status == 404 { "mcp-session-id: never-was\r\n" } else { "" };
        let head = format!(
            "POST /mcp HTTP/1.1\r\nhost: localhost\r\naccept: application/json, text/event-stream\r\n\
             content-type: application/json\r\n{id}expect: 100-continue\r\ncontent-length: 1000\r\n\r\n"
        );
        tcp.write_all(head.as_bytes()).await.expect("sends");
        let response = read_response(&mut tcp).await;
        assert!(response.starts_with(&format!("HTTP/1.1 {}", status.as_u16())), "{response}");
        assert!(response.contains("connection: close"), "{response}");
    }
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_answered_at_once_and_ends_the_connection() {
    let server =
        Server::with(PolicySessionManager::local(), true, |layer| layer.discard(1_000, Duration::from_secs(5))).await;
    let address = server.url.trim_start_matches("http://").trim_end_matches("/mcp").to_owned();
    let head = |length: &str| {
        format!("POST /mcp HTTP/1.1\r\nhost: localhost\r\nmcp-session-id: never-was\r\n{length}\r\n\r\n")
    };
    // Once the head says that the body is too large, and once the body turns out to be.
    for (length, body) in [("content-length: 1001", ""), ("transfer-encoding: chunked", "3e9\r\n")] {
        let mut tcp = TcpStream::connect(&address).await.expect("connects");
        tcp.write_all((head(length) + body).as_bytes()).await.expect("sends");
        if !body.is_empty() {
            tcp.write_all(&[b' '; 1_001]).await.expect("sends");
        }
        let response = read_response(&mut tcp).await;
        assert!(response.starts_with("HTTP/1.1 404") && response.contains("connection: close"), "{response}");
    }
}

#[tokio::test]
async fn bodies_that_do_not_come_hold_up_no_other_answer() {
    let server = Server::start(PolicySessionManager::local()).await;
    let address = server.url.trim_start_matches("http://").trim_end_matches("/mcp").to_owned();
    let mut slow = Vec::new();
    let head = "POST /mcp HTTP/1.1\r\nhost: localhost\r\nmcp-session-id: never-was\r\ncontent-length: 500\r\n\r\n{";
    for _ in 0..300 {
        let mut tcp = TcpStream::connect(&address).await.expect("connects");
        tcp.write_all(head.as_bytes()).await.expect("sends");
        slow.push(tcp);
    }
    // Beyond the bodies that are read at a time, the answer comes at once.
    let answered = slow.last_mut().expect("some");
    assert!(read_response(answered).await.starts_with("HTTP/1.1 404"));
    let response = server.post(Some("never-was"), &call(1, "count", &json!({}))).send().await.expect("answers");
    assert_eq!(response.status(), 404);
}
