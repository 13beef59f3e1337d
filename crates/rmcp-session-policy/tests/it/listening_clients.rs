//! docs/design.md, L10.
//!
//! Clients that open their listening stream once and never again, as the SDKs do, by raw HTTP.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::server::Server;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::eviction::SessionInfo;
use rmcp_session_policy::{CloseReason, PolicySessionManager, PolicySessionManagerBuilder};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

type Sessions = PolicySessionManager<LocalSessionManager>;

async fn start(
    configure: impl FnOnce(
        PolicySessionManagerBuilder<LocalSessionManager>,
    ) -> PolicySessionManagerBuilder<LocalSessionManager>,
) -> (Arc<Sessions>, Server) {
    let sessions = Arc::new(configure(PolicySessionManager::local()).build().expect("valid"));
    let server = Server::with_layer(Arc::clone(&sessions)).await;
    (sessions, server)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waits = async {
        while !holds() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(timeout(Duration::from_secs(30), waits).await.is_ok(), "{what}");
}

/// What an SDK keeps of its session.
struct Sdk {
    http: Client,
    url: String,
    id: String,
    /// What its stream has said so far.
    heard: Arc<Mutex<String>>,
    stream: Option<JoinHandle<()>>,
}

impl Drop for Sdk {
    fn drop(&mut self) {
        self.hang_up();
    }
}

impl Sdk {
    /// Opens a session, and the one stream it will ever open.
    async fn connect(server: &Server) -> Self {
        let mut client = Self {
            http: Client::new(),
            url: server.url.clone(),
            id: String::new(),
            heard: Arc::default(),
            stream: None,
        };
        let answer = client.post(&initialize()).send().await.expect("answers");
        client.id = answer.headers()["mcp-session-id"].to_str().expect("text").to_owned();
        answer.text().await.expect("an answer");
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let answer = client.post(&initialized).send().await.expect("answers");
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        let answer = client.get().send().await.expect("answers");
        assert_eq!(answer.status(), StatusCode::OK);
        client.listen_to(answer);
        client
    }

    fn request(&self, request: RequestBuilder) -> RequestBuilder {
        let request = request.header("accept", "application/json, text/event-stream");
        if self.id.is_empty() { request } else { request.header("mcp-session-id", &self.id) }
    }

    fn post(&self, message: &Value) -> RequestBuilder {
        self.request(self.http.post(&self.url)).json(message)
    }

    fn get(&self) -> RequestBuilder {
        self.request(self.http.get(&self.url)).header("mcp-protocol-version", "2025-06-18")
    }

    fn listen_to(&mut self, mut answer: Response) {
        let heard = Arc::clone(&self.heard);
        self.stream = Some(tokio::spawn(async move {
            while let Ok(Some(chunk)) = answer.chunk().await {
                heard.lock().expect("no poison").push_str(&String::from_utf8_lossy(&chunk));
            }
        }));
    }

    /// Calls the tool that tells the stream of five changes.
    async fn notify(&self, of: &str) {
        let arguments = json!({ "of": of, "count": 5 });
        let call = json!({ "jsonrpc": "2.0", "id": of, "method": "tools/call",
            "params": { "name": "notify", "arguments": arguments } });
        let answer = self.post(&call).send().await.expect("answers").text().await.expect("text");
        assert!(answer.contains("told"), "{answer}");
    }

    fn heard(&self, what: &str) -> usize {
        self.heard.lock().expect("no poison").matches(what).count()
    }

    /// All five, each once.
    async fn hears(&self, of: &str) {
        for change in 0..5 {
            let change = format!("\"{of}/{change}\"");
            until(&change, || self.heard(&change) > 0).await;
            assert_eq!(self.heard(&change), 1);
        }
    }

    fn hang_up(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.abort();
        }
        // Its pool keeps connections open.
        self.http = Client::new();
    }

    fn is_listening(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| !stream.is_finished())
    }
}

fn initialize() -> Value {
    json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "sdk", "version": "1" } } })
}

#[tokio::test]
async fn eight_clients_on_four_places_hear_five_of_five_before_and_after_their_evictions() {
    let (sessions, server) = start(|b| b.max_sessions(4)).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let client = Sdk::connect(&server).await;
        client.notify("before").await;
        client.hears("before").await;
        clients.push(client);
    }
    assert_eq!((sessions.stats().parked, sessions.stats().parked_streams), (4, 4));
    for round in 0..3 {
        for client in &clients {
            let of = format!("after-{round}");
            client.notify(&of).await;
            client.hears(&of).await;
        }
    }
    assert!(clients.iter().all(Sdk::is_listening));
    assert!(sessions.stats().closed(CloseReason::Evicted) >= 4 + 3 * 8);
    assert_eq!((sessions.stats().parked, sessions.stats().parked_streams), (4, 4));
    assert!(sessions.list().iter().all(|session| session.open_streams == 1));
}

#[tokio::test]
async fn a_client_whose_idle_session_was_parked_hears_five_of_five_after_the_restore() {
    let (sessions, server) = start(|b| b).await;
    let client = Sdk::connect(&server).await;
    client.notify("before").await;
    client.hears("before").await;
    assert_eq!(sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Idle).await, 1);
    assert_eq!((sessions.stats().live, sessions.stats().parked_streams), (0, 1));
    client.notify("after").await;
    client.hears("after").await;
}

#[tokio::test]
async fn a_get_of_a_parked_session_at_a_full_server_is_answered_200_and_hears_after_the_restore() {
    let (sessions, server) = start(|b| b.max_sessions(1)).await;
    let mut one = Sdk::connect(&server).await;
    one.hang_up();
    let other = Sdk::connect(&server).await;
    until("the first one's stream is gone", || sessions.stats().parked_streams == 0).await;
    let answer = one.get().header("last-event-id", "0").send().await.expect("answers");
    assert_eq!((answer.status(), sessions.stats().parked_streams), (StatusCode::OK, 1));
    one.listen_to(answer);
    one.notify("after").await;
    one.hears("after").await;
    other.notify("after").await;
    other.hears("after").await;
}

#[tokio::test]
async fn a_client_that_hangs_up_frees_its_slot() {
    let (sessions, server) = start(|b| b.max_sessions(1).max_parked_streams(1)).await;
    let mut one = Sdk::connect(&server).await;
    let _other = Sdk::connect(&server).await;
    assert_eq!(sessions.stats().parked_streams, 1);
    one.hang_up();
    until("the slot is free", || sessions.stats().parked_streams == 0).await;
}

#[tokio::test]
async fn the_stream_of_a_client_that_deletes_its_parked_session_ends() {
    let (sessions, server) = start(|b| b.max_sessions(1)).await;
    let one = Sdk::connect(&server).await;
    let _other = Sdk::connect(&server).await;
    assert!(one.is_listening());
    let answer = one.request(one.http.delete(&one.url)).send().await.expect("answers");
    assert_eq!((answer.status(), sessions.stats().parked_streams), (StatusCode::ACCEPTED, 0));
    until("the stream ends", || !one.is_listening()).await;
}
