//! Makes so many tool calls, for a counter of instructions; `benches/instructions` runs it and does the sums.

use std::sync::Arc;

use clap::{Parser, ValueEnum};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy_benches::service::{call, governed, mcp, open};

/// Makes so many tool calls within one session.
#[derive(Debug, Parser)]
struct Args {
    /// What the calls go through
    #[arg(value_enum)]
    through: Through,
    /// How many
    calls: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Through {
    /// rmcp's service over its own manager
    Bare,
    /// The layer, the manager and a token bucket
    Policies,
}

// One thread: the same instructions in each run.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args = Args::parse();
    match args.through {
        Through::Bare => {
            let mut service = mcp(Arc::new(LocalSessionManager::default()));
            let id = open(&mut service).await;
            for _ in 0..args.calls {
                call(&mut service, &id).await;
            }
        }
        Through::Policies => {
            let sessions = governed();
            let mut service = sessions.layer().layer(mcp(Arc::clone(&sessions)));
            let id = open(&mut service).await;
            for _ in 0..args.calls {
                call(&mut service, &id).await;
            }
        }
    }
}
