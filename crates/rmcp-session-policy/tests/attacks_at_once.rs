//! docs/design.md, L6, L14 and L16.
//!
//! Every attack that once hurt users, all at the same time, against one server with 200 honest clients at work on 100 places.
//! Every honest call is answered, and no byte of an honest session reaches a stranger.
//!
//! `ATTACK_SECONDS=600 cargo test -p rmcp-session-policy --all-features --test attacks_at_once` makes it run longer.

#[path = "support/server.rs"]
mod server;
#[path = "support/web.rs"]
mod web;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::web::{Server, call, initialize};
use reqwest::{Client, Method, RequestBuilder};
use rmcp_session_policy::admission::{AdmissionPolicyExt, Concurrent, SlidingWindow};
use rmcp_session_policy::{HOUR, PolicySessionManager};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

const HONEST: usize = 200;
const NEWCOMERS: usize = 20;
const PLACES: usize = 100;

/// How long an honest client tries. On a machine that does nothing else no call takes 5 s, and none is told to try again; a test
/// that runs beside others must not depend on that.
const PATIENCE: Duration = Duration::from_secs(60);

/// The text of honest answers, which no other client may read.
const SECRET: &str = "for-the-eyes-of-";

fn seconds() -> Duration {
    let seconds = std::env::var("ATTACK_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(8))
}

/// A client at an address of its own.
#[derive(Clone)]
struct Caller {
    url: String,
    http: Client,
    user: String,
}

impl Caller {
    fn new(server: &Server, user: String, from: [u8; 2]) -> Self {
        let address = Ipv4Addr::new(127, 1, from[0], from[1]);
        let http = Client::builder().local_address(std::net::IpAddr::from(address)).build().expect("a client");
        Self { url: server.url.clone(), http, user }
    }

    fn request(&self, method: Method, session: Option<&str>) -> RequestBuilder {
        let request = self.http.request(method, &self.url).header("accept", "application/json, text/event-stream");
        let request = request.header("x-user", &self.user);
        session.into_iter().fold(request, |request, id| request.header("mcp-session-id", id))
    }

    fn post(&self, session: Option<&str>, message: &Value) -> RequestBuilder {
        self.request(Method::POST, session).json(message)
    }

    /// Opens a session, ready.
    async fn open(&self) -> Result<String, String> {
        let response = self.post(None, &initialize(1)).send().await.map_err(|error| error.to_string())?;
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.map_err(|error| error.to_string())?;
        let id = headers.get("mcp-session-id").ok_or(format!("{status} {text}"))?.to_str().expect("text").to_owned();
        let message = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let ready = self.post(Some(&id), &message).send().await.map_err(|error| error.to_string())?;
        if ready.status() == 202 { Ok(id) } else { Err(ready.status().to_string()) }
    }

    /// Calls a tool, again if it is told to; an answer that is not the tool's is an error.
    async fn echo(&self, session: &str, nth: u64) -> Result<(), String> {
        insist(|| self.echo_once(session, nth)).await
    }

    async fn echo_once(&self, session: &str, nth: u64) -> Result<(), String> {
        let text = format!("{SECRET}{}-{nth}", self.user);
        let request = self.post(Some(session), &call(nth, "echo", &json!({"text": text})));
        let answer = async { request.send().await?.text().await };
        match answer.await {
            Err(error) => Err(error.to_string()),
            Ok(answer) if answer.contains(&text) && !answer.contains("isError\":true") => Ok(()),
            Ok(answer) => Err(answer),
        }
    }
}

/// Tries until it succeeds, each time after the second that a full server asks for. Any other refusal is final.
async fn insist<T, F: Future<Output = Result<T, String>>>(mut attempt: impl FnMut() -> F) -> Result<T, String> {
    let end = Instant::now() + PATIENCE;
    loop {
        match timeout_at(end, attempt()).await {
            Err(_) => return Err("not answered in time".to_owned()),
            Ok(Err(refused)) if refused.contains("at_capacity") => sleep(Duration::from_secs(1)).await,
            Ok(done) => return done,
        }
    }
}

/// The state that the clients and the attackers share.
#[derive(Default)]
struct Day {
    over: AtomicBool,
    /// The ids of honest sessions, which the attackers somehow know.
    known: Mutex<Vec<String>>,
    calls: AtomicUsize,
    attacks: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Day {
    fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }

    fn fail(&self, what: String) {
        self.failures.lock().expect("no panic").push(what);
    }

    fn some_id(&self, nth: usize) -> String {
        let known = self.known.lock().expect("no panic");
        known[nth % known.len()].clone()
    }
}

/// Calls a tool as an honest client until the test ends.
async fn work(day: Arc<Day>, caller: Caller, session: String) {
    let mut nth = 0;
    while !day.is_over() {
        nth += 1;
        match caller.echo(&session, nth).await {
            Ok(()) => drop(day.calls.fetch_add(1, SeqCst)),
            Err(error) => day.fail(format!("{} call {nth}: {error}", caller.user)),
        }
        // Each client calls at its own pace.
        sleep(Duration::from_millis(1_000 + (nth * 397 + session.as_bytes()[0] as u64 * 7) % 1_000)).await;
    }
}

/// Opens a session as a newcomer amid the attacks, and works in it.
async fn come_in(day: Arc<Day>, caller: Caller) {
    match insist(|| caller.open()).await {
        Ok(session) => work(day, caller, session).await,
        Err(error) => day.fail(format!("{} does not come in: {error}", caller.user)),
    }
}

/// Sends the same request over and over, and reads each answer.
async fn attack(day: Arc<Day>, make: impl Fn(usize) -> RequestBuilder + Send + Sync) {
    for nth in 0.. {
        if day.is_over() {
            return;
        }
        let answer = async { make(nth).send().await?.text().await };
        if let Ok(Ok(answer)) = timeout(Duration::from_secs(2), answer).await
            && answer.contains(SECRET)
        {
            day.fail(format!("a stranger reads {answer}"));
        }
        day.attacks.fetch_add(1, SeqCst);
    }
}

fn with_meta(mut message: Value, version: &str) -> Value {
    message["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientCapabilities": {}});
    message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_honest_call_is_answered_and_no_foreign_byte_read() {
    let requests = Concurrent::new(4).per_session();
    let builder = PolicySessionManager::local().max_sessions(PLACES).requests(requests);
    let server = Server::with(builder, true, |layer| {
        layer.sessionless(SlidingWindow::new(5, HOUR).per_client()).expect("valid")
    })
    .await;
    let day = Arc::new(Day::default());
    let mut honest = JoinSet::new();
    for nth in 0..HONEST {
        let caller = Caller::new(&server, format!("honest-{nth}"), [1, nth as u8 + 1]);
        let session = caller.open().await.expect("opens");
        // What hosts do first. From then on it is a session that called.
        caller.echo(&session, 0).await.expect("answers");
        day.known.lock().expect("no panic").push(session.clone());
        honest.spawn(work(Arc::clone(&day), caller, session));
    }

    let mut attacks = JoinSet::new();
    let mallory = |nth: u8| Caller::new(&server, format!("mallory-{nth}"), [9, nth]);
    // Bare initializes from one address, small and large, over and over.
    for nth in 0..32 {
        let caller = mallory(1);
        let mut message = initialize(1);
        if nth % 4 == 0 {
            message["params"]["clientInfo"]["name"] = json!("x".repeat(64_000));
        }
        attacks.spawn(attack(Arc::clone(&day), move |_| caller.post(None, &message)));
    }
    // Handshakes for other principals' sessions.
    let mut late = initialize(7);
    late["params"]["protocolVersion"] = json!("2026-07-28");
    for version in ["2025-11-25", "2026-07-28"] {
        let (caller, day, late) = (mallory(2), Arc::clone(&day), late.clone());
        let known = Arc::clone(&day);
        attacks.spawn(attack(day, move |nth| {
            caller.post(Some(&known.some_id(nth)), &late).header("mcp-protocol-version", version)
        }));
    }
    // Calls, streams and farewells for them.
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let (caller, known) = (mallory(3), Arc::clone(&day));
        attacks.spawn(attack(Arc::clone(&day), move |nth| {
            let request = caller.request(method.clone(), Some(&known.some_id(nth))).header("last-event-id", "0");
            if method == Method::POST { request.json(&call(1, "count", &json!({}))) } else { request }
        }));
    }
    // Requests without a session, with all kinds of headers.
    for (version, own) in [("2025-11-25", false), ("2025-11-25", true), ("2026-07-28", false)] {
        let caller = mallory(4);
        let session = if own { caller.open().await.ok() } else { None };
        let message = with_meta(call(1, "count", &json!({})), version);
        attacks.spawn(attack(Arc::clone(&day), move |_| {
            let request = caller.post(session.as_deref(), &message).header("mcp-protocol-version", version);
            request.header("mcp-method", "tools/call").header("mcp-name", "count")
        }));
    }
    // Pings of sessions of one's own, which are parked in between.
    for nth in 0..4 {
        let caller = mallory(10 + nth);
        let Ok(session) = caller.open().await else { continue };
        let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
        attacks.spawn(attack(Arc::clone(&day), move |_| caller.post(Some(&session), &ping)));
    }
    // Calls with one id, without end, in a session of one's own.
    for nth in 0..4 {
        let caller = mallory(20 + nth);
        let Ok(session) = caller.open().await else { continue };
        let sleep = call(1, "sleep", &json!({"millis": 300}));
        for _ in 0..4 {
            let (caller, session, sleep) = (caller.clone(), session.clone(), sleep.clone());
            attacks.spawn(attack(Arc::clone(&day), move |_| caller.post(Some(&session), &sleep)));
        }
    }
    // Large bodies for ids that never existed.
    for _ in 0..2 {
        let caller = mallory(5);
        attacks.spawn(attack(Arc::clone(&day), move |_| {
            caller.request(Method::POST, Some("never-was")).body(vec![b' '; 1 << 20])
        }));
    }
    for nth in 0..NEWCOMERS {
        let caller = Caller::new(&server, format!("newcomer-{nth}"), [2, nth as u8 + 1]);
        honest.spawn(come_in(Arc::clone(&day), caller));
    }

    let end = Instant::now() + seconds();
    let mut most = (0, 0);
    while Instant::now() < end {
        let stats = server.sessions.stats();
        most = most.max((stats.busy, stats.opening));
        assert!(stats.live + stats.reserved <= PLACES, "{stats:?}");
        sleep(Duration::from_millis(20)).await;
    }
    day.over.store(true, SeqCst);
    honest.join_all().await;
    attacks.shutdown().await;
    let failures = day.failures.lock().expect("no panic");
    let (calls, attacks) = (day.calls.load(SeqCst), day.attacks.load(SeqCst));
    assert!(
        failures.is_empty(),
        "{} of {calls}, at most {most:?} busy and half-open: {:#?}",
        failures.len(),
        &failures[..failures.len().min(10)]
    );
    assert!(calls >= HONEST && attacks >= 100, "{calls} honest calls beside {attacks} attacks");
}
