//! A rolling restart: the next process is started over the same file, the one before is told to stop, and a balancer sends
//! requests to the next one from then on. No call fails, and no session is answered by two processes at once.
//!
//! `ROLLING_CLIENTS=1000 cargo test --release -p rmcp-session-policy-examples --test rolling` is the long form.

#[path = "support/binary.rs"]
mod binary;
#[path = "support/process.rs"]
mod process;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use self::process::{PATIENCE, Server};

/// Sends each request to one of two servers.
#[derive(Clone)]
struct Balancer {
    servers: Arc<[String; 2]>,
    current: Arc<AtomicUsize>,
    http: reqwest::Client,
}

impl Balancer {
    /// Listens; gives its address.
    async fn start(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/mcp", listener.local_addr().expect("bound"));
        let app = Router::new().fallback(pass_on).with_state(self);
        drop(tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") }));
        url
    }
}

async fn pass_on(State(balancer): State<Balancer>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let url = balancer.servers[balancer.current.load(SeqCst)].clone();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a small body");
    let mut headers = parts.headers;
    headers.remove("host");
    let answer = balancer.http.request(parts.method, url).headers(headers).body(body).send().await.expect("answers");
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        if name != "transfer-encoding" {
            response = response.header(name, value);
        }
    }
    response.body(Body::from(answer.bytes().await.expect("a body"))).expect("a response")
}

/// One client with a session, which counts the answers to its calls.
struct Client {
    http: reqwest::Client,
    url: String,
    session: String,
}

impl Client {
    async fn open(http: reqwest::Client, url: String) -> Self {
        let mut client = Self { http, url, session: String::new() };
        let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "rolling", "version": "1" } } });
        let answer = client.post(&initialize).await;
        assert_eq!(answer.status(), StatusCode::OK);
        client.session = answer.headers()["mcp-session-id"].to_str().expect("text").to_owned();
        answer.bytes().await.expect("a body");
        let ready = client.post(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await;
        assert_eq!(ready.status(), StatusCode::ACCEPTED);
        client
    }

    async fn post(&self, message: &Value) -> reqwest::Response {
        let request = self.http.post(&self.url).header("accept", "application/json, text/event-stream").json(message);
        let request = if self.session.is_empty() { request } else { request.header("mcp-session-id", &self.session) };
        timeout(PATIENCE, request.send()).await.expect("in time").expect("answers")
    }

    async fn count(&self) -> String {
        let call = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "count", "arguments": {} } });
        let answer = self.post(&call).await;
        let status = answer.status();
        let text = answer.text().await.expect("a body");
        assert_eq!(status, StatusCode::OK, "{text}");
        let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data:")?).ok());
        let mut answers = messages.filter(|message| message["id"] == 2);
        let answer = answers.next().unwrap_or_else(|| panic!("no answer: {text}"));
        answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{text}")).to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_rolling_restart_no_call_fails_and_no_count_is_lost() {
    let clients: usize = std::env::var("ROLLING_CLIENTS").ok().map_or(100, |number| number.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sessions.db");
    let file = file.to_str().expect("text");
    let flags = ["--max-sessions", "2000", "--drain-grace", "2", "--state", file];
    let (old, new) = (Server::start(&flags).await, Server::start(&flags).await);
    let http = reqwest::Client::new();
    let current = Arc::new(AtomicUsize::new(0));
    let servers = Arc::new([old.url.clone(), new.url.clone()]);
    let url = Balancer { servers, current: Arc::clone(&current), http: http.clone() }.start().await;

    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    // All are open before the first call, so that calls do not slow the handshakes down.
    let open = (0..clients).map(|_| Client::open(http.clone(), url.clone()));
    let open: Vec<_> = stream::iter(open).buffer_unordered(50).collect().await;
    let mut tasks = Vec::new();
    for client in open {
        let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
        tasks.push(tokio::spawn(async move {
            let mut count = 0;
            while !stop.load(SeqCst) {
                count += 1;
                assert_eq!(client.count().await, count.to_string());
                calls.fetch_add(1, SeqCst);
                // What a client does between two calls.
                sleep(Duration::from_millis(50)).await;
            }
        }));
    }
    let called = async |more: u64| {
        let until = calls.load(SeqCst) + more * clients as u64;
        while calls.load(SeqCst) < until && !tasks.iter().any(tokio::task::JoinHandle::is_finished) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    called(2).await;
    old.signal("TERM");
    old.health_until(|health| health["draining"] == true).await;
    // From here on the balancer sends no request to the old one; some are still in flight there.
    current.store(1, SeqCst);
    called(2).await;
    let (ended, logs) = old.end().await;
    assert!(ended.success(), "{logs}");
    called(2).await;
    stop.store(true, SeqCst);
    for task in tasks {
        task.await.expect("each call was answered with the next number");
    }
    let health = new.health().await;
    assert_eq!((&health["opened"], &health["restored"]), (&json!(0), &json!(clients)), "{health}");
}
