//! docs/design.md, L16.
//!
//! Requests that once reached the session of another principal, or that once evaded a limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::web::{Server, call, initialize};
use reqwest::{Method, RequestBuilder, StatusCode};
use rmcp_session_policy::admission::{
    AdmissionPolicyExt, Arrival, Permit, Rejection, SlidingWindow, TokenBucket, admit_fn,
};
use rmcp_session_policy::eviction::SessionInfo;
use rmcp_session_policy::{CloseReason, HOUR, PolicySessionManager};
use serde_json::{Value, json};

const LATE: &str = "2026-07-28";

fn with_meta(mut message: Value, version: &str) -> Value {
    message["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {}});
    message
}

fn of_version(request: RequestBuilder, version: &str) -> RequestBuilder {
    request.header("mcp-protocol-version", version)
}

async fn status(request: RequestBuilder) -> StatusCode {
    let response = request.send().await.expect("answers");
    let status = response.status();
    response.bytes().await.expect("a body");
    status
}

#[tokio::test]
async fn an_initialize_for_another_principal_s_session_is_404_and_changes_nothing() {
    let server = Server::start(PolicySessionManager::local()).await;
    let alice = server.open_as("alice").await;
    let call = server.post(Some(&alice), &call(7, "sleep", &json!({"millis": 200}))).header("x-user", "alice");
    let answer = tokio::spawn(call.send());
    while server.sessions.stats().busy == 0 {
        tokio::task::yield_now().await;
    }
    for (id, right) in [(alice.as_str(), 404), ("00000000-0000-4000-8000-000000000000", 404)] {
        let mut message = initialize(7);
        message["params"]["protocolVersion"] = json!(LATE);
        let bob = of_version(server.post(Some(id), &message), LATE).header("x-user", "bob");
        assert_eq!(status(bob).await, right);
    }
    let answer = answer.await.expect("no panic").expect("answers").text().await.expect("text");
    assert!(answer.contains("slept 200"), "the call in flight keeps its answer: {answer}");
}

#[tokio::test]
async fn a_parked_session_does_not_come_back_for_a_stranger() {
    let server = Server::start(PolicySessionManager::local()).await;
    let alice = server.open_as("alice").await;
    server.sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Idle).await;
    assert_eq!(server.sessions.stats().parked, 1);
    let mut message = initialize(1);
    message["params"]["protocolVersion"] = json!(LATE);
    // A header that names another method than the body must not bring it back either.
    for named in [None, Some("initialize"), Some("tools/list")] {
        let mut bob = of_version(server.post(Some(&alice), &message), LATE).header("x-user", "bob");
        if let Some(named) = named {
            bob = bob.header("mcp-method", named);
        }
        assert!(status(bob).await.is_client_error(), "{named:?}");
    }
    let stats = server.sessions.stats();
    assert_eq!((stats.parked, stats.restored, stats.live), (1, 0, 0));
}

#[tokio::test]
async fn the_sessionless_limit_counts_every_request_that_rmcp_serves_without_a_session() {
    let once_an_hour = || SlidingWindow::new(1, HOUR);
    for session in [false, true] {
        let server = Server::with(PolicySessionManager::local(), true, |layer| {
            layer.sessionless(once_an_hour()).expect("valid")
        })
        .await;
        let own = if session { Some(server.open_as("alice").await) } else { None };
        let mut statuses = Vec::new();
        for id in 0..100 {
            let message = with_meta(call(id, "count", &json!({})), "2025-11-25");
            let request = of_version(server.post(own.as_deref(), &message), "2025-11-25").header("x-user", "alice");
            statuses.push(status(request).await.as_u16());
        }
        let served = statuses.iter().filter(|status| **status == 200).count();
        assert_eq!((served, statuses[1..].iter().all(|status| *status == 429)), (1, true), "{session} {statuses:?}");
    }
}

#[tokio::test]
async fn a_request_outside_its_session_counts_against_the_limit_within_it_by_default() {
    let server = Server::start(PolicySessionManager::local().requests(SlidingWindow::new(1, HOUR).per_session())).await;
    let own = server.open_as("alice").await;
    let mut served = 0;
    for id in 0..100 {
        let message = with_meta(call(id, "count", &json!({})), "2025-11-25");
        let request = of_version(server.post(Some(&own), &message), "2025-11-25").header("x-user", "alice");
        served += usize::from(status(request).await == 200);
    }
    assert_eq!(served, 1);
}

#[tokio::test]
async fn a_discover_is_never_refused_for_its_quota_but_the_next_call_is() {
    let server = Server::with(PolicySessionManager::local(), true, |layer| {
        layer.sessionless(TokenBucket::per_minute(4).burst(4).per_client()).expect("valid")
    })
    .await;
    let ask = |id: u64, method: &'static str| {
        let message = if method == "tools/call" {
            call(id, "count", &json!({}))
        } else {
            json!({"jsonrpc": "2.0", "id": id, "method": method, "params": {}})
        };
        let request = of_version(server.post(None, &with_meta(message, LATE)), LATE).header("mcp-method", method);
        if method == "tools/call" { request.header("mcp-name", "count") } else { request }
    };
    for id in 0..4 {
        assert_eq!(status(ask(id, "tools/call")).await, 200);
    }
    for id in 4..14 {
        assert_eq!(status(ask(id, "server/discover")).await, 200);
        assert_eq!(status(ask(id, "tools/call")).await, 429);
    }
    // The same with an older revision, which does not have the method.
    let message = json!({"jsonrpc": "2.0", "id": 20, "method": "server/discover", "params": {}});
    let early = of_version(server.post(None, &with_meta(message, "2025-11-25")), "2025-11-25");
    assert_eq!(status(early).await, 200);
}

#[tokio::test]
async fn a_notification_without_a_session_takes_no_quota() {
    let server = Server::with(PolicySessionManager::local(), true, |layer| {
        layer.sessionless(SlidingWindow::new(1, HOUR)).expect("valid")
    })
    .await;
    let cancelled = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    for _ in 0..5 {
        let request = of_version(server.post(None, &cancelled), LATE).header("mcp-method", "notifications/cancelled");
        assert_eq!(status(request).await, 202);
    }
    let message = with_meta(call(1, "count", &json!({})), LATE);
    let request = of_version(server.post(None, &message), LATE);
    assert_eq!(status(request.header("mcp-method", "tools/call").header("mcp-name", "count")).await, 200);
}

#[tokio::test]
async fn a_newcomer_with_a_version_header_is_shed_by_peek() {
    // Admits no newcomer, and is only ever peeked at: the body says what the request is, and no quota is taken.
    let admitted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&admitted);
    let policy = admit_fn(move |_: &Arrival<'_>| {
        counter.fetch_add(1, SeqCst);
        Ok::<Permit, Rejection>(Permit::free())
    });
    let limit = SlidingWindow::new(1, Duration::from_secs(60)).and(policy);
    let server = Server::start(PolicySessionManager::local().admission(limit)).await;
    server.open().await;
    let request = of_version(server.post(None, &initialize(2)), "2025-11-25");
    let response = request.send().await.expect("answers");
    assert_eq!(response.status(), 429);
    assert_eq!(response.json::<Value>().await.expect("json")["id"], 2);
    assert_eq!(admitted.load(SeqCst), 1, "of the first alone");
}

#[tokio::test]
async fn a_get_without_a_session_id_is_answered_as_a_newcomer_would_be() {
    let server =
        Server::start(PolicySessionManager::local().admission(SlidingWindow::new(1, Duration::from_secs(60)))).await;
    assert_eq!(status(server.request(Method::GET, None)).await, 400, "by rmcp");
    server.open().await;
    assert_eq!(status(server.request(Method::GET, None)).await, 429);
    server.sessions.drain(Duration::ZERO).await;
    assert_eq!(status(server.request(Method::GET, None)).await, 503);
}

#[tokio::test]
async fn a_ping_of_a_parked_session_at_a_full_server_is_answered_without_a_restore() {
    let server = Server::start(PolicySessionManager::local().max_sessions(1)).await;
    let parked = server.open().await;
    let live = server.open().await;
    let ping = json!({"jsonrpc": "2.0", "id": 5, "method": "ping"});
    let padded = ping.to_string() + &" ".repeat(100_000);
    let escaped = ping.to_string().replace("ping", "\\u0070ing");
    for body in [ping.to_string(), padded, escaped] {
        let request = server.request(Method::POST, Some(&parked)).header("content-type", "application/json").body(body);
        let response = request.send().await.expect("answers");
        assert_eq!(response.status(), 200);
        assert_eq!(response.json::<Value>().await.expect("json"), json!({"jsonrpc": "2.0", "id": 5, "result": {}}));
    }
    let stats = server.sessions.stats();
    assert_eq!((stats.restored, stats.parked, stats.closed(CloseReason::Evicted)), (0, 1, 1));
    // A ping restores it into a free place.
    assert_eq!(status(server.request(Method::DELETE, Some(&live))).await, 202);
    assert_eq!(status(server.post(Some(&parked), &ping)).await, 200);
    assert_eq!((server.sessions.stats().restored, server.sessions.stats().live), (1, 1));
}

#[tokio::test]
async fn a_404_of_another_route_is_unchanged() {
    use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
    let sessions = Arc::new(PolicySessionManager::local().max_sessions(1).build().expect("valid"));
    let mut config = StreamableHttpServerConfig::default();
    config.session_store = Some(sessions.parking());
    let mcp = StreamableHttpService::new(|| Ok(crate::server::Tools::default()), Arc::clone(&sessions), config);
    let app = axum::Router::new().nest_service("/mcp", mcp);
    let app = axum::Router::new().fallback_service(sessions.layer().layer(app));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}", listener.local_addr().expect("bound"));
    let task = tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") });
    let client = reqwest::Client::new();
    let post = |path: &str, id: Option<&str>| {
        let request = client.post(format!("{base}{path}")).header("accept", "application/json, text/event-stream");
        let request = request.json(&initialize(1));
        id.into_iter().fold(request, |request, id| request.header("mcp-session-id", id))
    };
    let opened = post("/mcp", None).send().await.expect("answers");
    let id = opened.headers()["mcp-session-id"].to_str().expect("text").to_owned();
    opened.bytes().await.expect("a body");
    assert_eq!(status(post("/elsewhere", Some(&id))).await, 404);
    assert_eq!(status(post("/elsewhere", None)).await, 404);
    task.abort();
}
