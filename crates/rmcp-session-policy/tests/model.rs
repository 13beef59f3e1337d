//! The whole manager against a model of it, through rmcp's service and the layer, over random histories on paused time.
//!
//! A history that fails is made as small as it gets, printed, and kept in `model.proptest-regressions`.

mod scripted;
mod server;
mod witness;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use proptest::collection::vec;
use proptest::prelude::*;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp_session_policy::eviction::Lru;
use rmcp_session_policy::{CloseReason, HOUR, MINUTE, PolicySessionManager};
use scripted::{Act, Call, Scripted};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tower_service::Service;
use witness::{Gate, Witness};

const PLACES: usize = 3;
const PARKED: usize = 4;
/// Half-open sessions that may hold places: a quarter of these, at least one.
const OPENING: usize = 1;
const IDLE: Duration = Duration::from_secs(30 * 60);
const INIT: Duration = Duration::from_secs(20 * 60);
const LIFETIME: Duration = Duration::from_secs(5 * 60 * 60 + 123);
/// Between two events. More than any wait within the manager, and than a half-open session is kept from newcomers.
const STEP: Duration = Duration::from_secs(2);

/// What happens; numbers pick among the sessions there ever were.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A client comes.
    Open,
    /// A client comes, and does not finish its handshake.
    HalfOpen,
    /// A client finishes its handshake.
    Finish(u8),
    /// The inner manager fails to create a session.
    FailToOpen,
    /// A client is gone before its session exists.
    GiveUp,
    /// The inner manager fails to restore sessions, and one is called.
    FailToRestore(u8),
    Call(u8),
    /// A call that is never answered.
    Hang(u8),
    /// A client cancels one of its calls.
    Cancel(u8),
    /// A client hangs up on one of its calls, which goes on.
    HangUp(u8),
    Delete(u8),
    Revoke(u8),
    /// An hour passes: whoever is idle is parked.
    Hour,
}

fn event() -> impl Strategy<Value = Event> {
    let pick = any::<u8>;
    prop_oneof![
        5 => Just(Event::Open),
        2 => Just(Event::HalfOpen),
        1 => pick().prop_map(Event::Finish),
        1 => Just(Event::FailToOpen),
        1 => Just(Event::GiveUp),
        1 => pick().prop_map(Event::FailToRestore),
        6 => pick().prop_map(Event::Call),
        3 => pick().prop_map(Event::Hang),
        2 => pick().prop_map(Event::Cancel),
        1 => pick().prop_map(Event::HangUp),
        1 => pick().prop_map(Event::Delete),
        1 => pick().prop_map(Event::Revoke),
        1 => Just(Event::Hour),
    ]
}

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Opening,
    Ready,
    /// By which parking, counted from the beginning.
    Parked(usize),
    Dead,
}

/// A session as the model has it.
#[derive(Debug)]
struct Session {
    id: String,
    place: Place,
    opened: Instant,
    /// When this incarnation came.
    created: Instant,
    /// The event of its last use, and its moment.
    used: usize,
    seen: Instant,
    /// Its calls without an answer: their number, and the response unless the client hung up.
    calls: Vec<(u64, Option<Response<Body>>)>,
}

impl Session {
    fn is_over_age(&self) -> bool {
        Instant::now() >= self.opened + LIFETIME
    }

    fn is_live(&self) -> bool {
        matches!(self.place, Place::Opening | Place::Ready)
    }
}

/// The model: what should be, and nothing else.
#[derive(Debug, Default)]
struct Model {
    sessions: Vec<Session>,
    events: usize,
    parkings: usize,
}

impl Model {
    fn count(&self, is: impl Fn(&Session) -> bool) -> usize {
        self.sessions.iter().filter(|session| is(session)).count()
    }

    fn least(&self, is: impl Fn(&Session) -> bool, by: impl Fn(&Session) -> usize) -> Option<usize> {
        (0..self.sessions.len()).filter(|nth| is(&self.sessions[*nth])).min_by_key(|nth| by(&self.sessions[*nth]))
    }

    /// Makes room for one more, as the manager must.
    fn make_room(&mut self) -> bool {
        if self.count(Session::is_live) < PLACES {
            return true;
        }
        let opening = |session: &Session| session.place == Place::Opening;
        let victim = if self.count(opening) >= OPENING {
            self.least(opening, |session| session.used)
        } else {
            self.least(|session| session.place == Place::Ready && session.calls.is_empty(), |session| session.used)
        };
        victim.map(|victim| self.park(victim)).is_some()
    }

    /// Parks a session; if that is one too many, the one parked longest is forgotten.
    fn park(&mut self, nth: usize) {
        self.parkings += 1;
        self.sessions[nth].place = Place::Parked(self.parkings);
        let parked = |session: &Session| matches!(session.place, Place::Parked(_));
        if self.count(parked) > PARKED {
            let by = |session: &Session| if let Place::Parked(parking) = session.place { parking } else { usize::MAX };
            if let Some(oldest) = self.least(parked, by) {
                self.sessions[oldest].place = Place::Dead;
            }
        }
    }

    fn open(&mut self, id: String, place: Place) {
        let now = Instant::now();
        self.sessions.push(Session {
            id,
            place,
            opened: now,
            created: now,
            seen: now,
            used: self.events,
            calls: Vec::new(),
        });
    }

    /// Whether a request reaches its session; restores it if need be. What the client is told.
    fn reach(&mut self, nth: usize) -> Told {
        let place = self.sessions[nth].place;
        match place {
            Place::Dead => return Told::NotFound,
            // It may stay among the parked until somebody asks for it.
            Place::Parked(_) if self.sessions[nth].is_over_age() => {
                self.sessions[nth].place = Place::Dead;
                return Told::NotFound;
            }
            Place::Parked(_) if !self.make_room() => return Told::Refused,
            // Whoever made room may have pushed it out from among the parked; but its restore was under way.
            Place::Parked(_) => {
                self.sessions[nth].place = Place::Ready;
                self.sessions[nth].created = Instant::now();
            }
            Place::Opening | Place::Ready => {}
        }
        self.sessions[nth].used = self.events;
        self.sessions[nth].seen = Instant::now();
        Told::Answer
    }

    /// When a session's time is over, and where it is then.
    fn due(session: &Session) -> Option<(Instant, bool)> {
        let lifetime = session.opened + LIFETIME;
        let other = match session.place {
            Place::Opening => (session.created + INIT, false),
            Place::Ready if session.calls.is_empty() => (session.seen + IDLE, true),
            Place::Ready => return Some((lifetime, false)),
            Place::Parked(_) | Place::Dead => return None,
        };
        Some(if lifetime <= other.0 { (lifetime, false) } else { other })
    }

    /// Time has passed; for some it is over.
    fn time_passes(&mut self) {
        let due = |session: &Session| Self::due(session).filter(|(at, _)| *at <= Instant::now());
        while let Some((_, nth)) =
            self.sessions.iter().enumerate().filter_map(|(nth, session)| Some((due(session)?.0, nth))).min()
        {
            match due(&self.sessions[nth]) {
                Some((_, true)) => self.park(nth),
                _ => self.sessions[nth].place = Place::Dead,
            }
        }
    }
}

/// What a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Answer,
    Refused,
    NotFound,
}

/// The real thing.
struct Server {
    inner: Scripted,
    sessions: Arc<PolicySessionManager<Scripted>>,
    gate: Gate,
    witness: Witness,
    numbers: u64,
}

impl Server {
    fn new() -> Self {
        let (inner, gate, witness) = (Scripted::relaying(), Gate::default(), Witness::default());
        let sessions = PolicySessionManager::builder(inner.clone())
            .max_sessions(PLACES)
            .max_parked(PARKED)
            .admission(gate.clone())
            .eviction(Lru::new())
            .idle_timeout(IDLE)
            .init_timeout(INIT)
            .max_lifetime(LIFETIME)
            .max_busy(1_000 * HOUR)
            .max_parked_age(1_000 * HOUR)
            .observer(witness.clone());
        Self { inner, sessions: Arc::new(sessions.build().expect("valid")), gate, witness, numbers: 0 }
    }

    async fn send(&self, method: Method, session: Option<&str>, message: &Value) -> Response<Body> {
        let mut config = StreamableHttpServerConfig::default();
        config.session_store = Some(self.sessions.parking());
        config.sse_keep_alive = None;
        let mcp = StreamableHttpService::new(|| Ok(server::Tools::default()), Arc::clone(&self.sessions), config);
        let request = Request::builder().method(method).uri("/").header("host", "localhost");
        let request = request.header("content-type", "application/json");
        let mut request = request.header("accept", "application/json, text/event-stream");
        if let Some(id) = session {
            request = request.header("mcp-session-id", id);
        }
        let request = request.body(Body::from(message.to_string())).expect("a request");
        let Ok(response) = self.sessions.layer().layer(mcp).call(request).await;
        response.map(Body::new)
    }

    async fn initialize(&self) -> (Told, String) {
        let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "model", "version": "1"}}});
        let response = self.send(Method::POST, None, &message).await;
        let id = response.headers().get("mcp-session-id").map(|id| id.to_str().expect("text").to_owned());
        let told = match response.status() {
            StatusCode::OK => Told::Answer,
            StatusCode::SERVICE_UNAVAILABLE => Told::Refused,
            other => panic!("{other}"),
        };
        text(response).await;
        (told, id.unwrap_or_default())
    }

    async fn initialized(&self, id: &str) {
        let message = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(self.send(Method::POST, Some(id), &message).await.status(), 202);
    }

    async fn begin(&mut self, id: &str, tool: &str, arguments: Value) -> (u64, Response<Body>) {
        self.numbers += 1;
        let call = json!({"jsonrpc": "2.0", "id": self.numbers, "method": "tools/call",
            "params": {"name": tool, "arguments": arguments}});
        (self.numbers, self.send(Method::POST, Some(id), &call).await)
    }

    async fn call(&mut self, id: &str) -> Told {
        let (_, response) = self.begin(id, "echo", json!({"text": "here"})).await;
        if response.status() == 404 {
            return Told::NotFound;
        }
        assert_eq!(response.status(), 200);
        let text = text(response).await;
        match (text.contains("\"text\":\"here\""), text.contains("\"code\":503")) {
            (true, false) => Told::Answer,
            (false, true) => Told::Refused,
            _ => panic!("{text}"),
        }
    }

    async fn hang(&mut self, id: &str) -> (Told, u64, Response<Body>) {
        let (number, mut response) = self.begin(id, "sleep", json!({"millis": 3_600_000_000_000_u64})).await;
        if response.status() == 404 {
            return (Told::NotFound, number, response);
        }
        // A refusal is answered at once; a call that hangs says nothing but the first event of its stream.
        let mut head = String::new();
        while let Ok(Some(Ok(frame))) = timeout(Duration::from_millis(1), response.frame()).await {
            head.push_str(&String::from_utf8_lossy(frame.data_ref().expect("no trailers")));
        }
        let told = if head.contains("\"code\":503") { Told::Refused } else { Told::Answer };
        (told, number, response)
    }
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The two side by side.
struct Both {
    model: Model,
    server: Server,
}

impl Both {
    #[expect(clippy::future_not_send, reason = "it runs on one thread")]
    async fn happens(&mut self, event: Event) {
        let Self { model, server } = self;
        model.events += 1;
        let pick = |pick: u8| (!model.sessions.is_empty()).then(|| usize::from(pick) % model.sessions.len());
        match event {
            Event::Open | Event::HalfOpen => {
                let (told, id) = server.initialize().await;
                assert_eq!(told, if model.make_room() { Told::Answer } else { Told::Refused });
                if told == Told::Answer {
                    let half = matches!(event, Event::HalfOpen);
                    if !half {
                        server.initialized(&id).await;
                    }
                    model.open(id, if half { Place::Opening } else { Place::Ready });
                }
            }
            Event::FailToOpen => {
                server.inner.set(Call::Create, Act::Error);
                assert_eq!(server.initialize().await.0, Told::Refused);
                server.inner.set(Call::Create, Act::Ok);
                model.make_room();
            }
            Event::GiveUp => {
                server.inner.set(Call::Create, Act::Never);
                timeout(STEP, server.initialize()).await.ok();
                server.inner.set(Call::Create, Act::Ok);
                model.make_room();
            }
            Event::Finish(nth) => {
                let Some(nth) = pick(nth).filter(|nth| model.sessions[*nth].place == Place::Opening) else { return };
                server.initialized(&model.sessions[nth].id).await;
                assert_eq!(model.reach(nth), Told::Answer);
                model.sessions[nth].place = Place::Ready;
            }
            Event::Call(nth) | Event::FailToRestore(nth) => {
                let Some(nth) = pick(nth).filter(|nth| model.sessions[*nth].place != Place::Opening) else { return };
                let fails = matches!(event, Event::FailToRestore(_));
                if fails {
                    server.inner.set(Call::Restore, Act::Error);
                }
                let told = server.call(&model.sessions[nth].id).await;
                server.inner.set(Call::Restore, Act::Ok);
                let session = &model.sessions[nth];
                if fails && matches!(session.place, Place::Parked(_)) && !session.is_over_age() {
                    assert_eq!(told, Told::Refused);
                    model.make_room();
                } else {
                    assert_eq!(told, model.reach(nth));
                }
            }
            Event::Hang(nth) => {
                let Some(nth) = pick(nth).filter(|nth| model.sessions[*nth].place != Place::Opening) else { return };
                let (told, number, response) = server.hang(&model.sessions[nth].id).await;
                assert_eq!(told, model.reach(nth));
                if told == Told::Answer {
                    model.sessions[nth].calls.push((number, Some(response)));
                }
            }
            Event::Cancel(nth) => {
                let Some(nth) = pick(nth).filter(|nth| !model.sessions[*nth].calls.is_empty()) else { return };
                let (number, _response) = model.sessions[nth].calls.remove(0);
                let message = json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
                    "params": {"requestId": number}});
                let id = &model.sessions[nth].id;
                assert_eq!(server.send(Method::POST, Some(id), &message).await.status(), 202);
                model.sessions[nth].used = model.events;
                model.sessions[nth].seen = Instant::now();
            }
            Event::HangUp(nth) => {
                if let Some(nth) = pick(nth)
                    && let Some((_, response)) = model.sessions[nth].calls.first_mut()
                {
                    drop(response.take());
                }
            }
            Event::Delete(nth) => {
                let Some(nth) = pick(nth) else { return };
                let status = server.send(Method::DELETE, Some(&model.sessions[nth].id), &Value::Null).await.status();
                assert_eq!(status, if model.sessions[nth].place == Place::Dead { 404 } else { 202 });
                model.sessions[nth].place = Place::Dead;
            }
            Event::Revoke(nth) => {
                let Some(nth) = pick(nth).filter(|nth| model.sessions[*nth].is_live()) else { return };
                // A key is not an id; but no two sessions came at one time.
                let age = model.sessions[nth].created.elapsed();
                let listed = server.sessions.list();
                let key = listed.iter().min_by_key(|listed| listed.age.abs_diff(age)).expect("it is live").key;
                assert_eq!(server.sessions.terminate(key, CloseReason::Revoked).await, 1);
                model.sessions[nth].place = Place::Dead;
            }
            Event::Hour => {
                sleep(HOUR).await;
                model.time_passes();
            }
        }
    }

    /// What the laws say of every moment in which nothing happens.
    async fn agree(&mut self) {
        let Self { model, server } = self;
        let stats = server.sessions.stats();
        let model_says = (
            model.count(Session::is_live),
            model.count(|session| session.place == Place::Opening),
            model.count(|session| session.is_live() && !session.calls.is_empty()),
            model.count(|session| matches!(session.place, Place::Parked(_))),
        );
        assert_eq!((stats.live, stats.opening, stats.busy, stats.parked), model_says, "{stats:?} {model:#?}");
        assert_eq!((stats.reserved, stats.closing, stats.stuck, stats.overruled), (0, 0, 0, 0), "{stats:?}");
        assert_eq!(server.inner.existing(), stats.live, "what exists inside is what is counted");
        assert!(server.inner.most() <= PLACES, "{} sessions existed at once", server.inner.most());
        assert_eq!(server.gate.out(), stats.live, "each session holds one lease");
        server.witness.assert_one_end_each();
        // Calls of sessions that have ended got their farewell.
        for session in model.sessions.iter_mut().filter(|session| !session.is_live()) {
            for (number, response) in session.calls.drain(..) {
                let Some(response) = response else { continue };
                let said = timeout(STEP, text(response)).await;
                let said = said.unwrap_or_else(|_| panic!("call {number} of {:?} got no farewell", session.place));
                assert!(said.contains("\"error\"") && said.contains(&format!("\"id\":{number}")), "{said}");
            }
        }
    }
}

fn paused(scenario: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(scenario);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn the_manager_does_as_the_model_says(history in vec(event(), 1..400)) {
        paused(async {
            let mut both = Both { model: Model::default(), server: Server::new() };
            for event in history {
                both.happens(event).await;
                sleep(STEP).await;
                both.model.time_passes();
                both.agree().await;
            }
            let report = both.server.sessions.drain(MINUTE).await;
            let stats = both.server.sessions.stats();
            assert_eq!((stats.live, stats.reserved, both.server.inner.existing()), (0, 0, 0), "{report:?} {stats:?}");
            assert_eq!(both.server.gate.out(), 0);
            both.server.witness.assert_one_end_each();
        });
    }
}
