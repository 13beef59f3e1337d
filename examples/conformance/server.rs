//! The server that the MCP conformance suite is run against: rmcp alone, or under policies. `conformance/run` runs both.

mod fixtures;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::serve::ListenerExt;
use clap::Parser;
use fixtures::Fixtures;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp_session_policy::PolicySessionManager;
use rmcp_session_policy::admission::{AdmissionPolicyExt, TokenBucket};
use tokio::net::TcpListener;

/// The conformance suite's fixtures, served by rmcp alone or under policies.
#[derive(Debug, Parser)]
struct Args {
    /// Address to listen on; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Put policies in front, and keep at most N sessions
    #[arg(long, value_name = "N")]
    max_sessions: Option<usize>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let fixtures = Fixtures::new(b"a key for tests, of 32 bytes or more")?;
    let handler = move || Ok(fixtures.clone());
    let mut config = StreamableHttpServerConfig::default();
    let app = match args.max_sessions {
        None => {
            let sessions = Arc::new(LocalSessionManager::default());
            Router::new().nest_service("/mcp", StreamableHttpService::new(handler, sessions, config))
        }
        Some(max) => {
            // Far above what the suite needs: they are asked, and let it pass.
            let plenty = || TokenBucket::per_second(1_000.0).burst(10_000);
            let sessions = PolicySessionManager::local()
                .max_sessions(max)
                .admission(plenty().per_client())
                .requests(plenty().per_session())
                .build()?;
            let sessions = Arc::new(sessions);
            config.session_store = Some(sessions.parking());
            let layer = sessions.layer().sessionless(plenty().per_client())?;
            Router::new().nest_service("/mcp", layer.layer(StreamableHttpService::new(handler, sessions, config)))
        }
    };
    let listener = TcpListener::bind(args.listen).await?;
    writeln!(std::io::stdout(), "listening on http://{}/mcp", listener.local_addr()?)?;
    let listener = listener.tap_io(|tcp| {
        // Without it each small answer waits for a delayed acknowledgement.
        tcp.set_nodelay(true).ok();
    });
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}
