//! What a call costs through HTTP, without sockets: rmcp's service alone, and with the layer, the manager and a policy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use criterion::{Criterion, criterion_group, criterion_main};
use http_body_util::BodyExt;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{schemars, tool, tool_router};
use rmcp_session_policy::PolicySessionManager;
use rmcp_session_policy::admission::{AdmissionPolicyExt, TokenBucket};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tower_service::Service;

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
struct Text {
    text: String,
}

#[derive(Clone, Debug)]
struct Echo;

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
async fn open<S, B>(service: &mut S) -> String
where
    S: Service<http::Request<Body>, Response = http::Response<B>, Error = std::convert::Infallible>,
    B: axum::body::HttpBody<Data = bytes::Bytes> + Unpin,
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

async fn calls<S, B>(service: &mut S, id: &str, iterations: u64) -> Duration
where
    S: Service<http::Request<Body>, Response = http::Response<B>, Error = std::convert::Infallible>,
    B: axum::body::HttpBody<Data = bytes::Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": {"name": "echo", "arguments": {"text": "hello"}}});
    let start = Instant::now();
    for _ in 0..iterations {
        let Ok(answer) = service.call(request(Some(id), &call)).await;
        assert!(answer.status().is_success());
        answer.into_body().collect().await.expect("a body");
    }
    start.elapsed()
}

fn mcp<M: SessionManager>(sessions: Arc<M>) -> StreamableHttpService<Echo, M> {
    let mut config = StreamableHttpServerConfig::default();
    config.sse_keep_alive = None;
    config.sse_retry = None;
    StreamableHttpService::new(|| Ok(Echo), sessions, config)
}

fn one_call(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = c.benchmark_group("one tool call through HTTP");
    group.bench_function("rmcp alone", |b| {
        let mut service = mcp(Arc::new(LocalSessionManager::default()));
        let id = runtime.block_on(open(&mut service));
        b.iter_custom(|iterations| runtime.block_on(calls(&mut service, &id, iterations)));
    });
    group.bench_function("with layer, manager and a token bucket", |b| {
        let _guard = runtime.enter();
        let limit = TokenBucket::per_second(1e9).burst(1_000_000).per_client();
        let sessions = Arc::new(PolicySessionManager::local().admission(limit).build().expect("valid"));
        let mut service = sessions.layer().layer(mcp(Arc::clone(&sessions)));
        let id = runtime.block_on(open(&mut service));
        b.iter_custom(|iterations| runtime.block_on(calls(&mut service, &id, iterations)));
    });
    group.finish();
}

criterion_group!(benches, one_call);
criterion_main!(benches);
