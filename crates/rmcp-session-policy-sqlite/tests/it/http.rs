//! A whole server over a directory: rmcp's service, the manager and the layer, without sockets.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ServerCapabilities, ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use rmcp_session_policy::{CurrentSession, PolicySessionManager};
use rmcp_session_policy_sqlite::SqliteDirectory;
use serde_json::{Value, json};
use tower::ServiceExt;

struct Tools;

impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    /// Counts the calls of the session, in its data, whatever tool is called.
    async fn call_tool(
        &self,
        _: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let count = CurrentSession::of(&context)?.data::<u64>().update(|count| {
            *count += 1;
            *count
        })?;
        Ok(CallToolResult::success(vec![ContentBlock::text(count.to_string())]).into())
    }
}

pub(crate) struct Server {
    app: Router,
    pub(crate) sessions: Arc<PolicySessionManager<LocalSessionManager>>,
    pub(crate) directory: Arc<SqliteDirectory>,
}

impl Server {
    pub(crate) fn new(directory: SqliteDirectory) -> Self {
        let directory = Arc::new(directory);
        let builder = PolicySessionManager::local().directory(Arc::clone(&directory));
        let sessions = Arc::new(builder.session_data::<u64>("count", 1).build().unwrap());
        let mut config = StreamableHttpServerConfig::default();
        config.session_store = Some(sessions.parking());
        let mcp = StreamableHttpService::new(|| Ok(Tools), Arc::clone(&sessions), config);
        let app = Router::new().nest_service("/mcp", sessions.layer().layer(mcp));
        Self { app, sessions, directory }
    }

    async fn send(&self, method: &str, id: Option<&str>, message: Option<Value>) -> Response<Body> {
        let request = Request::builder().method(method).uri("/mcp").header("host", "localhost");
        let request = request.header("content-type", "application/json");
        let mut request = request.header("accept", "application/json, text/event-stream");
        if let Some(id) = id {
            request = request.header("mcp-session-id", id);
        }
        let body = message.map_or_else(Body::empty, |message| Body::from(message.to_string()));
        self.app.clone().oneshot(request.body(body).unwrap()).await.unwrap()
    }

    /// Opens a session, and returns its id.
    pub(crate) async fn open(&self) -> String {
        let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}});
        let answer = self.send("POST", None, Some(initialize)).await;
        assert_eq!(answer.status(), 200);
        let id = answer.headers()["mcp-session-id"].to_str().unwrap().to_owned();
        to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(self.send("POST", Some(&id), Some(initialized)).await.status(), 202);
        id
    }

    /// Calls the tool within a session: the number that it counts, or the status of a request that is refused.
    pub(crate) async fn count(&self, id: &str) -> Result<u64, u16> {
        let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "count"}});
        let answer = self.send("POST", Some(id), Some(call)).await;
        let status = answer.status().as_u16();
        let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        let body = String::from_utf8_lossy(&body);
        let (_, text) = body.split_once(r#""text":""#).ok_or(status)?;
        Ok(text.split_once('"').unwrap().0.parse().unwrap())
    }

    /// Deletes a session; the status.
    pub(crate) async fn delete(&self, id: &str) -> u16 {
        self.send("DELETE", Some(id), None).await.status().as_u16()
    }
}
