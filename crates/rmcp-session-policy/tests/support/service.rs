//! rmcp's HTTP service, called in process: no sockets, so the clock can be paused.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::missing_panics_doc,
    missing_docs,
    missing_debug_implementations,
    reason = "a fixture, of which each test file uses a part"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use axum::body::{Body, Bytes};
use axum::http::{Method, Request, Response, StatusCode};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::session::{SessionManager, SessionStore};
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp_session_policy::ClientContext;
use serde_json::{Value, json};

use super::server::Tools;

/// A service over a manager; clones are the same one.
pub struct Service<M: SessionManager = LocalSessionManager> {
    http: StreamableHttpService<Tools, M>,
}

impl<M: SessionManager> Clone for Service<M> {
    fn clone(&self) -> Self {
        Self { http: self.http.clone() }
    }
}

/// A response with an unread body.
pub type Answer = Response<Body>;

impl<M: SessionManager> Service<M> {
    pub fn new(sessions: Arc<M>, store: Option<Arc<dyn SessionStore>>) -> Self {
        let mut config = StreamableHttpServerConfig::default();
        config.session_store = store;
        config.sse_keep_alive = None;
        config.sse_retry = None;
        Self { http: StreamableHttpService::new(|| Ok(Tools::default()), sessions, config) }
    }

    /// Sends a request. As behind a layer, there is a context, and a GET is passive.
    pub async fn send(&self, method: Method, id: Option<&str>, body: Option<Value>) -> Answer {
        let mut request = Request::builder()
            .method(method.clone())
            .uri("/")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        if let Some(id) = id {
            request = request.header("mcp-session-id", id);
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = request.body(body).expect("a request");
        let context = ClientContext::new().with_peer([127, 0, 0, 1].into());
        let context = if method == Method::GET { context.passive() } else { context };
        context.scope(self.http.handle(request)).await.map(Body::new)
    }

    /// Opens a session, handshake and all; returns its id.
    pub async fn open(&self) -> String {
        let answer = self.send(Method::POST, None, Some(initialize())).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let id = answer.headers()["mcp-session-id"].to_str().expect("text").to_owned();
        read(answer).await;
        let answer = self.send(Method::POST, Some(&id), Some(initialized())).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        id
    }

    /// Calls a tool; the status and the text of the answer.
    pub async fn call(&self, id: &str, tool: &str, arguments: Value) -> (StatusCode, String) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let call = json!({ "jsonrpc": "2.0", "id": NEXT.fetch_add(1, SeqCst), "method": "tools/call",
            "params": { "name": tool, "arguments": arguments } });
        let answer = self.send(Method::POST, Some(id), Some(call)).await;
        let status = answer.status();
        (status, read(answer).await)
    }

    /// Calls a tool that says `here` if all is well.
    pub async fn echo(&self, id: &str) -> (StatusCode, bool) {
        let (status, text) = self.call(id, "echo", json!({ "text": "here" })).await;
        (status, text.contains("\"text\":\"here\""))
    }

    pub async fn get(&self, id: &str) -> Answer {
        self.send(Method::GET, Some(id), None).await
    }

    pub async fn delete(&self, id: &str) -> StatusCode {
        self.send(Method::DELETE, Some(id), None).await.status()
    }
}

pub const WELL: (StatusCode, bool) = (StatusCode::OK, true);
pub const NOT_FOUND: (StatusCode, bool) = (StatusCode::NOT_FOUND, false);

pub fn initialize() -> Value {
    json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } })
}

pub fn initialized() -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })
}

/// The whole body.
pub async fn read(answer: Answer) -> String {
    let bytes: Bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
    String::from_utf8_lossy(&bytes).into_owned()
}
