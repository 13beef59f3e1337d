//! docs/design.md, L16.
//!
//! A session belongs to the client that opened it, at the service where it was opened: elsewhere its id is unknown.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, Response, StatusCode};
use http::request::Parts;
use rmcp::transport::streamable_http_server::session::SessionStore;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp_session_policy::PolicySessionManager;
use rmcp_session_policy::http::{PolicyLayer, PolicyService};
use serde_json::{Value, json};
use tower::ServiceExt;

type Sessions = PolicySessionManager<LocalSessionManager>;
type Layer = PolicyLayer<LocalSessionManager>;

const UNKNOWN: &str = "00000000-0000-4000-8000-000000000000";

/// One of the services over a manager.
type Service = PolicyService<StreamableHttpService<crate::server::Tools, Sessions>, LocalSessionManager>;

fn service(sessions: &Arc<Sessions>, store: Arc<dyn SessionStore>, layer: &Layer) -> Service {
    let mut config = StreamableHttpServerConfig::default();
    config.session_store = Some(store);
    config.sse_keep_alive = None;
    layer.layer(StreamableHttpService::new(|| Ok(crate::server::Tools::default()), Arc::clone(sessions), config))
}

async fn send(service: &Service, user: &str, method: Method, id: Option<&str>, body: Option<Value>) -> Response<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri("/")
        .header("host", "localhost")
        .header("x-user", user)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    if let Some(id) = id {
        request = request.header("mcp-session-id", id);
    }
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    service.clone().oneshot(request.body(body).expect("a request")).await.expect("answers").map(Body::new)
}

/// Opens a session, handshake and all.
async fn open(service: &Service, user: &str) -> String {
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}});
    let answer = send(service, user, Method::POST, None, Some(initialize)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let id = answer.headers()["mcp-session-id"].to_str().expect("text").to_owned();
    to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert_eq!(send(service, user, Method::POST, Some(&id), Some(initialized)).await.status(), StatusCode::ACCEPTED);
    id
}

/// Asks within a session; the status and whether there is a result.
async fn ask(service: &Service, user: &str, id: &str) -> (StatusCode, bool) {
    let ping = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/list"});
    let answer = send(service, user, Method::POST, Some(id), Some(ping)).await;
    let status = answer.status();
    let body = to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
    (status, String::from_utf8_lossy(&body).contains("\"result\""))
}

/// Asserts that each method of this user is answered as for an id that never existed.
async fn assert_unknown(service: &Service, user: &str, id: &str) {
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let mut answers = Vec::new();
        for asked in [id, UNKNOWN] {
            let list = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/list"});
            let body = (method == Method::POST).then_some(list);
            let answer = send(service, user, method.clone(), Some(asked), body).await;
            let (parts, body) = answer.into_parts();
            let body = to_bytes(body, usize::MAX).await.expect("a body");
            answers.push((parts.status, parts.headers, body));
        }
        assert_eq!(answers[0].0, StatusCode::NOT_FOUND, "{method}");
        assert_eq!(answers[0], answers[1], "{method}");
    }
}

fn principal(layer: Layer) -> Layer {
    layer.principal(|parts: &Parts| {
        let user = parts.headers.get("x-user")?.to_str().ok()?;
        (!user.is_empty()).then(|| user.to_owned())
    })
}

#[tokio::test]
async fn a_session_opened_at_one_service_is_unknown_at_another_live_and_parked() {
    let sessions = Arc::new(PolicySessionManager::local().max_sessions(1).build().expect("valid"));
    for with_principal in [false, true] {
        let layer = |name: &'static str| {
            let layer = sessions.layer().named(name);
            if with_principal { principal(layer) } else { layer }
        };
        let search = service(&sessions, sessions.parking(), &layer("search"));
        let billing = service(&sessions, sessions.parking(), &layer("billing"));
        let unnamed = service(&sessions, sessions.parking(), &sessions.layer());
        let id = open(&search, "alice").await;
        for other in [&billing, &unnamed] {
            assert_unknown(other, "alice", &id).await;
        }
        assert_eq!(ask(&search, "alice", &id).await, (StatusCode::OK, true));

        open(&billing, "alice").await;
        let parked = |stats: rmcp_session_policy::Stats| (stats.parked, stats.restored);
        let (before, restored) = parked(sessions.stats());
        for other in [&billing, &unnamed] {
            assert_unknown(other, "alice", &id).await;
        }
        assert_eq!(parked(sessions.stats()), (before, restored), "it is not theirs to restore");
        assert_eq!(ask(&search, "alice", &id).await, (StatusCode::OK, true));
        assert_eq!(sessions.stats().restored, restored + 1);
        // It came back as what it was.
        assert_unknown(&billing, "alice", &id).await;
        if with_principal {
            assert_unknown(&search, "mallory", &id).await;
        }
    }
}
