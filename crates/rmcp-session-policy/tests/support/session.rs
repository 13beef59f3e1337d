//! Sessions without HTTP: a driver that makes the calls of rmcp's service to a manager one by one, on paused time.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    missing_docs,
    missing_debug_implementations,
    reason = "a fixture, of which each test file uses a part"
)]

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_core::Stream;
use futures_util::StreamExt;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    ClientJsonRpcMessage, InitializeRequestParams, InitializeResult, ProgressNotificationParam, RequestMetaObject,
    ServerConfig, ServerJsonRpcMessage,
};
use rmcp::service::{Peer, RequestContext};
use rmcp::transport::streamable_http_server::StreamableHttpService;
use rmcp::transport::streamable_http_server::session::local::{
    LocalSessionManager, LocalSessionManagerError, SessionTransport,
};
use rmcp::transport::streamable_http_server::session::{
    RestoreOutcome, ServerSseMessage, SessionId, SessionManager, SessionState, SessionStore,
};
use rmcp::transport::{StreamableHttpServerConfig, Transport};
use rmcp::{ErrorData, RoleServer, ServerHandler, schemars, tool, tool_router};
use rmcp_session_policy::{CloseReason, SessionEvent, SessionObserver};
use serde_json::{Value, json};
use tokio::sync::Notify;

#[derive(Debug, Default, serde::Deserialize, schemars::JsonSchema)]
pub struct Millis {
    pub millis: u64,
}

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
pub struct Text {
    pub text: String,
}

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
pub struct Messages {
    pub messages: u32,
}

/// One per session.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    counter: Arc<AtomicU64>,
}

#[tool_router(server_handler)]
impl Tools {
    #[tool(description = "gives the text back")]
    fn echo(&self, Parameters(Text { text }): Parameters<Text>) -> String {
        text
    }

    #[tool(description = "waits")]
    async fn sleep(&self, Parameters(Millis { millis }): Parameters<Millis>) -> String {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        format!("slept {millis}")
    }

    #[tool(description = "counts the calls of this session")]
    fn count(&self) -> String {
        (self.counter.fetch_add(1, SeqCst) + 1).to_string()
    }

    #[tool(description = "panics")]
    fn explode(&self) -> String {
        panic!("as asked")
    }

    #[tool(description = "sends N progress notifications before it answers")]
    async fn chatter(
        &self,
        Parameters(Messages { messages }): Parameters<Messages>,
        meta: RequestMetaObject,
        client: Peer<RoleServer>,
    ) -> String {
        let token = meta.get_progress_token().expect("a progress token");
        for message in 0..messages {
            let progress = ProgressNotificationParam::new(token.clone(), f64::from(message));
            if client.notify_progress(progress).await.is_err() {
                break;
            }
        }
        "said it all".to_owned()
    }

    #[tool(description = "sends N notifications to the stream of the GET")]
    async fn announce(
        &self,
        Parameters(Messages { messages }): Parameters<Messages>,
        client: Peer<RoleServer>,
    ) -> String {
        for _ in 0..messages {
            if client.notify_resource_list_changed().await.is_err() {
                break;
            }
        }
        "announced it all".to_owned()
    }
}

/// Answers `initialize` after a while, if at all.
#[derive(Clone, Debug)]
pub struct SlowToInitialize(pub Duration);

impl ServerHandler for SlowToInitialize {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::default()
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        tokio::time::sleep(self.0).await;
        context.peer.set_peer_info(request.clone());
        self.negotiate_initialize(&request)
    }
}

/// Refuses `initialize`.
#[derive(Clone, Debug)]
pub struct Refuses;

impl ServerHandler for Refuses {
    async fn initialize(
        &self,
        _request: InitializeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        Err(ErrorData::invalid_request("not today", None))
    }
}

/// Lets every task run until all of them wait, on paused time.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

pub fn alive_tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

pub fn message(json: Value) -> ClientJsonRpcMessage {
    serde_json::from_value(json).expect("a message of a client")
}

pub fn initialize_params() -> Value {
    json!({
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": { "name": "driver", "version": "1.0" },
    })
}

fn call_message(id: &Value, tool: &str, arguments: &Value) -> Value {
    json!({
        "jsonrpc": "2.0", "id": id, "method": "tools/call",
        "params": { "name": tool, "arguments": arguments, "_meta": { "progressToken": format!("p{id}") } },
    })
}

/// What comes on a stream.
pub struct Replies {
    stream: Pin<Box<dyn Stream<Item = ServerSseMessage> + Send + Sync>>,
}

impl Replies {
    /// The next message, priming events left out; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(message) = self.stream.next().await?.message {
                return Some(serde_json::to_value(&*message).expect("serializes"));
            }
        }
    }

    /// All there is until the end of the stream.
    pub async fn rest(mut self) -> Vec<Value> {
        let mut all = Vec::new();
        while let Some(message) = self.next().await {
            all.push(message);
        }
        all
    }

    /// The answers there are until the end of the stream.
    pub async fn answers(self) -> Vec<Value> {
        self.rest().await.into_iter().filter(|message| message.get("method").is_none()).collect()
    }

    /// The text of the one result.
    pub async fn text(self) -> String {
        let answers = self.answers().await;
        assert_eq!(answers.len(), 1, "one answer: {answers:?}");
        answers[0]["result"]["content"][0]["text"]
            .as_str()
            .unwrap_or_else(|| panic!("a result: {answers:?}"))
            .to_owned()
    }

    /// The id and code of the one error, or of the one result that says that a call was refused or cut off.
    pub async fn error(self) -> (Value, i64) {
        let answers = self.answers().await;
        assert_eq!(answers.len(), 1, "one answer: {answers:?}");
        let code = error_code(&answers[0]).unwrap_or_else(|| panic!("an error: {answers:?}"));
        (answers[0]["id"].clone(), code)
    }
}

/// The code of a JSON-RPC error, or of a result that says that a call was refused or cut off.
pub fn error_code(answer: &Value) -> Option<i64> {
    let rejection = &answer["result"]["_meta"]["rmcp-session-policy/rejection"]["code"];
    let rejection = Some(rejection).filter(|_| answer["result"]["isError"] == true);
    answer["error"]["code"].as_i64().or_else(|| rejection?.as_i64())
}

/// One client of a manager, and what rmcp's service does for it.
pub struct Driver<M> {
    pub manager: Arc<M>,
    pub id: SessionId,
    next: AtomicU64,
}

impl<M: SessionManager> Driver<M> {
    /// Creates a session and serves it, as rmcp does before it hands `initialize` in.
    pub async fn open(manager: &Arc<M>) -> Result<Self, M::Error> {
        Self::open_with(manager, Tools::default()).await
    }

    pub async fn open_with(manager: &Arc<M>, handler: impl ServerHandler) -> Result<Self, M::Error> {
        let (id, transport) = manager.create_session().await?;
        let (served, ending) = (SessionId::clone(&id), Arc::clone(manager));
        tokio::spawn(async move {
            if let Ok(service) = rmcp::service::serve_server(handler, transport).await {
                service.waiting().await.ok();
            }
            ending.close_session(&served).await.ok();
        });
        Ok(Self { manager: Arc::clone(manager), id, next: AtomicU64::new(1) })
    }

    /// Opens a session and finishes its handshake.
    pub async fn ready(manager: &Arc<M>) -> Result<Self, M::Error> {
        let driver = Self::open(manager).await?;
        driver.initialize().await?;
        driver.initialized().await?;
        Ok(driver)
    }

    pub fn next_id(&self) -> Value {
        self.next.fetch_add(1, SeqCst).into()
    }

    pub async fn initialize(&self) -> Result<Value, M::Error> {
        let request = json!({
            "jsonrpc": "2.0", "id": self.next_id(), "method": "initialize", "params": initialize_params(),
        });
        let answer = self.manager.initialize_session(&self.id, message(request)).await?;
        Ok(serde_json::to_value(&answer).expect("serializes"))
    }

    pub async fn initialized(&self) -> Result<(), M::Error> {
        self.notify("notifications/initialized", json!({})).await
    }

    pub async fn notify(&self, method: &str, params: Value) -> Result<(), M::Error> {
        let notification = message(json!({ "jsonrpc": "2.0", "method": method, "params": params }));
        self.manager.accept_message(&self.id, notification).await
    }

    pub async fn send(&self, request: Value) -> Result<Replies, M::Error> {
        let stream = self.manager.create_stream(&self.id, message(request)).await?;
        Ok(Replies { stream: Box::pin(stream) })
    }

    pub async fn call(&self, tool: &str, arguments: Value) -> Result<Replies, M::Error> {
        self.call_as(self.next_id(), tool, arguments).await
    }

    pub async fn call_as(&self, id: Value, tool: &str, arguments: Value) -> Result<Replies, M::Error> {
        self.send(call_message(&id, tool, &arguments)).await
    }

    pub async fn sleep(&self, millis: u64) -> Result<Replies, M::Error> {
        self.call("sleep", json!({ "millis": millis })).await
    }

    pub async fn echo(&self, text: &str) -> Result<String, M::Error> {
        Ok(self.call("echo", json!({ "text": text })).await?.text().await)
    }

    pub async fn ping(&self) -> Result<(), M::Error> {
        let replies = self.send(json!({ "jsonrpc": "2.0", "id": self.next_id(), "method": "ping" })).await?;
        assert_eq!(replies.answers().await.len(), 1);
        Ok(())
    }

    /// Opens the stream of a GET.
    pub async fn listen(&self) -> Result<Replies, M::Error> {
        let stream = self.manager.create_standalone_stream(&self.id).await?;
        Ok(Replies { stream: Box::pin(stream) })
    }

    /// Whether the session takes requests.
    pub async fn lives(&self) -> bool {
        self.manager.has_session(&self.id).await.expect("answers")
    }

    /// Lets the session be parked when it ends.
    pub async fn store(&self, store: &Arc<dyn SessionStore>) {
        let params = serde_json::from_value(initialize_params()).expect("params");
        store.store(&self.id, &SessionState::new(params)).await.expect("stores");
    }
}

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

/// Keeps what happened, in words.
#[derive(Clone, Debug, Default)]
pub struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }

    pub fn closed(reason: CloseReason) -> String {
        format!("closed {reason}")
    }
}

impl SessionObserver for Diary {
    fn observe(&self, event: &SessionEvent<'_>) {
        let entry = match event {
            SessionEvent::Opened { .. } => "opened".to_owned(),
            SessionEvent::Restored { .. } => "restored".to_owned(),
            SessionEvent::Rejected { reason, .. } => format!("refused {reason}"),
            SessionEvent::Closed { reason, .. } => Self::closed(*reason),
            _ => "something else".to_owned(),
        };
        self.0.lock().expect("no panic").push(entry);
    }
}

/// An inner manager. Its `close_session` does not return for an id in `wedged` until the id is removed.
#[derive(Debug, Default)]
pub struct Wedge {
    pub local: LocalSessionManager,
    pub wedged: Mutex<HashSet<SessionId>>,
    pub freed: Notify,
}

impl Wedge {
    pub fn new() -> Self {
        let mut local = LocalSessionManager::default();
        local.session_config.keep_alive = None;
        local.session_config.init_timeout = None;
        Self { local, ..Self::default() }
    }

    pub fn wedge(&self, id: &SessionId) {
        self.wedged.lock().expect("no panic").insert(SessionId::clone(id));
    }

    pub fn free(&self, id: &SessionId) {
        self.wedged.lock().expect("no panic").remove(id);
        self.freed.notify_waiters();
    }

    fn is_wedged(&self, id: &SessionId) -> bool {
        self.wedged.lock().expect("no panic").contains(id)
    }
}

impl SessionManager for Wedge {
    type Error = LocalSessionManagerError;
    type Transport = SessionTransport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        self.local.create_session().await
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        self.local.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        self.local.has_session(id).await
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if !self.is_wedged(id) {
                return self.local.close_session(id).await;
            }
            freed.await;
        }
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.local.create_stream(id, message).await
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        self.local.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.local.create_standalone_stream(id).await
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.local.resume(id, last_event_id).await
    }

    async fn restore_session(&self, id: SessionId) -> Result<RestoreOutcome<Self::Transport>, Self::Error> {
        self.local.restore_session(id).await
    }
}

/// An inner manager with sessions that cost next to nothing and never send a message.
#[derive(Debug, Default)]
pub struct Silent {
    pub sessions: Mutex<HashSet<SessionId>>,
    next: AtomicU64,
}

/// A transport on which nothing ever comes.
#[derive(Debug)]
pub struct Silence;

impl Transport<RoleServer> for Silence {
    type Error = std::io::Error;

    fn send(&mut self, _item: ServerJsonRpcMessage) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        std::future::ready(Ok(()))
    }

    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        std::future::pending().await
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

impl SessionManager for Silent {
    type Error = std::io::Error;
    type Transport = Silence;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        let id = SessionId::from(format!("silent-{}", self.next.fetch_add(1, SeqCst)));
        self.sessions.lock().expect("no panic").insert(SessionId::clone(&id));
        Ok((id, Silence))
    }

    async fn initialize_session(
        &self,
        _id: &SessionId,
        _message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        Ok(self.sessions.lock().expect("no panic").contains(id))
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        self.sessions.lock().expect("no panic").remove(id);
        Ok(())
    }

    async fn create_stream(
        &self,
        _id: &SessionId,
        _message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(futures_util::stream::pending())
    }

    async fn accept_message(&self, _id: &SessionId, _message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn create_standalone_stream(
        &self,
        _id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(futures_util::stream::pending())
    }

    async fn resume(
        &self,
        _id: &SessionId,
        _last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(futures_util::stream::pending())
    }
}
