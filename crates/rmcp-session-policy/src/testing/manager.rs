//! [`keeps_the_laws`]: checks a whole manager against a model of it.
//!
//! The model does not know how the manager works. It knows where each session should be, which session may be evicted for
//! another, and what each client should be told. Both run through the same random histories on paused time; the manager
//! is behind rmcp's service and the HTTP layer, over a [`Scripted`] inner manager.
//!
//! A history is played one event at a time. After each, two seconds pass, so that everything which the event began is
//! over. Then the counts of the manager, its events, its leases and the inner manager are compared with the model.
//! Nothing happens at the same time as something else, so this check finds wrong decisions, not races.
//!
//! The model cannot know which victim a policy names. So it looks which session is gone, and only checks that this one
//! was allowed to go, unless the caller gives the order of the victims.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use proptest::collection::vec;
use proptest::prelude::*;
use rmcp::ServerHandler;
use rmcp::model::{CallToolRequestParams, CallToolResponse, ErrorData, ServerCapabilities, ServerConfig};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tower_service::Service;

use super::inner::{Act, Call, Scripted};
use super::{Broken, paused, through};
use crate::PolicySessionManager;
use crate::admission::{AdmissionPolicy, Arrival, Permit, Rejection};
use crate::eviction::EvictionPolicy;
use crate::observe::{CloseReason, SessionEvent, SessionObserver};
use crate::session::{Fingerprint, SessionKey, SessionOrigin};
use crate::time::{HOUR, MINUTE};

/// The capacity. It is small, so that a short history fills the server.
const PLACES: usize = 3;
/// The most parked sessions, few enough that some are pushed out.
const PARKED: usize = 4;
/// Half-open sessions that may hold places, by default.
const OPENING: usize = 1;
/// The idle timeout. Less than the hour of [`Event::Hour`], which therefore parks every idle session.
const IDLE: Duration = Duration::from_secs(30 * 60);
/// The timeout of handshakes. An hour is longer than that too.
const INIT: Duration = Duration::from_secs(20 * 60);
/// The lifetime of a session. It ends at no full hour and at no full timeout, so that it rarely comes together with
/// another deadline.
const LIFETIME: Duration = Duration::from_secs(5 * 60 * 60 + 123);
/// Between two events. More than any wait within the manager, and than a half-open session is kept from newcomers.
const STEP: Duration = Duration::from_secs(2);
/// How long before the time of a session comes no event happens: an event may take as long, and could see the time come
/// or not.
const BEFORE: Duration = Duration::from_secs(3);
/// How late a timer may be.
const LATE: Duration = Duration::from_millis(10);

/// Checks a manager with an eviction policy against the laws: the bound, which sessions are never victims, one end of
/// each session, what clients are told, what is undone and what is restored.
///
/// It runs 48 histories of up to 119 events each. Not for policies that by design may name no victim, as `.only(..)`
/// does when no session passes.
///
/// ```
/// rmcp_session_policy::testing::manager::keeps_the_laws(rmcp_session_policy::eviction::Fifo::new);
/// ```
///
/// # Panics
///
/// Panics if model and manager disagree, with the difference and a short history that shows it.
#[track_caller]
pub fn keeps_the_laws<P: EvictionPolicy>(make: impl Fn() -> P) {
    through(&histories(120), "the manager", 48, |history| {
        agrees(make(), &history).map_err(|law| Broken { law: law.into(), history })
    });
}

/// Runs a manager and the model through one history, in which every candidate may be the victim. For your own property
/// test, which keeps the seeds of failing histories.
///
/// # Errors
///
/// Returns the difference, if the two disagree.
pub fn agrees(policy: impl EvictionPolicy, history: &[Event]) -> Result<(), String> {
    paused(run(policy, None, history))
}

/// Does the same with a policy of which every victim is known: the session with the lowest `order`, of those that may
/// go.
///
/// # Errors
///
/// Returns the difference, if the two disagree.
pub fn agrees_in_order(policy: impl EvictionPolicy, order: fn(&Who) -> usize, history: &[Event]) -> Result<(), String> {
    paused(run(policy, Some(order), history))
}

/// What an order of victims may go by. Moments are numbers of events: a later event has a higher number.
#[derive(Clone, Copy, Debug)]
pub struct Who {
    /// When this incarnation came. A restore counts as coming.
    pub came: usize,
    /// When the session was used last: opened, called, told that it is initialized, or told of a cancel.
    pub used: usize,
}

/// `None` if every session that may go may be the victim.
type Order = Option<fn(&Who) -> usize>;

/// What happens; numbers pick among the sessions there ever were, dead ones included.
///
/// An event that does not fit the session that it picks has no effect.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A client comes, and finishes its handshake.
    Open,
    /// A client comes, and does not finish its handshake.
    HalfOpen,
    /// A client finishes its handshake.
    Finish(u8),
    /// The inner manager fails to create a session. A victim that was closed for it stays closed.
    FailToOpen,
    /// A client is gone before its session exists: the inner manager does not return, and the request is dropped.
    GiveUp,
    /// The inner manager fails to restore sessions, and one is called. If it is parked, it stays parked, and its client
    /// is told to come back. A victim that was closed for it stays closed.
    FailToRestore(u8),
    /// A call that is answered at once. If the session is parked, the call may restore it.
    Call(u8),
    /// A call that is never answered, so the session is busy until the call is cancelled or the session ends.
    Hang(u8),
    /// A client cancels the oldest of its calls that hang, and the handler stops.
    Cancel(u8),
    /// A client hangs up on one of its calls, which goes on: the session stays busy.
    HangUp(u8),
    /// A client deletes its session, live or parked. The session does not come back.
    Delete(u8),
    /// An operator revokes a live session. The session does not come back, and its calls in flight are cut off.
    Revoke(u8),
    /// An hour passes, and idle sessions are parked.
    Hour,
}

/// Random histories of at least one event and fewer than `most`.
///
/// Creations and calls are the most frequent events.
pub fn histories(most: usize) -> impl Strategy<Value = Vec<Event>> {
    let pick = any::<u8>;
    let event = prop_oneof![
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
    ];
    vec(event, 1..most.max(2))
}

/// Says what is wrong, unless this holds: returns the text as the error of the function around it.
macro_rules! hold {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Live and half-open.
    Opening,
    /// Live, with its handshake finished.
    Ready,
    /// Parked, by the parking with this number, counted from the beginning. The lowest number was parked longest.
    Parked(usize),
    /// Parked until this event, which may bring it back: it keeps its room.
    ComingBack,
    /// It is over and does not come back: its client is told that it was not found.
    Dead,
}

/// A session as the model has it.
#[derive(Debug)]
struct Session {
    /// As the client got it. It stays the same through restores.
    id: String,
    /// Where it should be now.
    place: Place,
    /// When its first incarnation came. Its lifetime counts from here.
    opened: Instant,
    /// When this incarnation came.
    created: Instant,
    /// What an order of victims may go by.
    who: Who,
    /// When its client made its last request or notification. The idle timeout counts from here.
    seen: Instant,
    /// Whether its client made a request that hosts do not make by themselves.
    called: bool,
    /// Its calls without an answer: their number, and the response unless the client hung up.
    calls: Vec<(u64, Option<Answer>)>,
}

impl Session {
    /// Whether its lifetime has ended, counted over all incarnations.
    fn is_over_age(&self) -> bool {
        Instant::now() >= self.opened + LIFETIME
    }

    /// Whether it holds a place.
    fn is_live(&self) -> bool {
        matches!(self.place, Place::Opening | Place::Ready)
    }
}

/// The model: what should be, and nothing else.
#[derive(Debug)]
struct Model {
    /// How the victim is found.
    order: Order,
    /// Every session there ever was. None is removed, so numbers in events stay valid.
    sessions: Vec<Session>,
    /// How many events there were, which is the time of [`Who`].
    events: usize,
    /// How often a session was parked, which is the number of the last parking.
    parkings: usize,
}

impl Model {
    /// Counts over all sessions, dead ones included.
    fn count(&self, is: impl Fn(&Session) -> bool) -> usize {
        self.sessions.iter().filter(|session| is(session)).count()
    }

    /// Returns the place in the list of the session with the lowest number among those that pass.
    fn least(&self, is: impl Fn(&Session) -> bool, by: impl Fn(&Session) -> usize) -> Option<usize> {
        (0..self.sessions.len()).filter(|nth| is(&self.sessions[*nth])).min_by_key(|nth| by(&self.sessions[*nth]))
    }

    /// Makes room for one more, as the manager must have done: a session that is not `here` any more was the victim.
    ///
    /// Parks the victim. Returns false if the server is full and no session may go, so the arrival must have been
    /// rejected. While half-open sessions hold their share or more, the oldest of them is the victim, whatever the
    /// policy says. Returns an error if no session is gone though one might have been evicted.
    fn make_room(&mut self, here: &[Fingerprint]) -> Result<bool, String> {
        if self.count(Session::is_live) < PLACES {
            return Ok(true);
        }
        let opening = |session: &Session| session.place == Place::Opening;
        let victim = if self.count(opening) >= OPENING {
            self.least(opening, |session| session.who.came)
        } else {
            let may_go = |session: &Session| session.place == Place::Ready && session.calls.is_empty();
            let is_gone = |session: &Session| !here.contains(&Fingerprint::of(&session.id));
            let gone = self.least(|session| may_go(session) && is_gone(session), |session| session.who.used);
            match self.order {
                Some(order) => self.least(may_go, |session| order(&session.who)),
                None if gone.is_none() => {
                    hold!(self.count(may_go) == 0, "no session had to go, though one might: {:?}", self.sessions);
                    None
                }
                None => gone,
            }
        };
        Ok(victim.map(|victim| self.park(victim)).is_some())
    }

    /// Parks a session; if that is one too many, the one parked longest is forgotten: of those that never called, if
    /// there are any.
    fn park(&mut self, nth: usize) {
        self.parkings += 1;
        self.sessions[nth].place = Place::Parked(self.parkings);
        let parked = |session: &Session| matches!(session.place, Place::Parked(_));
        if self.count(parked) > PARKED {
            let by = |session: &Session| if let Place::Parked(parking) = session.place { parking } else { usize::MAX };
            let uncalled = |session: &Session| parked(session) && !session.called;
            if let Some(oldest) = self.least(uncalled, by).or_else(|| self.least(parked, by)) {
                self.sessions[oldest].place = Place::Dead;
            }
        }
    }

    /// Adds a session that was opened now.
    fn open(&mut self, id: String, place: Place) {
        let now = Instant::now();
        let who = Who { came: self.events, used: self.events };
        self.sessions.push(Session {
            id,
            place,
            opened: now,
            created: now,
            seen: now,
            called: false,
            who,
            calls: Vec::new(),
        });
    }

    /// Notes that the client uses its session now.
    fn touch(&mut self, nth: usize) {
        self.sessions[nth].who.used = self.events;
        self.sessions[nth].seen = Instant::now();
    }

    /// Sends a request to its session, which may be restored for it. Returns what the client is told.
    ///
    /// A restore needs room like a creation, and its victim is parked after the session has left the parking. `here`
    /// are the sessions that live after the event.
    fn reach(&mut self, nth: usize, here: &[Fingerprint]) -> Result<Told, String> {
        let place = self.sessions[nth].place;
        match place {
            Place::Dead => return Ok(Told::NotFound),
            // It may stay among the parked until the next request for it.
            Place::Parked(_) if self.sessions[nth].is_over_age() => {
                self.sessions[nth].place = Place::Dead;
                return Ok(Told::NotFound);
            }
            Place::Parked(_) => {
                self.sessions[nth].place = Place::ComingBack;
                if !self.make_room(here)? {
                    self.park(nth);
                    return Ok(Told::Refused);
                }
                self.sessions[nth].place = Place::Ready;
                self.sessions[nth].created = Instant::now();
                self.sessions[nth].who.came = self.events;
            }
            Place::Opening | Place::Ready | Place::ComingBack => {}
        }
        self.touch(nth);
        Ok(Told::Answer)
    }

    /// When a session's time is over, and whether it is parked then. `None` for a session without a deadline: parked
    /// ones are looked at only when a request comes.
    fn due(session: &Session) -> Option<(Instant, bool)> {
        let lifetime = session.opened + LIFETIME;
        let other = match session.place {
            // Its client was answered, so it may come back.
            Place::Opening => (session.created + INIT, true),
            Place::Ready if session.calls.is_empty() => (session.seen + IDLE, true),
            Place::Ready => return Some((lifetime, false)),
            Place::Parked(_) | Place::ComingBack | Place::Dead => return None,
        };
        Some(if lifetime <= other.0 { (lifetime, false) } else { other })
    }

    /// Whether the time of a session comes soon, or came just now. No event happens then, since the order of the two
    /// would be left to chance.
    fn is_someones_time(&self) -> bool {
        let now = Instant::now();
        let comes = |session: &Session| match session.place {
            Place::Dead => None,
            Place::Parked(_) => Some(session.opened + LIFETIME),
            _ => Self::due(session).map(|(at, _)| at),
        };
        self.sessions.iter().filter_map(comes).any(|at| at < now + BEFORE && now < at + LATE)
    }

    /// Time has passed: parks or ends the sessions whose time is over, the earliest first.
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
    /// What it asked for: its session, or the answer to its call.
    Answer,
    /// That it is rejected and may come back: 503, or within a session an error.
    Refused,
    /// That its session does not exist: 404.
    NotFound,
}

/// Answers `tools/list` at once, and a call of any tool never.
struct Tools;

impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn call_tool(
        &self,
        _: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        context.ct.cancelled().await;
        Err(ErrorData::internal_error("cancelled", None))
    }
}

/// Counts the leases that are held, and notes the ends that it is told of. It is the admission policy of the manager,
/// and admits everything.
#[derive(Clone, Debug, Default)]
struct Leases(Arc<AtomicUsize>, Arc<Mutex<Vec<SessionOrigin>>>);

/// Counts as held until it is dropped.
struct Lease(Arc<AtomicUsize>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[async_trait]
impl AdmissionPolicy for Leases {
    async fn admit(&self, _: &Arrival<'_>) -> Result<Permit, Rejection> {
        self.0.fetch_add(1, SeqCst);
        Ok(Permit::holding(Lease(Arc::clone(&self.0))))
    }

    fn on_session_end(&self, session: SessionOrigin) {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).push(session);
    }
}

/// Observes which sessions are live, and records the last wrong event: an incarnation that comes or ends twice.
#[derive(Clone, Debug, Default)]
struct Ends(Arc<Mutex<(Vec<SessionKey>, Option<&'static str>)>>);

impl SessionObserver for Ends {
    fn observe(&self, event: &SessionEvent<'_>) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            SessionEvent::Opened { session } | SessionEvent::Restored { session } => {
                if heard.0.contains(&session.key()) {
                    heard.1 = Some("a session came twice");
                }
                heard.0.push(session.key());
            }
            SessionEvent::Closed { session, .. } => match heard.0.iter().position(|key| *key == session.key()) {
                Some(nth) => drop(heard.0.swap_remove(nth)),
                None => heard.1 = Some("a session ended twice"),
            },
            SessionEvent::Rejected { .. } => {}
        }
    }
}

/// A response whose body may still be read. To drop it is to hang up.
type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The real thing: a manager behind rmcp's service and the layer.
struct Server {
    /// The inner manager, to make it fail and to count what exists.
    inner: Scripted,
    /// The manager under test.
    sessions: Arc<PolicySessionManager<Scripted>>,
    /// The admission policy, to count what is held.
    leases: Leases,
    /// The observer, to find events that are wrong.
    ends: Ends,
    /// The id of the last call. Ids differ over all sessions.
    numbers: u64,
}

impl Server {
    /// Makes the manager with the settings that the model knows. Busy and parked sessions have limits of 1,000 hours,
    /// so that the model need not know them.
    fn new(policy: impl EvictionPolicy, order: Order) -> Result<Self, String> {
        let (inner, leases, ends) = (Scripted::relaying(), Leases::default(), Ends::default());
        let sessions = PolicySessionManager::builder(inner.clone())
            .max_sessions(PLACES)
            .max_parked(PARKED)
            .admission(leases.clone())
            .eviction(policy)
            // After an hour without events each burst is a surge, in which the guard has an order of its own.
            .surge_guard(order.is_none())
            .idle_timeout(IDLE)
            .init_timeout(INIT)
            .max_lifetime(LIFETIME)
            .max_busy(1_000 * HOUR)
            .max_parked_age(1_000 * HOUR)
            .observer(ends.clone())
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { inner, sessions: Arc::new(sessions), leases, ends, numbers: 0 })
    }

    /// Returns the sessions that the manager lists as live, closing ones included.
    fn here(&self) -> Vec<Fingerprint> {
        self.sessions.list().into_iter().map(|session| session.fingerprint).collect()
    }

    /// Sends one request, and returns the response with its body unread. Each request gets a service and a layer of its
    /// own; the manager is what they share.
    async fn send(&self, method: Method, session: Option<&str>, message: &Value) -> Result<Answer, String> {
        let mut config = StreamableHttpServerConfig::default();
        config.session_store = Some(self.sessions.parking());
        config.sse_keep_alive = None;
        let mcp = StreamableHttpService::new(|| Ok(Tools), Arc::clone(&self.sessions), config);
        let request = Request::builder().method(method).uri("/").header("host", "localhost");
        let request = request.header("content-type", "application/json");
        let mut request = request.header("accept", "application/json, text/event-stream");
        if let Some(id) = session {
            request = request.header("mcp-session-id", id);
        }
        let request = request.body(Full::new(Bytes::from(message.to_string()))).map_err(|error| error.to_string())?;
        let Ok(answer) = self.sessions.layer().layer(mcp).call(request).await;
        Ok(answer.map(BodyExt::boxed_unsync))
    }

    /// Sends `initialize`, and reads the answer to its end. Returns the id of the session, empty if the newcomer was
    /// rejected.
    async fn initialize(&self) -> Result<(Told, String), String> {
        let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "model", "version": "1"}}});
        let answer = self.send(Method::POST, None, &message).await?;
        let id = answer.headers().get("mcp-session-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        let told = match answer.status() {
            StatusCode::OK => Told::Answer,
            StatusCode::SERVICE_UNAVAILABLE => Told::Refused,
            other => return Err(format!("a newcomer was answered with {other}")),
        };
        text(answer).await;
        Ok((told, id))
    }

    /// Says something that has no answer.
    async fn notify(&self, id: &str, message: &Value) -> Result<(), String> {
        let status = self.send(Method::POST, Some(id), message).await?.status();
        hold!(status == 202, "a notification was answered with {status}");
        Ok(())
    }

    /// Finishes a handshake.
    async fn initialized(&self, id: &str) -> Result<(), String> {
        self.notify(id, &json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await
    }

    /// Sends a request with an id of its own, and returns that id and the response, unread.
    async fn begin(&mut self, id: &str, method: &str, params: Value) -> Result<(u64, Answer), String> {
        self.numbers += 1;
        let call = json!({"jsonrpc": "2.0", "id": self.numbers, "method": method, "params": params});
        Ok((self.numbers, self.send(Method::POST, Some(id), &call).await?))
    }

    /// Makes a call that is answered at once.
    async fn call(&mut self, id: &str) -> Result<Told, String> {
        let (_, answer) = self.begin(id, "tools/list", json!({})).await?;
        let status = answer.status();
        if status == 404 {
            return Ok(Told::NotFound);
        }
        let text = text(answer).await;
        match (text.contains("\"tools\":"), text.contains("\"code\":503")) {
            (true, false) if status == 200 => Ok(Told::Answer),
            (false, true) if status == 200 => Ok(Told::Refused),
            _ => Err(format!("a call was answered with {status} and {text}")),
        }
    }

    /// Makes a call that is never answered, and returns its response. It reads the first events of the stream, to see
    /// whether the call was rejected.
    async fn hang(&mut self, id: &str) -> Result<(Told, u64, Answer), String> {
        let (number, mut answer) = self.begin(id, "tools/call", json!({"name": "any", "arguments": {}})).await?;
        if answer.status() == 404 {
            return Ok((Told::NotFound, number, answer));
        }
        // A refusal is answered at once; a call that hangs says nothing but the first event of its stream.
        let mut head = String::new();
        while let Ok(Some(Ok(frame))) = timeout(Duration::from_millis(1), answer.frame()).await {
            head.push_str(&String::from_utf8_lossy(frame.data_ref().map_or(&[], |data| data)));
        }
        let told = if head.contains("\"code\":503") { Told::Refused } else { Told::Answer };
        Ok((told, number, answer))
    }
}

/// Reads a body to its end.
async fn text(answer: Answer) -> String {
    let Ok(body) = answer.into_body().collect().await;
    String::from_utf8_lossy(&body.to_bytes()).into_owned()
}

/// The two side by side. Each event happens to both, and after each they have to agree.
struct Both {
    model: Model,
    server: Server,
}

impl Both {
    /// Plays one event on the manager, and then in the model. Returns an error if a client is told something else than
    /// the model says.
    #[expect(clippy::future_not_send, reason = "it runs on one thread")]
    async fn happens(&mut self, event: Event) -> Result<(), String> {
        let Self { model, server } = self;
        model.events += 1;
        let pick = |pick: u8| (!model.sessions.is_empty()).then(|| usize::from(pick) % model.sessions.len());
        match event {
            Event::Open | Event::HalfOpen => {
                let (told, id) = server.initialize().await?;
                let should = if model.make_room(&server.here())? { Told::Answer } else { Told::Refused };
                hold!(told == should, "a newcomer was told {told:?}, not {should:?}");
                if told == Told::Answer {
                    let half = matches!(event, Event::HalfOpen);
                    if !half {
                        server.initialized(&id).await?;
                    }
                    model.open(id, if half { Place::Opening } else { Place::Ready });
                }
            }
            Event::FailToOpen => {
                server.inner.set(Call::Create, Act::Error);
                let told = server.initialize().await?.0;
                hold!(told == Told::Refused, "a newcomer was told {told:?} when the inner manager failed");
                server.inner.set(Call::Create, Act::Ok);
                model.make_room(&server.here())?;
            }
            Event::GiveUp => {
                server.inner.set(Call::Create, Act::Never);
                timeout(STEP, server.initialize()).await.ok();
                server.inner.set(Call::Create, Act::Ok);
                model.make_room(&server.here())?;
            }
            Event::Finish(nth) => {
                let Some(nth) = pick(nth).filter(|nth| model.sessions[*nth].place == Place::Opening) else {
                    return Ok(());
                };
                server.initialized(&model.sessions[nth].id).await?;
                model.touch(nth);
                model.sessions[nth].place = Place::Ready;
            }
            Event::Call(nth) | Event::FailToRestore(nth) => {
                let Some(nth) = pick(nth).filter(|nth| model.sessions[*nth].place != Place::Opening) else {
                    return Ok(());
                };
                let fails = matches!(event, Event::FailToRestore(_));
                if fails {
                    server.inner.set(Call::Restore, Act::Error);
                }
                let told = server.call(&model.sessions[nth].id).await?;
                server.inner.set(Call::Restore, Act::Ok);
                let session = &model.sessions[nth];
                let should = if fails && matches!(session.place, Place::Parked(_)) && !session.is_over_age() {
                    // What made room for it is parked before it is again.
                    model.sessions[nth].place = Place::ComingBack;
                    model.make_room(&server.here())?;
                    model.park(nth);
                    Told::Refused
                } else {
                    model.reach(nth, &server.here())?
                };
                hold!(told == should, "a call was told {told:?}, not {should:?}");
            }
            Event::Hang(nth) => {
                let Some(nth) = pick(nth).filter(|nth| model.sessions[*nth].place != Place::Opening) else {
                    return Ok(());
                };
                let (told, number, answer) = server.hang(&model.sessions[nth].id).await?;
                let should = model.reach(nth, &server.here())?;
                hold!(told == should, "a call was told {told:?}, not {should:?}");
                if told == Told::Answer {
                    model.sessions[nth].called = true;
                    model.sessions[nth].calls.push((number, Some(answer)));
                }
            }
            Event::Cancel(nth) => {
                let Some(nth) = pick(nth).filter(|nth| !model.sessions[*nth].calls.is_empty()) else { return Ok(()) };
                let (number, _answer) = model.sessions[nth].calls.remove(0);
                let params = json!({"requestId": number});
                let message = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
                server.notify(&model.sessions[nth].id, &message).await?;
                model.touch(nth);
            }
            Event::HangUp(nth) => {
                if let Some(nth) = pick(nth)
                    && let Some((_, answer)) = model.sessions[nth].calls.first_mut()
                {
                    drop(answer.take());
                }
            }
            Event::Delete(nth) => {
                let Some(nth) = pick(nth) else { return Ok(()) };
                let status = server.send(Method::DELETE, Some(&model.sessions[nth].id), &Value::Null).await?.status();
                let should = if model.sessions[nth].place == Place::Dead { 404 } else { 202 };
                hold!(status == should, "a DELETE was answered with {status}, not {should}");
                model.sessions[nth].place = Place::Dead;
            }
            Event::Revoke(nth) => {
                let Some(nth) = pick(nth).filter(|nth| model.sessions[*nth].is_live()) else { return Ok(()) };
                let fingerprint = Fingerprint::of(&model.sessions[nth].id);
                let listed = server.sessions.list();
                let listed = listed.iter().find(|listed| listed.fingerprint == fingerprint);
                let key = listed.ok_or("a session that should live is not listed")?.key;
                let ended = server.sessions.terminate(key, CloseReason::Revoked).await;
                hold!(ended == 1, "{ended} sessions were revoked, not one");
                model.sessions[nth].place = Place::Dead;
            }
            Event::Hour => {
                sleep(HOUR).await;
                model.time_passes();
            }
        }
        Ok(())
    }

    /// What the laws say of every moment in which nothing happens: the numbers of sessions and leases, one end of each,
    /// no more sessions inside than places, and a farewell for each call of a session that has ended.
    async fn agree(&mut self) -> Result<(), String> {
        let Self { model, server } = self;
        let stats = server.sessions.stats();
        let told = server.leases.1.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let should = [
            ("live", stats.live, model.count(Session::is_live)),
            ("opening", stats.opening, model.count(|session| session.place == Place::Opening)),
            ("busy", stats.busy, model.count(|session| session.is_live() && !session.calls.is_empty())),
            ("parked", stats.parked, model.count(|session| matches!(session.place, Place::Parked(_)))),
            ("reserved", stats.reserved, 0),
            ("closing", stats.closing, 0),
            ("stuck", stats.stuck, 0),
            ("existing in the inner manager", server.inner.existing(), stats.live),
            ("held leases", server.leases.0.load(SeqCst), stats.live),
            ("told to have ended", told.len(), model.count(|session| session.place == Place::Dead)),
            ("told so once", told.iter().collect::<BTreeSet<_>>().len(), told.len()),
        ];
        if let Some((what, are, should)) = should.into_iter().find(|(_, are, should)| are != should) {
            return Err(format!("{are} are {what}, not {should}: {stats:?}"));
        }
        hold!(stats.overruled == 0, "the eviction policy was overruled");
        let most = server.inner.most();
        hold!(most <= PLACES, "{most} sessions existed at once, for {PLACES} places");
        let ends = server.ends.0.lock().unwrap_or_else(PoisonError::into_inner).1;
        hold!(ends.is_none(), "{}", ends.unwrap_or_default());
        // Calls of sessions that have ended got their farewell.
        for session in model.sessions.iter_mut().filter(|session| !session.is_live()) {
            for (number, answer) in session.calls.drain(..) {
                let Some(answer) = answer else { continue };
                let said = timeout(STEP, text(answer)).await.unwrap_or_default();
                let is_farewell = said.contains("\"isError\":true") && said.contains(&format!("\"id\":{number}"));
                hold!(is_farewell, "a call whose session ended was answered with {said:?}");
            }
        }
        Ok(())
    }
}

/// Plays a history, and drains the manager at the end: nothing may be left of it.
///
/// Between two events it waits until no session is closing and the time of none is near.
#[expect(clippy::future_not_send, reason = "it runs on one thread")]
async fn run(policy: impl EvictionPolicy, order: Order, history: &[Event]) -> Result<(), String> {
    let model = Model { order, sessions: Vec::new(), events: 0, parkings: 0 };
    let mut both = Both { model, server: Server::new(policy, order)? };
    for event in history {
        both.happens(*event).await?;
        sleep(STEP).await;
        // The model does not know how long a close takes, nor what of an event comes first.
        for _ in 0..1_000 {
            if both.server.sessions.stats().closing == 0 && !both.model.is_someones_time() {
                break;
            }
            sleep(STEP / 20).await;
        }
        both.model.time_passes();
        both.agree().await?;
    }
    let Server { sessions, inner, leases, .. } = &both.server;
    sessions.drain(MINUTE).await;
    let left = (sessions.stats().live, sessions.stats().reserved, inner.existing(), leases.0.load(SeqCst));
    hold!(left == (0, 0, 0, 0), "sessions, places, sessions inside and leases that a drain left: {left:?}");
    Ok(())
}
