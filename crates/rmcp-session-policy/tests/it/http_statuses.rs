//! docs/design.md, L9.
//!
//! HTTP statuses and bodies of the layer, tested by raw HTTP.

use std::sync::Arc;
use std::time::Duration;

use crate::web::{Server, call, header, initialize};
use reqwest::{Client, Method, StatusCode};
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp_session_policy::admission::{AdmissionPolicyExt, Concurrent, SlidingWindow};
use rmcp_session_policy::{CallRejection, CloseReason, PolicySessionManager, RejectionReason};
use serde_json::{Value, json};

#[tokio::test]
async fn a_quota_is_429_with_the_request_s_own_id() {
    let server = Server::start(
        PolicySessionManager::local().admission(SlidingWindow::new(1, Duration::from_secs(60)).per_client()),
    )
    .await;
    assert_eq!(server.initialize().await.status(), 200);
    let response = server.post(None, &initialize(77)).send().await.expect("answers");
    assert_eq!(response.status(), 429);
    let headers = response.headers().clone();
    let seconds: u64 = header(&headers, "retry-after").expect("there").parse().expect("seconds");
    assert!((1..=60).contains(&seconds));
    assert_eq!(header(&headers, "ratelimit-policy"), Some("\"sliding_window\";q=1"));
    assert_eq!(header(&headers, "cache-control"), Some("no-store"));
    let body: Value = response.json().await.expect("json");
    assert_eq!((&body["id"], &body["error"]["code"]), (&json!(77), &json!(429)));
    assert_eq!(body["error"]["data"]["retryAfterSeconds"], json!(seconds));
    assert_eq!(body["error"]["data"]["policy"], "sliding_window");
}

#[tokio::test]
async fn a_refusal_by_the_manager_after_rmcp_read_the_body_has_the_id_too() {
    // `Concurrent` cannot be peeked through a per-key policy that is not known yet, and a full server is not peeked.
    let server = Server::start(PolicySessionManager::local().max_sessions(1).refuse_when_full()).await;
    server.open().await;
    let response = server.post(None, &initialize(5)).send().await.expect("answers");
    assert_eq!(response.status(), 503);
    assert_eq!(header(response.headers(), "retry-after"), Some("1"));
    let body: Value = response.json().await.expect("json");
    assert_eq!((&body["id"], &body["error"]["code"]), (&json!(5), &json!(503)));
    assert_eq!(body["error"]["data"]["reason"], "at_capacity");
}

#[tokio::test]
async fn without_an_id_the_body_is_plain_text() {
    let server =
        Server::start(PolicySessionManager::local().admission(SlidingWindow::new(1, Duration::from_secs(60)))).await;
    assert_eq!(server.initialize().await.status(), 200);
    for body in ["no json".to_owned(), initialize(1).to_string() + &" ".repeat(9_000)] {
        let request = server.request(Method::POST, None).header("content-type", "application/json").body(body);
        let response = request.send().await.expect("answers");
        assert_eq!(response.status(), 429);
        assert_eq!(header(response.headers(), "content-type"), Some("text/plain; charset=utf-8"));
        assert!(response.text().await.expect("text").starts_with("refused by sliding_window"));
    }
}

#[tokio::test]
async fn every_method_on_an_ended_id_is_404() {
    let server = Server::with(PolicySessionManager::local().max_sessions(1), true, |layer| layer).await;
    let id = server.open().await;
    server.sessions.terminate(|_: &rmcp_session_policy::eviction::SessionInfo<'_>| true, CloseReason::Revoked).await;
    for id in [id.as_str(), "never-was"] {
        let post = server.post(Some(id), &call(1, "count", &json!({}))).send().await.expect("answers");
        let get = server.request(Method::GET, Some(id)).send().await.expect("answers");
        let delete = server.request(Method::DELETE, Some(id)).send().await.expect("answers");
        assert_eq!([post.status(), get.status(), delete.status()], [StatusCode::NOT_FOUND; 3]);
    }
}

#[tokio::test]
async fn the_second_delete_of_a_session_is_404() {
    let server = Server::start(PolicySessionManager::local()).await;
    let id = server.open().await;
    let delete = || async { server.request(Method::DELETE, Some(&id)).send().await.expect("answers").status() };
    assert_eq!(delete().await, 202);
    assert_eq!(delete().await, 404);
    assert_eq!(server.sessions.stats().closed(CloseReason::Client), 1);
}

#[tokio::test]
async fn a_stranger_cannot_tell_a_session_from_none() {
    let server = Server::start(PolicySessionManager::local().max_sessions(1)).await;
    let id = server.open_as("alice").await;
    assert_like_unknown(&server, &id, "mallory").await;
    let own = server.post(Some(&id), &call(1, "count", &json!({}))).header("x-user", "alice");
    assert_eq!(own.send().await.expect("answers").status(), 200);
    // The same for a parked session.
    server.open_as("bob").await;
    assert_eq!(server.sessions.stats().parked, 1);
    assert_like_unknown(&server, &id, "mallory").await;
    assert_eq!(server.sessions.stats().restored, 0);
    let own = server.post(Some(&id), &call(1, "count", &json!({}))).header("x-user", "alice");
    assert_eq!(own.send().await.expect("answers").status(), 200);
    // Its owner restores it.
    assert_eq!(server.sessions.stats().restored, 1);
    assert_like_unknown(&server, &id, "mallory").await;
}

/// Asserts that each method of this user on the session is answered as for an id that never existed.
async fn assert_like_unknown(server: &Server, id: &str, user: &str) {
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let mut answers = Vec::new();
        for asked in [id, "00000000-0000-4000-8000-000000000000"] {
            let request = server.request(method.clone(), Some(asked)).header("x-user", user);
            let request = if method == Method::POST { request.json(&call(1, "count", &json!({}))) } else { request };
            let response = request.send().await.expect("answers");
            let mut headers = response.headers().clone();
            headers.remove("date");
            answers.push((response.status(), headers, response.text().await.expect("text")));
        }
        assert_eq!(answers[0], answers[1], "{method}");
        assert_eq!(answers[0].0, 404);
    }
}

#[tokio::test]
async fn a_restore_that_is_refused_is_200_with_a_result_or_error_and_the_session_stays_parked() {
    // A GET that may be held is not refused.
    let server = Server::start(PolicySessionManager::local().max_sessions(1).max_parked_streams(0)).await;
    let parked = server.open().await;
    let live = server.open().await;
    let busy = server.post(Some(&live), &call(1, "sleep", &json!({"millis": 600_000}))).send().await.expect("begins");
    let response = server.post(Some(&parked), &call(9, "count", &json!({}))).send().await.expect("answers");
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.expect("json");
    assert_eq!((&body["id"], &body["result"]["isError"]), (&json!(9), &json!(true)));
    let said = "The tool was not called: all places (1) are taken and no session may go. Try again later.";
    assert_eq!(body["result"]["content"], json!([{ "type": "text", "text": said }]));
    let rejection = &body["result"]["_meta"]["rmcp-session-policy/rejection"];
    assert_eq!((&rejection["code"], &rejection["reason"]), (&json!(503), &json!("at_capacity")));
    let list = json!({"jsonrpc": "2.0", "id": 8, "method": "tools/list"});
    let response = server.post(Some(&parked), &list).send().await.expect("answers");
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.expect("json");
    assert_eq!((&body["id"], &body["error"]["code"]), (&json!(8), &json!(503)));
    let get = server.request(Method::GET, Some(&parked)).send().await.expect("answers");
    assert_eq!(get.status(), 503);
    assert_eq!(server.sessions.stats().parked, 1);
    drop(busy);
    server
        .sessions
        .terminate(|s: &rmcp_session_policy::eviction::SessionInfo<'_>| s.in_flight() > 0, CloseReason::Revoked)
        .await;
    let back = server.post(Some(&parked), &call(10, "count", &json!({}))).send().await.expect("answers");
    assert!(back.text().await.expect("text").contains(r#""id":10,"result""#));
}

#[tokio::test]
async fn draining_is_503_and_closes_the_connection() {
    let server = Server::start(PolicySessionManager::local()).await;
    let id = server.open().await;
    let sleeping = server.post(Some(&id), &call(1, "sleep", &json!({"millis": 300}))).send().await.expect("begins");
    let sessions = Arc::clone(&server.sessions);
    let drain = tokio::spawn(async move { sessions.drain(Duration::from_secs(20)).await });
    while !server.sessions.is_draining() {
        tokio::task::yield_now().await;
    }
    let newcomer = server.initialize().await;
    assert_eq!(
        (newcomer.status(), header(newcomer.headers(), "connection")),
        (StatusCode::SERVICE_UNAVAILABLE, Some("close"))
    );
    let meanwhile = server.post(Some(&id), &call(2, "count", &json!({}))).send().await.expect("answers");
    assert_eq!(meanwhile.status(), 200);
    let meanwhile = meanwhile.text().await.expect("text");
    assert!(
        meanwhile.contains(r#""id":2,"result""#) && meanwhile.contains("the server is draining. Try"),
        "{meanwhile}"
    );
    assert!(sleeping.text().await.expect("text").contains("slept 300"));
    assert_eq!(drain.await.expect("drains").cut_off, 0);
}

#[tokio::test]
async fn a_forged_address_does_not_change_the_key() {
    let limit = || PolicySessionManager::local().admission(Concurrent::new(1).per_client());
    let forged = |server: &Server| server.post(None, &initialize(2)).header("x-forwarded-for", "203.0.113.9").send();
    let direct = Server::start(limit()).await;
    direct.open().await;
    assert_eq!(forged(&direct).await.expect("answers").status(), 429);
    let behind = Server::with(limit(), true, |layer| layer.trusted_proxies(["127.0.0.0/8"]).expect("a network")).await;
    behind.open().await;
    assert_eq!(forged(&behind).await.expect("answers").status(), 200);
}

#[tokio::test]
async fn a_call_refused_within_a_session_is_200_with_a_result_and_the_session_lives() {
    let limit = SlidingWindow::new(2, Duration::from_secs(60)).per_session();
    let server = Server::start(PolicySessionManager::local().requests(limit)).await;
    let (alice, bob) = (server.open().await, server.open().await);
    let count = |session: &str, id| {
        let request = server.post(Some(session), &call(id, "count", &json!({})));
        async move {
            let response = request.send().await.expect("answers");
            (response.status(), response.text().await.expect("text"))
        }
    };
    for id in 1..=2 {
        assert!(count(&alice, id).await.1.contains("result"));
    }
    let (status, text) = count(&alice, 3).await;
    assert_eq!(status, 200);
    assert!(text.contains(r#""id":3,"result""#) && text.contains(r#""isError":true"#), "{text}");
    assert!(text.contains("Try again in 60 s.") && text.contains(r#""retryAfterSeconds":60"#), "{text}");
    assert!(count(&bob, 4).await.1.contains("result"), "each session has its own");
    let ping = json!({"jsonrpc": "2.0", "id": 5, "method": "ping"});
    let pong = server.post(Some(&alice), &ping).send().await.expect("answers");
    assert!(pong.text().await.expect("text").contains(r#""id":5,"result""#));
    let stats = server.sessions.stats();
    assert_eq!(
        (stats.live, stats.rejected(RejectionReason::Quota), stats.rejected_requests(RejectionReason::Quota)),
        (2, 0, 1)
    );
}

#[tokio::test]
async fn the_lease_of_a_request_is_free_when_it_is_answered() {
    let builder = PolicySessionManager::local().requests(Concurrent::new(1).per_session());
    let server = Server::start(builder.reject_calls_with(CallRejection::Error)).await;
    let id = server.open().await;
    for turn in 0..20 {
        let answer = server.post(Some(&id), &call(turn, "count", &json!({}))).send().await.expect("answers");
        assert!(answer.text().await.expect("text").contains("result"), "turn {turn}");
    }
    let sleeping = server.post(Some(&id), &call(30, "sleep", &json!({"millis": 200}))).send().await.expect("begins");
    let second = server.post(Some(&id), &call(31, "count", &json!({}))).send().await.expect("answers");
    assert!(second.text().await.expect("text").contains(r#""id":31,"error":{"code":429"#));
    assert!(sleeping.text().await.expect("text").contains("slept 200"));
}

fn sessionless(id: u64) -> Value {
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {}});
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
        "params": {"name": "sleep", "arguments": {"millis": 200}, "_meta": meta}})
}

#[tokio::test]
async fn a_request_without_a_session_holds_its_permit_until_its_body_ends() {
    let server = Server::with(PolicySessionManager::local(), true, |layer| {
        layer.sessionless(Concurrent::new(1)).expect("valid")
    })
    .await;
    let ask = |id| {
        server
            .post(None, &sessionless(id))
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", "tools/call")
            .header("mcp-name", "sleep")
            .send()
    };
    let first = tokio::spawn(ask(1));
    // The headers come with the answer, so nothing else tells that the first has begun.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let second = ask(2).await.expect("answers");
    assert_eq!(second.status(), 429);
    let body: Value = second.json().await.expect("json");
    assert_eq!((&body["id"], &body["error"]["data"]["policy"]), (&json!(2), &json!("concurrent")));
    let first = first.await.expect("no panic").expect("answers");
    assert_eq!(first.status(), 200);
    assert!(first.text().await.expect("text").contains("slept 200"));
    assert_eq!(ask(3).await.expect("answers").status(), 200);
    let stats = server.sessions.stats();
    assert_eq!((stats.opened, stats.requests, stats.sessionless), (0, 0, 3));
    assert_eq!((stats.rejected(RejectionReason::Quota), stats.rejected_requests(RejectionReason::Quota)), (0, 1));
}

#[tokio::test]
async fn without_sessions_every_post_is_admitted_by_the_policy() {
    let sessions = Arc::new(PolicySessionManager::local().build().expect("valid"));
    let mut config = StreamableHttpServerConfig::default();
    config.legacy_session_mode = false;
    let mcp = StreamableHttpService::new(|| Ok(crate::server::Tools::default()), Arc::clone(&sessions), config);
    let layer = sessions.layer().without_sessions();
    let layer = layer.sessionless(SlidingWindow::new(2, Duration::from_secs(60))).expect("valid");
    let app = axum::Router::new().nest_service("/mcp", layer.layer(mcp));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/mcp", listener.local_addr().expect("bound"));
    let task = tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") });
    let client = Client::new();
    let mut statuses = Vec::new();
    for id in 0..3 {
        let request = client.post(&url).header("accept", "application/json, text/event-stream");
        statuses.push(request.json(&call(id, "count", &json!({}))).send().await.expect("answers").status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 429]);
    assert_eq!(sessions.stats().sessionless, 3);
    task.abort();
}
