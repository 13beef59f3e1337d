//! docs/design.md, L17.
//!
//! After a restart all clients come back at once, to a server with a place for a few of them. None is refused, and none is
//! cut off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp_session_policy::http::PolicyService;
use rmcp_session_policy::testing::directory::MemoryDirectory;
use rmcp_session_policy::{MINUTE, PolicySessionManager};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::server::Tools;
use crate::service::{initialize, initialized};

type Mcp = StreamableHttpService<Tools, PolicySessionManager<LocalSessionManager>>;

/// A number of this test, which the environment may set. With 10,000 clients on 1,000 places it takes a minute.
fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |number| number.parse().expect("a number"))
}

/// A server whose clients have a connection each, in memory, so that no limit of the machine counts.
struct Server {
    sessions: Arc<PolicySessionManager<LocalSessionManager>>,
    http: PolicyService<Mcp, LocalSessionManager>,
}

impl Server {
    fn start(directory: &MemoryDirectory, places: usize) -> Self {
        let builder = PolicySessionManager::local().directory(directory.clone());
        let sessions = Arc::new(builder.max_sessions(places).max_parked(10).build().expect("valid"));
        let mut config = StreamableHttpServerConfig::default();
        config.session_store = Some(sessions.parking());
        let mcp = StreamableHttpService::new(|| Ok(Tools::default()), Arc::clone(&sessions), config);
        let http = sessions.layer().layer(mcp);
        Self { sessions, http }
    }

    /// Sends a message over a connection of its own. Returns the session that the answer names, and its body.
    async fn post(&self, session: Option<&str>, message: &Value) -> (Option<String>, String) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let service = TowerToHyperService::new(self.http.clone());
        tokio::spawn(async move {
            auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(far), service).await.ok();
        });
        let connected = hyper::client::conn::http1::handshake(TokioIo::new(near)).await;
        let (mut sender, connection) = connected.expect("connects");
        tokio::spawn(connection);
        let mut request = Request::post("/").header("host", "localhost").header("content-type", "application/json");
        request = request.header("accept", "application/json, text/event-stream");
        if let Some(id) = session {
            request = request.header("mcp-session-id", id);
        }
        let request = request.body(Body::from(message.to_string())).expect("a request");
        let answer = sender.send_request(request).await.expect("answers");
        let opened = answer.headers().get("mcp-session-id").map(|id| id.to_str().expect("text").to_owned());
        let body = to_bytes(Body::new(answer.into_body()), usize::MAX).await.expect("a body");
        (opened, String::from_utf8_lossy(&body).into_owned())
    }

    async fn open(&self) -> String {
        let id = self.post(None, &initialize()).await.0.expect("opens");
        self.post(Some(&id), &initialized()).await;
        id
    }
}

fn call() -> Value {
    json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": { "name": "echo", "arguments": { "text": "hello" } } })
}

/// Looks at the sessions until it is over. Returns how many were live at most.
async fn watch(server: Arc<Server>, is_over: Arc<AtomicBool>) -> usize {
    let mut most = 0;
    while !is_over.load(SeqCst) {
        most = most.max(server.sessions.stats().live);
        tokio::task::yield_now().await;
    }
    most
}

#[tokio::test]
async fn none_is_refused_or_cut_off_and_the_bound_holds() {
    let (clients, places) = (number("RETURNING_CLIENTS", 300), number("RETURNING_PLACES", 50));
    let directory = MemoryDirectory::new();
    let before = Server::start(&directory, clients);
    let mut ids = Vec::new();
    for _ in 0..clients {
        ids.push(before.open().await);
    }
    directory.crash();
    drop(before);
    let server = Arc::new(Server::start(&directory.another_server(), places));
    let begun = Instant::now();
    let asked = ids.into_iter().map(|id| {
        let server = Arc::clone(&server);
        tokio::spawn(async move { (server.post(Some(&id), &call()).await.1, begun.elapsed()) })
    });
    let asked: Vec<_> = asked.collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn(watch(Arc::clone(&server), Arc::clone(&is_over)));
    let (mut failed, mut last) = (BTreeMap::<String, usize>::new(), Duration::ZERO);
    for answer in asked {
        let (body, after) = answer.await.expect("no panic");
        last = last.max(after);
        if !body.contains("hello") {
            *failed.entry(body).or_default() += 1;
        }
    }
    is_over.store(true, SeqCst);
    let (most, stats) = (watching.await.expect("no panic"), server.sessions.stats());
    eprintln!("{clients} clients on {places} places: the last was answered after {last:?}");
    assert_eq!(failed, BTreeMap::new(), "refused or cut off");
    assert_eq!((most, stats.restored, stats.parked), (places, clients as u64, 10), "{stats:?}");
    // Without optimization a client takes some milliseconds.
    assert!(last < if cfg!(debug_assertions) { 5 * MINUTE } else { MINUTE }, "{last:?}");
}
