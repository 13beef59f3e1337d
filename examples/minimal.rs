//! The smallest server with a bound on its sessions, and clients that return after an eviction.

use std::net::SocketAddr;
use std::sync::Arc;

use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{tool, tool_router};
use rmcp_session_policy::PolicySessionManager;

#[derive(Clone)]
struct MyServer;

#[tool_router(server_handler)]
impl MyServer {
    #[tool(description = "Says hello")]
    fn hello(&self) -> String {
        "hello".to_owned()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sessions = Arc::new(PolicySessionManager::local().max_sessions(1_000).build()?);
    let mut config = StreamableHttpServerConfig::default();
    config.session_store = Some(sessions.parking());
    let mcp = StreamableHttpService::new(|| Ok(MyServer), Arc::clone(&sessions), config);
    let app = axum::Router::new().nest_service("/mcp", sessions.layer().layer(mcp));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}
