//! docs/design.md, L15.
//!
//! A drain loses no answer, does not wait for clients that have stopped reading, and covers requests without a session.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::by_hand::{answer, in_a_call};
use crate::parked::{ready, scripted};
use crate::session::{Driver, initialize_params, settle};
use axum::body::{Body, BodyDataStream, Bytes};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use http::{Request, Response};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, InitializeRequestParams, InitializeResult,
    ProgressNotificationParam, ServerCapabilities, ServerConfig, SubscriptionFilter,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService, Transport};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use rmcp_session_policy::eviction::SessionInfo;
use rmcp_session_policy::http::{PolicyLayer, PolicyService};
use rmcp_session_policy::{
    ClientContext, CloseReason, DrainReport, HOUR, MINUTE, PolicySessionManager, PolicySessionManagerBuilder,
    RejectionReason, SECOND, SessionEvent, SessionObserver,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

type Manager = PolicySessionManager<LocalSessionManager>;

fn manager(
    configure: impl FnOnce(
        PolicySessionManagerBuilder<LocalSessionManager>,
    ) -> PolicySessionManagerBuilder<LocalSessionManager>,
) -> Arc<Manager> {
    Arc::new(configure(PolicySessionManager::local()).build().expect("valid"))
}

const fn every_session(_: &SessionInfo<'_>) -> bool {
    true
}

fn drain(sessions: &Arc<Manager>, deadline: Duration) -> JoinHandle<DrainReport> {
    let sessions = Arc::clone(sessions);
    tokio::spawn(async move { sessions.drain(deadline).await })
}

/// A handler with a slow `initialize`, and tools that are named by what they do.
#[derive(Clone, Debug, Default)]
struct Handler {
    initialize: Duration,
}

impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().enable_tool_list_changed().build())
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        sleep(self.initialize).await;
        context.peer.set_peer_info(request.clone());
        self.negotiate_initialize(&request)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        if request.name == "chatter" {
            let token = context.meta.get_progress_token().expect("a progress token");
            context.peer.notify_progress(ProgressNotificationParam::new(token, 1.0)).await.expect("sent");
        }
        let millis = request.arguments.unwrap_or_default()["millis"].as_u64().expect("a number");
        sleep(Duration::from_millis(millis)).await;
        Ok(CallToolResult::success(vec![ContentBlock::text(format!("slept {millis}"))]).into())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }
}

/// rmcp's service with the layer, in process.
#[derive(Clone)]
struct Edge {
    sessions: Arc<Manager>,
    service: PolicyService<StreamableHttpService<Handler, Manager>, LocalSessionManager>,
}

impl Edge {
    fn new(
        handler: Handler,
        configure: impl FnOnce(
            PolicySessionManagerBuilder<LocalSessionManager>,
        ) -> PolicySessionManagerBuilder<LocalSessionManager>,
    ) -> Self {
        Self::with_layer(handler, configure, |layer| layer)
    }

    fn with_layer(
        handler: Handler,
        configure: impl FnOnce(
            PolicySessionManagerBuilder<LocalSessionManager>,
        ) -> PolicySessionManagerBuilder<LocalSessionManager>,
        set: impl FnOnce(PolicyLayer<LocalSessionManager>) -> PolicyLayer<LocalSessionManager>,
    ) -> Self {
        let sessions = manager(configure);
        let mut config = StreamableHttpServerConfig::default();
        config.session_store = Some(sessions.parking());
        config.sse_keep_alive = None;
        let mcp = StreamableHttpService::new(move || Ok(handler.clone()), Arc::clone(&sessions), config);
        let service = set(sessions.layer()).layer(mcp);
        Self { sessions, service }
    }

    async fn send(&self, method: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri("http://localhost/mcp")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = request.body(body).expect("a request");
        let response: Result<_, Infallible> = self.service.clone().oneshot(request).await;
        Answer::of(response.expect("answers").map(Body::new))
    }

    async fn initialize(&self, id: &str) -> Answer {
        let body = json!({"jsonrpc": "2.0", "id": id, "method": "initialize", "params": initialize_params()});
        self.send("POST", &[], Some(&body)).await
    }

    async fn within(&self, session: &str, body: &Value) -> Answer {
        self.send("POST", &[("mcp-session-id", session), ("mcp-protocol-version", "2025-11-25")], Some(body)).await
    }

    /// Sends a request of protocol 2026-07-28.
    async fn late(&self, id: &str, method: &str, mut params: Value) -> Answer {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
            "progressToken": "p",
        });
        let mut headers = vec![("mcp-protocol-version", "2026-07-28"), ("mcp-method", method)];
        let tool = params["name"].as_str().map(str::to_owned);
        if let Some(tool) = &tool {
            headers.push(("mcp-name", tool));
        }
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.send("POST", &headers, Some(&body)).await
    }

    async fn call(&self, id: &str, tool: &str, millis: u64) -> Answer {
        self.late(id, "tools/call", json!({"name": tool, "arguments": {"millis": millis}})).await
    }

    async fn listen(&self, id: &str) -> Answer {
        self.late(id, "subscriptions/listen", json!({"notifications": {"toolsListChanged": true}})).await
    }

    fn spawn_call(&self, id: &'static str, tool: &'static str, millis: u64) -> JoinHandle<Answer> {
        let edge = self.clone();
        tokio::spawn(async move { edge.call(id, tool, millis).await })
    }
}

/// A response. Only the parts of its body that a test reads are taken.
struct Answer {
    status: u16,
    session: Option<String>,
    retry_after: bool,
    body: Pin<Box<BodyDataStream>>,
}

impl Answer {
    fn of(response: Response<Body>) -> Self {
        let session = response.headers().get("mcp-session-id").map(|id| id.to_str().expect("text").to_owned());
        let retry_after = response.headers().contains_key("retry-after");
        let (status, body) = (response.status().as_u16(), Box::pin(response.into_body().into_data_stream()));
        Self { status, session, retry_after, body }
    }

    /// The next frame, once it is there.
    async fn frame(&mut self) -> Option<String> {
        let frame: Option<Result<Bytes, _>> = self.body.next().await;
        frame.map(|frame| String::from_utf8(frame.expect("no error").to_vec()).expect("text"))
    }

    /// Asks for the next frame, which is not there yet.
    fn ask(&mut self) {
        assert!(self.body.next().now_or_never().is_none(), "nothing is there");
    }

    /// What is left, to the end.
    async fn rest(mut self) -> String {
        let mut all = String::new();
        while let Some(frame) = self.frame().await {
            all.push_str(&frame);
        }
        all
    }

    /// The JSON-RPC messages that are left.
    async fn messages(self) -> Vec<Value> {
        let text = self.rest().await;
        let data = text.lines().map(|line| line.strip_prefix("data:").unwrap_or(line));
        data.filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_until_an_answer_has_left_its_stream() {
    let sessions = manager(|b| b);
    let alice = Driver::ready(&sessions).await.expect("room");
    let mut call = alice.sleep(1_000).await.expect("lives");
    // Polls as a server does: the frame is not there yet, and its arrival wakes the task.
    assert!(call.next().now_or_never().is_none());
    sleep(2 * SECOND).await;
    assert_eq!(sessions.stats().busy, 0, "it is answered");
    let draining = drain(&sessions, HOUR);
    sleep(MINUTE).await;
    assert!(!draining.is_finished(), "and the answer is still in its stream");
    assert_eq!(call.next().await.expect("the answer")["result"]["content"][0]["text"], "slept 1000");
    sleep(SECOND).await;
    assert!(draining.is_finished());
    assert_eq!(draining.await.expect("no panic").finished, 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_an_answer_in_a_stream_no_longer_than_its_deadline() {
    let sessions = manager(|b| b);
    let alice = Driver::ready(&sessions).await.expect("room");
    let mut call = alice.sleep(1_000).await.expect("lives");
    assert!(call.next().now_or_never().is_none());
    sleep(2 * SECOND).await;
    let begun = Instant::now();
    assert_eq!(sessions.drain(10 * SECOND).await.finished, 1);
    assert_eq!(begun.elapsed(), 10 * SECOND);
    assert_eq!(call.text().await, "slept 1000", "which takes nothing from the client");
}

#[tokio::test(start_paused = true)]
async fn drains_and_terminations_do_not_wait_for_a_client_that_has_stopped_reading() {
    for drains in [true, false] {
        let sessions = manager(|b| b);
        let alice = Driver::ready(&sessions).await.expect("room");
        let mut call = alice.call("chatter", json!({ "messages": 3 })).await.expect("lives");
        call.next().await.expect("the first message");
        settle().await;
        let begun = Instant::now();
        if drains {
            assert_eq!(sessions.drain(HOUR).await.finished, 1);
        } else {
            assert_eq!(sessions.terminate(every_session, CloseReason::Revoked).await, 1);
        }
        assert!(begun.elapsed() <= Duration::from_millis(100), "{:?}", begun.elapsed());
        assert_eq!(call.text().await, "said it all", "what is there stays there");
    }
}

#[tokio::test(start_paused = true)]
async fn a_termination_waits_a_tenth_of_a_second_for_an_answer_in_its_stream() {
    let sessions = manager(|b| b);
    let alice = Driver::ready(&sessions).await.expect("room");
    let mut call = alice.sleep(1_000).await.expect("lives");
    assert!(call.next().now_or_never().is_none());
    sleep(2 * SECOND).await;
    let begun = Instant::now();
    assert_eq!(sessions.terminate(every_session, CloseReason::Revoked).await, 1);
    assert_eq!(begun.elapsed(), Duration::from_millis(100));
    assert_eq!(call.text().await, "slept 1000");
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_refusal_of_a_call_that_came_meanwhile() {
    let sessions = manager(|b| b);
    let alice = Driver::ready(&sessions).await.expect("room");
    let running = tokio::spawn(alice.sleep(1_000).await.expect("lives").text());
    let draining = drain(&sessions, HOUR);
    settle().await;
    let late = alice.call_as(json!("late"), "echo", json!({ "text": "e" })).await.expect("a stream");
    sleep(SECOND + Duration::from_millis(50)).await;
    assert!(!draining.is_finished(), "its answer has a tenth of a second");
    assert_eq!(late.error().await, (json!("late"), 503));
    assert_eq!(running.await.expect("no panic"), "slept 1000");
    settle().await;
    assert!(draining.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_call_in_a_session_that_was_drained_is_refused_and_not_404() {
    let edge = Edge::new(Handler::default(), |b| b);
    let answer = edge.initialize("i").await;
    let session = answer.session.clone().expect("a session");
    answer.rest().await;
    let running = edge.spawn_call("running", "sleep", 10_000);
    settle().await;
    let draining = drain(&edge.sessions, HOUR);
    settle().await;
    assert_eq!(edge.sessions.stats().live, 0, "it was idle");
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"});
    for over in [false, true] {
        let answer = edge.within(&session, &list).await;
        assert_eq!(answer.status, 200, "{over}: anything else ends some clients");
        let message = &answer.messages().await[0];
        assert_eq!((&message["id"], &message["error"]["code"]), (&json!(2), &json!(503)), "{over}: {message}");
        assert_eq!(message["error"]["data"]["reason"], "draining", "{over}");
        if !over {
            assert_eq!(running.is_finished(), over);
            sleep(11 * SECOND).await;
            assert!(draining.is_finished());
        }
    }
    assert_eq!(running.await.expect("no panic").status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_until_a_call_was_told_that_it_is_cut_off() {
    let sessions = manager(|b| b);
    let (_id, mut transport, mut call) = in_a_call(&sessions).await;
    assert!(call.next().await.is_some_and(|event| event.message.is_none()), "a priming event");
    // Polls as a server does.
    assert!(call.next().now_or_never().is_none());
    // The answer never arrives, so the end of the session takes it along.
    let _stuck = transport.send(answer(1, json!({ "tools": [] })));
    let closing = tokio::spawn({
        let sessions = Arc::clone(&sessions);
        async move { sessions.terminate(every_session, CloseReason::Revoked).await }
    });
    settle().await;
    assert_eq!(sessions.stats().closing, 1);
    let draining = drain(&sessions, HOUR);
    sleep(MINUTE).await;
    assert_eq!((closing.await.expect("no panic"), sessions.stats().live), (1, 0));
    assert!(!draining.is_finished(), "the session is gone, and its client is not told yet");
    let told = call.next().await.and_then(|event| event.message).expect("a message");
    let told = serde_json::to_value(&*told).expect("JSON");
    assert_eq!((&told["id"], &told["error"]["data"]["reason"]), (&json!(1), &json!("revoked")), "{told}");
    assert!(call.next().await.is_none());
    drop(call);
    let report = draining.await.expect("no panic");
    assert_eq!((report.finished, report.cut_off, report.stuck), (0, 0, 0), "its close had begun before");
}

/// Holds a session for requests, until the first session is closed: then all these requests are given up.
#[derive(Clone, Default)]
struct GiveUp(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl fmt::Debug for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GiveUp").finish_non_exhaustive()
    }
}

impl SessionObserver for GiveUp {
    fn observe(&self, event: &SessionEvent<'_>) {
        if let SessionEvent::Closed { .. } = event {
            self.0.lock().expect("no panic").clear();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_becomes_idle_after_the_last_look_of_a_drain_counts_as_finished() {
    let requests = GiveUp::default();
    let (_inner, sessions) = scripted(|b| b.observer(requests.clone()));
    let mut transports = Vec::new();
    for _ in 0..2 {
        let (id, transport) = ready(&sessions).await;
        transports.push(transport);
        let request = {
            let sessions = Arc::clone(&sessions);
            async move {
                assert!(sessions.has_session(&id).await.expect("asks"));
                std::future::pending().await
            }
        };
        let mut request = ClientContext::new().scope(request).boxed();
        assert!(futures_util::poll!(&mut request).is_pending());
        requests.0.lock().expect("no panic").push(request);
    }
    assert_eq!(sessions.stats().busy, 2);
    // At the deadline both are busy. The close of the first one ends the request of the second.
    let report = sessions.drain(SECOND).await;
    assert_eq!((report.finished, report.cut_off), (1, 1));
    assert_eq!(sessions.stats().closed(CloseReason::Drained), 2);
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_until_the_answer_to_an_initialize_has_left_its_body() {
    let edge = Edge::new(Handler::default(), |b| b);
    let mut answer = edge.initialize("i").await;
    assert_eq!(answer.status, 200);
    let priming = answer.frame().await.expect("a priming event");
    assert!(!priming.contains("jsonrpc"), "{priming}");
    let draining = drain(&edge.sessions, HOUR);
    sleep(Duration::from_millis(50)).await;
    assert!(!draining.is_finished());
    assert_eq!(answer.messages().await[0]["id"], "i");
    settle().await;
    assert!(draining.is_finished());
    // A drain waits a tenth of a second for an answer that is not read.
    let edge = Edge::new(Handler::default(), |b| b);
    let _unread = edge.initialize("i").await;
    let begun = Instant::now();
    assert_eq!(edge.sessions.drain(HOUR).await.finished, 1);
    assert!(begun.elapsed() <= Duration::from_millis(200), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_initialize_that_is_cut_off_is_503_with_its_id() {
    let slow = || Handler { initialize: HOUR };
    for by in ["drain", "terminate", "max_busy", "lifetime"] {
        let edge = Edge::new(slow(), |b| match by {
            "lifetime" => b.max_lifetime(MINUTE),
            _ => b.max_busy(5 * MINUTE),
        });
        let opening = {
            let edge = edge.clone();
            tokio::spawn(async move { edge.initialize("mine").await })
        };
        settle().await;
        let reason = match by {
            "drain" => {
                assert_eq!(edge.sessions.drain(SECOND).await.cut_off, 1);
                RejectionReason::Draining
            }
            "terminate" => {
                assert_eq!(edge.sessions.terminate(every_session, CloseReason::Revoked).await, 1);
                RejectionReason::CutOff
            }
            _ => RejectionReason::CutOff,
        };
        let answer = opening.await.expect("no panic");
        assert_eq!((answer.status, answer.retry_after, answer.session.is_some()), (503, true, false), "{by}");
        let messages = answer.messages().await;
        let error = &messages[0]["error"];
        assert_eq!((&messages[0]["id"], &error["code"]), (&json!("mine"), &json!(503)), "{by}: {messages:?}");
        assert_eq!(error["data"]["reason"], reason.as_str(), "{by}");
        assert_eq!(edge.sessions.stats().rejected(reason), 1, "{by}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_init_timeout_waits_for_the_client_and_max_busy_for_the_handler() {
    let edge = Edge::new(Handler { initialize: MINUTE }, |b| b.init_timeout(10 * SECOND));
    let answer = edge.initialize("i").await;
    assert_eq!(answer.status, 200, "the client waits for the handler, not the other way round");
    answer.rest().await;
    sleep(9 * SECOND).await;
    assert_eq!(edge.sessions.stats().opening, 1, "the client's time counts from the answer");
    sleep(2 * SECOND).await;
    assert_eq!(edge.sessions.stats().closed(CloseReason::InitTimeout), 1);
    let edge = Edge::new(Handler { initialize: HOUR }, |b| b.init_timeout(10 * SECOND).max_busy(MINUTE));
    let begun = Instant::now();
    assert_eq!(edge.initialize("i").await.status, 503);
    assert!((MINUTE..MINUTE + SECOND).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!(edge.sessions.stats().closed(CloseReason::InitTimeout), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_says_initialized_is_not_half_open_once_it_listens_or_was_answered() {
    for act in ["listen", "ping", "list"] {
        let edge = Edge::new(Handler::default(), |b| b.init_timeout(10 * SECOND));
        let answer = edge.initialize("i").await;
        let session = answer.session.clone().expect("a session");
        answer.rest().await;
        let request = |method: &str| json!({"jsonrpc": "2.0", "id": 2, "method": method});
        let mut listening = None;
        match act {
            "listen" => {
                let headers = [("mcp-session-id", session.as_str()), ("mcp-protocol-version", "2025-11-25")];
                let answer = edge.send("GET", &headers, None).await;
                assert_eq!(answer.status, 200);
                listening = Some(answer);
            }
            "ping" => assert!(edge.within(&session, &request("ping")).await.rest().await.contains("result")),
            _ => assert!(edge.within(&session, &request("tools/list")).await.rest().await.contains("result")),
        }
        let stats = edge.sessions.stats();
        assert_eq!((stats.opening, stats.ready), (0, 1), "{act}");
        sleep(MINUTE).await;
        assert_eq!(edge.sessions.stats().ready, 1, "{act}");
        drop(listening);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ran_into_the_init_timeout_after_its_answer_comes_back() {
    let edge = Edge::new(Handler::default(), |b| b.init_timeout(10 * SECOND));
    let answer = edge.initialize("i").await;
    let session = answer.session.clone().expect("a session");
    answer.rest().await;
    sleep(11 * SECOND).await;
    let stats = edge.sessions.stats();
    assert_eq!((stats.live, stats.parked, stats.closed(CloseReason::InitTimeout)), (0, 1, 1));
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"});
    let answer = edge.within(&session, &list).await;
    assert_eq!(answer.status, 200);
    assert!(answer.rest().await.contains("\"tools\""));
    assert_eq!(edge.sessions.stats().restored, 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_client_hung_up_before_the_answer_is_not_parked() {
    for reads in [0, 1, 2] {
        let edge = Edge::new(Handler::default(), |b| b.init_timeout(10 * SECOND));
        let mut answer = edge.initialize("i").await;
        assert_eq!(answer.status, 200);
        for _ in 0..reads {
            answer.frame().await.expect("a priming event, then the answer");
        }
        drop(answer);
        sleep(11 * SECOND).await;
        let stats = edge.sessions.stats();
        assert_eq!((stats.live, stats.parked), (0, usize::from(reads == 2)), "{reads} frames were read");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_initialize_was_never_answered_is_not_parked() {
    let edge = Edge::new(Handler { initialize: HOUR }, |b| b.max_busy(MINUTE));
    assert_eq!(edge.initialize("i").await.status, 503);
    let stats = edge.sessions.stats();
    assert_eq!((stats.parked, stats.closed(CloseReason::InitTimeout)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_calls_without_a_session_finish() {
    let edge = Edge::new(Handler::default(), |b| b);
    let calls = [edge.spawn_call("quiet", "sleep", 2_000), edge.spawn_call("loud", "chatter", 3_000)];
    settle().await;
    let begun = Instant::now();
    let draining = drain(&edge.sessions, HOUR);
    settle().await;
    let refused = edge.call("late", "sleep", 1).await;
    assert_eq!((refused.status, refused.retry_after), (503, true));
    assert_eq!(refused.messages().await[0]["id"], "late");
    for (call, text) in calls.into_iter().zip(["slept 2000", "slept 3000"]) {
        let answer = call.await.expect("no panic");
        assert_eq!(answer.status, 200);
        let text_of = |message: &Value| message["result"]["content"][0]["text"].clone();
        assert_eq!(text_of(answer.messages().await.last().expect("an answer")), text);
    }
    let report = draining.await.expect("no panic");
    assert!((2 * SECOND..4 * SECOND).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!((report.calls_finished, report.calls_cut_off, report.listeners), (2, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_drain_cuts_calls_without_a_session_off_at_its_deadline() {
    let edge = Edge::new(Handler::default(), |b| b);
    let quiet = edge.spawn_call("quiet", "sleep", HOUR.as_millis() as u64);
    let loud = edge.call("loud", "chatter", HOUR.as_millis() as u64).await;
    assert_eq!(loud.status, 200, "its head is out");
    let loud = tokio::spawn(loud.messages());
    settle().await;
    let begun = Instant::now();
    let report = edge.sessions.drain(10 * SECOND).await;
    assert!((10 * SECOND..11 * SECOND).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!((report.calls_finished, report.calls_cut_off), (0, 2));
    let quiet = quiet.await.expect("no panic");
    assert_eq!((quiet.status, quiet.retry_after), (503, true));
    let message = &quiet.messages().await[0];
    assert_eq!((&message["id"], &message["error"]["code"]), (&json!("quiet"), &json!(503)));
    let messages = loud.await.expect("no panic");
    let [progress, error] = &messages[..] else { panic!("two events: {messages:?}") };
    assert_eq!(progress["method"], "notifications/progress");
    assert_eq!((&error["id"], &error["error"]["code"]), (&json!("loud"), &json!(503)));
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_an_unread_call_without_a_session() {
    let edge = Edge::new(Handler::default(), |b| b);
    let _unread = edge.call("loud", "chatter", HOUR.as_millis() as u64).await;
    settle().await;
    let begun = Instant::now();
    let report = edge.sessions.drain(HOUR).await;
    assert!(begun.elapsed() <= Duration::from_millis(200), "{:?}", begun.elapsed());
    assert_eq!((report.calls_finished, report.calls_cut_off), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_finished_answer_without_a_session_is_not_followed_by_an_error() {
    let edge = Edge::new(Handler::default(), |b| b);
    let mut answer = edge.call("loud", "chatter", 1_000).await;
    while !answer.frame().await.expect("the answer is to come").contains("slept 1000") {}
    // The answer is read, the end of the body is not.
    edge.sessions.drain(SECOND).await;
    assert_eq!(answer.rest().await, "");
}

#[tokio::test(start_paused = true)]
async fn listening_streams_without_a_session_end_once_the_calls_are_done() {
    let edge = Edge::new(Handler::default(), |b| b);
    let mut listening = edge.listen("l").await;
    assert_eq!(listening.status, 200);
    assert!(listening.frame().await.expect("an acknowledgment").contains("acknowledged"));
    listening.ask();
    assert_eq!(edge.sessions.stats().listeners, 1);
    let listening = tokio::spawn(listening.messages());
    let call = edge.spawn_call("quiet", "sleep", 2_000);
    settle().await;
    let draining = drain(&edge.sessions, HOUR);
    sleep(SECOND).await;
    assert!(!listening.is_finished(), "a call is under way");
    assert_eq!(call.await.expect("no panic").status, 200);
    let report = draining.await.expect("no panic");
    assert_eq!((report.calls_finished, report.calls_cut_off, report.listeners), (1, 0, 1));
    let messages = listening.await.expect("no panic");
    assert_eq!((messages.len(), &messages[0]["id"]), (1, &json!("l")), "{messages:?}");
    assert_eq!(messages[0]["result"]["resultType"], "complete", "as MCP ends a subscription: {messages:?}");
    assert_eq!(edge.sessions.stats().listeners, 0);
}

#[tokio::test(start_paused = true)]
async fn listening_streams_without_a_session_are_bounded() {
    let edge = Edge::with_layer(Handler::default(), |b| b, |layer| layer.max_listeners(2));
    let listening = [edge.listen("1").await, edge.listen("2").await];
    let refused = edge.listen("3").await;
    assert_eq!((refused.status, refused.retry_after), (503, true));
    let message = &refused.messages().await[0];
    assert_eq!((&message["id"], &message["error"]["data"]["policy"]), (&json!("3"), &json!("listeners")));
    assert_eq!(edge.call("c", "sleep", 1).await.status, 200, "calls are none");
    drop(listening);
    assert_eq!(edge.listen("4").await.status, 200);
    let edge = Edge::new(Handler::default(), |b| b.max_sessions(1));
    let _listening = edge.listen("1").await;
    assert_eq!(edge.listen("2").await.status, 503, "by default as many as sessions");
}

#[tokio::test(start_paused = true)]
async fn before_a_drain_newcomers_can_be_refused_while_sessions_are_served() {
    let edge = Edge::new(Handler::default(), |b| b);
    let open = || async {
        let answer = edge.initialize("i").await;
        let session = answer.session.clone().expect("a session");
        answer.rest().await;
        session
    };
    let (alice, parked) = (open().await, open().await);
    edge.sessions.terminate(|session: &SessionInfo<'_>| session.key().index() == 1, CloseReason::Idle).await;
    assert!(!edge.sessions.is_draining() && !edge.sessions.stats().draining);
    edge.sessions.refuse_newcomers();
    assert!(edge.sessions.is_draining() && edge.sessions.stats().draining);
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"});
    for session in [&alice, &parked] {
        assert!(edge.within(session, &list).await.rest().await.contains("\"tools\""));
    }
    assert_eq!(edge.call("c", "sleep", 1).await.status, 200, "a request without a session is no newcomer");
    let refused = edge.initialize("new").await;
    assert_eq!((refused.status, refused.retry_after), (503, true));
    let message = &refused.messages().await[0];
    assert_eq!((&message["id"], &message["error"]["data"]["reason"]), (&json!("new"), &json!("draining")));
    assert_eq!(edge.sessions.drain(SECOND).await.finished, 2);
}
