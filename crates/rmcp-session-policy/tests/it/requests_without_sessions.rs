//! docs/design.md, L5 and L14.
//!
//! A limit of requests without a session counts the handlers at work, whatever has become of their clients.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ServerCapabilities, ServerConfig,
    SubscriptionFilter,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use rmcp_session_policy::admission::{AdmissionPolicyExt, Concurrent, SlidingWindow};
use rmcp_session_policy::http::{PolicyLayer, PolicyService};
use rmcp_session_policy::{HOUR, PolicySessionManager, PolicySessionManagerBuilder};
use serde_json::{Value, json};
use tokio::time::sleep;
use tower::ServiceExt;

type Manager = PolicySessionManager<LocalSessionManager>;

/// Counts the handlers at work.
#[derive(Clone, Debug, Default)]
struct Worker {
    running: Arc<AtomicUsize>,
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl ServerHandler for Worker {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().enable_tool_list_changed().build())
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        self.running.fetch_add(1, SeqCst);
        let _running = Running(Arc::clone(&self.running));
        let millis = request.arguments.unwrap_or_default()["millis"].as_u64().expect("a number");
        sleep(Duration::from_millis(millis)).await;
        Ok(CallToolResult::success(vec![ContentBlock::text("worked")]).into())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }
}

#[derive(Clone)]
struct Edge {
    sessions: Arc<Manager>,
    running: Arc<AtomicUsize>,
    service: PolicyService<StreamableHttpService<Worker, Manager>, LocalSessionManager>,
}

impl Edge {
    fn new(set: impl FnOnce(PolicyLayer<LocalSessionManager>) -> PolicyLayer<LocalSessionManager>) -> Self {
        Self::over(PolicySessionManager::local(), set)
    }

    fn over(
        builder: PolicySessionManagerBuilder<LocalSessionManager>,
        set: impl FnOnce(PolicyLayer<LocalSessionManager>) -> PolicyLayer<LocalSessionManager>,
    ) -> Self {
        let sessions = Arc::new(builder.build().expect("valid"));
        let mut config = StreamableHttpServerConfig::default();
        config.sse_keep_alive = None;
        let worker = Worker::default();
        let running = Arc::clone(&worker.running);
        let mcp = StreamableHttpService::new(move || Ok(worker.clone()), Arc::clone(&sessions), config);
        let service = set(sessions.layer()).layer(mcp);
        Self { sessions, running, service }
    }

    /// Sends a request of protocol 2026-07-28.
    async fn late(&self, method: &str, mut params: Value, change: impl FnOnce(String) -> String) -> Response<Body> {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let mut headers = vec![("mcp-protocol-version", "2026-07-28"), ("mcp-method", method)];
        let tool = params["name"].as_str().map(str::to_owned);
        headers.extend(tool.as_deref().map(|tool| ("mcp-name", tool)));
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        self.post(&headers, change(body.to_string())).await
    }

    async fn post(&self, headers: &[(&str, &str)], body: String) -> Response<Body> {
        let mut request = Request::builder()
            .method("POST")
            .uri("http://localhost/mcp")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body)).expect("a request");
        let response: Result<_, Infallible> = self.service.clone().oneshot(request).await;
        response.expect("answers").map(Body::new)
    }

    async fn work(&self, millis: u64) -> Response<Body> {
        self.late("tools/call", json!({"name": "work", "arguments": {"millis": millis}}), |body| body).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_session_counts_until_its_handler_is_done_though_its_client_hung_up() {
    let edge = Edge::new(|layer| layer.sessionless(Concurrent::new(2)).expect("valid"));
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for _ in 0..50 {
        // Hangs up once its handler is at work.
        let call = edge.clone();
        let call = tokio::spawn(async move { call.work(60_000).await.status() });
        sleep(Duration::from_millis(10)).await;
        call.abort();
        sleep(Duration::from_millis(10)).await;
        let running = edge.running.load(SeqCst);
        assert!(running <= 2, "{running} at once");
    }
    sleep(Duration::from_secs(60)).await;
    assert_eq!((edge.running.load(SeqCst), tasks()), (0, before), "no task outlives the handler that it watches");
    assert_eq!(edge.work(1).await.status(), 200, "those that were done gave their places back");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_its_client_has_left_holds_its_place_no_longer_than_a_request_is_in_flight() {
    let minute = Duration::from_secs(60);
    let builder = PolicySessionManager::local().max_busy(minute);
    let edge = Edge::over(builder, |layer| layer.sessionless(Concurrent::new(1)).expect("valid"));
    let call = edge.clone();
    let call = tokio::spawn(async move { call.work(3_600_000).await.status() });
    sleep(Duration::from_millis(10)).await;
    call.abort();
    sleep(minute - Duration::from_secs(1)).await;
    assert_eq!(edge.work(1).await.status(), 429);
    sleep(Duration::from_secs(2)).await;
    assert_eq!((edge.work(1).await.status().as_u16(), edge.running.load(SeqCst)), (200, 1));
}

#[tokio::test(start_paused = true)]
async fn a_listening_stream_holds_its_place_until_its_client_hangs_up() {
    let edge = Edge::new(|layer| layer.sessionless(Concurrent::new(1)).expect("valid"));
    let listen =
        || edge.late("subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}), |body| body);
    for _ in 0..3 {
        let first = listen().await;
        assert_eq!(first.status(), 200);
        assert_eq!(listen().await.status(), 429);
    }
}

/// JSON allows a slash to be escaped, and some encoders always do.
#[tokio::test(start_paused = true)]
async fn a_listening_stream_is_one_however_its_method_is_written() {
    let edge = Edge::new(|layer| layer.max_listeners(1));
    let listen = |change: fn(String) -> String| {
        edge.late("subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}), change)
    };
    let changes: [fn(String) -> String; 3] = [
        |body| body,
        |body| body.replace("subscriptions/listen", r"subscriptions\/listen"),
        |body| body.replace("subscriptions/listen", r"\u0073ubscriptions/listen"),
    ];
    for change in changes {
        let first = listen(change).await;
        let seen = (first.status().as_u16(), edge.sessions.stats().listeners);
        assert_eq!(seen, (200, 1), "{}", change("subscriptions/listen".to_owned()));
        assert_eq!(listen(change).await.status(), 503, "one at a time");
    }
}

/// All that a response says.
async fn text(response: Response<Body>) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[tokio::test(start_paused = true)]
async fn discover_is_refused_for_no_quota_within_a_session_either() {
    let once = PolicySessionManager::local().requests(SlidingWindow::new(1, HOUR).per_session());
    let edge = Edge::over(once, |layer| layer);
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}});
    let opened = edge.post(&[], initialize.to_string()).await;
    let id = opened.headers()["mcp-session-id"].to_str().expect("text").to_owned();
    text(opened).await;
    let headers = [("mcp-session-id", &*id), ("mcp-protocol-version", "2025-11-25")];
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert_eq!(edge.post(&headers, initialized.to_string()).await.status(), 202);
    let mut answers = Vec::new();
    for (id, method) in [(2, "tools/list"), (3, "server/discover"), (4, "tools/list")] {
        let params = json!({"_meta": {"io.modelcontextprotocol/protocolVersion": "2025-11-25"}});
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let answer = text(edge.post(&headers, request.to_string()).await).await;
        answers.push((method, answer.contains("\"code\":429"), answer));
    }
    let refused: Vec<_> = answers.iter().map(|(_, refused, _)| *refused).collect();
    assert_eq!(refused, [false, false, true], "{answers:?}");
}
