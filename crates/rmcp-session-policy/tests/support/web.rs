//! A server on loopback with the layer, for clients that speak raw HTTP. `x-user` names the principal.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::missing_panics_doc,
    missing_docs,
    missing_debug_implementations,
    reason = "a fixture, of which each test file uses a part"
)]

use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder, Response};
use rmcp::ServerHandler;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp_session_policy::http::PolicyLayer;
use rmcp_session_policy::{PolicySessionManager, PolicySessionManagerBuilder};
use serde_json::{Value, json};

pub type Sessions = PolicySessionManager<LocalSessionManager>;

pub struct Server {
    pub sessions: Arc<Sessions>,
    pub url: String,
    pub client: Client,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn start(builder: PolicySessionManagerBuilder<LocalSessionManager>) -> Self {
        Self::with(builder, true, |layer| layer).await
    }

    pub async fn with(
        builder: PolicySessionManagerBuilder<LocalSessionManager>,
        parking: bool,
        set: impl FnOnce(PolicyLayer<LocalSessionManager>) -> PolicyLayer<LocalSessionManager>,
    ) -> Self {
        Self::at("127.0.0.1:0", builder, parking, set).await
    }

    /// Starts a server at an address, as one that is started again.
    pub async fn at(
        address: &str,
        builder: PolicySessionManagerBuilder<LocalSessionManager>,
        parking: bool,
        set: impl FnOnce(PolicyLayer<LocalSessionManager>) -> PolicyLayer<LocalSessionManager>,
    ) -> Self {
        Self::serving_at(address, builder, parking, set, super::server::Tools::default).await
    }

    /// Starts a server with handlers of its own.
    pub async fn serving<H: ServerHandler>(
        builder: PolicySessionManagerBuilder<LocalSessionManager>,
        handler: impl Fn() -> H + Send + Sync + 'static,
    ) -> Self {
        Self::serving_at("127.0.0.1:0", builder, true, |layer| layer, handler).await
    }

    async fn serving_at<H: ServerHandler>(
        address: &str,
        builder: PolicySessionManagerBuilder<LocalSessionManager>,
        parking: bool,
        set: impl FnOnce(PolicyLayer<LocalSessionManager>) -> PolicyLayer<LocalSessionManager>,
        handler: impl Fn() -> H + Send + Sync + 'static,
    ) -> Self {
        let sessions = Arc::new(builder.build().expect("valid"));
        let mut config = StreamableHttpServerConfig::default();
        if parking {
            config.session_store = Some(sessions.parking());
        }
        let mcp = StreamableHttpService::new(move || Ok(handler()), Arc::clone(&sessions), config);
        let layer = set(sessions.layer().principal(|parts| {
            parts
                .headers
                .get("x-user")
                .and_then(|user| user.to_str().ok())
                .filter(|user| !user.is_empty())
                .map(str::to_owned)
        }));
        let app = axum::Router::new().nest_service("/mcp", layer.layer(mcp));
        let listener = tokio::net::TcpListener::bind(address).await.expect("a free port");
        let url = format!("http://{}/mcp", listener.local_addr().expect("bound"));
        let listener = axum::serve::ListenerExt::tap_io(listener, |tcp| tcp.set_nodelay(true).expect("nodelay"));
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        let task = tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") });
        Self { sessions, url, client: Client::new(), task }
    }

    pub fn request(&self, method: Method, session: Option<&str>) -> RequestBuilder {
        let request = self.client.request(method, &self.url).header("accept", "application/json, text/event-stream");
        match session {
            Some(id) => request.header("mcp-session-id", id),
            None => request,
        }
    }

    pub fn post(&self, session: Option<&str>, message: &Value) -> RequestBuilder {
        self.request(Method::POST, session).json(message)
    }

    /// Calls a tool as a user; the text of its answer.
    pub async fn tell(&self, user: &str, session: &str, tool: &str, arguments: &Value) -> String {
        let request = self.post(Some(session), &call(7, tool, arguments)).header("x-user", user);
        let answer = request.send().await.expect("answers").text().await.expect("a body");
        let events = answer.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?).ok());
        let answers: Vec<Value> = events.collect();
        let text = answers.iter().find_map(|answer| {
            let text = answer["result"]["content"][0]["text"].as_str().or_else(|| answer["error"]["message"].as_str());
            text.map(str::to_owned)
        });
        text.unwrap_or(answer)
    }

    pub async fn initialize(&self) -> Response {
        self.post(None, &initialize(1)).send().await.expect("answers")
    }

    /// Opens a session, ready.
    pub async fn open(&self) -> String {
        self.open_as("").await
    }

    pub async fn open_as(&self, user: &str) -> String {
        let response = self.post(None, &initialize(1)).header("x-user", user).send().await.expect("answers");
        assert_eq!(response.status(), 200);
        let id = response.headers()["mcp-session-id"].to_str().expect("text").to_owned();
        response.bytes().await.expect("a body");
        let message = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let ready = self.post(Some(&id), &message).header("x-user", user).send().await.expect("answers");
        assert_eq!(ready.status(), 202);
        id
    }
}

pub fn initialize(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}})
}

pub fn call(id: u64, tool: &str, arguments: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().expect("text"))
}
