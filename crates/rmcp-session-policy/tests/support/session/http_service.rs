//! rmcp's HTTP service, called in process, without a socket.

use std::sync::Arc;

use rmcp::transport::streamable_http_server::session::{SessionManager, SessionStore};
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::{Value, json};

use super::handlers::Tools;
use super::messages::{call_message, initialize_params};

/// rmcp's HTTP service, called without a socket.
pub struct Http<M: SessionManager> {
    service: StreamableHttpService<Tools, M>,
}

/// A response, whole.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub session: Option<String>,
    pub body: String,
}

impl Reply {
    /// The JSON-RPC messages of the body that are no notifications.
    pub fn answers(&self) -> Vec<Value> {
        let lines = self.body.lines().filter_map(|line| line.strip_prefix("data:"));
        let events = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|message| message.get("method").is_none()).collect()
    }

    pub fn text(&self) -> Option<String> {
        Some(self.answers().first()?["result"]["content"][0]["text"].as_str()?.to_owned())
    }
}

impl<M: SessionManager> Http<M> {
    pub fn new(manager: &Arc<M>, store: Option<Arc<dyn SessionStore>>) -> Self {
        let mut config = StreamableHttpServerConfig::default();
        config.session_store = store;
        config.sse_keep_alive = None;
        Self { service: StreamableHttpService::new(|| Ok(Tools::default()), Arc::clone(manager), config) }
    }

    /// Answers as soon as the head of the response is there.
    pub async fn begin(
        &self,
        method: &str,
        session: Option<&str>,
        body: Option<&Value>,
    ) -> http::Response<axum::body::Body> {
        let mut request = http::Request::builder()
            .method(method)
            .uri("http://localhost/mcp")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        if let Some(session) = session {
            request = request.header("mcp-session-id", session).header("mcp-protocol-version", "2025-11-25");
        }
        let body = body.map_or_else(axum::body::Body::empty, |body| axum::body::Body::from(body.to_string()));
        self.service.handle(request.body(body).expect("a request")).await.map(axum::body::Body::new)
    }

    pub async fn request(&self, method: &str, session: Option<&str>, body: Option<&Value>) -> Reply {
        let response = self.begin(method, session, body).await;
        let status = response.status().as_u16();
        let session = response.headers().get("mcp-session-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        Reply { status, session, body: String::from_utf8_lossy(&body).into_owned() }
    }

    /// Opens a session, handshake included; gives its id.
    pub async fn open(&self) -> Result<String, Reply> {
        let initialize = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": initialize_params() });
        let reply = self.request("POST", None, Some(&initialize)).await;
        let Some(session) = reply.session.clone().filter(|_| reply.status == 200) else { return Err(reply) };
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let reply = self.request("POST", Some(&session), Some(&initialized)).await;
        if reply.status == 202 { Ok(session) } else { Err(reply) }
    }

    pub async fn call(&self, session: &str, tool: &str, arguments: Value) -> Reply {
        let call = call_message(&json!(1), tool, &arguments);
        self.request("POST", Some(session), Some(&call)).await
    }
}
