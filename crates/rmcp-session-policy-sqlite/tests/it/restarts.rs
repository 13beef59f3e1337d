//! A whole server, killed and started again over the same file.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response};
use rmcp::ServerHandler;
use rmcp::model::{ServerCapabilities, ServerConfig};
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp_session_policy::PolicySessionManager;
use rmcp_session_policy::directory::SessionDirectory;
use rmcp_session_policy_sqlite::SqliteDirectory;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::children::Process;
use crate::support::{Place, later};

struct Tools;

impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }
}

/// A server with rmcp's service and the layer, without sockets.
struct Server {
    app: Router,
    directory: Arc<SqliteDirectory>,
}

impl Server {
    fn new(directory: SqliteDirectory) -> Self {
        let directory = Arc::new(directory);
        let sessions = Arc::new(PolicySessionManager::local().directory(Arc::clone(&directory)).build().unwrap());
        let mut config = StreamableHttpServerConfig::default();
        config.session_store = Some(sessions.parking());
        let mcp = StreamableHttpService::new(|| Ok(Tools), Arc::clone(&sessions), config);
        Self { app: Router::new().nest_service("/mcp", sessions.layer().layer(mcp)), directory }
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
    async fn open(&self) -> String {
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

    /// Asks for the tools within a session; the status.
    async fn ask(&self, id: &str) -> u16 {
        let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"});
        let answer = self.send("POST", Some(id), Some(list)).await;
        let status = answer.status().as_u16();
        let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        let is_answered = String::from_utf8_lossy(&body).contains("\"tools\"");
        assert_eq!(is_answered, status == 200, "{body:?}");
        status
    }
}

/// What the child does: opens two sessions, deletes one, and is killed.
pub(crate) async fn serve(directory: SqliteDirectory, say: fn(String)) {
    let server = Server::new(directory);
    let (kept, deleted) = (server.open().await, server.open().await);
    assert_eq!(server.ask(&kept).await, 200);
    // So that the end is not merged into a session that was never written.
    assert_eq!(server.directory.flush(later()).await, 0);
    assert_eq!(server.send("DELETE", Some(&deleted), None).await.status(), 202);
    assert_eq!(server.directory.flush(later()).await, 0);
    say(format!("{kept} {deleted}"));
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_server_that_is_killed_answers_its_sessions_after_its_restart_and_none_that_was_deleted() {
    let place = Place::new();
    let mut process = Process::start("serve", place.path(), 0);
    let said = process.hear().unwrap();
    let (kept, deleted) = said.split_once(' ').unwrap();
    process.kill();
    let server = Server::new(place.open());
    assert_eq!(server.ask(kept).await, 200);
    assert_eq!(server.ask(deleted).await, 404);
    assert_eq!(server.ask("80f04fe2-5387-4a93-9fb0-4ef1f686fd95").await, 404);
    assert_eq!(server.ask(kept).await, 200);
}
