//! docs/design.md, L17.
//!
//! After a restart all clients come back at once, to a server with a place for a few of them. None is refused, and none is
//! cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp_session_policy::PolicySessionManager;
use rmcp_session_policy::http::PolicyService;
use rmcp_session_policy::testing::directory::MemoryDirectory;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::server::Tools;
use crate::web::{call, initialize};

type Mcp = StreamableHttpService<Tools, PolicySessionManager<LocalSessionManager>>;

/// A number of this test, which the environment may set. 10,000 clients on 1,000 places take a minute.
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
        let id = self.post(None, &initialize(1)).await.0.expect("opens");
        self.post(Some(&id), &json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await;
        id
    }
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
    let (begun, answered) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let asked = ids.into_iter().map(|id| {
        let (server, answered) = (Arc::clone(&server), Arc::clone(&answered));
        tokio::spawn(async move {
            let body = server.post(Some(&id), &call(7, "echo", &json!({ "text": "hello" }))).await.1;
            answered.fetch_add(1, SeqCst);
            (body, begun.elapsed())
        })
    });
    let asked: Vec<_> = asked.collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn({
        let (server, is_over) = (Arc::clone(&server), Arc::clone(&is_over));
        async move {
            let mut most = 0;
            while !is_over.load(SeqCst) {
                most = most.max(server.sessions.stats().live);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            most
        }
    });
    let mut failed = std::collections::BTreeMap::<String, usize>::new();
    let mut last = Duration::ZERO;
    for answer in asked {
        let (body, after) = answer.await.expect("no panic");
        last = last.max(after);
        if !body.contains("hello") {
            *failed.entry(body).or_default() += 1;
        }
    }
    is_over.store(true, SeqCst);
    let most = watching.await.expect("no panic");
    eprintln!(
        "{clients} clients on {places} places: the last was answered after {last:?}; {most} live at most; {:?}",
        server.sessions.stats()
    );
    assert_eq!(failed.iter().collect::<Vec<_>>(), [], "refused or cut off");
    assert!(most <= places, "{most}");
    assert!(last < Duration::from_secs(60), "{last:?}");
}
