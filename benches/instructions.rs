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
use rmcp_session_policy::testing::directory::MemoryDirectory;
use rmcp_session_policy::{Queued, SessionEvent, SessionObserver};
use rmcp_session_policy_benches::service::{
    call, governed, handshake, in_directory, mcp, measured, open, parking, set,
};
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
    /// A session that is opened through HTTP, in the place of another
    Open,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Through {
    /// rmcp's service over its own manager
    Bare,
    /// The layer, the manager and a token bucket
    Policies,
    /// The same, and metrics
    Metrics,
    /// The same without metrics, with Lru in place of the default policy
    Lru,
    /// The layer, the manager and a token bucket, and no explanations
    Unexplained,
    /// The same with explanations and a queued observer
    Queued,
    /// The same with parking
    Parking,
    /// The same with parking, and a directory in memory
    Directory,
}

// One thread: the same instructions in each run.
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args = Args::parse();
    let sessions = match args.through {
        Through::Bare => return bare(args.what, args.times).await,
        Through::Policies | Through::Parking => governed(Prospects::new()),
        Through::Metrics => measured(),
        Through::Lru => governed(Lru::new()),
        Through::Unexplained => set(|builder| builder.explanations(0)),
        Through::Queued => set(|builder| builder.observer(Queued::new(Deaf, 1_000))),
        Through::Directory => in_directory(MemoryDirectory::new()),
    };
    let layer = sessions.layer();
    match (args.what, args.through) {
        (What::Handshake, _) => handshakes(&*sessions, args.times).await,
        (What::Call, Through::Parking | Through::Directory) => calls(layer.layer(parking(&sessions)), args.times).await,
        (What::Call, _) => calls(layer.layer(mcp(Arc::clone(&sessions))), args.times).await,
        (What::Open, _) => opens(layer.layer(parking(&sessions)), args.times).await,
    }
}

/// Hears events, and does nothing.
#[derive(Debug)]
struct Deaf;

impl SessionObserver for Deaf {
    fn observe(&self, _: &SessionEvent<'_>) {}
}

/// Does it through rmcp alone.
async fn bare(what: What, times: u32) {
    let sessions = LocalSessionManager::default();
    match what {
        What::Call => calls(mcp(Arc::new(sessions)), times).await,
        What::Open => opens(mcp(Arc::new(sessions)), times).await,
        What::Handshake => handshakes(&sessions, times).await,
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

async fn opens<S, B>(mut service: S, times: u32)
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
    B: HttpBody<Data = Bytes, Error: Debug> + Unpin,
{
    for _ in 0..times {
        open(&mut service).await;
    }
}

async fn handshakes(sessions: &impl SessionManager, times: u32) {
    for _ in 0..times {
        handshake(sessions).await;
    }
}
