//! rmcp's HTTP service with one tool, called in process: no sockets, no threads.

use std::convert::Infallible;
use std::sync::{Arc, LazyLock};

use axum::body::{Body, HttpBody};
use http_body_util::BodyExt;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::ClientJsonRpcMessage;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::session::{SessionManager, SessionStore};
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{schemars, tool, tool_router};
use rmcp_session_policy::admission::{AdmissionPolicyExt, TokenBucket};
use rmcp_session_policy::directory::SessionDirectory;
use rmcp_session_policy::eviction::EvictionPolicy;
use rmcp_session_policy::{Metrics, PolicySessionManager, PolicySessionManagerBuilder};
use serde_json::{Value, json};
use tower_service::Service;

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
struct Text {
    text: String,
}

/// The handler of a session.
#[derive(Clone, Debug)]
pub struct Echo;

#[tool_router(server_handler)]
impl Echo {
    #[tool(description = "gives the text back")]
    fn echo(&self, Parameters(Text { text }): Parameters<Text>) -> String {
        text
    }
}

fn request(session: Option<&str>, message: &Value) -> http::Request<Body> {
    let request = http::Request::post("/")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    let request = match session {
        Some(id) => request.header("mcp-session-id", id),
        None => request,
    };
    request.body(Body::from(message.to_string())).expect("a request")
}

/// Opens a session; returns its id.
///
/// # Panics
///
/// If the service refuses.
pub async fn open<S, B>(service: &mut S) -> String
where
    S: Service<http::Request<Body>, Response = http::Response<B>, Error = Infallible>,
    B: HttpBody<Data = bytes::Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}});
    let Ok(answer) = service.call(request(None, &initialize)).await;
    let id = answer.headers()["mcp-session-id"].to_str().expect("text").to_owned();
    answer.into_body().collect().await.expect("a body");
    let Ok(_accepted) =
        service.call(request(Some(&id), &json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))).await;
    id
}

/// Calls the tool, and reads the whole answer.
///
/// # Panics
///
/// If the service refuses.
pub async fn call<S, B>(service: &mut S, id: &str)
where
    S: Service<http::Request<Body>, Response = http::Response<B>, Error = Infallible>,
    B: HttpBody<Data = bytes::Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": {"name": "echo", "arguments": {"text": "hello"}}});
    let Ok(answer) = service.call(request(Some(id), &call)).await;
    assert!(answer.status().is_success(), "{}", answer.status());
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    let body = String::from_utf8_lossy(&body);
    assert!(body.contains(r#""text":"hello""#), "{body}");
}

/// Opens a session as rmcp's service does, serves it, and closes it.
///
/// # Panics
///
/// If the manager refuses.
pub async fn handshake<M: SessionManager>(sessions: &M) {
    static MESSAGES: LazyLock<[ClientJsonRpcMessage; 2]> = LazyLock::new(|| {
        let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}});
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        [initialize, initialized].map(|message| serde_json::from_value(message).expect("a message"))
    });
    let [initialize, initialized] = &*MESSAGES;
    let (id, transport) = sessions.create_session().await.expect("a place");
    let service = tokio::spawn(async move {
        let service = rmcp::serve_server(Echo, transport).await.expect("a handshake");
        service.waiting().await.expect("ends");
    });
    sessions.initialize_session(&id, initialize.clone()).await.expect("answers");
    sessions.accept_message(&id, initialized.clone()).await.expect("accepts");
    sessions.close_session(&id).await.expect("closes");
    service.await.expect("ends");
}

/// The service over a manager.
pub fn mcp<M: SessionManager>(sessions: Arc<M>) -> StreamableHttpService<Echo, M> {
    with_store(sessions, None)
}

/// The service over a manager that parks its sessions.
#[must_use]
pub fn parking(
    sessions: &Arc<PolicySessionManager<LocalSessionManager>>,
) -> StreamableHttpService<Echo, PolicySessionManager<LocalSessionManager>> {
    with_store(Arc::clone(sessions), Some(sessions.parking()))
}

fn with_store<M: SessionManager>(
    sessions: Arc<M>,
    store: Option<Arc<dyn SessionStore>>,
) -> StreamableHttpService<Echo, M> {
    let mut config = StreamableHttpServerConfig::default();
    config.sse_keep_alive = None;
    config.sse_retry = None;
    config.session_store = store;
    StreamableHttpService::new(|| Ok(Echo), sessions, config)
}

/// Sessions in this order, with a token bucket that each newcomer and each request of a session meets.
///
/// # Panics
///
/// Never: the settings are valid.
#[must_use]
pub fn governed(eviction: impl EvictionPolicy) -> Arc<PolicySessionManager<LocalSessionManager>> {
    Arc::new(with_buckets().eviction(eviction).build().expect("valid"))
}

/// The same with what else is set, in the default order.
///
/// # Panics
///
/// If a setting is not valid.
#[must_use]
pub fn set(
    configure: impl FnOnce(
        PolicySessionManagerBuilder<LocalSessionManager>,
    ) -> PolicySessionManagerBuilder<LocalSessionManager>,
) -> Arc<PolicySessionManager<LocalSessionManager>> {
    Arc::new(configure(with_buckets()).build().expect("valid"))
}

/// The same, in a directory.
///
/// # Panics
///
/// Never: the settings are valid.
#[must_use]
pub fn in_directory(directory: impl SessionDirectory) -> Arc<PolicySessionManager<LocalSessionManager>> {
    Arc::new(with_buckets().directory(directory).build().expect("valid"))
}

/// Sessions in the default order, with metrics for Prometheus.
///
/// # Panics
///
/// If there is a recorder already.
#[must_use]
pub fn measured() -> Arc<PolicySessionManager<LocalSessionManager>> {
    let _exporter = exporter();
    Arc::new(with_buckets().metrics(Metrics::new()).build().expect("valid"))
}

/// Installs an exporter for Prometheus, with the buckets of the library.
///
/// # Panics
///
/// If there is a recorder already.
#[must_use]
pub fn exporter() -> PrometheusHandle {
    let buckets = |builder: PrometheusBuilder, (name, bounds): &(&str, &[f64])| {
        builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), bounds).expect("some bounds")
    };
    let builder = Metrics::buckets().iter().fold(PrometheusBuilder::new(), buckets);
    builder.with_recommended_naming(true).install_recorder().expect("the first one")
}

fn with_buckets() -> PolicySessionManagerBuilder<LocalSessionManager> {
    let bucket = || TokenBucket::per_second(1e9).burst(1_000_000);
    PolicySessionManager::local().admission(bucket().per_client()).requests(bucket().per_session())
}
