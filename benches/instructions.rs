//! Makes `times` tool calls or handshakes, for a counter of instructions; `benches/instructions` runs it and does the sums.

use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::Arc;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use http::{Request, Response};
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::eviction::{Lru, Prospects};
use rmcp_session_policy_benches::service::{call, governed, handshake, mcp, open};
use tower_service::Service;

/// Does the same `times` times.
#[derive(Debug, Parser)]
struct Args {
    /// What it goes through
    #[arg(value_enum)]
    through: Through,
    /// What is done
    #[arg(value_enum)]
    what: What,
    /// How often
    times: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// A tool call through HTTP
    Call,
    /// A session, served from its beginning to its end
    Handshake,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Through {
    /// rmcp's service over its own manager
    Bare,
    /// The layer, the manager and a token bucket
    Policies,
    /// The same with Lru in place of the default policy
    Lru,
}

// One thread: the same instructions in each run.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args = Args::parse();
    match (args.through, args.what) {
        (Through::Bare, What::Call) => calls(mcp(Arc::new(LocalSessionManager::default())), args.times).await,
        (Through::Policies, What::Call) => {
            let sessions = governed(Prospects::new());
            calls(sessions.layer().layer(mcp(Arc::clone(&sessions))), args.times).await;
        }
        (Through::Lru, What::Call) => {
            let sessions = governed(Lru::new());
            calls(sessions.layer().layer(mcp(Arc::clone(&sessions))), args.times).await;
        }
        (Through::Bare, What::Handshake) => handshakes(&LocalSessionManager::default(), args.times).await,
        (Through::Policies, What::Handshake) => handshakes(&*governed(Prospects::new()), args.times).await,
        (Through::Lru, What::Handshake) => handshakes(&*governed(Lru::new()), args.times).await,
    }
}

async fn calls<S, B>(mut service: S, times: u32)
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
    B: HttpBody<Data = Bytes, Error: Debug> + Unpin,
{
    let id = open(&mut service).await;
    for _ in 0..times {
        call(&mut service, &id).await;
    }
}

async fn handshakes(sessions: &impl SessionManager, times: u32) {
    for _ in 0..times {
        handshake(sessions).await;
    }
}
