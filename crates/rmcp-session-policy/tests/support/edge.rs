//! rmcp's service behind the HTTP layer, called in process: no sockets, so the clock can be paused.

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
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Method, Request, Response, StatusCode};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ResourceUpdatedNotificationParam,
};
use rmcp::service::{NotificationContext, RequestContext};
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use rmcp_session_policy::http::PolicyService;
use rmcp_session_policy::{PolicySessionManager, PolicySessionManagerBuilder};
use serde_json::{Value, json};
use tokio::time::timeout;
use tower_service::Service;

/// Says to the listening stream that it is there as soon as its client is initialized, and what its one tool is told to.
/// The word `pause` takes five seconds.
#[derive(Clone, Debug)]
pub struct Talker;

impl ServerHandler for Talker {
    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        context.peer.notify_resource_updated(ResourceUpdatedNotificationParam::new("hello")).await.expect("is there");
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        for word in request.name.split_whitespace() {
            if word == "pause" {
                tokio::time::sleep(Duration::from_secs(5)).await;
                continue;
            }
            let word = ResourceUpdatedNotificationParam::new(word);
            context.peer.notify_resource_updated(word).await.expect("is there");
        }
        Ok(CallToolResponse::Complete(CallToolResult::success(vec![ContentBlock::text("said")])))
    }
}

type Mcp<I> = StreamableHttpService<Talker, PolicySessionManager<I>>;

/// A server with parking.
pub struct Edge<I: SessionManager = LocalSessionManager> {
    pub sessions: Arc<PolicySessionManager<I>>,
    pub config: StreamableHttpServerConfig,
    http: PolicyService<Mcp<I>, I>,
}

impl<I: SessionManager> Clone for Edge<I> {
    fn clone(&self) -> Self {
        Self { sessions: Arc::clone(&self.sessions), config: self.config.clone(), http: self.http.clone() }
    }
}

impl Edge {
    pub fn local(
        configure: impl FnOnce(
            PolicySessionManagerBuilder<LocalSessionManager>,
        ) -> PolicySessionManagerBuilder<LocalSessionManager>,
    ) -> Self {
        Self::new(configure(PolicySessionManager::local()))
    }
}

impl<I: SessionManager> Edge<I> {
    pub fn new(builder: PolicySessionManagerBuilder<I>) -> Self {
        let sessions = Arc::new(builder.build().expect("valid"));
        let mut config = StreamableHttpServerConfig::default();
        config.session_store = Some(sessions.parking());
        config.sse_keep_alive = None;
        config.sse_retry = None;
        let mcp = StreamableHttpService::new(|| Ok(Talker), Arc::clone(&sessions), config.clone());
        let http = sessions.layer().layer(mcp);
        Self { sessions, config, http }
    }

    pub async fn send(
        &self,
        method: Method,
        id: Option<&str>,
        last_event_id: Option<&str>,
        body: Option<Value>,
    ) -> Response<Body> {
        let mut request = Request::builder()
            .method(method)
            .uri("/")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        for (name, value) in [("mcp-session-id", id), ("last-event-id", last_event_id)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = request.body(body).expect("a request");
        let response = self.http.clone().call(request).await.expect("infallible");
        response.map(Body::new)
    }

    /// Opens a session, handshake and all; returns its id.
    pub async fn open(&self) -> String {
        self.try_open().await.expect("room")
    }

    /// `None` if there is no room, or its place is taken again at once.
    pub async fn try_open(&self) -> Option<String> {
        let initialize = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } });
        let answer = self.send(Method::POST, None, None, Some(initialize)).await;
        if answer.status() != StatusCode::OK {
            return None;
        }
        let id = answer.headers()["mcp-session-id"].to_str().expect("text").to_owned();
        Ear::of(answer).rest().await;
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let answer = self.send(Method::POST, Some(&id), None, Some(initialized)).await;
        (answer.status() == StatusCode::ACCEPTED).then_some(id)
    }

    /// Has the session say these words to its listening stream; whether it was answered well.
    pub async fn say(&self, id: &str, words: &str) -> bool {
        let (status, text) = self.say_raw(id, words).await;
        status == StatusCode::OK && text.contains("\"said\"")
    }

    pub async fn say_raw(&self, id: &str, words: &str) -> (StatusCode, String) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let call = json!({ "jsonrpc": "2.0", "id": NEXT.fetch_add(1, SeqCst), "method": "tools/call",
            "params": { "name": words } });
        let answer = self.send(Method::POST, Some(id), None, Some(call)).await;
        (answer.status(), Ear::of(answer).rest().await)
    }

    pub async fn get(&self, id: &str) -> Result<Ear, StatusCode> {
        self.get_after(id, None).await
    }

    pub async fn get_after(&self, id: &str, last_event_id: Option<&str>) -> Result<Ear, StatusCode> {
        let answer = self.send(Method::GET, Some(id), last_event_id, None).await;
        if answer.status() == StatusCode::OK { Ok(Ear::of(answer)) } else { Err(answer.status()) }
    }

    pub async fn listen(&self, id: &str) -> Ear {
        self.get(id).await.expect("listens")
    }

    pub async fn delete(&self, id: &str) -> StatusCode {
        self.send(Method::DELETE, Some(id), None, None).await.status()
    }

    pub fn parked_streams(&self) -> usize {
        self.sessions.stats().parked_streams
    }
}

/// The body of an event stream.
pub struct Ear {
    body: BoxStream<'static, Bytes>,
    text: String,
}

impl Ear {
    fn of(answer: Response<Body>) -> Self {
        let body = answer.into_body().into_data_stream().map(|chunk| chunk.expect("a chunk"));
        Self { body: body.boxed(), text: String::new() }
    }

    /// Reads all the time, as a connection does, and not only when a test listens.
    pub fn keep_reading(mut self) -> Self {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(chunk) = self.body.next().await {
                sender.send(chunk).ok();
            }
        });
        let body = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        Self { body: body.boxed(), text: self.text }
    }

    /// All that comes until the end.
    pub async fn rest(mut self) -> String {
        while let Some(chunk) = self.body.next().await {
            self.text += &String::from_utf8_lossy(&chunk);
        }
        self.text
    }

    async fn read(&mut self) -> bool {
        loop {
            match timeout(Duration::from_secs(1), self.body.next()).await {
                Ok(Some(chunk)) => self.text += &String::from_utf8_lossy(&chunk),
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    /// The same as bytes are on the wire.
    pub async fn hear_raw(&mut self) -> String {
        self.read().await;
        std::mem::take(&mut self.text)
    }

    /// What was said since the last time, until it is silent for a second. The flag is whether the stream goes on.
    pub async fn hear(&mut self) -> (String, bool) {
        let goes_on = self.read().await;
        let text = std::mem::take(&mut self.text);
        let words: Vec<_> = text.split("\"uri\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        (words.join(" "), goes_on)
    }
}

/// The stream goes on, and these words were said.
pub fn heard(words: &str) -> (String, bool) {
    (words.to_owned(), true)
}

/// The stream is over, after these words.
pub fn ended(words: &str) -> (String, bool) {
    (words.to_owned(), false)
}
