//! docs/design.md, L6.
//!
//! Floods of handshakes that are never finished, over real connections: users whose sessions are parked are answered, and
//! newcomers from other addresses come in.
//!
//! `FLOODS=long cargo test -p rmcp-session-policy --all-features --test floods -- --nocapture` tries each number of places
//! and connections, and prints how long newcomers and users waited.

#![expect(clippy::print_stdout, reason = "the long form prints what it measured")]

#[path = "support/server.rs"]
mod server;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::server::Tools;
use futures_util::future::join_all;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp_session_policy::PolicySessionManager;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

type Manager = PolicySessionManager<LocalSessionManager>;

/// A server with the HTTP layer, which knows the address of each client.
async fn serve(sessions: &Arc<Manager>) -> String {
    let mut config = StreamableHttpServerConfig::default();
    config.session_store = Some(sessions.parking());
    let mcp = StreamableHttpService::new(|| Ok(Tools::default()), Arc::clone(sessions), config);
    let app = axum::Router::new().nest_service("/mcp", sessions.layer().layer(mcp));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/mcp", listener.local_addr().expect("bound"));
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") });
    url
}

/// A client with an address of its own.
#[derive(Clone)]
struct Client {
    http: reqwest::Client,
    url: String,
}

impl Client {
    fn new(url: &str, address: [u8; 4]) -> Self {
        let http = reqwest::Client::builder().local_address(IpAddr::V4(Ipv4Addr::from(address)));
        let http = http.pool_max_idle_per_host(512).tcp_nodelay(true).build().expect("builds");
        Self { http, url: url.to_owned() }
    }

    /// Sends a message; the status, the session's id, and the body.
    async fn post(&self, id: Option<&str>, message: &Value) -> (u16, Option<String>, String) {
        let mut request =
            self.http.post(&self.url).header("accept", "application/json, text/event-stream").json(message);
        if let Some(id) = id {
            request = request.header("mcp-session-id", id);
        }
        let Ok(answer) = request.send().await else { return (0, None, String::new()) };
        let id = answer.headers().get("mcp-session-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        (answer.status().as_u16(), id, answer.text().await.unwrap_or_default())
    }

    async fn initialize(&self) -> Result<String, u16> {
        let message = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "raw", "version": "1" } } });
        match self.post(None, &message).await {
            (200, Some(id), _) => Ok(id),
            (status, ..) => Err(status),
        }
    }

    /// Opens a session and calls a tool in it.
    async fn come(&self) -> Result<String, u16> {
        let id = self.initialize().await?;
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        match self.post(Some(&id), &initialized).await.0 {
            202 => self.call(&id).await.map(|()| id),
            status => Err(status),
        }
    }

    async fn call(&self, id: &str) -> Result<(), u16> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let call = json!({ "jsonrpc": "2.0", "id": NEXT.fetch_add(1, Relaxed), "method": "tools/call",
            "params": { "name": "echo", "arguments": { "text": "here" } } });
        let (status, _, body) = self.post(Some(id), &call).await;
        if body.contains("\"text\":\"here\"") { Ok(()) } else { Err(status) }
    }
}

/// The outcome for parked users and newcomers in a flood, and how long each waited.
struct Outcome {
    users: Vec<Result<Duration, u16>>,
    newcomers: Vec<Result<Duration, u16>>,
}

async fn timed<T>(future: impl Future<Output = Result<T, u16>>) -> Result<Duration, u16> {
    let began = Instant::now();
    future.await.map(|_| began.elapsed())
}

/// Floods a server over `connections` connections from one address, while `honest` parked users call and `honest` newcomers
/// come, ten of each a second.
async fn flood(places: usize, connections: usize, honest: usize) -> Outcome {
    let sessions = Arc::new(PolicySessionManager::local().max_sessions(places).build().expect("valid"));
    let url = serve(&sessions).await;
    let clients: Vec<_> = (1..=20).map(|nth| Client::new(&url, [127, 0, 1, nth])).collect();
    let mut users = Vec::new();
    for nth in 0..places + honest {
        let user = clients[nth % clients.len()].clone();
        let id = user.come().await.expect("there is no flood yet");
        users.push((user, id));
    }
    assert_eq!(sessions.stats().parked, honest);
    let flooder = Client::new(&url, [127, 0, 0, 66]);
    let flood: Vec<AbortHandle> = (0..connections)
        .map(|_| {
            let flooder = flooder.clone();
            let floods = async move {
                loop {
                    flooder.initialize().await.ok();
                }
            };
            tokio::spawn(floods).abort_handle()
        })
        .collect();
    sleep(Duration::from_millis(500)).await;
    let calls = users[..honest].iter().enumerate().map(|(nth, (user, id))| async move {
        sleep(Duration::from_millis(100) * nth as u32).await;
        timed(user.call(id)).await
    });
    let newcomers = (0..honest).map(|nth| {
        let newcomer = Client::new(&url, [127, 0, 2, 1 + nth as u8]);
        async move {
            sleep(Duration::from_millis(100) * nth as u32).await;
            timed(newcomer.come()).await
        }
    });
    let (users, newcomers) = tokio::join!(join_all(calls), join_all(newcomers));
    let stats = sessions.stats();
    flood.iter().for_each(AbortHandle::abort);
    assert!(stats.live <= places, "{stats:?}");
    assert!(stats.opened as usize > places + honest + 10, "there was a flood: {stats:?}");
    Outcome { users, newcomers }
}

/// How many there were, how many of them were served, and how many milliseconds the slowest and the one in the middle waited.
fn summary(outcomes: &[Result<Duration, u16>]) -> String {
    let mut took: Vec<_> = outcomes.iter().flatten().map(Duration::as_millis).collect();
    took.sort_unstable();
    let (middle, slowest) = (took.get(took.len() / 2), took.last());
    format!("{} of {} (middle {middle:?} ms, slowest {slowest:?} ms)", took.len(), outcomes.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seven_parked_users_and_seven_newcomers_are_served_in_a_flood_over_256_connections() {
    let Outcome { users, newcomers } = flood(20, 256, 7).await;
    assert!(users.iter().all(Result::is_ok), "parked users: {users:?}");
    assert!(newcomers.iter().all(Result::is_ok), "newcomers: {newcomers:?}");
    if std::env::var("FLOODS").is_ok_and(|form| form == "long") {
        for places in [20, 100, 1_000] {
            for connections in [16, 64, 256] {
                let Outcome { users, newcomers } = flood(places, connections, 60).await;
                println!("{places} places, {connections} connections");
                println!("    parked users: {}", summary(&users));
                println!("    newcomers:    {}", summary(&newcomers));
                assert!(users.iter().all(Result::is_ok), "parked users: {users:?}");
                let came = newcomers.iter().filter(|newcomer| newcomer.is_ok()).count();
                assert!(came * 20 >= newcomers.len() * 19, "newcomers: {newcomers:?}");
            }
        }
    }
}
