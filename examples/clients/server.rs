//! The server that real clients listen to. `clients/run` runs them.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::serve::ListenerExt;
use clap::Parser;
use rmcp::model::{ErrorData, ServerCapabilities, ServerConfig};
use rmcp::service::RequestContext;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{RoleServer, ServerHandler, tool, tool_handler, tool_router};
use rmcp_session_policy::PolicySessionManager;
use tokio::net::TcpListener;

/// A server that keeps one session, and has news for it.
#[derive(Debug, Parser)]
struct Args {
    /// Address to listen on; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Most sessions at one time
    #[arg(long, default_value_t = 1)]
    max_sessions: usize,
}

#[derive(Clone, Debug)]
struct News;

#[tool_router]
impl News {
    #[tool(description = "Sends five notifications that the list of resources has changed, on the listening stream")]
    async fn announce(&self, context: RequestContext<RoleServer>) -> Result<String, ErrorData> {
        for _ in 0..5 {
            let sent = context.peer.notify_resource_list_changed().await;
            sent.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
        }
        Ok("announced 5".to_owned())
    }
}

#[tool_handler]
impl ServerHandler for News {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().enable_resources();
        ServerConfig::new(capabilities.enable_resources_list_changed().build())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    // mcp-remote opens two sessions, and listens in each.
    let sessions =
        Arc::new(PolicySessionManager::local().max_sessions(args.max_sessions).max_parked_streams(10).build()?);
    let mut config = StreamableHttpServerConfig::default();
    config.session_store = Some(sessions.parking());
    let layer = sessions.layer();
    let mcp = layer.layer(StreamableHttpService::new(|| Ok(News), sessions, config));
    let listener = TcpListener::bind(args.listen).await?;
    writeln!(std::io::stdout(), "listening on http://{}/mcp", listener.local_addr()?)?;
    let listener = listener.tap_io(|tcp| {
        // Without it each small answer waits for a delayed acknowledgement.
        tcp.set_nodelay(true).ok();
    });
    let app = Router::new().nest_service("/mcp", mcp);
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}
