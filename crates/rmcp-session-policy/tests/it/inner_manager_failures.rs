//! docs/design.md, L9.
//!
//! No failure of the inner manager makes a client see a 500.

use std::sync::Arc;

use crate::scripted::{Act, Call, Scripted};
use axum::body::{Body, to_bytes};
use http::{Method, Request, Response, StatusCode};
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp_session_policy::{PolicySessionManager, RejectionReason};
use serde_json::{Value, json};
use tower_service::Service;

struct Server {
    inner: Scripted,
    sessions: Arc<PolicySessionManager<Scripted>>,
}

impl Server {
    fn new() -> Self {
        let inner = Scripted::relaying();
        let sessions = PolicySessionManager::builder(inner.clone()).max_sessions(2).build().expect("valid");
        Self { inner, sessions: Arc::new(sessions) }
    }

    async fn send(&self, method: Method, session: Option<&str>, message: Value) -> (StatusCode, Response<Body>) {
        let mut config = StreamableHttpServerConfig::default();
        config.session_store = Some(self.sessions.parking());
        let mcp =
            StreamableHttpService::new(|| Ok(crate::server::Tools::default()), Arc::clone(&self.sessions), config);
        let mut request = Request::builder().method(method).uri("/").header("host", "localhost");
        request = request.header("content-type", "application/json");
        request = request.header("accept", "application/json, text/event-stream");
        if let Some(id) = session {
            request = request.header("mcp-session-id", id);
        }
        let request = request.body(Body::from(message.to_string())).expect("a request");
        let Ok(response) = self.sessions.layer().layer(mcp).call(request).await;
        (response.status(), response.map(Body::new))
    }

    async fn open(&self) -> String {
        let (status, response) = self.send(Method::POST, None, initialize()).await;
        assert_eq!(status, 200);
        let id = response.headers()["mcp-session-id"].to_str().expect("text").to_owned();
        let (status, _) = self.send(Method::POST, Some(&id), initialized()).await;
        assert_eq!(status, 202);
        id
    }

    /// The inner manager fails at one method; what the client is told of it.
    async fn told(&self, call: Call, method: Method, id: Option<&str>, message: Value) -> (u16, Value) {
        self.inner.set(call, Act::Error);
        let (status, response) = self.send(method, id, message).await;
        self.inner.set(call, Act::Ok);
        assert_eq!(response.headers().get("retry-after").expect("says when"), "1", "{call:?}");
        let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        (status.as_u16(), serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into()))
    }
}

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}})
}

fn initialized() -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/initialized"})
}

fn call() -> Value {
    json!({"jsonrpc": "2.0", "id": "c", "method": "tools/call", "params": {"name": "echo", "arguments": {"text": "hi"}}})
}

const TEXT: &str = "the server cannot reach its sessions now";

fn data() -> Value {
    json!({ "reason": "backend", "policy": "backend", "retryAfterSeconds": 1, "retryAfterMs": null, "limit": null,
        "remaining": null })
}

fn error(id: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": 503, "message": TEXT, "data": data()}})
}

/// The same, for a model.
fn result(id: &Value) -> Value {
    let mut rejection = data();
    rejection["code"] = json!(503);
    let text = format!("The tool was not called: {TEXT}. Try again later.");
    json!({"jsonrpc": "2.0", "id": id, "result": {
        "content": [{ "type": "text", "text": text }], "isError": true,
        "_meta": { "rmcp-session-policy/rejection": rejection }}})
}

#[tokio::test]
async fn a_newcomer_is_told_503() {
    let server = Server::new();
    assert_eq!(server.told(Call::Create, Method::POST, None, initialize()).await, (503, error(&json!(1))));
    assert_eq!(server.told(Call::Initialize, Method::POST, None, initialize()).await, (503, error(&json!(1))));
    let stats = server.sessions.stats();
    assert_eq!((stats.rejected(RejectionReason::Backend), stats.reserved), (2, 0), "{stats:?}");
    server.open().await;
}

#[tokio::test]
async fn within_a_session_the_error_is_in_the_answer() {
    let server = Server::new();
    let id = server.open().await;
    assert_eq!(server.told(Call::Stream, Method::POST, Some(&id), call()).await, (200, result(&json!("c"))));
    // A notification has no answer, and a listener wants a stream: they get the status.
    assert_eq!(server.told(Call::Accept, Method::POST, Some(&id), initialized()).await, (503, TEXT.into()));
    assert_eq!(server.told(Call::Listen, Method::GET, Some(&id), Value::Null).await, (503, TEXT.into()));
    let stats = server.sessions.stats();
    assert_eq!((stats.rejected(RejectionReason::Backend), stats.rejected_requests(RejectionReason::Backend)), (0, 3));
    let (status, response) = server.send(Method::POST, Some(&id), call()).await;
    assert_eq!(status, 200);
    let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    assert!(String::from_utf8_lossy(&body).contains("hi"), "{body:?}");
}

#[tokio::test]
async fn a_session_that_cannot_come_back_yet_stays_parked() {
    let server = Server::new();
    let id = server.open().await;
    server.open().await;
    server.open().await;
    assert_eq!(server.sessions.stats().parked, 1);
    assert_eq!(server.told(Call::Restore, Method::POST, Some(&id), call()).await, (200, result(&json!("c"))));
    // The one that made room for it is parked too, and comes back when asked.
    let stats = server.sessions.stats();
    assert_eq!((stats.parked, stats.live, stats.reserved), (2, 1, 0), "{stats:?}");
    let (status, _) = server.send(Method::POST, Some(&id), call()).await;
    assert_eq!((status.as_u16(), server.sessions.stats().restored), (200, 1));
}
