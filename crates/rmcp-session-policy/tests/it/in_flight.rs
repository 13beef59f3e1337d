//! docs/design.md, L5.
//!
//! A request is in flight until its handler is done, not until its stream ends. One id has at most one request in flight.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Poll;
use std::time::Duration;

use crate::by_hand::{Events, in_a_call, told};
use crate::scripted::list_tools;
use crate::session::{Driver, Http, Millis, Replies, error_code, message, settle};
use async_trait::async_trait;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    ClientJsonRpcMessage, CustomRequest, CustomResult, ErrorData, ReadResourceRequestParams, ReadResourceResponse,
};
use rmcp::service::{Peer, RequestContext};
use rmcp::transport::Transport;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::{RoleServer, ServerHandler, tool, tool_router};
use rmcp_session_policy::admission::{AdmissionPolicy, AdmissionPolicyExt, Arrival, Concurrent, Permit, Rejection};
use rmcp_session_policy::eviction::SessionInfo;
use rmcp_session_policy::{
    ClientContext, CloseReason, MINUTE, PolicySessionManager, PolicySessionManagerBuilder, SECOND,
};
use serde_json::{Value, json};
use tokio::time::sleep;

type Manager = PolicySessionManager<LocalSessionManager>;

fn manager(
    configure: impl FnOnce(
        PolicySessionManagerBuilder<LocalSessionManager>,
    ) -> PolicySessionManagerBuilder<LocalSessionManager>,
) -> Arc<Manager> {
    Arc::new(configure(PolicySessionManager::local()).build().expect("valid"))
}

/// Counts the handlers at work.
#[derive(Clone, Debug, Default)]
struct Worker {
    running: Arc<AtomicUsize>,
}

struct Running(Arc<AtomicUsize>);

impl Running {
    fn count(running: &Arc<AtomicUsize>) -> Self {
        running.fetch_add(1, SeqCst);
        Self(Arc::clone(running))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[tool_router(server_handler)]
impl Worker {
    #[tool(description = "works on whatever its client says, and keeps nothing of the request")]
    async fn work(&self, Parameters(Millis { millis }): Parameters<Millis>) -> String {
        let _running = Running::count(&self.running);
        sleep(Duration::from_millis(millis)).await;
        "worked".to_owned()
    }

    #[tool(description = "works until its client cancels it")]
    async fn obey(&self, context: RequestContext<RoleServer>) -> String {
        let _running = Running::count(&self.running);
        context.ct.cancelled().await;
        "obeyed".to_owned()
    }

    #[tool(description = "answers, and keeps the context of the request for a while")]
    async fn keep(
        &self,
        Parameters(Millis { millis }): Parameters<Millis>,
        context: RequestContext<RoleServer>,
    ) -> String {
        tokio::spawn(async move {
            sleep(Duration::from_millis(millis)).await;
            drop(context);
        });
        "kept".to_owned()
    }

    #[tool(description = "panics after a while")]
    async fn explode_later(&self, Parameters(Millis { millis }): Parameters<Millis>) -> String {
        sleep(Duration::from_millis(millis)).await;
        panic!("as asked")
    }

    #[tool(description = "says the id of the request")]
    async fn id(&self, context: RequestContext<RoleServer>) -> String {
        context.id.to_string()
    }

    #[tool(description = "asks the client for its roots")]
    async fn ask(&self, client: Peer<RoleServer>) -> String {
        #[expect(deprecated, reason = "what any client of a session may be asked")]
        let roots = client.list_roots().await.map(|answer| answer.roots.len());
        roots.map_or_else(|error| error.to_string(), |roots| format!("{roots} roots"))
    }
}

/// Reads and completes until the client cancels that.
#[derive(Clone, Debug, Default)]
struct Patient {
    cancelled: Arc<AtomicUsize>,
}

impl Patient {
    async fn wait(&self, context: RequestContext<RoleServer>) -> ErrorData {
        context.ct.cancelled().await;
        self.cancelled.fetch_add(1, SeqCst);
        ErrorData::internal_error("cancelled", None)
    }
}

impl ServerHandler for Patient {
    async fn read_resource(
        &self,
        _: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        Err(self.wait(context).await)
    }

    async fn on_custom_request(
        &self,
        _: CustomRequest,
        context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        Err(self.wait(context).await)
    }
}

async fn ready(sessions: &Arc<Manager>, worker: &Worker) -> Driver<Manager> {
    let driver = Driver::open_with(sessions, worker.clone()).await.expect("room");
    driver.initialize().await.expect("answers");
    driver.initialized().await.expect("lives");
    driver
}

async fn work(alice: &Driver<Manager>, id: Value, millis: u64) -> Replies {
    alice.call_as(id, "work", json!({ "millis": millis })).await.expect("lives")
}

async fn cancel(alice: &Driver<Manager>, id: &Value) {
    alice.notify("notifications/cancelled", json!({ "requestId": id })).await.expect("lives");
}

/// The code of what is answered at once; `None` if nothing is.
async fn refused(mut replies: Replies) -> Option<i64> {
    let first = tokio::time::timeout(Duration::from_millis(1), replies.next()).await.ok()??;
    error_code(&first)
}

#[tokio::test(start_paused = true)]
async fn one_of_50_calls_with_the_same_id_runs() {
    let (sessions, worker) = (manager(|b| b.requests(Concurrent::new(2).per_session())), Worker::default());
    let alice = ready(&sessions, &worker).await;
    let first = work(&alice, json!(1), 10_000).await;
    for _ in 1..50 {
        assert_eq!(work(&alice, json!(1), 10_000).await.error().await, (json!(1), -32600));
    }
    settle().await;
    assert_eq!((worker.running.load(SeqCst), sessions.list()[0].in_flight), (1, 1));
    assert_eq!(first.text().await, "worked", "and gets its own answer");
}

#[tokio::test(start_paused = true)]
async fn cancelled_calls_hold_their_leases_so_48_of_50_are_refused() {
    let (sessions, worker) = (manager(|b| b.requests(Concurrent::new(2).per_session())), Worker::default());
    let alice = ready(&sessions, &worker).await;
    for same_id in [false, true] {
        let mut refusals = Vec::new();
        for nth in 0..50 {
            let id = if same_id { json!(1) } else { json!(100 + nth) };
            let replies = work(&alice, id.clone(), 100_000).await;
            settle().await;
            cancel(&alice, &id).await;
            refusals.extend(refused(replies).await);
        }
        assert_eq!(refusals, [429; 48]);
        assert_eq!((worker.running.load(SeqCst), sessions.list()[0].in_flight), (2, 2));
        sleep(100 * SECOND + Duration::from_millis(100)).await;
        assert_eq!((worker.running.load(SeqCst), sessions.list()[0].in_flight), (0, 0));
    }
    assert_eq!(work(&alice, json!(1), 1).await.text().await, "worked");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_the_handler_of_any_request() {
    let (sessions, patient) = (manager(|b| b), Patient::default());
    let alice = Driver::open_with(&sessions, patient.clone()).await.expect("room");
    alice.initialize().await.expect("answers");
    alice.initialized().await.expect("lives");
    let requests = [("resources/read", json!({ "uri": "test://one" })), ("of/a/server", json!({}))];
    for (nth, (method, params)) in requests.into_iter().enumerate() {
        for id in [json!(10 + nth), json!(format!("text {nth}"))] {
            let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
            let _replies = alice.send(request).await.expect("lives");
            settle().await;
            let before = patient.cancelled.load(SeqCst);
            cancel(&alice, &id).await;
            settle().await;
            assert_eq!(patient.cancelled.load(SeqCst), before + 1, "{method} {id}");
        }
    }
    sleep(SECOND).await;
    assert_eq!(sessions.list()[0].in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_a_handler_that_obeys_a_cancel_is_free_at_once() {
    let (sessions, worker) = (manager(|b| b.requests(Concurrent::new(1))), Worker::default());
    let alice = ready(&sessions, &worker).await;
    for turn in 0..20 {
        let replies = alice.call_as(json!(1), "obey", json!({})).await.expect("lives");
        settle().await;
        assert_eq!(worker.running.load(SeqCst), 1, "turn {turn}");
        cancel(&alice, &json!(1)).await;
        while worker.running.load(SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        drop(replies);
    }
    assert_eq!(work(&alice, json!(1), 1).await.text().await, "worked");
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_held_for_max_busy_at_most() {
    let limit = || Concurrent::new(1).per_client();
    let (sessions, worker) = (manager(|b| b.max_busy(MINUTE).requests(limit())), Worker::default());
    for (cancelled, ended) in [(false, false), (true, false), (false, true), (true, true)] {
        let alice = ready(&sessions, &worker).await;
        let bob = ready(&sessions, &worker).await;
        let hung = work(&alice, json!(7), 1_000_000).await;
        settle().await;
        if cancelled {
            cancel(&alice, &json!(7)).await;
        }
        if ended {
            let reading = tokio::spawn(hung.answers());
            alice.manager.close_session(&alice.id).await.expect("closes");
            reading.await.expect("no panic");
        }
        sleep(58 * SECOND).await;
        assert_eq!(refused(work(&bob, json!(8), 1).await).await, Some(429), "{cancelled} {ended}");
        sleep(2 * SECOND).await;
        assert_eq!(work(&bob, json!(9), 1).await.text().await, "worked", "{cancelled} {ended}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_keeps_its_context_stays_in_flight_after_its_answer() {
    let (sessions, worker) = (manager(|b| b.max_sessions(1).requests(Concurrent::new(1))), Worker::default());
    let alice = ready(&sessions, &worker).await;
    let kept = alice.call_as(json!(1), "keep", json!({ "millis": 10_000 })).await.expect("lives");
    assert_eq!(kept.text().await, "kept");
    assert_eq!(sessions.list()[0].in_flight, 1);
    assert_eq!(refused(work(&alice, json!(1), 1).await).await, Some(429), "the id is free, the lease is not");
    assert!(Driver::open(&sessions).await.is_err(), "it is no victim");
    sleep(10 * SECOND).await;
    assert_eq!(sessions.list()[0].in_flight, 0);
    assert_eq!(work(&alice, json!(1), 1).await.text().await, "worked");
}

/// Lets the handler of a request panic. The hook for panics is not called, as it would be slow.
fn panic_with<T>(request: Option<T>) {
    let request = request.expect("a request");
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _handled = request;
        resume_unwind(Box::new("as asked"));
    }));
    assert!(panicked.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_id_that_is_used_again_after_a_thousand_panics_is_told_once_that_it_was_cut_off() {
    let sessions = manager(|b| b);
    let (id, mut transport, first) = in_a_call(&sessions).await;
    let mut others = Vec::new();
    // All but the first of the requests that a session may have in flight.
    for request in 2..=1_024 {
        others.push(sessions.create_stream(&id, list_tools(request)).await.expect("a stream"));
        panic_with(transport.receive().await);
    }
    let newer = sessions.create_stream(&id, list_tools(2_000)).await.expect("a stream");
    assert!(transport.receive().await.is_some(), "there is room in the full table");
    let again = sessions.create_stream(&id, list_tools(2)).await.expect("a stream");
    assert!(transport.receive().await.is_some());
    let older = others.remove(0);
    assert_eq!(sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Evicted).await, 1);
    drop((first, others));
    assert_eq!(told(Box::pin(older)).await, Vec::<Value>::new(), "its client uses the id for another request");
    for (stream, id) in [(Box::pin(again) as Events, 2), (Box::pin(newer), 2_000)] {
        let told = told(stream).await;
        let [told] = &told[..] else { panic!("told once: {told:?}") };
        assert_eq!((&told["id"], &told["error"]["data"]["reason"]), (&json!(id), &json!("evicted")), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_a_handler_that_panicked_late_is_free_for_the_next_call() {
    let (sessions, worker) = (manager(|b| b.requests(Concurrent::new(1))), Worker::default());
    let alice = ready(&sessions, &worker).await;
    let _silence = alice.call_as(json!(1), "explode_later", json!({ "millis": 1_000 })).await.expect("lives");
    settle().await;
    assert_eq!(refused(work(&alice, json!(2), 1).await).await, Some(429));
    sleep(SECOND).await;
    assert_eq!(work(&alice, json!(3), 1).await.text().await, "worked");
    assert_eq!(sessions.list()[0].in_flight, 0);
    assert_eq!(work(&alice, json!(1), 1).await.text().await, "worked", "nor is its id taken");
}

#[tokio::test(start_paused = true)]
async fn an_id_is_free_when_its_request_is_answered_or_cancelled() {
    let (sessions, worker) = (manager(|b| b), Worker::default());
    let alice = ready(&sessions, &worker).await;
    for _ in 0..3 {
        assert_eq!(work(&alice, json!(1), 10).await.text().await, "worked");
    }
    for id in [json!(1), json!("1"), json!("\"1"), json!(-1), json!("")] {
        let _first = work(&alice, id.clone(), 10_000).await;
        assert_eq!(work(&alice, id.clone(), 1).await.error().await, (id.clone(), -32600));
        let ping = json!({ "jsonrpc": "2.0", "id": id, "method": "ping" });
        assert_eq!(alice.send(ping).await.expect("lives").error().await, (id.clone(), -32600));
        cancel(&alice, &id).await;
        assert_eq!(work(&alice, id, 1).await.text().await, "worked");
    }
}

#[tokio::test(start_paused = true)]
async fn a_number_and_its_text_are_two_ids() {
    let (sessions, worker) = (manager(|b| b), Worker::default());
    let alice = ready(&sessions, &worker).await;
    let (number, text) = (work(&alice, json!(1), 10_000).await, work(&alice, json!("1"), 5_000).await);
    let (number, text) = (number.answers().await, text.answers().await);
    assert_eq!((&number[0]["id"], &text[0]["id"]), (&json!(1), &json!("1")));
}

/// Waits, and then rejects.
#[derive(Debug)]
struct Refuses;

#[async_trait]
impl AdmissionPolicy for Refuses {
    async fn admit(&self, _: &Arrival<'_>) -> Result<Permit, Rejection> {
        sleep(SECOND).await;
        Err(Rejection::new("gate"))
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_is_taken_while_its_request_waits_for_admission_and_free_after_a_rejection() {
    let (sessions, worker) = (manager(|b| b.requests(Refuses)), Worker::default());
    let alice = ready(&sessions, &worker).await;
    {
        let mut waiting = pin!(work(&alice, json!(1), 1));
        poll_fn(|cx| {
            assert!(waiting.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        assert_eq!(work(&alice, json!(1), 1).await.error().await, (json!(1), -32600));
        // A cancel that comes before the request is none: the request will run.
        cancel(&alice, &json!(1)).await;
        assert_eq!(work(&alice, json!(1), 1).await.error().await, (json!(1), -32600));
    }
    // Dropped in the middle, it has left.
    assert_eq!(work(&alice, json!(1), 1).await.error().await, (json!(1), 429));
    assert_eq!(work(&alice, json!(1), 1).await.error().await, (json!(1), 429));
}

#[tokio::test(start_paused = true)]
async fn ids_are_bounded_in_length_and_number() {
    let (sessions, worker) = (manager(|b| b), Worker::default());
    let alice = ready(&sessions, &worker).await;
    let id = |length| json!("x".repeat(length));
    assert_eq!(work(&alice, id(257), 1).await.error().await, (id(257), -32600));
    assert_eq!(work(&alice, id(256), 1).await.text().await, "worked");
    assert_eq!(work(&alice, json!("request-id:1"), 1).await.error().await, (json!("request-id:1"), -32600));
    let mut running = Vec::new();
    for nth in 0..1_024 {
        running.push(work(&alice, json!(nth), 10_000).await);
    }
    assert_eq!(work(&alice, json!("one more"), 1).await.error().await, (json!("one more"), 429));
    assert_eq!(sessions.list()[0].in_flight, 1_024);
    assert_eq!(running.swap_remove(0).text().await, "worked");
    assert_eq!(work(&alice, json!("one more"), 1).await.text().await, "worked");
    let endless = json!({ "jsonrpc": "2.0", "id": id(257), "method": "initialize", "params": crate::session::initialize_params() });
    let bob = Driver::open_with(&sessions, worker).await.expect("room");
    let answer = sessions.initialize_session(&bob.id, message(endless)).await.expect("answered");
    assert_eq!(error_code(&serde_json::to_value(&answer).expect("json")), Some(-32600));
    assert!(!bob.lives().await);
}

#[tokio::test(start_paused = true)]
async fn a_tool_sees_the_id_of_its_request_as_text() {
    let (sessions, worker) = (manager(|b| b), Worker::default());
    let alice = ready(&sessions, &worker).await;
    let said = alice.call_as(json!(7), "id", json!({})).await.expect("lives");
    assert_eq!(said.text().await, "request-id:7");
}

#[tokio::test(start_paused = true)]
async fn a_request_of_a_handler_to_its_client_comes_on_the_stream_of_its_call() {
    let inner = PolicySessionManager::local().build().expect("valid");
    let stacked = Arc::new(PolicySessionManager::builder(inner).build().expect("valid"));
    let alice = Driver::open_with(&stacked, Worker::default()).await.expect("room");
    alice.initialize().await.expect("answers");
    alice.initialized().await.expect("lives");
    for id in [json!(7), json!("seven")] {
        let mut replies = alice.call_as(id.clone(), "ask", json!({})).await.expect("lives");
        let asked = replies.next().await.expect("a request");
        assert_eq!(asked["method"], "roots/list");
        let answer: ClientJsonRpcMessage =
            message(json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "roots": [{ "uri": "file:///a" }] } }));
        stacked.accept_message(&alice.id, answer).await.expect("lives");
        let answer = replies.next().await.expect("an answer");
        assert_eq!((&answer["id"], &answer["result"]["content"][0]["text"]), (&id, &json!("1 roots")));
    }
}

#[tokio::test(start_paused = true)]
async fn through_http_a_second_request_with_an_id_in_flight_is_200_with_an_error() {
    let sessions = manager(|b| b);
    let http = Http::new(&sessions, None);
    let id = ClientContext::new().scope(http.open()).await.expect("room");
    let call = |tool: &'static str, arguments: Value| {
        let (http, id) = (&http, &id);
        async move { ClientContext::new().scope(http.call(id, tool, arguments)).await }
    };
    let mut first = pin!(call("sleep", json!({ "millis": 1_000 })));
    poll_fn(|cx| {
        assert!(first.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    let second = call("echo", json!({ "text": "b" })).await;
    assert_eq!((second.status, error_code(&second.answers()[0])), (200, Some(-32600)));
    let first = first.await;
    assert_eq!((first.status, first.text()), (200, Some("slept 1000".to_owned())));
    assert_eq!(call("echo", json!({ "text": "c" })).await.text(), Some("c".to_owned()));
}
