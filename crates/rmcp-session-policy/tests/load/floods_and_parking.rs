//! docs/design.md, L6 and L14.
//!
//! Sessions that never called leave a full parking first, and push out no session that called.

use std::sync::Arc;

use crate::service::{NOT_FOUND, Service, WELL, initialize, initialized, read};
use axum::http::{Method, StatusCode};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::eviction::SessionInfo;
use rmcp_session_policy::{CloseReason, PolicySessionManager, PolicySessionManagerBuilder};
use serde_json::{Value, json};

type Sessions = PolicySessionManager<LocalSessionManager>;

fn start(
    configure: impl FnOnce(
        PolicySessionManagerBuilder<LocalSessionManager>,
    ) -> PolicySessionManagerBuilder<LocalSessionManager>,
) -> (Arc<Sessions>, Service<Sessions>) {
    let sessions = Arc::new(configure(PolicySessionManager::local()).build().expect("valid"));
    let service = Service::new(Arc::clone(&sessions), Some(sessions.parking()));
    (sessions, service)
}

/// Opens sessions, each of which is called once.
async fn users(service: &Service<Sessions>, count: usize) -> Vec<String> {
    let mut users = Vec::new();
    for _ in 0..count {
        let id = service.open().await;
        assert_eq!(service.echo(&id).await, WELL);
        users.push(id);
    }
    users
}

/// Sends an `initialize`, and nothing else; returns the id of the session.
async fn bare(service: &Service<Sessions>, initialize: Value) -> String {
    let answer = service.send(Method::POST, None, Some(initialize)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let id = answer.headers()["mcp-session-id"].to_str().expect("text").to_owned();
    read(answer).await;
    id
}

/// An `initialize` with parameters of this many bytes.
fn initialize_of(bytes: usize) -> Value {
    let mut initialize = initialize();
    let rest = initialize["params"].to_string().len();
    initialize["params"]["clientInfo"]["name"] = "x".repeat(bytes + "test".len() - rest).into();
    assert_eq!(initialize["params"].to_string().len(), bytes);
    initialize
}

async fn park_all(sessions: &Sessions) {
    sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Evicted).await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_bare_initializes_push_out_no_session_of_thirty_users() {
    let (sessions, service) = start(|b| b.max_sessions(10).max_parked(50));
    let users = users(&service, 30).await;
    for _ in 0..100 {
        bare(&service, initialize()).await;
        assert!(sessions.stats().parked <= 50);
    }
    for user in &users {
        assert_eq!(service.echo(user).await, WELL);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_sessions_with_host_requests_only_push_out_no_session_of_thirty_users() {
    let (sessions, service) = start(|b| b.max_sessions(10).max_parked(50));
    let users = users(&service, 30).await;
    let unknown = json!({ "surprise": true });
    let methods = [
        ("tools/list", json!({})),
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("prompts/list", json!({})),
        ("things/list", unknown.clone()),
        ("logging/setLevel", json!({ "level": "info" })),
        ("logging/setLevel", unknown),
        ("ping", json!({})),
        ("ping", json!({ "_meta": 7 })),
        ("server/discover", json!({})),
    ];
    for _ in 0..100 {
        let id = bare(&service, initialize()).await;
        service.send(Method::POST, Some(&id), Some(initialized())).await;
        for (method, params) in &methods {
            let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
            read(service.send(Method::POST, Some(&id), Some(request)).await).await;
        }
        assert!(sessions.list().iter().any(|session| session.uses > 0), "they are uses nevertheless");
    }
    for user in &users {
        assert_eq!(service.echo(user).await, WELL);
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_defaults_2400_initializes_of_64_kb_push_out_no_parked_user() {
    let (sessions, service) = start(|b| b);
    let users = users(&service, 20).await;
    park_all(&sessions).await;
    assert_eq!(sessions.stats().parked, 20);
    let initialize = initialize_of(64_000);
    let mut full = 0;
    for _ in 0..2_400 {
        bare(&service, initialize.clone()).await;
        full = full.max(sessions.stats().parked_bytes);
    }
    assert!(full <= 64 << 20 && full > 63 << 20, "the parking was full: {full}");
    for user in &users {
        assert_eq!(service.echo(user).await, WELL);
    }
}

#[tokio::test(start_paused = true)]
async fn uncalled_sessions_leave_the_parking_first_and_each_group_oldest_first() {
    let (sessions, service) = start(|b| b.max_parked(3));
    let mut ids = Vec::new();
    for calls in [true, false, true, false, true, true] {
        let id = service.open().await;
        if calls {
            assert_eq!(service.echo(&id).await, WELL);
        }
        park_all(&sessions).await;
        ids.push(id);
    }
    let mut answers = Vec::new();
    for id in &ids {
        answers.push(service.echo(id).await);
    }
    assert_eq!(answers, [NOT_FOUND, NOT_FOUND, WELL, NOT_FOUND, WELL, WELL]);
}

#[tokio::test(start_paused = true)]
async fn an_uncalled_session_is_not_parked_where_all_others_have_called() {
    let (sessions, service) = start(|b| b.max_parked(2));
    let users = users(&service, 2).await;
    park_all(&sessions).await;
    let stranger = service.open().await;
    park_all(&sessions).await;
    assert_eq!(service.echo(&stranger).await, NOT_FOUND);
    for user in &users {
        assert_eq!(service.echo(user).await, WELL);
    }
}

#[tokio::test(start_paused = true)]
async fn has_called_is_kept_across_incarnations() {
    let (sessions, service) = start(|b| b.max_parked(1));
    let user = users(&service, 1).await.remove(0);
    park_all(&sessions).await;
    // It comes back by a ping, and does nothing else.
    let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
    assert_eq!(service.send(Method::POST, Some(&user), Some(ping)).await.status(), StatusCode::OK);
    park_all(&sessions).await;
    let _stranger = service.open().await;
    park_all(&sessions).await;
    assert_eq!(service.echo(&user).await, WELL);
}
