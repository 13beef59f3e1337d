//! Checks of an eviction policy: the laws, the victims of one history, and the cost of a choice.
//!
//! All of them run the real registry with the policy in it, without a manager around, so they see what the policy is
//! asked and told as it is on a server. Sessions exist only as records there: a busy one has an activity that is kept
//! open.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::{Instant, advance};

use super::{Broken, HISTORIES, paused, through};
use crate::eviction::{Candidates, EvictionPolicy, IdlePeriod, SessionInfo};
use crate::registry::test_registry::{TestRegistry, call, looks, touch};
use crate::session::{Activity, Record, SessionKey, SessionOrigin};

/// Describes what happens on a server. Sessions are numbered in the order of arrival: 1, 2, 3.
///
/// [`victims`] has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session is opened, and its handshake is finished.
    Open,
    /// A session makes a request, which is answered at once.
    Use(u32),
    /// A session begins a request. Until the request ends, the session is not a candidate.
    Begin(u32),
    /// Its request is answered.
    End(u32),
    /// A session ends by itself.
    Close(u32),
    /// There is no room, and the policy is asked for a victim.
    Evict,
    /// Time passes.
    Pass(Duration),
}

/// Plays a history and returns the victims of a policy, in order.
///
/// Events of sessions that do not exist have no effect.
///
/// ```
/// use rmcp_session_policy::eviction::Lru;
/// use rmcp_session_policy::testing::eviction::{Event::*, victims};
///
/// assert_eq!(victims(Lru::new(), [Open, Open, Open, Use(1), Begin(2), Evict, Evict, End(2), Evict]), [3, 1, 2]);
/// ```
#[must_use]
pub fn victims(policy: impl EvictionPolicy, history: impl IntoIterator<Item = Event>) -> Vec<u32> {
    paused(async {
        let mut server = Server::new(policy);
        let mut gone = Vec::new();
        for event in history {
            gone.extend(server.happens(event).await);
        }
        gone
    })
}

/// Checks a policy against the laws of eviction.
///
/// - It names a session whenever one of its order may go.
/// - The session that it names is in its order: it is neither gone nor suspended.
/// - Of some sessions in its order it picks one.
/// - It does not panic.
/// - The same history gives the same victims.
///
/// ```
/// use rmcp_session_policy::{eviction::Lru, testing};
///
/// testing::eviction::keeps_the_laws(Lru::new);
/// ```
///
/// # Panics
///
/// Panics if the policy breaks a law, with that law and a short history that breaks it.
#[track_caller]
pub fn keeps_the_laws<P: EvictionPolicy>(make: impl Fn() -> P) {
    let history = vec((0..14_u8, any::<u8>()), 1..120);
    through(&history, "the eviction policy", HISTORIES, |history| {
        let first = paused(play(make(), &history))?;
        let second = paused(play(make(), &history))?;
        if first.1 == second.1 {
            Ok(())
        } else {
            Err(Broken { law: "it named others when it went through the same again".into(), history: first.0 })
        }
    });
}

/// Checks that a policy looks at few sessions, however many are busy: about one for each event.
///
/// A policy that looks at every candidate ([`Candidates::iter`]) fails. Such a policy is meant for servers with few
/// sessions.
///
/// ```
/// use rmcp_session_policy::{eviction::Lru, testing};
///
/// testing::eviction::asks_about_few(Lru::new);
/// ```
///
/// # Panics
///
/// Panics if the policy looks at more, with the numbers.
#[track_caller]
pub fn asks_about_few<P: EvictionPolicy>(make: impl Fn() -> P) {
    const SESSIONS: u32 = 2_000;
    const TURNS: u32 = 2_000;
    paused(async {
        let mut server = Server::new(make());
        for arrival in 1..=SESSIONS {
            server.happens(Event::Open).await;
            if arrival % 100 != 0 {
                server.happens(Event::Begin(arrival)).await;
            }
        }
        let looks = {
            let mut asked = 0;
            for turn in 1..=TURNS {
                asked += looks(|| {
                    let victim = server.stage.victim();
                    server.forget(victim);
                });
                server.happens(Event::Open).await;
                // One becomes idle and one becomes busy.
                server.happens(Event::End(1 + turn * 7 % SESSIONS)).await;
                server.happens(Event::Begin(1 + turn * 11 % SESSIONS)).await;
            }
            asked
        };
        // Each session when it is named first, and for each event; as much again for policies that combine two.
        let fair = 4 * (SESSIONS + 4 * TURNS) as usize;
        assert!(looks <= fair, "it looked {looks} times at a session for {TURNS} victims; {fair} would be fair");
    });
}

/// Simulates a full server to measure a policy: only the policy and its registry, without HTTP and an inner manager.
///
/// ```
/// use rmcp_session_policy::eviction::Lru;
/// use rmcp_session_policy::testing::eviction::Crowd;
///
/// let mut crowd = Crowd::new(Lru::new(), 1_000, 990);
/// assert!(crowd.newcomer(), "ten may go");
/// ```
pub struct Crowd {
    /// The registry and the policy in it.
    stage: TestRegistry,
    /// The activities of the busy sessions, which stay busy until this is dropped.
    busy: Vec<Activity<Record>>,
}

impl Crowd {
    /// Makes a server with `sessions` sessions, of which `busy` are busy, spread evenly.
    ///
    /// All sessions have finished their handshake.
    #[must_use]
    pub fn new(policy: impl EvictionPolicy, sessions: u32, busy: u32) -> Self {
        let mut stage = TestRegistry::new(policy);
        let is_busy =
            |nth: u64| (nth + 1) * u64::from(busy) / u64::from(sessions) > nth * u64::from(busy) / u64::from(sessions);
        let records: Vec<_> = (0..sessions).map(|_| stage.ready()).collect();
        let busy = (0..).zip(&records).filter(|(nth, _)| is_busy(*nth)).map(|(_, record)| call(record)).collect();
        Self { stage, busy }
    }

    /// Evicts a victim and opens a session in its place. Returns false if there is no candidate, and opens none then.
    ///
    /// The number of sessions stays the same, so it can be called over and over to measure a choice. The new session is
    /// idle, so the number of busy ones stays the same too.
    pub fn newcomer(&mut self) -> bool {
        let gone = self.stage.victim().is_some();
        if gone {
            drop(self.stage.ready());
        }
        gone
    }

    /// Returns the number of busy sessions.
    #[must_use]
    pub const fn busy(&self) -> usize {
        self.busy.len()
    }
}

impl fmt::Debug for Crowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crowd").field("busy", &self.busy.len()).finish_non_exhaustive()
    }
}

/// Holds the registry with a watched policy, and the sessions by number.
///
/// The number of a session is its place in the order of arrival, as the registry counts it, so a victim of the registry
/// has the number that it has here.
struct Server {
    stage: TestRegistry,
    /// The sessions that are there, each with the request that keeps it busy, if there is one. One at a time: a second
    /// `Begin` has no effect.
    here: HashMap<u32, (Arc<Record>, Option<Activity<Record>>)>,
    /// How many sessions have come so far, which is the number of the last one.
    arrivals: u32,
    /// The first law that was broken. [`Watched`] writes it, since the registry catches the panics of a policy.
    faults: Arc<Mutex<Option<&'static str>>>,
}

impl Server {
    /// Begins without a session. The policy is put into a [`Watched`], which writes into `faults`.
    fn new(policy: impl EvictionPolicy) -> Self {
        Self::with(policy, false)
    }

    /// Begins without a session. Each choice also asks the policy to pick among sessions.
    fn asking_to_pick(policy: impl EvictionPolicy) -> Self {
        Self::with(policy, true)
    }

    fn with(policy: impl EvictionPolicy, is_asked_to_pick: bool) -> Self {
        let faults = Arc::<Mutex<Option<&'static str>>>::default();
        let (here, suspended) = (HashSet::new(), HashSet::new());
        let watched = Watched { policy, here, suspended, is_asked_to_pick, faults: Arc::clone(&faults) };
        Self { stage: TestRegistry::new(watched), here: HashMap::new(), arrivals: 0, faults }
    }

    /// Takes a victim off the list, with its request. The registry has removed it already.
    fn forget(&mut self, victim: Option<u32>) {
        if let Some(victim) = victim {
            self.here.remove(&victim);
        }
    }

    /// Plays one event. Returns the session that was evicted, if one was.
    async fn happens(&mut self, event: Event) -> Option<u32> {
        match event {
            Event::Open => {
                self.arrivals += 1;
                let record = self.stage.ready();
                self.here.insert(self.arrivals, (record, None));
            }
            Event::Use(session) => {
                if let Some((record, _)) = self.here.get(&session) {
                    self.stage.registry.used(record);
                    touch(record);
                }
            }
            Event::Begin(session) => {
                if let Some((record, busy @ None)) = self.here.get_mut(&session) {
                    self.stage.registry.used(record);
                    *busy = Some(call(record));
                }
            }
            Event::End(session) => drop(self.here.get_mut(&session).and_then(|(_, busy)| busy.take())),
            Event::Close(session) => {
                if let Some((record, busy)) = self.here.remove(&session) {
                    record.entry.state.close();
                    self.stage.registry.remove(record.entry.key);
                    drop(busy);
                }
            }
            Event::Evict => {
                let victim = self.stage.victim();
                self.forget(victim);
                return victim;
            }
            Event::Pass(time) => advance(time).await,
        }
        None
    }
}

/// A history and its victims.
type Played = (Vec<Event>, Vec<u32>);

/// Plays a history; each event picks among the sessions that are there.
///
/// Kinds and picks are plain numbers, so a history that was shrunk can be played too. Returns all events that happened
/// and the victims in order, or the first law that was broken with the events until then.
async fn play(policy: impl EvictionPolicy, history: &[(u8, u8)]) -> Result<Played, Broken<Event>> {
    let mut server = Server::asking_to_pick(policy);
    let (mut events, mut gone) = (Vec::new(), Vec::new());
    for (kind, pick) in history {
        let mut here: Vec<_> = server.here.keys().copied().collect();
        here.sort_unstable();
        let session = here.get(usize::from(*pick) % here.len().max(1)).copied().unwrap_or_default();
        let event = match kind {
            0..=3 => Event::Open,
            4..=5 => Event::Use(session),
            6..=7 => Event::Begin(session),
            8..=9 => Event::End(session),
            10 => Event::Close(session),
            11 => Event::Pass(Duration::from_millis(u64::from(*pick))),
            _ => Event::Evict,
        };
        events.push(event);
        gone.extend(server.happens(event).await);
        let fault = *server.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(law) = fault {
            return Err(Broken { law: law.into(), history: events });
        }
    }
    Ok((events, gone))
}

/// Wraps the policy under test and records the first law that it breaks.
///
/// It stands between the registry and the policy and passes on every call, so it knows the order that the policy should
/// have.
#[derive(Debug)]
struct Watched<P> {
    policy: P,
    /// Sessions that the policy was told of and that are not removed.
    here: HashSet<SessionKey>,
    /// Those that may not go now, and that the policy must not name.
    suspended: HashSet<SessionKey>,
    /// Whether each choice also asks which of some sessions goes. That costs a look at all.
    is_asked_to_pick: bool,
    faults: Arc<Mutex<Option<&'static str>>>,
}

impl<P: EvictionPolicy> Watched<P> {
    /// Calls the policy. A panic is recorded as a fault and resumed, so that the registry treats it as it does on a
    /// server.
    fn watch<R>(&mut self, act: impl FnOnce(&mut P) -> R) -> R {
        let policy = &mut self.policy;
        match catch_unwind(AssertUnwindSafe(|| act(policy))) {
            Ok(done) => done,
            Err(panic) => {
                self.fault("it panicked");
                resume_unwind(panic)
            }
        }
    }

    /// Records a broken law, unless one was recorded before.
    fn fault(&self, law: &'static str) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(law);
    }
}

impl<P: EvictionPolicy> EvictionPolicy for Watched<P> {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.here.insert(session.key());
        self.watch(|policy| policy.on_insert(session));
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        self.here.remove(&session.key());
        self.watch(|policy| policy.on_remove(session));
    }

    fn on_suspend(&mut self, session: &SessionInfo<'_>) {
        self.suspended.insert(session.key());
        self.watch(|policy| policy.on_suspend(session));
    }

    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        self.suspended.remove(&session.key());
        self.watch(|policy| policy.on_resume(session));
    }

    fn tracks_access(&self) -> bool {
        self.policy.tracks_access()
    }

    fn on_access(&mut self, session: &SessionInfo<'_>) {
        self.watch(|policy| policy.on_access(session));
    }

    fn tracks_returns(&self) -> bool {
        self.policy.tracks_returns()
    }

    fn on_return(&mut self, session: &SessionInfo<'_>, idle: &IdlePeriod) {
        self.watch(|policy| policy.on_return(session, idle));
    }

    fn on_forgotten(&mut self, session: SessionOrigin) {
        self.watch(|policy| policy.on_forgotten(session));
    }

    fn phrase(&self) -> &'static str {
        self.policy.phrase()
    }

    fn keep_resumptions(&mut self, share: f64) -> bool {
        self.policy.keep_resumptions(share)
    }

    fn worth_until(&mut self, session: &SessionInfo<'_>, now: Instant) -> Instant {
        self.watch(|policy| policy.worth_until(session, now))
    }

    fn advantage(&self) -> Option<f64> {
        self.policy.advantage()
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        let named = self.watch(|policy| policy.victim(candidates));
        match named {
            Some(key) if !self.here.contains(&key) => self.fault("it named a session that is gone"),
            Some(key) if self.suspended.contains(&key) => self.fault("it named a session that is suspended"),
            None if candidates.iter().next().is_some() => self.fault("it named none while some session might go"),
            _ => {}
        }
        // The manager may ask at any time which of some sessions goes.
        let among: Vec<_> = candidates.iter().take(if self.is_asked_to_pick { 32 } else { 0 }).collect();
        if !among.is_empty() {
            self.pick(&among, candidates.now());
        }
        named
    }

    fn pick(&mut self, among: &[SessionInfo<'_>], now: Instant) -> Option<SessionKey> {
        let picked = self.watch(|policy| policy.pick(among, now));
        if !among.iter().any(|session| Some(session.key()) == picked) {
            self.fault("it picked none of the sessions that it was given");
        }
        picked
    }
}
