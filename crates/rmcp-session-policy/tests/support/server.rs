//! A real MCP server on loopback, and real clients of it.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::missing_errors_doc,
    missing_docs,
    missing_debug_implementations,
    reason = "a fixture, of which each test file uses a part"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use axum::extract::Request;
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{CallToolRequestParams, CallToolResult, ResourceUpdatedNotificationParam};
use rmcp::service::{Peer, RunningService, ServiceError};
use rmcp::transport::streamable_http_server::session::{SessionManager, SessionStore};
use rmcp::transport::{StreamableHttpClientTransport, StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{RoleClient, RoleServer, ServiceExt, schemars, tool, tool_router};
use rmcp_session_policy::{ClientContext, PolicySessionManager};
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
pub struct Changes {
    pub of: String,
    pub count: u32,
}

/// One per session.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    counter: Arc<AtomicU64>,
    asleep: Arc<Notify>,
}

#[tool_router(server_handler)]
impl Tools {
    #[tool(description = "gives the text back")]
    fn echo(&self, Parameters(Text { text }): Parameters<Text>) -> String {
        text
    }

    #[tool(description = "waits")]
    async fn sleep(&self, Parameters(Millis { millis }): Parameters<Millis>) -> String {
        self.asleep.notify_one();
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

    #[tool(description = "tells the listening stream of N changes")]
    async fn notify(&self, Parameters(Changes { of, count }): Parameters<Changes>, client: Peer<RoleServer>) -> String {
        for change in 0..count {
            let change = ResourceUpdatedNotificationParam::new(format!("{of}/{change}"));
            client.notify_resource_updated(change).await.expect("the session is there");
        }
        "told".to_owned()
    }
}

pub struct Server {
    pub url: String,
    /// Told when a call of `sleep` begins.
    pub asleep: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Starts a server over a manager on a free port. The peer's address is the client context.
    pub async fn start<M: SessionManager>(sessions: Arc<M>, store: Option<Arc<dyn SessionStore>>) -> Self {
        let asleep = Arc::default();
        let app = axum::Router::new().nest_service("/mcp", Self::mcp(sessions, store, &asleep));
        Self::serve(app.layer(axum::middleware::from_fn(tell_who_asks)), asleep).await
    }

    /// Starts a server with the HTTP layer, and parking.
    pub async fn with_layer<I: SessionManager>(sessions: Arc<PolicySessionManager<I>>) -> Self {
        let parking = sessions.parking();
        Self::with_layer_and(sessions, Some(parking)).await
    }

    /// Starts a server with the HTTP layer.
    pub async fn with_layer_and<I: SessionManager>(
        sessions: Arc<PolicySessionManager<I>>,
        store: Option<Arc<dyn SessionStore>>,
    ) -> Self {
        Self::with_layer_at("127.0.0.1:0", sessions, store).await
    }

    /// The same at an address, as of a server that is started again.
    pub async fn with_layer_at<I: SessionManager>(
        address: &str,
        sessions: Arc<PolicySessionManager<I>>,
        store: Option<Arc<dyn SessionStore>>,
    ) -> Self {
        let asleep = Arc::default();
        let mcp = Self::mcp(Arc::clone(&sessions), store, &asleep);
        let app = axum::Router::new().nest_service("/mcp", sessions.layer().layer(mcp));
        Self::serve_at(address, app, asleep).await
    }

    fn mcp<M: SessionManager>(
        sessions: Arc<M>,
        store: Option<Arc<dyn SessionStore>>,
        asleep: &Arc<Notify>,
    ) -> StreamableHttpService<Tools, M> {
        let mut config = StreamableHttpServerConfig::default();
        config.session_store = store;
        let asleep = Arc::clone(asleep);
        let tools = move || Ok(Tools { asleep: Arc::clone(&asleep), ..Tools::default() });
        StreamableHttpService::new(tools, sessions, config)
    }

    async fn serve(app: axum::Router, asleep: Arc<Notify>) -> Self {
        Self::serve_at("127.0.0.1:0", app, asleep).await
    }

    async fn serve_at(address: &str, app: axum::Router, asleep: Arc<Notify>) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.expect("a free port");
        let url = format!("http://{}/mcp", listener.local_addr().expect("bound"));
        let listener = axum::serve::ListenerExt::tap_io(listener, |tcp| tcp.set_nodelay(true).expect("nodelay"));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") });
        Self { url, asleep, task }
    }

    pub async fn connect(&self) -> Client {
        self.try_connect().await.expect("connects")
    }

    pub async fn try_connect(&self) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
        let transport = StreamableHttpClientTransport::from_uri(self.url.clone());
        Ok(Client { service: ().serve(transport).await? })
    }
}

async fn tell_who_asks(request: Request, next: Next) -> Response {
    let mut context = ClientContext::new().with_peer([127, 0, 0, 1].into());
    if request.method() == Method::GET {
        context = context.passive();
    }
    context.scope(next.run(request)).await
}

/// A real client of rmcp.
pub struct Client {
    pub service: RunningService<RoleClient, ()>,
}

impl Client {
    pub async fn call(&self, tool: &'static str, arguments: serde_json::Value) -> Result<String, ServiceError> {
        let mut params = CallToolRequestParams::new(tool);
        params.arguments = arguments.as_object().cloned();
        Ok(text(&self.service.call_tool(params).await?))
    }

    pub async fn echo(&self, text: &str) -> Result<String, ServiceError> {
        self.call("echo", serde_json::json!({ "text": text })).await
    }

    pub async fn sleep(&self, millis: u64) -> Result<String, ServiceError> {
        self.call("sleep", serde_json::json!({ "millis": millis })).await
    }

    pub async fn count(&self) -> Result<String, ServiceError> {
        self.call("count", serde_json::json!({})).await
    }
}

pub fn text(result: &CallToolResult) -> String {
    serde_json::to_value(&result.content[0]).expect("serializes")["text"].as_str().unwrap_or_default().to_owned()
}
