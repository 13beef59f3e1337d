//! [`Simulation`]: the real registry with one eviction policy in it, at moments that the caller gives.
//!
//! It has neither an inner manager nor HTTP nor a clock, so it plays days of traffic in seconds. The lab
//! (`rmcp-session-policy-lab`) replays traces with it. Sessions are the records that a server has, so a policy sees and hears
//! what it sees and hears on a server:
//! - [`LiveSession`] is a session that has a place.
//! - [`ParkedSession`] is what is kept of one without a place. It has the moments and uses of all its incarnations.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rmcp::transport::streamable_http_server::session::SessionId;
use tokio::time::Instant;

use crate::admission::ArrivalKind;
use crate::context::ClientContext;
use crate::eviction::{EvictionPolicy, SessionInfo};
use crate::manager::default_opening;
use crate::registry::{Choice, ClientIds, ClientOf, Registry, Rules};
use crate::session::{ActivityId, ActivityKind, Origin, Phase, Record, SessionKey, SessionOrigin, Signals, Software};
use crate::time::HOUR;
use crate::timestamp::Timestamp;

/// A server on which time passes only as the caller says.
///
/// Moments are durations since the start of the simulation, and each must be at least the one before. They count in
/// microseconds. Two simulations that see the same calls, each on a thread of its own, choose the same victims.
///
/// It has no bound of its own: the caller compares [`len`](Self::len) with the places, and asks for a
/// [`victim`](Self::victim) when all are taken.
///
/// ```
/// use std::time::Duration;
///
/// use rmcp_session_policy::admission::ArrivalKind;
/// use rmcp_session_policy::eviction::Lru;
/// use rmcp_session_policy::simulation::{SimulatedActivity, Simulation, default_max_opening};
///
/// let at = Duration::from_secs;
/// let mut server = Simulation::new(Lru::new(), default_max_opening(2), Duration::from_secs(600));
/// let [one, two] = [1, 2].map(|second| server.open(Some("claude-code"), None, at(second)));
/// for session in [&one, &two] {
///     let answered = server.begin(session, SimulatedActivity::Initialized, at(3)).expect("it is live");
///     server.end(session, answered, at(3));
/// }
/// let call = server.begin(&one, SimulatedActivity::Call, at(4)).expect("it is live");
///
/// // The first one is busy.
/// let victim = server.victim(ArrivalKind::Create, None, at(5)).expect("the second may go");
/// assert_eq!(victim.key(), two.key());
/// assert!(server.victim(ArrivalKind::Create, None, at(6)).is_none());
///
/// let parked = server.park(&victim, at(6));
/// server.end(&one, call, at(7));
/// let back = server.restore(parked, at(8));
/// assert_eq!((server.len(), back.info().origin() == victim.info().origin()), (2, true));
/// ```
pub struct Simulation {
    registry: Registry<Record>,
    signals: Arc<Signals>,
    /// The moment zero.
    start: Instant,
    /// Whether the policy hears of each use.
    tracks_access: bool,
    /// How clients are told apart, if they have a share of the places.
    share: Option<ClientOf>,
    /// All sessions have this id: it costs each a reference count, and nothing reads it.
    id: SessionId,
}

/// A session that has a place in a [`Simulation`].
///
/// It may still be read when the session has been evicted or closed.
#[derive(Clone, Debug)]
pub struct LiveSession(Arc<Record>);

impl LiveSession {
    /// Returns the name of this incarnation.
    #[must_use]
    pub fn key(&self) -> SessionKey {
        self.0.entry.key
    }

    /// Returns what a policy sees of the session.
    #[must_use]
    pub fn info(&self) -> SessionInfo<'_> {
        SessionInfo::of(&self.0)
    }
}

/// What is kept of a session that was evicted. [`Simulation::restore`] makes a new incarnation of it.
#[derive(Clone, Debug)]
pub struct ParkedSession {
    origin: Origin,
    software: Option<Arc<str>>,
}

impl ParkedSession {
    /// Returns the name of the session, which all its incarnations share.
    #[must_use]
    pub const fn origin(&self) -> SessionOrigin {
        self.origin.serial
    }
}

/// What a client does in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimulatedActivity {
    /// The `initialize` request, until its answer.
    Initialize,
    /// The `initialized` notification, which ends the handshake.
    Initialized,
    /// A request that hosts make by themselves after the handshake, such as `tools/list`.
    List,
    /// Any other request.
    Call,
    /// A `ping`, which is no use of the session.
    Ping,
}

impl SimulatedActivity {
    const fn kind(self) -> ActivityKind {
        match self {
            Self::Initialize => ActivityKind::Handshake,
            Self::Initialized => ActivityKind::Message,
            Self::List => ActivityKind::List,
            Self::Call => ActivityKind::Call,
            Self::Ping => ActivityKind::Ping,
        }
    }
}

/// Names an activity in progress. [`Simulation::end`] ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct InFlight {
    kind: ActivityKind,
    id: ActivityId,
}

impl Simulation {
    /// Creates an empty server.
    ///
    /// - `max_opening`: from this number of half-open sessions on, an arrival takes the place of the oldest of them; below
    ///   it they are no victims. See [`default_max_opening`].
    /// - `max_busy`: how long an activity keeps its session from eviction. `Duration::MAX` is for ever, and zero lets busy
    ///   sessions go.
    #[must_use]
    pub fn new(policy: impl EvictionPolicy, max_opening: usize, max_busy: Duration) -> Self {
        let tracks_access = policy.tracks_access();
        let signals = Arc::new(Signals::new(policy.tracks_returns(), Arc::default(), None));
        let rules = Rules { min_idle: Duration::ZERO, max_busy, protect: None };
        let mut registry = Registry::new(Some(Box::new(policy)), rules, max_opening, Arc::clone(&signals));
        // The same calls give the same victims.
        registry.random = fastrand::Rng::with_seed(1);
        Self {
            registry,
            signals,
            // A full microsecond, and the same in each process, so that no moment is rounded.
            start: Timestamp::of_micros(HOUR.as_secs() * 1_000_000).instant(),
            tracks_access,
            share: None,
            id: SessionId::from(""),
        }
    }

    /// Switches the guard against surges on, as
    /// [`surge_guard`](crate::PolicySessionManagerBuilder::surge_guard) does. The caller tells of each arrival by
    /// [`ask`](Self::ask). Defaults to off.
    #[must_use]
    pub fn guarded(mut self) -> Self {
        self.registry.guard_surges(true);
        self
    }

    /// Gives each network (/24, /48), or principal where one is known, a share of the places, as
    /// [`per_prefix_share`](crate::PolicySessionManagerBuilder::per_prefix_share) does. Defaults to no share.
    #[must_use]
    pub fn with_prefix_share(mut self, places: usize) -> Self {
        self.registry.share_places(Some(places), false);
        self.share = Some(ClientOf::per_prefix());
        self
    }

    fn clients(&self, client: Option<&ClientContext>) -> ClientIds {
        ClientIds { share: self.share.as_ref().and_then(|share| share.find(client)), max: None }
    }

    /// Counts an arrival for the guard: a session that will be opened or restored and that no admission policy rejected.
    /// The caller does so once for each, before it takes a free place or asks for a victim.
    pub fn ask(&mut self, now: Duration) {
        self.registry.asked(self.instant(now));
    }

    /// Returns since when there is a surge, if the guard is on and there is one.
    #[must_use]
    pub fn surge_since(&mut self, now: Duration) -> Option<Duration> {
        self.registry.surge_since(self.instant(now)).map(|since| self.since_start(since))
    }

    fn instant(&self, at: Duration) -> Instant {
        self.start + at
    }

    /// Returns the moment that is this long after the start of the simulation, for an [`Arrival`](crate::admission::Arrival).
    #[must_use]
    pub fn moment(&self, at: Duration) -> Instant {
        self.instant(at)
    }

    /// Returns how long after the start of the simulation a moment is that a [`SessionInfo`] gave.
    #[must_use]
    pub fn since_start(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.start)
    }

    /// Returns how many sessions have a place.
    #[must_use]
    pub fn len(&self) -> usize {
        self.registry.len()
    }

    /// Returns whether no session has a place.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how often the policy panicked, or named none while some session might go.
    #[must_use]
    pub const fn overruled(&self) -> u64 {
        self.registry.overruled
    }

    /// Opens a session, which is half-open. `software` is the name of its client's software.
    ///
    /// Costs what [`EvictionPolicy::on_insert`] costs.
    pub fn open(&mut self, software: Option<&str>, context: Option<Arc<ClientContext>>, now: Duration) -> LiveSession {
        let opened = Timestamp::of(self.instant(now));
        self.insert(Origin::new(SessionId::clone(&self.id), context, opened), software, now)
    }

    /// Gives a parked session a place again: a new incarnation with the moments, uses and origin of the earlier ones. Its
    /// request should begin at once; until then the session is kept for five seconds.
    pub fn restore(&mut self, parked: ParkedSession, now: Duration) -> LiveSession {
        self.insert(parked.origin, parked.software.as_deref(), now)
    }

    fn insert(&mut self, origin: Origin, software: Option<&str>, now: Duration) -> LiveSession {
        let now = self.instant(now);
        let clients = self.clients(origin.context.as_deref());
        let session = self.registry.insert(origin, now, |record| {
            if let Some(name) = software {
                record.software.get_or_init(|| Software::new(name, ""));
            }
            record
        });
        self.registry.owned_by(session.entry.key, clients);
        LiveSession(session)
    }

    /// Begins an activity. Returns `None`, and counts nothing, if the session has been evicted or closed.
    pub fn begin(&mut self, session: &LiveSession, activity: SimulatedActivity, now: Duration) -> Option<InFlight> {
        let (record, kind) = (&session.0, activity.kind());
        let id = record.begin(kind, self.instant(now))?;
        if activity == SimulatedActivity::Initialized {
            record.ready();
        }
        if kind.is_use() && self.tracks_access {
            self.registry.used(record);
        }
        Some(InFlight { kind, id })
    }

    /// Ends an activity of the session, which may have been evicted or closed meanwhile. It must have begun in this
    /// session, and is ended once.
    pub fn end(&self, session: &LiveSession, activity: InFlight, now: Duration) {
        session.0.end_at(activity.kind, activity.id, self.instant(now));
    }

    /// Counts a listening stream in.
    pub fn open_stream(&self, session: &LiveSession, now: Duration) {
        if let Some(opening) = session.0.begin(ActivityKind::Listen, self.instant(now)) {
            session.0.ready();
            session.0.stream_opened();
            session.0.end_at(ActivityKind::Listen, opening, self.instant(now));
        }
    }

    /// Counts a listening stream out. The caller has counted it in, in the same incarnation.
    pub fn close_stream(&self, session: &LiveSession, now: Duration) {
        session.0.stream_closed(self.instant(now));
    }

    /// Has a victim chosen by the manager's rules, for an arrival when all places are taken, and takes it out.
    ///
    /// Half-open sessions go first if they hold their share. Returns `None` if no session may go. Costs what
    /// [`EvictionPolicy::victim`] costs, amortized.
    pub fn victim(
        &mut self,
        arrival: ArrivalKind,
        newcomer: Option<&ClientContext>,
        now: Duration,
    ) -> Option<LiveSession> {
        let full = self.registry.full(self.clients(newcomer).share, false);
        let choice = self.registry.choose(self.instant(now), arrival, newcomer, 0, full);
        let Choice::Victim(record, _) = choice else { return None };
        drop(self.registry.remove(record.entry.key));
        Some(LiveSession(record))
    }

    /// Returns until when an idle session is worth its place: at `now` or before if it is not. The policy was told of a share
    /// by [`EvictionPolicy::keep_resumptions`].
    #[must_use]
    pub fn worth_until(&mut self, session: &LiveSession, now: Duration) -> Duration {
        let until = self.registry.worth_until(session.key(), self.instant(now));
        self.since_start(until)
    }

    /// Returns what the parking keeps of a session. The caller has evicted or closed it.
    #[must_use]
    pub fn park(&self, session: &LiveSession, now: Duration) -> ParkedSession {
        let record = &session.0;
        let origin = Origin {
            id: SessionId::clone(&self.id),
            serial: record.entry.serial,
            context: record.entry.context.clone(),
            history: record.history(self.instant(now)),
            restored: true,
            restores: record.restores.saturating_add(1),
        };
        ParkedSession { origin, software: record.software.get().map(|software| Arc::from(software.name())) }
    }

    /// Tells the policy that a session will not come back: it was closed, or its parked state is dropped. The caller does so
    /// once for each.
    pub fn forget(&self, session: SessionOrigin) {
        self.signals.forget(session);
    }

    /// Closes a session, as a client's DELETE or an idle timeout does. Returns false if it has ended before.
    pub fn close(&mut self, session: &LiveSession) -> bool {
        let record = &session.0;
        if record.entry.state.close() == Some(Phase::Opening) {
            record.left_opening();
        }
        self.registry.remove(record.entry.key).is_some()
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation").field("sessions", &self.len()).finish_non_exhaustive()
    }
}

/// Returns the share of half-open sessions that a manager with this number of places allows by default.
#[must_use]
pub fn default_max_opening(max_sessions: usize) -> usize {
    default_opening(max_sessions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::{Fifo, Lru};

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn act(server: &mut Simulation, session: &LiveSession, activity: SimulatedActivity, now: Duration) {
        let begun = server.begin(session, activity, now).unwrap();
        server.end(session, begun, now);
    }

    fn ready(server: &mut Simulation, now: Duration) -> LiveSession {
        let session = server.open(Some("agent"), None, now);
        act(server, &session, SimulatedActivity::Initialize, now);
        act(server, &session, SimulatedActivity::Initialized, now);
        session
    }

    #[test]
    fn a_restored_session_has_the_place_of_its_last_use_in_the_order() {
        let mut server = Simulation::new(Lru::new(), 1, Duration::MAX);
        let [one, two] = [1, 2].map(|second| ready(&mut server, at(second)));
        let parked = server.victim(ArrivalKind::Create, None, at(10)).map(|gone| server.park(&gone, at(10))).unwrap();
        act(&mut server, &two, SimulatedActivity::Call, at(11));
        let back = server.restore(parked, at(20));
        assert_eq!((back.info().origin(), back.info().client_name()), (one.info().origin(), Some("agent")));
        assert_eq!(server.since_start(back.info().last_used()), at(1));
        assert_eq!(
            (server.since_start(back.info().opened()), server.since_start(back.info().created())),
            (at(1), at(20))
        );
        let victim = server.victim(ArrivalKind::Create, None, at(26)).unwrap();
        assert_eq!(victim.key(), back.key(), "its request did not come");
    }

    #[test]
    fn a_surge_costs_the_sessions_that_came_with_it() {
        let mut server = Simulation::new(Lru::new(), 1, Duration::MAX).guarded();
        server.ask(at(0));
        let old = ready(&mut server, at(0));
        act(&mut server, &old, SimulatedActivity::Call, at(3_500));
        (0..10).for_each(|_| server.ask(at(3_600)));
        assert_eq!(server.surge_since(at(3_600)), Some(at(3_595)));
        let newcomer = ready(&mut server, at(3_601));
        assert_eq!(server.victim(ArrivalKind::Create, None, at(3_602)).unwrap().key(), newcomer.key());
        assert_eq!(server.surge_since(at(7_200)), None);
        assert_eq!(server.victim(ArrivalKind::Create, None, at(7_200)).unwrap().key(), old.key());
    }

    #[test]
    fn a_network_with_its_share_makes_room_for_itself() {
        let mut server = Simulation::new(Lru::new(), 1, Duration::MAX).with_prefix_share(1);
        let client = |address: [u8; 4]| Arc::new(ClientContext::new().with_peer(address.into()));
        let mut open = |address, second| {
            let session = server.open(None, Some(client(address)), at(second));
            act(&mut server, &session, SimulatedActivity::Initialized, at(second));
            session
        };
        let [stranger, own] = [open([198, 51, 100, 1], 1), open([192, 0, 2, 1], 2)];
        let newcomer = client([192, 0, 2, 9]);
        assert_eq!(server.victim(ArrivalKind::Create, Some(&newcomer), at(3)).unwrap().key(), own.key());
        assert_eq!(server.victim(ArrivalKind::Create, Some(&newcomer), at(4)).unwrap().key(), stranger.key());
    }

    #[test]
    fn an_activity_ends_at_the_moment_that_is_given() {
        let mut server = Simulation::new(Lru::new(), 1, Duration::MAX);
        let [one, two] = [1, 2].map(|second| ready(&mut server, at(second)));
        let long = server.begin(&one, SimulatedActivity::Call, at(3)).unwrap();
        act(&mut server, &two, SimulatedActivity::Call, at(100));
        server.end(&one, long, at(600));
        assert_eq!(server.since_start(one.info().last_used()), at(600));
        assert_eq!(server.victim(ArrivalKind::Create, None, at(700)).unwrap().key(), two.key());
    }

    #[test]
    fn a_ping_and_a_stream_move_no_session() {
        let mut server = Simulation::new(Lru::new(), 1, Duration::MAX);
        let [one, _] = [1, 2].map(|second| ready(&mut server, at(second)));
        act(&mut server, &one, SimulatedActivity::Ping, at(3));
        server.open_stream(&one, at(4));
        server.close_stream(&one, at(5));
        assert_eq!(server.since_start(one.info().last_seen()), at(5));
        assert_eq!(server.victim(ArrivalKind::Create, None, at(9)).unwrap().key(), one.key());
    }

    #[test]
    fn the_oldest_half_open_session_goes_once_they_hold_their_share() {
        let mut server = Simulation::new(Fifo::new(), 2, Duration::MAX);
        let settled = ready(&mut server, at(1));
        let first = server.open(None, None, at(2));
        assert_eq!(server.victim(ArrivalKind::Create, None, at(3)).unwrap().key(), settled.key());
        server.open(None, None, at(4));
        assert_eq!(server.victim(ArrivalKind::Create, None, at(5)).unwrap().key(), first.key());
        assert_eq!(server.len(), 1);
    }

    #[test]
    fn a_busy_session_goes_only_without_max_busy() {
        for (max_busy, goes) in [(Duration::MAX, false), (Duration::ZERO, true)] {
            let mut server = Simulation::new(Fifo::new(), 1, max_busy);
            let one = ready(&mut server, at(1));
            let call = server.begin(&one, SimulatedActivity::Call, at(2)).unwrap();
            assert_eq!(server.victim(ArrivalKind::Create, None, at(3)).is_some(), goes);
            server.end(&one, call, at(4));
            assert_eq!(server.begin(&one, SimulatedActivity::Call, at(5)).is_none(), goes);
        }
    }

    #[test]
    fn a_session_is_closed_once() {
        let mut server = Simulation::new(Lru::new(), 1, Duration::MAX);
        let one = server.open(None, None, at(1));
        assert!(server.close(&one));
        assert!(!server.close(&one));
        assert!(server.is_empty());
        let two = server.open(None, None, at(2));
        assert_eq!(
            server.victim(ArrivalKind::Create, None, at(3)).unwrap().key(),
            two.key(),
            "the share is free again"
        );
        assert_eq!(server.overruled(), 0);
    }
}
