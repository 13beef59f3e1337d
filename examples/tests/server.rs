//! The example server as its users meet it: a process, and real clients over HTTP.

#[path = "support/binary.rs"]
mod binary;
#[path = "support/process.rs"]
mod process;

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use rmcp::model::{CallToolRequestParams, ProgressNotificationParam};
use rmcp::service::{NotificationContext, RunningService, ServiceError};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::{ClientHandler, RoleClient, ServiceExt};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::mpsc;

use self::binary::binary;
use self::process::{PATIENCE, Server};

impl Server {
    async fn connect(&self) -> Client {
        self.try_connect(()).await.expect("connects")
    }

    async fn try_connect<H: ClientHandler>(&self, handler: H) -> Result<Client<H>, Box<dyn std::error::Error>> {
        let transport = StreamableHttpClientTransport::from_uri(self.url.clone());
        let connecting = tokio::time::timeout(PATIENCE, handler.serve(transport));
        Ok(Client { service: connecting.await.expect("an answer")? })
    }

    /// Opens a session by hand, from an address of one's choice; gives the status and the id.
    async fn initialize(&self, from: [u8; 4]) -> (u16, Option<String>) {
        let params = json!({
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "by hand", "version": "1" }
        });
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params });
        let response = post(&self.url, from, None, &request).await;
        let id = response.headers().get("mcp-session-id").map(|id| id.to_str().expect("text").to_owned());
        let status = response.status().as_u16();
        response.text().await.expect("a body");
        (status, id)
    }

    async fn initialized(&self, id: &str) {
        let message = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let response = post(&self.url, [127, 0, 0, 1], Some(id), &message).await;
        assert!(response.status().is_success(), "{}", response.status());
    }
}

async fn post(url: &str, from: [u8; 4], session: Option<&str>, body: &Value) -> reqwest::Response {
    let http = reqwest::Client::builder().local_address(std::net::IpAddr::from(from)).build().expect("a client");
    let mut request = http.post(url).header("accept", "application/json, text/event-stream").json(body);
    if let Some(id) = session {
        request = request.header("mcp-session-id", id).header("mcp-protocol-version", "2025-11-25");
    }
    request.send().await.expect("answers")
}

/// A real client of rmcp.
struct Client<H: ClientHandler = ()> {
    service: RunningService<RoleClient, H>,
}

impl<H: ClientHandler> Client<H> {
    async fn call(&self, tool: &'static str, arguments: Value) -> Result<String, ServiceError> {
        let mut params = CallToolRequestParams::new(tool);
        params.arguments = arguments.as_object().cloned();
        let result = tokio::time::timeout(PATIENCE, self.service.call_tool(params)).await.expect("an answer")?;
        let content = serde_json::to_value(&result.content).expect("serializes");
        Ok(content[0]["text"].as_str().expect("text").to_owned())
    }

    async fn echo(&self, text: &str) -> Result<String, ServiceError> {
        self.call("echo", json!({ "text": text })).await
    }

    async fn count(&self) -> Result<String, ServiceError> {
        self.call("count", json!({})).await
    }
}

/// Passes on that the list of tools may have changed.
struct Listening(mpsc::UnboundedSender<()>);

impl ClientHandler for Listening {
    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.0.send(()).expect("the test listens");
    }
}

/// Passes on what a server reports.
struct Watching(mpsc::UnboundedSender<ProgressNotificationParam>);

impl ClientHandler for Watching {
    async fn on_progress(&self, progress: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        self.0.send(progress).expect("the test listens");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offers_its_tools_and_its_numbers() {
    let server = Server::start(&["--max-sessions", "7"]).await;
    let health = server.health().await;
    for count in ["live", "opening", "busy", "parked", "inner", "opened", "restored"] {
        assert_eq!(health[count], 0, "{count}: {health}");
    }
    assert_eq!(health["max"], 7);

    let (sender, mut reports) = mpsc::unbounded_channel();
    let alice = server.try_connect(Watching(sender)).await.expect("connects");
    let bob = server.connect().await;
    assert_eq!(alice.echo("hello").await.expect("answers"), "hello");
    assert_eq!(alice.count().await.expect("answers"), "1");
    assert_eq!(alice.count().await.expect("answers"), "2");
    assert_eq!(bob.count().await.expect("answers"), "1", "the counter is the session's own");
    alice.call("sleep", json!({ "millis": 10 })).await.expect("answers");
    for _ in 0..10 {
        tokio::time::timeout(PATIENCE, reports.recv()).await.expect("ten reports").expect("the client listens");
    }

    let health = server.health_until(|health| health["opening"] == 0).await;
    assert_eq!((&health["live"], &health["inner"], &health["opened"]), (&json!(2), &json!(2), &json!(2)), "{health}");
    bob.service.cancel().await.expect("disconnects");
    // A session counts as closed from the begin of its close, and is live to the end of that.
    let health = server.health_until(|health| health["live"] == 1).await;
    let closed = &health["closed"];
    assert_eq!((&closed["client"], &closed["evicted"]), (&json!(1), &json!(0)), "{health}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_parking_an_evicted_session_comes_back_with_a_new_handler() {
    for eviction in ["default", "prospects", "fifo", "lru", "lfu"] {
        let server = Server::start(&["--max-sessions", "1", "--eviction", eviction]).await;
        let alice = server.connect().await;
        assert_eq!(alice.count().await.expect("answers"), "1");
        let bob = server.connect().await;
        assert_eq!(bob.echo("hi").await.expect("answers"), "hi");
        assert_eq!(alice.count().await.expect("comes back"), "2", "what is session data outlives the handler");
        let health = server.health().await;
        assert_eq!((&health["opened"], &health["inner"]), (&json!(2), &json!(1)), "{eviction}: {health}");
        assert_eq!(health["parked"], 1, "{eviction}: {health}");
        assert!(health["restored"].as_u64() >= Some(1), "{eviction}: {health}");
        assert!(health["closed"]["evicted"].as_u64() >= Some(2), "{eviction}: {health}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_parking_an_evicted_session_is_gone() {
    let server = Server::start(&["--max-sessions", "1", "--parked", "0"]).await;
    let (_, id) = server.initialize([127, 0, 0, 1]).await;
    let id = id.expect("a session");
    server.initialized(&id).await;
    let bob = server.connect().await;
    assert_eq!(bob.echo("hi").await.expect("answers"), "hi");
    let call = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" });
    let status = post(&server.url, [127, 0, 0, 1], Some(&id), &call).await.status();
    assert_eq!(status.as_u16(), 404, "so that a client knows to initialize anew");
    let health = server.health().await;
    assert_eq!((&health["restored"], &health["parked"]), (&json!(0), &json!(0)), "{health}");
    assert_eq!((&health["closed"]["evicted"], &health["inner"]), (&json!(1), &json!(1)), "{health}");
}

/// Ten times as many users as places, and no call fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_take_turns_on_a_hundred_places() {
    const AT_ONCE: usize = 16;
    let server = Arc::new(Server::start(&["--max-sessions", "100"]).await);
    let done = Arc::new(AtomicBool::new(false));
    let sampling = tokio::spawn({
        let (server, done) = (Arc::clone(&server), Arc::clone(&done));
        async move {
            let mut most = 0;
            while !done.load(SeqCst) {
                most = most.max(server.health().await["inner"].as_u64().expect("a number"));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            most
        }
    });
    let clients: Vec<_> =
        stream::iter(0..1_000).map(|_| async { server.connect().await }).buffer_unordered(AT_ONCE).collect().await;
    for turn in 0..2 {
        let answers: Vec<_> =
            stream::iter(&clients).map(|client| client.echo("me")).buffer_unordered(AT_ONCE).collect().await;
        for answer in answers {
            assert_eq!(answer.expect("every call succeeds"), "me", "turn {turn}");
        }
    }
    done.store(true, SeqCst);
    let most = sampling.await.expect("samples");
    assert!((1..=100).contains(&most), "{most} sessions in the inner manager");
    let health = server.health().await;
    assert_eq!((&health["opened"], &health["max"]), (&json!(1_000), &json!(100)), "{health}");
    assert!(health["restored"].as_u64() >= Some(1_000), "{health}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuses_whom_a_rate_refuses() {
    let server = Server::start(&["--rate", "2/3600"]).await;
    let _alice = server.connect().await;
    let _bob = server.connect().await;
    server.try_connect(()).await.map(drop).expect_err("one too many");
    let health = server.health().await;
    assert_eq!((&health["opened"], &health["refused"]["quota"]), (&json!(2), &json!(1)), "{health}");
    assert_eq!(health["inner"], 2, "{health}");
}

#[cfg(target_os = "linux")] // where all of 127.0.0.0/8 is at hand
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gives_each_client_a_rate_of_its_own() {
    let server = Server::start(&["--per-client-rate", "1/3600", "--rate", "2/3600"]).await;
    assert_eq!(server.initialize([127, 0, 0, 1]).await.0, 200);
    assert_eq!(server.initialize([127, 0, 0, 1]).await.0, 429, "it had its one");
    assert_eq!(server.initialize([127, 0, 0, 2]).await.0, 200);
    assert_eq!(server.initialize([127, 0, 0, 3]).await.0, 429, "all together had their two");
    assert_eq!(server.health().await["refused"]["quota"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_call_leaves_its_session_alive() {
    let server = Server::start(&["--request-rate", "2/3600"]).await;
    let alice = server.connect().await;
    for _ in 0..2 {
        alice.call("count", json!({})).await.expect("within the rate");
    }
    // A result that is an error, with a text that a model can read.
    let refused = alice.call("count", json!({})).await.expect("a result");
    assert!(refused.starts_with("The tool was not called: refused by sliding_window. Try again in "), "{refused}");
    assert_eq!(server.health().await["live"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_requests_and_limits_those_without_a_session() {
    let server = Server::start(&["--sessionless-rate", "2/3600", "--request-rate", "1/3600"]).await;
    let alice = server.connect().await;
    alice.call("count", json!({})).await.expect("within the rate");
    let refused = alice.call("count", json!({})).await.expect("a result");
    assert!(refused.starts_with("The tool was not called"), "{refused}");
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { "name": "by hand", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": {}
    });
    let params = json!({ "name": "count", "arguments": {}, "_meta": meta });
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let http = reqwest::Client::new().post(&server.url).header("accept", "application/json, text/event-stream");
        let http = http.header("mcp-protocol-version", "2026-07-28").header("mcp-method", "tools/call");
        let response = http.header("mcp-name", "count").json(&request).send().await.expect("answers");
        statuses.push(response.status().as_u16());
        response.text().await.expect("a body");
    }
    assert_eq!(statuses, [200, 200, 429]);
    let health = server.health().await;
    assert!(health["requests"].as_u64() >= Some(3), "{health}");
    assert_eq!((&health["sessionless"], &health["opened"]), (&json!(3), &json!(1)), "{health}");
    assert_eq!((&health["refused"]["quota"], &health["refused_requests"]["quota"]), (&json!(0), &json!(2)), "{health}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_sessions_in_time() {
    let server = Server::start(&["--init-timeout", "1", "--idle-timeout", "1", "--max-lifetime", "2"]).await;
    let _listening = server.connect().await;
    let (_, silent) = server.initialize([127, 0, 0, 1]).await;
    server.initialized(&silent.expect("a session")).await;
    server.initialize([127, 0, 0, 1]).await;
    let ended = |health: &Value| {
        ["idle", "init_timeout", "lifetime"].iter().all(|reason| health["closed"][reason].as_u64() >= Some(1))
    };
    server.health_until(ended).await;
}

/// `DRAIN_RUNS=2000 cargo test -p rmcp-session-policy-examples --test server under_way` makes it that often.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lets_a_call_under_way_finish_before_it_stops() {
    const AT_ONCE: usize = 4;
    let runs = std::env::var("DRAIN_RUNS").map_or(12, |runs| runs.parse().expect("a number of runs"));
    let run = |run: usize| async move {
        let signal = ["INT", "TERM"][run % 2];
        let server = Server::start(&["--drain-grace", "0"]).await;
        let alice = server.connect().await;
        let _idle = server.connect().await;
        // What the handshakes left to do is not the call.
        server.health_until(|health| health["busy"] == 0).await;
        let call = tokio::spawn(async move { alice.call("sleep", json!({ "millis": 300 })).await });
        server.health_until(|health| health["busy"] == 1).await;
        server.signal(signal);
        assert_eq!(call.await.expect("runs").expect("its answer"), "slept 300 ms", "{signal} in run {run}");
        let (status, logs) = server.end().await;
        assert_eq!(status.code(), Some(0), "{signal} in run {run}: {logs}");
    };
    stream::iter(0..runs).for_each_concurrent(AT_ONCE, run).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_its_sessions_on_while_it_refuses_newcomers_and_then_stops() {
    let server = Server::start(&["--drain-grace", "3"]).await;
    let alice = server.connect().await;
    assert_eq!(server.health().await["draining"], false);
    server.signal("TERM");
    server.health_until(|health| health["draining"] == true).await;
    let health = reqwest::get(server.url.replace("/mcp", "/healthz")).await.expect("answers");
    assert_eq!(health.status().as_u16(), 503, "load balancers go by that");
    assert_eq!(server.initialize([127, 0, 0, 1]).await, (503, None));
    assert_eq!(alice.count().await.expect("served on"), "1");
    assert_eq!(alice.count().await.expect("served on"), "2");
    let (status, logs) = server.end().await;
    assert_eq!(status.code(), Some(0), "{logs}");
    assert!(logs.contains("finished: 1"), "{logs}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn may_be_stopped_as_soon_as_it_has_said_where_it_listens() {
    for _ in 0..30 {
        let server = Server::start(&["--drain-grace", "0"]).await;
        server.signal("INT");
        let (status, logs) = server.end().await;
        assert_eq!(status.code(), Some(0), "{logs}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_no_session_id() {
    let server = Server::start(&["--max-sessions", "1"]).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = server.initialize([127, 0, 0, 1]).await.1.expect("a session");
        server.initialized(&id).await;
        ids.push(id);
    }
    let call = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" });
    for id in &ids {
        let response = post(&server.url, [127, 0, 0, 1], Some(id), &call).await;
        // To the end: until it is answered, the call keeps its session in the only place.
        let answer = response.text().await.expect("a body");
        assert!(answer.contains("\"echo\""), "{answer}");
    }
    server.signal("INT");
    let (status, logs) = server.end().await;
    assert_eq!(status.code(), Some(0), "{logs}");
    assert!(logs.contains("evicted"), "the logs are on: {logs}");
    assert!(!ids.iter().any(|id| logs.contains(id)), "an id is a credential: {logs}");
}

#[tokio::test]
async fn says_in_one_line_what_is_wrong_with_a_flag() {
    let wrong = [
        ["--max-sessions", "0"],
        ["--max-sessions", "many"],
        ["--rate", "0/60"],
        ["--rate", "60"],
        ["--rate", "5/0"],
        ["--per-client-rate", "0/60"],
        ["--idle-timeout", "0"],
        ["--idle-timeout", "soon"],
        ["--max-lifetime", "99999999999"],
        ["--init-timeout", "0"],
        ["--eviction", "mru"],
        ["--listen", "nowhere"],
        ["--parked", "some"],
        ["--request-rate", "0/1"],
        ["--sessionless-rate", "0/60"],
        ["--trusted-proxy", "my-proxy"],
        ["--principal-header", "no header"],
        ["--surprise", "me"],
    ];
    for flags in wrong {
        assert_refuses(&flags).await;
    }
}

/// The server ends with code 2 and one line. Returns the line.
async fn assert_refuses(flags: &[&str]) -> String {
    let run = Command::new(binary("server")).args(flags).stdin(Stdio::null()).kill_on_drop(true).output();
    let Output { status, stdout, stderr } = tokio::time::timeout(PATIENCE, run).await.expect("ends").expect("runs");
    let stderr = String::from_utf8(stderr).expect("text");
    assert_eq!(status.code(), Some(2), "{flags:?}: {stderr}");
    assert!(stderr.ends_with('\n') && stderr.lines().count() == 1 && stderr.len() > 20, "{flags:?}: {stderr}");
    assert!(stdout.is_empty(), "{flags:?}");
    stderr
}

/// Calls `echo` in a session; gives the status.
async fn echo(url: &str, session: &str) -> u16 {
    let call = json!({
        "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": { "name": "echo", "arguments": { "text": "still here" } }
    });
    let response = post(url, [127, 0, 0, 1], Some(session), &call).await;
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    assert_eq!(text.contains("still here"), status == 200, "{text}");
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_state_file_sessions_outlive_their_process_whether_it_is_stopped_or_killed() {
    for signal in ["TERM", "KILL"] {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sessions.db");
        let flags = ["--state", file.to_str().expect("text")];
        let server = Server::start(&flags).await;
        let address = server.address().to_owned();
        let mut ids = Vec::new();
        for _ in 0..20 {
            let id = server.initialize([127, 0, 0, 1]).await.1.expect("a session");
            server.initialized(&id).await;
            assert_eq!(echo(&server.url, &id).await, 200);
            ids.push(id);
        }
        let deleted = ids.pop().expect("twenty");
        let gone = reqwest::Client::new().delete(&server.url).header("mcp-session-id", &deleted).send().await;
        assert!(gone.expect("answers").status().is_success());
        // The answer to a DELETE comes after its commit, other changes are committed within a tenth of a second.
        tokio::time::sleep(Duration::from_millis(150)).await;
        server.signal(signal);
        let (_, logs) = server.end().await;

        let server = Server::start_at(&address, &flags).await;
        for id in &ids {
            assert_eq!(echo(&server.url, id).await, 200, "after {signal}: {logs}");
        }
        assert_eq!(echo(&server.url, &deleted).await, 404);
        assert_eq!(echo(&server.url, "an-unknown-id").await, 404);
        assert_eq!(server.health().await["restored"], 19);
        server.signal("KILL");
        drop(server.end().await);
        let bytes = std::fs::read(&file).expect("the file");
        let holds = |id: &String| bytes.windows(id.len()).any(|window| window == id.as_bytes());
        assert!(!ids.iter().any(holds), "an id is a credential");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_counts_on_and_listens_on_whether_its_server_is_stopped_or_killed() {
    for signal in ["TERM", "KILL"] {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sessions.db");
        let flags = ["--state", file.to_str().expect("text")];
        let mut server = Server::start(&flags).await;
        let address = server.address().to_owned();
        let (told, mut notified) = mpsc::unbounded_channel();
        let transport = StreamableHttpClientTransport::from_uri(server.url.clone());
        let client = Client { service: Listening(told).serve(transport).await.expect("connects") };
        for restart in 0..3 {
            for count in 1..=2 {
                assert_eq!(client.count().await.expect("answers"), (2 * restart + count).to_string(), "{signal}");
            }
            // Until the client listens again, as it does by itself some seconds after it has lost its stream.
            let heard = async {
                loop {
                    client.call("notify", json!({})).await.expect("answers");
                    if tokio::time::timeout(Duration::from_millis(200), notified.recv()).await.is_ok() {
                        return;
                    }
                }
            };
            tokio::time::timeout(PATIENCE, heard)
                .await
                .unwrap_or_else(|_| panic!("hears nothing after {restart} restarts by {signal}"));
            // By default, changes are committed within a tenth of a second.
            tokio::time::sleep(Duration::from_millis(150)).await;
            server.signal(signal);
            drop(server.end().await);
            server = Server::start_at(&address, &flags).await;
        }
        assert_eq!(client.count().await.expect("answers"), "7");
        let health = server.health().await;
        assert_eq!((&health["opened"], &health["restored"]), (&json!(0), &json!(1)), "{signal}: {health}");
        server.signal("KILL");
        drop(server.end().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuses_a_state_file_that_is_not_its_own_and_leaves_it_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "a shopping list, which is no database at all").expect("writes");
    let missing = folder.path().join("no/such/folder/sessions.db");
    for file in [&text, &missing] {
        let line = assert_refuses(&["--state", file.to_str().expect("text")]).await;
        assert!(line.contains(file.to_str().expect("text")), "{line}");
    }
    assert_eq!(std::fs::read_to_string(&text).expect("reads"), "a shopping list, which is no database at all");
    assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 1, "nothing was made beside it");
}
