//! [`Simulator`]: plays events on a server with a bound, and tells an observer what becomes of each session.
//!
//! The server is the library's own [`Simulation`]. What is added here is what clients and a manager do around it: a bound,
//! requests that last, sessions that lose their place and are restored by their next request, and idle timeouts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use rmcp_session_policy::admission::{AdmissionPolicy, Arrival, ArrivalKind};
use rmcp_session_policy::eviction::EvictionPolicy;
use rmcp_session_policy::simulation::{
    InFlight, LiveSession, ParkedSession, SimulatedActivity, Simulation, default_max_opening,
};
use rmcp_session_policy::{ClientContext, Phase, SessionKey};

use crate::cast::Cast;
use crate::event::{Event, Kind, Micros, duration};
use crate::next_requests::NextRequests;
use crate::observer::Observer;
use crate::references::Foresight;

/// How long a session may be idle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Idle {
    /// For ever.
    Always,
    /// For this time, if it has no listening stream.
    After(Duration),
    /// For as long as the policy says that it is worth its place.
    Worth,
}

impl Idle {
    /// The shortest time after which a session may lose its place.
    const fn shortest(self) -> Option<Micros> {
        match self {
            Self::Always => None,
            Self::After(idle) => Some(idle.as_micros() as Micros),
            Self::Worth => Some(60_000_000),
        }
    }
}

/// How a server is set up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How many sessions may have a place at one time.
    pub max_sessions: usize,
    /// Whether a session that lost its place keeps its history until its next request.
    pub parks: bool,
    /// How long a session may be idle until it loses its place.
    pub idle: Idle,
    /// Whether a busy session may be a victim. The library never does that; a reference does.
    pub cuts_busy: bool,
}

/// Where a session is.
#[derive(Default)]
enum Place {
    /// It has none and left nothing.
    #[default]
    Nowhere,
    Live(LiveSession),
    Parked(Box<ParkedSession>),
}

/// A session of the trace.
#[derive(Default)]
struct Seat {
    place: Place,
    /// How many listening streams its client holds open. They outlive an eviction, as on a server with the HTTP layer.
    streams: u16,
    /// When its latest use so far ends.
    used_until: Micros,
    /// Whether its last event has been played.
    is_over: bool,
}

/// A request under way. Those of one moment end in the order of their beginnings.
struct UnderWay {
    ends: Reverse<(Micros, u64)>,
    session: LiveSession,
    activity: InFlight,
}

impl PartialEq for UnderWay {
    fn eq(&self, other: &Self) -> bool {
        self.ends == other.ends
    }
}

impl Eq for UnderWay {}

impl PartialOrd for UnderWay {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for UnderWay {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.ends.cmp(&other.ends)
    }
}

/// A server with a bound, on which time passes as events are played.
pub struct Simulator<'a, O> {
    server: Simulation,
    settings: Settings,
    cast: &'a dyn Cast,
    observer: O,
    /// The sessions of the trace that have a place, or have begun and are not over.
    seats: HashMap<u32, Seat>,
    /// The session of the trace that a key's index belongs to.
    owners: Vec<u32>,
    under_way: BinaryHeap<UnderWay>,
    /// How many requests have begun, to order those that end at one moment.
    begun: u64,
    /// When live sessions are checked for their idle timeout: at the earliest moment at which it may have passed.
    checks: BinaryHeap<Reverse<(Micros, SessionKey)>>,
    foresight: Option<Prophet>,
    /// Until when the observer knows how many sessions had a place.
    counted_until: Micros,
    /// What new sessions need to be admitted.
    admission: Option<Box<dyn AdmissionPolicy>>,
}

/// Tells a policy that knows the future when sessions make their next requests.
struct Prophet {
    next: Arc<NextRequests>,
    /// How many requests were played.
    requests: usize,
    policy: Foresight,
}

impl<O> fmt::Debug for Simulator<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator")
            .field("server", &self.server)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<'a, O: Observer> Simulator<'a, O> {
    /// Creates an empty server.
    pub fn new(policy: Box<dyn EvictionPolicy>, settings: Settings, cast: &'a dyn Cast, observer: O) -> Self {
        let max_busy = if settings.cuts_busy { Duration::ZERO } else { Duration::MAX };
        Self {
            server: Simulation::new(policy, default_max_opening(settings.max_sessions), max_busy),
            settings,
            cast,
            observer,
            seats: HashMap::new(),
            owners: Vec::new(),
            under_way: BinaryHeap::new(),
            begun: 0,
            checks: BinaryHeap::new(),
            foresight: None,
            counted_until: 0,
            admission: None,
        }
    }

    /// Switches the library's guard against surges on.
    #[must_use]
    pub fn guarded(mut self) -> Self {
        self.server = self.server.guarded();
        self
    }

    /// Gives each network a share of the places.
    #[must_use]
    pub fn with_prefix_share(mut self, places: usize) -> Self {
        self.server = self.server.with_prefix_share(places);
        self
    }

    /// Admits new sessions by a policy, which must not wait. Restored ones are not asked for.
    #[must_use]
    pub fn with_admission(mut self, policy: impl AdmissionPolicy) -> Self {
        self.admission = Some(Box::new(policy));
        self
    }

    /// Tells the policy, through `policy`, of the next request of each session. All events of the trace that `next` is of
    /// must be played.
    #[must_use]
    pub fn with_foresight(mut self, next: Arc<NextRequests>, policy: Foresight) -> Self {
        self.foresight = Some(Prophet { next, requests: 0, policy });
        self
    }

    /// Returns what was observed, once all events are played.
    pub fn finish(self) -> O {
        self.observer
    }

    /// Returns how often the policy broke its contract.
    pub const fn overruled(&self) -> u64 {
        self.server.overruled()
    }

    /// Plays events, which must not begin before those that were played already.
    ///
    /// Each costs O(log n) for n requests under way, and what the policy costs.
    pub fn play(&mut self, events: &[Event]) {
        for event in events {
            self.pass(event.at);
            self.play_one(event);
            if event.is_last {
                self.end_of(event.session);
            }
        }
    }

    fn play_one(&mut self, event: &Event) {
        match event.kind {
            Kind::Init => self.init(event),
            Kind::Ready => self.touch(event, SimulatedActivity::Initialized),
            Kind::Ping => self.touch(event, SimulatedActivity::Ping),
            Kind::List => self.request(event, SimulatedActivity::List),
            Kind::Call => self.request(event, SimulatedActivity::Call),
            Kind::Open => self.open_stream(event),
            Kind::Close => self.close_stream(event),
            Kind::Delete => self.delete(event),
        }
    }

    fn delete(&mut self, event: &Event) {
        match self.seats.remove(&event.session).map(|seat| seat.place) {
            None | Some(Place::Nowhere) => {}
            Some(Place::Parked(parked)) => self.server.forget(parked.origin()),
            Some(Place::Live(live)) => {
                self.server.close(&live);
                self.server.forget(live.info().origin());
            }
        }
    }

    /// The session of the trace as it is in its place, if it has one.
    fn live(&self, session: u32) -> Option<&LiveSession> {
        match &self.seats.get(&session)?.place {
            Place::Live(live) => Some(live),
            Place::Nowhere | Place::Parked(_) => None,
        }
    }

    /// Ends the requests that end until this moment, and then the sessions that were idle for too long.
    fn pass(&mut self, now: Micros) {
        while let Some(first) = self.under_way.peek()
            && first.ends.0.0 <= now
            && let Some(UnderWay { ends, session, activity }) = self.under_way.pop()
        {
            self.server.end(&session, activity, duration(ends.0.0));
        }
        if let Some(shortest) = self.settings.idle.shortest() {
            self.end_idle(shortest, now);
        }
        self.count(now);
    }

    /// Tells how many sessions had a place until now. Called before that changes.
    fn count(&mut self, now: Micros) {
        self.observer.lived(self.server.len(), self.counted_until, now);
        self.counted_until = now;
    }

    /// Takes the place of each session that has been idle for too long.
    fn end_idle(&mut self, shortest: Micros, now: Micros) {
        while let Some(&Reverse((at, key))) = self.checks.peek()
            && at <= now
        {
            self.checks.pop();
            let owner = self.owners[key.index()];
            let Some(live) = self.live(owner).filter(|live| live.key() == key) else { continue };
            let live = live.clone();
            let until = self.idle_until(&live, at, shortest);
            if until > at {
                self.checks.push(Reverse((until, key)));
            } else {
                self.count(at);
                self.server.close(&live);
                self.leave(owner, &live, at);
            }
        }
    }

    /// When a session is to be looked at for its idleness; `at` or before if it goes.
    fn idle_until(&mut self, live: &LiveSession, at: Micros, shortest: Micros) -> Micros {
        let info = live.info();
        let micros = |moment: Duration| moment.as_micros() as Micros;
        let by_worth = self.settings.idle == Idle::Worth;
        if info.in_flight() > 0 || (if by_worth { info.phase() == Phase::Opening } else { info.open_streams() > 0 }) {
            at + shortest
        } else if by_worth {
            micros(self.server.worth_until(live, duration(at)))
        } else {
            micros(self.server.since_start(info.last_seen())) + shortest
        }
    }

    fn init(&mut self, event: &Event) {
        if self.live(event.session).is_some() {
            return;
        }
        self.seats.remove(&event.session);
        if let Some(live) = self.arrive(event.session, ArrivalKind::Create, event.at) {
            self.begin(&live, SimulatedActivity::Initialize, event);
        }
    }

    /// Plays what uses a session only if it has a place.
    fn touch(&mut self, event: &Event, activity: SimulatedActivity) {
        if let Some(live) = self.live(event.session).cloned() {
            self.begin(&live, activity, event);
        }
    }

    /// Plays a request, for which its session gets a place if it has none.
    fn request(&mut self, event: &Event, activity: SimulatedActivity) {
        let live = self.live(event.session).cloned();
        let used_until = self.seats.get(&event.session).map_or(event.at, |seat| seat.used_until);
        self.observer.request(event, live.is_some(), event.at.saturating_sub(used_until));
        let live = live.or_else(|| self.come_back(event.session, event.at));
        let next = self.foresight.as_mut().map(Prophet::next_request);
        if let Some(live) = live {
            self.foretell(live.key(), next);
            self.begin(&live, activity, event);
        }
    }

    /// Gives a session a place for its request, with its history if it was parked.
    fn come_back(&mut self, session: u32, at: Micros) -> Option<LiveSession> {
        if matches!(self.seats.get(&session), Some(Seat { place: Place::Parked(_), .. })) {
            return self.arrive(session, ArrivalKind::Restore, at);
        }
        let live = self.arrive(session, ArrivalKind::Create, at)?;
        for step in [SimulatedActivity::Initialize, SimulatedActivity::Initialized] {
            if let Some(activity) = self.server.begin(&live, step, duration(at)) {
                self.server.end(&live, activity, duration(at));
            }
        }
        Some(live)
    }

    /// Finds a place for a session and puts it there. Returns `None` if no session may go.
    fn arrive(&mut self, session: u32, kind: ArrivalKind, at: Micros) -> Option<LiveSession> {
        let context = self.cast.context(session);
        if kind == ArrivalKind::Create && !self.admits(context.as_deref(), at) {
            self.observer.refused(session, at);
            return None;
        }
        self.server.ask(duration(at));
        while self.server.len() >= self.settings.max_sessions {
            let Some(victim) = self.server.victim(kind, context.as_deref(), duration(at)) else {
                self.observer.refused(session, at);
                return None;
            };
            let owner = self.owners[victim.key().index()];
            self.observer.evicted(owner, victim.info().in_flight() > 0, at);
            self.leave(owner, &victim, at);
        }
        let seat = self.seats.entry(session).or_default();
        let live = match std::mem::replace(&mut seat.place, Place::Nowhere) {
            Place::Parked(parked) => self.server.restore(*parked, duration(at)),
            Place::Live(_) | Place::Nowhere => self.server.open(self.cast.software(session), context, duration(at)),
        };
        for _ in 0..seat.streams {
            self.server.open_stream(&live, duration(at));
        }
        seat.place = Place::Live(live.clone());
        self.settle(session, &live, at);
        Some(live)
    }

    /// Whether a new session of this client is admitted. A policy that waits admits none.
    fn admits(&self, client: Option<&ClientContext>, at: Micros) -> bool {
        let Some(policy) = &self.admission else { return true };
        let arrival = Arrival::new(self.server.moment(duration(at)), ArrivalKind::Create);
        let arrival = match client {
            Some(client) => arrival.with_context(client),
            None => arrival,
        };
        match policy.admit(&arrival).now_or_never() {
            Some(Ok(permit)) => {
                drop(permit.commit());
                true
            }
            _ => false,
        }
    }

    /// Notes whose a new incarnation is, when to look at it, and what comes next.
    fn settle(&mut self, session: u32, live: &LiveSession, at: Micros) {
        let index = live.key().index();
        if self.owners.len() <= index {
            self.owners.resize(index + 1, 0);
        }
        self.owners[index] = session;
        if let Some(shortest) = self.settings.idle.shortest() {
            self.checks.push(Reverse((at + shortest, live.key())));
        }
        let first = self.foresight.as_ref().map(|prophet| prophet.next.first[session as usize]);
        self.foretell(live.key(), first);
    }

    fn foretell(&self, key: SessionKey, next: Option<Micros>) {
        if let (Some(prophet), Some(next)) = (&self.foresight, next) {
            prophet.policy.tell(key, next);
        }
    }

    fn begin(&mut self, live: &LiveSession, activity: SimulatedActivity, event: &Event) {
        let Some(begun) = self.server.begin(live, activity, duration(event.at)) else { return };
        if activity != SimulatedActivity::Ping
            && let Some(seat) = self.seats.get_mut(&event.session)
        {
            seat.used_until = seat.used_until.max(event.at + event.lasts);
        }
        if event.lasts == 0 {
            self.server.end(live, begun, duration(event.at));
            return;
        }
        self.begun += 1;
        let ends = Reverse((event.at + event.lasts, self.begun));
        self.under_way.push(UnderWay { ends, session: live.clone(), activity: begun });
    }

    /// Parks a session that has lost its place, unless nothing comes from it any more.
    fn leave(&mut self, owner: u32, live: &LiveSession, at: Micros) {
        if !self.settings.parks {
            self.server.forget(live.info().origin());
        }
        // A server does not know that nothing comes any more, so a policy is not told.
        let Entry::Occupied(mut seat) = self.seats.entry(owner) else { return };
        if seat.get().is_over {
            seat.remove();
        } else if self.settings.parks {
            seat.get_mut().place = Place::Parked(Box::new(self.server.park(live, duration(at))));
        } else {
            seat.get_mut().place = Place::Nowhere;
        }
    }

    /// Forgets what is kept for the next event of a session: there is none. A session that has a place keeps it, since no
    /// server knows that.
    fn end_of(&mut self, session: u32) {
        let Entry::Occupied(mut seat) = self.seats.entry(session) else { return };
        if let Place::Live(_) = seat.get().place {
            seat.get_mut().is_over = true;
        } else {
            seat.remove();
        }
    }

    fn open_stream(&mut self, event: &Event) {
        let Some(seat) = self.seats.get_mut(&event.session) else { return };
        if let Place::Nowhere = seat.place {
            return;
        }
        seat.streams = seat.streams.saturating_add(1);
        if let Place::Live(live) = &seat.place {
            self.server.open_stream(live, duration(event.at));
        }
    }

    fn close_stream(&mut self, event: &Event) {
        let Some(seat) = self.seats.get_mut(&event.session).filter(|seat| seat.streams > 0) else { return };
        seat.streams -= 1;
        if let Place::Live(live) = &seat.place {
            self.server.close_stream(live, duration(event.at));
        }
    }
}

impl Prophet {
    /// Counts a request; returns when its session makes the next one.
    fn next_request(&mut self) -> Micros {
        let next = self.next.after[self.requests];
        self.requests += 1;
        next
    }
}

#[cfg(test)]
mod tests {
    use rmcp_session_policy::eviction::{Fifo, Lru};

    use super::*;

    struct Unknown;

    impl Cast for Unknown {
        fn software(&self, _: u32) -> Option<&str> {
            None
        }
        fn context(&self, _: u32) -> Option<Arc<ClientContext>> {
            None
        }
    }

    /// Writes down what it hears: a letter and the session.
    #[derive(Default)]
    struct Heard(Vec<(char, u32)>);

    impl Observer for Heard {
        fn request(&mut self, request: &Event, has_place: bool, _: Micros) {
            if !has_place {
                self.0.push(('r', request.session));
            }
        }
        fn evicted(&mut self, session: u32, busy: bool, _: Micros) {
            self.0.push((if busy { 'b' } else { 'e' }, session));
        }
        fn refused(&mut self, session: u32, _: Micros) {
            self.0.push(('x', session));
        }
    }

    const fn settings(max_sessions: usize) -> Settings {
        Settings { max_sessions, parks: true, idle: Idle::Always, cuts_busy: false }
    }

    /// Plays `(second, session, kind, seconds)`.
    fn heard(policy: impl EvictionPolicy, settings: Settings, events: &[(u64, u32, Kind, u64)]) -> Vec<(char, u32)> {
        let mut simulator = Simulator::new(Box::new(policy), settings, &Unknown, Heard::default());
        for (nth, (at, session, kind, lasts)) in events.iter().enumerate() {
            let is_last = events[nth + 1..].iter().all(|(_, other, ..)| other != session);
            let event = Event { at: at * 1_000_000, lasts: lasts * 1_000_000, session: *session, kind: *kind, is_last };
            simulator.play(&[event]);
        }
        assert_eq!(simulator.overruled(), 0);
        simulator.finish().0
    }

    use Kind::{Call, Close, Delete, Init, List, Open, Ping, Ready};

    #[test]
    fn the_next_request_of_an_evicted_session_restores_it() {
        let trace = [
            (0, 0, Init, 0),
            (0, 0, Ready, 0),
            (1, 1, Init, 0),
            (1, 1, Ready, 0),
            (2, 2, Init, 0), // takes the place of 0
            (2, 2, Ready, 0),
            (3, 0, Ping, 0), // restores nothing
            (3, 0, Open, 0),
            (4, 0, List, 0), // takes the place of 1
            (5, 0, Call, 0),
            (6, 1, Call, 0), // takes the place of 2
            (7, 2, Ping, 0),
        ];
        assert_eq!(heard(Lru::new(), settings(2), &trace), [('e', 0), ('r', 0), ('e', 1), ('r', 1), ('e', 2)]);
    }

    #[test]
    fn a_restored_session_has_its_history_only_if_it_was_parked() {
        let opened = |at, session| [(at, session, Init, 0), (at, session, Ready, 0)];
        let calls = |at, session, count| vec![(at, session, Call, 0); count];
        let trace = [
            opened(0, 0).to_vec(),
            calls(0, 0, 3),
            opened(1, 1).to_vec(),
            calls(1, 1, 4),
            opened(2, 2).to_vec(), // takes the place of 0
            calls(2, 2, 3),
            calls(3, 0, 2), // takes the place of 2, and has used its session 5 times or 2
            opened(4, 3).to_vec(),
            calls(5, 0, 1),
            calls(5, 1, 1),
        ]
        .concat();
        let with = |parks| {
            let fewest_uses = rmcp_session_policy::eviction::victim_fn(|candidates| {
                candidates.iter().min_by_key(|session| (session.uses(), session.key())).map(|session| session.key())
            });
            heard(fewest_uses, Settings { parks, ..settings(2) }, &trace)
        };
        let first = [('e', 0), ('r', 0), ('e', 2)];
        assert_eq!(with(true), [&first[..], &[('e', 1), ('r', 1), ('e', 3)]].concat());
        assert_eq!(with(false), [&first[..], &[('e', 0), ('r', 0), ('e', 3)]].concat());
    }

    #[test]
    fn a_busy_session_is_kept_and_the_arrival_refused() {
        let trace = [
            (0, 0, Init, 0),
            (0, 0, Ready, 0),
            (1, 0, Call, 10),
            (2, 1, Init, 0),
            (3, 1, List, 0), // without a place still
            (11, 1, List, 0),
            (12, 0, Call, 5),
        ];
        let refused = [('x', 1), ('r', 1), ('x', 1), ('r', 1), ('e', 0), ('r', 0), ('e', 1)];
        assert_eq!(heard(Lru::new(), settings(1), &trace), refused);
        let cut = [('b', 0), ('e', 1), ('r', 0)];
        let heard = heard(Fifo::new(), Settings { cuts_busy: true, ..settings(1) }, &trace);
        assert_eq!((heard[0], heard.contains(&cut[2])), (cut[0], true));
    }

    #[test]
    fn half_open_sessions_are_kept_up_to_their_share() {
        let trace = [
            (0, 0, Init, 0),
            (0, 0, Ready, 0),
            (1, 1, Init, 0),
            (2, 2, Init, 0), // the share is 1: 1 goes
            (3, 3, Init, 0),
        ];
        assert_eq!(heard(Lru::new(), settings(2), &trace), [('e', 1), ('e', 2)]);
    }

    #[test]
    fn an_idle_session_loses_its_place_unless_a_stream_is_open() {
        let idle = Settings { idle: Idle::After(Duration::from_secs(60)), ..settings(2) };
        let trace = [
            (0, 0, Init, 0),
            (0, 0, Ready, 0),
            (0, 1, Init, 0),
            (0, 1, Ready, 0),
            (1, 1, Open, 0),
            (50, 0, Ping, 0),  // is heard of
            (109, 0, Call, 0), // has its place still
            (169, 2, Init, 0), // 0 has just lost its place
            (169, 2, Ready, 0),
            (170, 0, Call, 0), // 1 is the least recently used: its stream is no use
            (171, 1, Close, 0),
            (172, 2, Ping, 0),
        ];
        assert_eq!(heard(Lru::new(), idle, &trace), [('r', 0), ('e', 1)]);
    }

    #[test]
    fn an_idle_session_loses_its_place_when_it_is_worth_no_more() {
        /// A session is worth its place for 100 s.
        #[derive(Debug)]
        struct Worth;

        impl EvictionPolicy for Worth {
            fn victim(&mut self, _: &rmcp_session_policy::eviction::Candidates<'_>) -> Option<SessionKey> {
                None
            }
            fn worth_until(
                &mut self,
                session: &rmcp_session_policy::eviction::SessionInfo<'_>,
                _: tokio::time::Instant,
            ) -> tokio::time::Instant {
                session.last_used() + Duration::from_secs(100)
            }
        }

        let trace = [
            (0, 0, Init, 0),
            (0, 0, Ready, 0),
            (1, 0, Open, 0),
            (50, 0, Call, 0),
            (140, 0, Ping, 0), // is no use
            (149, 0, Call, 50),
            (298, 0, Call, 0), // it was used until 199
            (398, 0, Call, 0), // and until 298
        ];
        let by_worth = Settings { idle: Idle::Worth, ..settings(1) };
        assert_eq!(heard(Worth, by_worth, &trace[..7]), []);
        assert_eq!(heard(Worth, by_worth, &trace), [('r', 0)]);
    }

    #[test]
    fn a_stream_outlives_an_eviction() {
        let idle = Settings { idle: Idle::After(Duration::from_secs(60)), ..settings(1) };
        let trace = [
            (0, 0, Init, 0),
            (0, 0, Ready, 0),
            (1, 0, Open, 0),
            (2, 1, Init, 0),
            (2, 1, Ready, 0),
            (3, 0, Call, 0),
            (100, 0, Call, 0), // has its place, because it listens
            (101, 0, Close, 0),
            (200, 0, Call, 0), // has not
        ];
        assert_eq!(heard(Lru::new(), idle, &trace[..7]), [('e', 0), ('r', 0), ('e', 1)]);
        assert_eq!(heard(Lru::new(), idle, &trace), [('e', 0), ('r', 0), ('e', 1), ('r', 0)]);
    }

    #[test]
    fn a_deleted_session_gives_its_place_back() {
        let trace =
            [(0, 0, Init, 0), (0, 0, Ready, 0), (1, 0, Call, 100), (2, 0, Delete, 0), (3, 1, Init, 0), (4, 0, Call, 0)];
        assert_eq!(heard(Lru::new(), settings(1), &trace), [('r', 0), ('e', 1)]);
    }
}
