//! An event id is valid for its own session, or for its own principal, and for no other. Tested by raw HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, Response};
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::ResourceUpdatedNotificationParam;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{Peer, RoleServer, schemars, tool, tool_router};
use rmcp_session_policy::admission::{AdmissionPolicyExt, SlidingWindow};
use rmcp_session_policy::http::PolicyLayer;
use rmcp_session_policy::{PolicySessionManager, PolicySessionManagerBuilder};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::events::Events;

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
struct Text {
    text: String,
}

#[derive(Clone)]
struct Tools {
    gate: Arc<Semaphore>,
}

#[tool_router(server_handler)]
impl Tools {
    #[tool(description = "gives the text back")]
    fn echo(&self, Parameters(Text { text }): Parameters<Text>) -> String {
        text
    }

    #[tool(description = "gives the text back once the gate is open")]
    async fn wait(&self, Parameters(Text { text }): Parameters<Text>) -> String {
        self.gate.acquire().await.expect("never closed").forget();
        text
    }

    #[tool(description = "says the text to those who listen")]
    async fn announce(&self, Parameters(Text { text }): Parameters<Text>, peer: Peer<RoleServer>) -> String {
        peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(text)).await.expect("the session is there");
        "announced".to_owned()
    }
}

fn local(events: bool) -> PolicySessionManagerBuilder<LocalSessionManager> {
    let mut inner = LocalSessionManager::default();
    inner.session_config.keep_alive = None;
    inner.session_config.init_timeout = None;
    PolicySessionManager::builder(match events {
        true => inner.with_event_store(Arc::<Events>::default()),
        false => inner,
    })
}

struct Server {
    url: String,
    client: Client,
    gate: Arc<Semaphore>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start<I: SessionManager>(builder: PolicySessionManagerBuilder<I>) -> Self {
        Self::with(builder, |layer| layer).await
    }

    async fn with<I: SessionManager>(
        builder: PolicySessionManagerBuilder<I>,
        set: impl FnOnce(PolicyLayer<I>) -> PolicyLayer<I>,
    ) -> Self {
        let sessions = Arc::new(builder.build().expect("valid"));
        let gate = Arc::new(Semaphore::new(0));
        let mut config = StreamableHttpServerConfig::default();
        config.session_store = Some(sessions.parking());
        let tools = Tools { gate: Arc::clone(&gate) };
        let mcp = StreamableHttpService::new(move || Ok(tools.clone()), Arc::clone(&sessions), config);
        let user = |parts: &http::request::Parts| {
            parts.headers.get("x-user").and_then(|user| user.to_str().ok()).map(str::to_owned)
        };
        let app = axum::Router::new().nest_service("/mcp", set(sessions.layer().principal(user)).layer(mcp));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/mcp", listener.local_addr().expect("bound"));
        let listener = axum::serve::ListenerExt::tap_io(listener, |tcp| tcp.set_nodelay(true).expect("nodelay"));
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        let task = tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") });
        Self { url, client: Client::new(), gate, task }
    }

    fn request(&self, method: Method, user: Option<&str>) -> RequestBuilder {
        let request = self.client.request(method, &self.url).header("accept", "application/json, text/event-stream");
        match user {
            Some(user) => request.header("x-user", user),
            None => request,
        }
    }

    /// A request without a session.
    async fn ask(&self, user: Option<&str>, text: &str) -> Vec<Event> {
        let mut message = call(1, "echo", text);
        message["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {}});
        let request = self.request(Method::POST, user).json(&message);
        let request = request.header("mcp-protocol-version", "2026-07-28");
        read(request.header("mcp-method", "tools/call").header("mcp-name", "echo").send().await.expect("answers")).await
    }

    /// Resumes a stream without a session.
    async fn ask_again(&self, user: Option<&str>, last_event_id: &str) -> Vec<Event> {
        let request = self.request(Method::GET, user).header("mcp-protocol-version", "2026-07-28");
        read(request.header("last-event-id", last_event_id).send().await.expect("answers")).await
    }

    async fn open<'a>(&'a self, user: &'a str) -> Session<'a> {
        let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}});
        let response = self.request(Method::POST, Some(user)).json(&initialize).send().await.expect("answers");
        let id = response.headers()["mcp-session-id"].to_str().expect("text").to_owned();
        read(response).await;
        let session = Session { server: self, user, id };
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let response = session.request(Method::POST).json(&initialized).send().await.expect("answers");
        assert_eq!(response.status(), 202);
        session
    }
}

struct Session<'a> {
    server: &'a Server,
    user: &'a str,
    id: String,
}

impl Session<'_> {
    fn request(&self, method: Method) -> RequestBuilder {
        self.server.request(method, Some(self.user)).header("mcp-session-id", &self.id)
    }

    /// Begins to call a tool.
    async fn begin(&self, id: u64, tool: &str, text: &str) -> Reader {
        let response = self.request(Method::POST).json(&call(id, tool, text)).send().await.expect("begins");
        assert_eq!(response.status(), 200);
        Reader { response, text: String::new() }
    }

    async fn call(&self, id: u64, tool: &str, text: &str) -> Vec<Event> {
        read(self.begin(id, tool, text).await.response).await
    }

    async fn get(&self, last_event_id: &str) -> Response {
        self.request(Method::GET).header("last-event-id", last_event_id).send().await.expect("answers")
    }

    /// Resumes a stream that ends.
    async fn resume(&self, last_event_id: &str) -> Vec<Event> {
        read(self.get(last_event_id).await).await
    }

    async fn listen(&self, last_event_id: &str) -> Reader {
        let response = self.get(last_event_id).await;
        assert_eq!(response.status(), 200);
        Reader { response, text: String::new() }
    }

    /// Resumes a stream that is over.
    async fn assert_over(&self, last_event_id: &str) {
        let response = self.get(last_event_id).await;
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "GET, POST, DELETE");
    }
}

fn call(id: u64, tool: &str, text: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": {"text": text}}})
}

#[derive(Debug)]
struct Event {
    id: String,
    data: String,
}

/// A stream that is read event by event.
struct Reader {
    response: Response,
    text: String,
}

impl Reader {
    /// The next event with an id.
    async fn next(&mut self) -> Event {
        loop {
            while let Some((frame, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let value = frame.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                    value.map(|value| value.trim_start().to_owned())
                };
                let event = field("id").map(|id| Event { id, data: field("data").unwrap_or_default() });
                self.text = rest.to_owned();
                if let Some(event) = event {
                    return event;
                }
            }
            let chunk = self.response.chunk().await.expect("no error").expect("the stream goes on");
            self.text.push_str(std::str::from_utf8(&chunk).expect("text"));
        }
    }
}

/// The events with an id of a stream that ends.
async fn read(response: Response) -> Vec<Event> {
    assert_eq!(response.status(), 200);
    let text = response.text().await.expect("a body");
    let field = |frame: &str, name: &str| {
        let value = frame.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(|value| value.trim_start().to_owned())
    };
    let event = |frame| Some(Event { id: field(frame, "id")?, data: field(frame, "data").unwrap_or_default() });
    text.split("\n\n").filter_map(event).collect()
}

fn holds(events: &[Event], text: &str) -> bool {
    events.iter().any(|event| event.data.contains(text))
}

/// Each id with one byte changed, for some bytes of each part.
fn tampered(id: &str) -> impl Iterator<Item = String> + '_ {
    (0..id.len()).map(|place| {
        let other = if &id[place..=place] == "A" { "B" } else { "A" };
        format!("{}{other}{}", &id[..place], &id[place + 1..])
    })
}

#[tokio::test]
async fn event_ids_replay_for_their_own_session_and_for_no_other() {
    let server = Server::start(local(true)).await;
    let alice = server.open("alice").await;
    let bob = server.open("bob").await;
    let within = alice.call(1, "echo", "alice's answer").await;
    let without = server.ask(Some("alice"), "alice's answer").await;
    for events in [&within, &without] {
        assert!(events.len() == 2 && holds(events, "alice's answer"), "a priming event and the answer: {events:?}");
        let first = &*events[0].id;
        for id in [first, "0.event", "2.event", "0", ""] {
            assert!(server.ask_again(Some("bob"), id).await.is_empty(), "{id}");
            assert!(server.ask_again(None, id).await.is_empty(), "{id}");
        }
        for id in [first, "0.event", "2.event"] {
            assert!(bob.resume(id).await.is_empty(), "{id}");
        }
        for id in tampered(first) {
            assert!(server.ask_again(Some("alice"), &id).await.is_empty(), "{id}");
            assert!(alice.resume(&id).await.is_empty(), "{id}");
        }
    }
    // An id is valid in its own session only.
    let (within, without) = (&*within[0].id, &*without[0].id);
    assert!(holds(&alice.resume(within).await, "alice's answer"));
    assert!(holds(&server.ask_again(Some("alice"), without).await, "alice's answer"));
    assert!(alice.resume(without).await.is_empty());
    assert!(server.ask_again(Some("alice"), within).await.is_empty());
    // A second session of alice is another session.
    assert!(server.open("alice").await.resume(within).await.is_empty());
}

#[tokio::test]
async fn replayed_events_have_ids_to_resume_from() {
    let server = Server::start(local(true)).await;
    let asked = server.ask(Some("alice"), "one").await;
    let again = server.ask_again(Some("alice"), &asked[0].id).await;
    assert_eq!(again.iter().map(|event| &event.id).collect::<Vec<_>>(), [&asked[1].id]);
    assert!(server.ask_again(Some("alice"), &again[0].id).await.is_empty());
    let alice = server.open("alice").await;
    let asked = alice.call(1, "echo", "one").await;
    let again = alice.resume(&asked[0].id).await;
    assert_eq!(again.iter().map(|event| &event.id).collect::<Vec<_>>(), [&asked[1].id]);
}

#[tokio::test]
async fn to_replay_a_stream_without_a_session_takes_the_quota_of_requests_without_one() {
    let limit = SlidingWindow::new(2, Duration::from_secs(3_600)).per_client();
    let server = Server::with(local(true), |layer| layer.sessionless(limit).expect("valid")).await;
    let asked = server.ask(Some("alice"), "one").await;
    let replay = || {
        let request = server.request(Method::GET, Some("alice")).header("mcp-protocol-version", "2026-07-28");
        request.header("last-event-id", &asked[0].id).send()
    };
    let statuses = [replay().await, replay().await].map(|response| response.expect("answers").status().as_u16());
    assert_eq!(statuses, [200, 429]);
}

#[tokio::test]
async fn without_a_principal_an_event_id_alone_permits_a_replay() {
    let server = Server::start(local(true)).await;
    let events = server.ask(None, "an answer to all").await;
    assert!(holds(&server.ask_again(None, &events[0].id).await, "an answer to all"));
    assert!(server.ask_again(Some("bob"), &events[0].id).await.is_empty());
    for id in tampered(&events[0].id) {
        assert!(server.ask_again(None, &id).await.is_empty(), "{id}");
    }
}

#[tokio::test]
async fn a_call_that_lost_its_stream_is_answered_on_another() {
    let server = Server::start(local(false)).await;
    let (alice, bob) = (server.open("alice").await, server.open("bob").await);
    let mut stream = alice.begin(1, "wait", "alice's answer").await;
    let priming = stream.next().await;
    drop(stream);
    for id in tampered(&priming.id).chain(["0/0".to_owned(), "0/1".to_owned()]) {
        assert!(alice.resume(&id).await.is_empty(), "{id}");
    }
    assert!(bob.resume(&priming.id).await.is_empty());
    let mut resumed = alice.listen(&priming.id).await;
    // rmcp repeats the event that it is asked to go on from.
    assert_eq!(resumed.next().await.id, priming.id);
    server.gate.add_permits(1);
    let answer = resumed.next().await;
    assert!(answer.data.contains("alice's answer"), "{answer:?}");
    assert_ne!(answer.id, priming.id);
    // rmcp forgets a request with its answer.
    alice.assert_over(&answer.id).await;
    alice.assert_over(&priming.id).await;
    assert!(bob.resume(&answer.id).await.is_empty());
}

#[tokio::test]
async fn with_an_event_store_a_stream_is_over_once_its_answer_was_replayed() {
    let server = Server::start(local(true)).await;
    let (alice, bob) = (server.open("alice").await, server.open("bob").await);
    let mut stream = alice.begin(1, "wait", "alice's answer").await;
    let priming = stream.next().await;
    drop(stream);
    // The call is still in flight, so its answer may still come.
    assert!(alice.resume(&priming.id).await.is_empty());
    server.gate.add_permits(1);
    let answer = loop {
        match alice.get(&priming.id).await {
            response if response.status() == 200 => match read(response).await.pop() {
                Some(answer) => break answer,
                None => tokio::task::yield_now().await,
            },
            response => panic!("{response:?}"),
        }
    };
    assert!(answer.data.contains("alice's answer"), "{answer:?}");
    alice.assert_over(&answer.id).await;
    assert!(bob.resume(&answer.id).await.is_empty());
}

#[tokio::test]
async fn a_finished_stream_is_over_though_other_calls_are_in_flight() {
    for events in [false, true] {
        let server = Server::start(local(events)).await;
        let alice = server.open("alice").await;
        let mut at_work = alice.begin(2, "wait", "the other answer").await;
        at_work.next().await;
        let answer = alice.call(1, "echo", "alice's answer").await.pop().expect("an answer");
        assert!(answer.data.contains("alice's answer"), "{answer:?}");
        alice.assert_over(&answer.id).await;
        server.gate.add_permits(1);
        assert!(at_work.next().await.data.contains("the other answer"));
    }
}

#[tokio::test]
async fn the_id_of_rmcp_s_own_priming_event_opens_a_listening_stream() {
    for events in [false, true] {
        let server = Server::start(local(events)).await;
        let alice = server.open("alice").await;
        let mut listening = alice.listen("0").await;
        alice.call(1, "announce", "test:///one").await;
        let heard = listening.next().await;
        assert!(heard.data.contains("test:///one"), "{heard:?}");
    }
}

#[tokio::test]
async fn a_listening_stream_goes_on_after_what_was_heard() {
    let server = Server::start(local(false)).await;
    let (alice, bob) = (server.open("alice").await, server.open("bob").await);
    let mut listening = alice.listen("0").await;
    alice.call(1, "announce", "test:///one").await;
    let one = listening.next().await;
    drop(listening);
    alice.call(2, "announce", "test:///two").await;
    assert!(bob.resume(&one.id).await.is_empty());
    let mut listening = alice.listen(&one.id).await;
    // rmcp repeats the event that it is asked to go on from, with the same id.
    assert_eq!(listening.next().await.id, one.id);
    assert!(listening.next().await.data.contains("test:///two"));
}

#[tokio::test]
async fn after_a_restore_an_old_listening_id_opens_a_new_stream_and_an_old_request_s_has_one_answer() {
    let server = Server::start(local(false).max_sessions(1)).await;
    let alice = server.open("alice").await;
    let mut listening = alice.listen("0").await;
    let mut last = None;
    for turn in 1..=3 {
        alice.call(turn, "announce", "test:///old").await;
        last = Some(listening.next().await);
    }
    let last = last.expect("three");
    let request = alice.call(4, "echo", "old").await.pop().expect("an answer");
    let other = alice.call(5, "echo", "old").await.pop().expect("an answer");
    drop(listening);
    // Bob's session evicts alice's, and hers evicts his.
    let bob = server.open("bob").await;
    assert!(bob.id != alice.id);
    alice.call(1, "announce", "test:///new").await;
    // In the new incarnation, the old ids would name an event that does not exist yet, and the stream of another
    // request.
    for turn in 2..=3 {
        alice.call(turn, "echo", "more").await;
    }
    let mut waiting = alice.begin(4, "wait", "new").await;
    waiting.next().await;
    alice.assert_over(&request.id).await;
    let told = alice.resume(&other.id).await.pop().expect("an answer");
    assert!(told.data.contains("\"id\":5") && told.data.contains("may or may not have had its effect"), "{told:?}");
    alice.assert_over(&told.id).await;
    let mut listening = alice.listen(&last.id).await;
    let heard = listening.next().await;
    assert!(heard.data.contains("test:///new"), "{heard:?}");
    server.gate.add_permits(1);
    assert!(waiting.next().await.data.contains("new"), "and no other client took its stream");
}

#[tokio::test]
async fn event_ids_work_through_stacked_managers() {
    for events in [false, true] {
        let inner = local(events).build().expect("valid");
        let server = Server::start(PolicySessionManager::builder(inner)).await;
        let (alice, bob) = (server.open("alice").await, server.open("bob").await);
        let mut stream = alice.begin(1, "wait", "alice's answer").await;
        let priming = stream.next().await;
        drop(stream);
        if events {
            let asked = server.ask(Some("alice"), "alice's answer").await;
            assert!(holds(&server.ask_again(Some("alice"), &asked[0].id).await, "alice's answer"));
            assert!(server.ask_again(Some("bob"), &asked[0].id).await.is_empty());
        } else {
            let mut resumed = alice.listen(&priming.id).await;
            server.gate.add_permits(1);
            assert_eq!(resumed.next().await.id, priming.id);
            let answer = resumed.next().await;
            assert!(answer.data.contains("alice's answer"), "{answer:?}");
            alice.assert_over(&answer.id).await;
        }
        assert!(bob.resume(&priming.id).await.is_empty());
        let mut listening = alice.listen("0").await;
        alice.call(2, "announce", "test:///one").await;
        assert!(listening.next().await.data.contains("test:///one"));
    }
}
