//! docs/design.md, L13.
//!
//! A policy that panics, names wrong sessions or names the same one for ever costs a bounded number of tries and breaks no law.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crate::scripted::{Line, Scripted, initialize, initialized, list_tools, ping};
use crate::witness::Witness;
use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use rmcp_session_policy::admission::{Lease, Permit, Reservation, admit_fn};
use rmcp_session_policy::eviction::{Candidates, EvictionPolicy, Lru, SessionInfo, victim_fn};
use rmcp_session_policy::{
    ClientContext, CloseReason, PolicyError, PolicySessionManager, PolicySessionManagerBuilder, PolicyTransport,
    SECOND, SessionEvent, SessionKey, SessionObserver,
};

const PLACES: usize = 4;

type Manager = PolicySessionManager<Scripted>;

fn manager(
    configure: impl FnOnce(PolicySessionManagerBuilder<Scripted>) -> PolicySessionManagerBuilder<Scripted>,
) -> (Scripted, Witness, Manager) {
    let (inner, witness) = (Scripted::new(), Witness::default());
    let builder = PolicySessionManager::builder(inner.clone()).max_sessions(PLACES).max_opening(PLACES);
    let sessions = configure(builder.observer(witness.clone())).build().expect("valid");
    (inner, witness, sessions)
}

async fn ready(sessions: &Manager) -> (SessionId, PolicyTransport<Line>) {
    let (id, transport) = sessions.create_session().await.expect("a session may go");
    sessions.initialize_session(&id, initialize()).await.expect("answers");
    sessions.accept_message(&id, initialized()).await.expect("accepts");
    (id, transport)
}

/// Opens and closes many sessions. Under any policy, every newcomer is admitted, and the bound holds.
async fn keeps_the_laws(policy: impl EvictionPolicy) -> rmcp_session_policy::Stats {
    let (inner, witness, sessions) = manager(|b| b.eviction(policy));
    let mut transports = Vec::new();
    for turn in 0..40 {
        let (id, transport) = ready(&sessions).await;
        transports.push(transport);
        if turn % 5 == 0 {
            sessions.close_session(&id).await.expect("closes");
        }
        if turn % 7 == 0 {
            drop(transports.remove(0));
        }
        let busy = sessions.create_stream(&id, list_tools(turn)).await;
        drop((busy, transports.pop()));
        let (_, transport) = ready(&sessions).await;
        transports.push(transport);
    }
    assert!(inner.most() <= PLACES);
    transports.clear();
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.reserved, inner.existing()), (0, 0, 0), "{stats:?}");
    witness.assert_one_end_each();
    assert_eq!(witness.closed().len() as u64, stats.opened);
    stats
}

/// A method of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Insert,
    Remove,
    Suspend,
    Resume,
    Victim,
}

/// Least recently used, but panics in one method.
#[derive(Debug)]
struct Panics {
    lru: Lru,
    at: Method,
}

impl Panics {
    fn reach(&self, method: Method) {
        assert!(self.at != method, "this policy panics in {method:?}");
    }
}

impl EvictionPolicy for Panics {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.reach(Method::Insert);
        self.lru.on_insert(session);
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        self.reach(Method::Remove);
        self.lru.on_remove(session);
    }

    fn on_suspend(&mut self, session: &SessionInfo<'_>) {
        self.reach(Method::Suspend);
        self.lru.on_suspend(session);
    }

    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        self.reach(Method::Resume);
        self.lru.on_resume(session);
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        self.reach(Method::Victim);
        self.lru.victim(candidates)
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_panics_in_any_method_does_no_harm() {
    for at in [Method::Insert, Method::Remove, Method::Victim] {
        let stats = keeps_the_laws(Panics { lru: Lru::new(), at }).await;
        assert!(stats.overruled > 0, "{at:?} is counted");
    }
    for at in [Method::Suspend, Method::Resume] {
        keeps_the_laws(Panics { lru: Lru::new(), at }).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_panics_when_a_session_is_resumed_does_no_harm() {
    let (inner, _witness, sessions) = manager(|b| b.eviction(Panics { lru: Lru::new(), at: Method::Resume }));
    let mut held = Vec::new();
    for _ in 0..PLACES {
        let (id, transport) = ready(&sessions).await;
        // The call is never answered, so the session is busy until the transport passes the call on.
        let stream = sessions.create_stream(&id, list_tools(1)).await.expect("a call");
        held.push((transport, stream));
    }
    assert!(matches!(sessions.create_session().await, Err(PolicyError::ServerFull(_))), "all are busy");
    // Each service takes its call, and drops it unanswered with the transport of another session.
    tokio::time::sleep(11 * 60 * SECOND).await;
    let newcomer = sessions.create_session().await;
    assert!(newcomer.is_ok(), "max_busy has passed: all may go again");
    assert!(sessions.stats().overruled > 0);
    assert_eq!(inner.most(), PLACES);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_names_no_session_is_overruled() {
    let stats = keeps_the_laws(victim_fn(|_| None)).await;
    assert_eq!(stats.overruled, stats.closed(CloseReason::Evicted));
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_always_names_the_same_session_costs_a_bounded_number_of_tries() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let mut favourite = None;
    let stats = keeps_the_laws(victim_fn(move |candidates: &Candidates<'_>| {
        count.fetch_add(1, SeqCst);
        favourite = favourite.or_else(|| candidates.iter().next().map(|session| session.key()));
        favourite
    }))
    .await;
    let evicted = stats.closed(CloseReason::Evicted);
    assert_eq!(stats.overruled, evicted - 1, "it was right once");
    assert!(asked.load(SeqCst) as u64 <= 8 * evicted, "{} times for {evicted} victims", asked.load(SeqCst));
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_names_unknown_keys_is_overruled() {
    // Keys of another manager: some exist here by chance, most do not.
    let (_inner, _witness, other) = manager(|b| b.max_sessions(64).max_opening(64));
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(ready(&other).await);
    }
    let mut strangers: Vec<_> = other.list().into_iter().map(|session| session.key).rev().cycle().take(1_000).collect();
    keeps_the_laws(victim_fn(move |_| strangers.pop())).await;
}

/// Names those that are not candidates, the dead among them.
#[derive(Debug, Default)]
struct Necromancer(Vec<SessionKey>);

impl EvictionPolicy for Necromancer {
    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        self.0.push(session.key());
    }

    fn victim(&mut self, _: &Candidates<'_>) -> Option<SessionKey> {
        self.0.pop()
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_names_ended_sessions_is_overruled() {
    let stats = keeps_the_laws(Necromancer::default()).await;
    assert!(stats.overruled > 0);
}

/// Names the sessions that are busy, half-open or protected.
#[derive(Debug, Default)]
struct Mean(Vec<SessionKey>);

impl EvictionPolicy for Mean {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.0.push(session.key());
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        self.0.retain(|key| *key != session.key());
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        self.0.iter().copied().find(|key| !candidates.iter().any(|session| session.key() == *key))
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_names_busy_and_protected_sessions_evicts_neither() {
    let guarded = Arc::new(Mutex::new(None));
    let guard = Arc::clone(&guarded);
    let (_inner, witness, sessions) = manager(|b| {
        b.eviction(Mean::default()).protect(move |session| *guard.lock().expect("no panic") == Some(session.key()))
    });
    let (busy, _one) = ready(&sessions).await;
    let _call = sessions.create_stream(&busy, list_tools(1)).await.expect("a call");
    let (protected, _two) = ready(&sessions).await;
    *guarded.lock().expect("no panic") = sessions.list().iter().map(|session| session.key).max();
    let (_opening, _three) = sessions.create_session().await.expect("room");
    let mut last = ready(&sessions).await;
    for _ in 0..10 {
        let newcomer = ready(&sessions).await;
        assert!(!sessions.has_session(&last.0).await.expect("asks"), "only that one may go");
        last = newcomer;
    }
    assert!(sessions.has_session(&busy).await.expect("asks"));
    assert!(sessions.has_session(&protected).await.expect("asks"));
    assert_eq!(witness.reasons(), [CloseReason::Evicted; 10]);
}

#[tokio::test(start_paused = true)]
async fn when_a_policy_is_overruled_the_oldest_evictable_session_is_evicted() {
    let (_inner, _witness, sessions) = manager(|b| b.eviction(victim_fn(|_| None)));
    let mut held = Vec::new();
    for _ in 0..PLACES {
        held.push(ready(&sessions).await);
    }
    let busy = Arc::clone(&held[0].0);
    let _call = sessions.create_stream(&busy, list_tools(1)).await.expect("a call");
    for next in 1..PLACES {
        held.push(ready(&sessions).await);
        assert!(sessions.has_session(&busy).await.expect("asks"));
        assert!(!sessions.has_session(&held[next].0).await.expect("asks"), "the oldest but the busy one");
    }
}

#[tokio::test(start_paused = true)]
async fn a_protect_predicate_that_panics_protects() {
    let (inner, witness, sessions) = manager(|b| b.protect(|_| panic!("as told")));
    let mut held = Vec::new();
    for _ in 0..PLACES {
        held.push(ready(&sessions).await);
    }
    for _ in 0..3 {
        assert!(matches!(sessions.create_session().await, Err(PolicyError::ServerFull(_))));
    }
    assert_eq!((witness.reasons(), inner.most()), (vec![], PLACES));
    held.clear();
    assert_eq!(sessions.stats().live, 0);
    assert!(sessions.create_session().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_protect_predicate_that_alternates_is_called_a_bounded_number_of_times() {
    let looks = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&looks);
    // Without a bound the choice would loop for ever, so the predicate stops alternating after 100,000 calls.
    let (_inner, _witness, sessions) = manager(|b| {
        b.eviction(victim_fn(|_| None)).protect(move |_| {
            let look = count.fetch_add(1, SeqCst);
            look > 100_000 || look % 2 == 1
        })
    });
    let mut held = Vec::new();
    for _ in 0..PLACES {
        held.push(ready(&sessions).await);
    }
    drop(sessions.create_session().await);
    assert!(looks.load(SeqCst) < 10_000, "{} looks", looks.load(SeqCst));
}

// Observers

#[derive(Debug)]
struct Bomb;

impl SessionObserver for Bomb {
    fn observe(&self, _: &SessionEvent<'_>) {
        panic!("as told");
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_does_no_harm() {
    let inner = Scripted::new();
    let sessions = PolicySessionManager::builder(inner.clone()).max_sessions(1).observer(Bomb).build().expect("valid");
    for _ in 0..10 {
        let (id, transport) = ready(&sessions).await;
        let (_other, second) = ready(&sessions).await;
        assert!(!sessions.has_session(&id).await.expect("asks"));
        let busy = sessions.list()[0].key;
        assert_eq!(sessions.terminate(busy, CloseReason::Revoked).await, 1);
        drop((transport, second));
    }
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.opened, inner.existing(), inner.most()), (0, 20, 0, 1));
    sessions.drain(SECOND).await;
    assert!(sessions.create_session().await.is_err());
}

/// Asks the manager while it hears of an event.
#[derive(Debug, Default)]
struct Curious(Mutex<Option<std::sync::Weak<Manager>>>, AtomicUsize);

impl SessionObserver for Curious {
    fn observe(&self, _: &SessionEvent<'_>) {
        let manager = self.0.lock().expect("no panic").as_ref().and_then(std::sync::Weak::upgrade);
        if let Some(manager) = manager {
            self.1.fetch_add(manager.list().len() + manager.stats().live, SeqCst);
        }
    }
}

#[derive(Debug)]
struct Shared(Arc<Curious>);

impl SessionObserver for Shared {
    fn observe(&self, event: &SessionEvent<'_>) {
        self.0.observe(event);
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_may_ask_the_manager() {
    let curious = Arc::<Curious>::default();
    let (_inner, _witness, sessions) =
        manager(|b| b.max_sessions(1).max_opening(1).observer(Shared(Arc::clone(&curious))));
    let sessions = Arc::new(sessions);
    *curious.0.lock().expect("no panic") = Some(Arc::downgrade(&sessions));
    let (_one, _first) = ready(&sessions).await;
    let (id, _second) = ready(&sessions).await;
    sessions.close_session(&id).await.expect("closes");
    assert!(curious.1.load(SeqCst) > 0);
}

// Admission

#[derive(Debug)]
struct PanicsOnDrop(Arc<AtomicBool>);

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        if self.0.load(SeqCst) {
            panic!("as told");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_whose_drop_panics_does_not_keep_the_place() {
    let armed = Arc::new(AtomicBool::new(true));
    let arm = Arc::clone(&armed);
    let admission = admit_fn(move |_: &_| Ok(Permit::holding(PanicsOnDrop(Arc::clone(&arm)))));
    let (inner, witness, sessions) = manager(|b| b.max_sessions(1).max_opening(1).admission(admission));
    for _ in 0..5 {
        let (id, transport) = ready(&sessions).await;
        sessions.close_session(&id).await.expect("closes");
        drop(transport);
        let stats = sessions.stats();
        assert_eq!((stats.live, stats.reserved, inner.existing()), (0, 0, 0), "{stats:?}");
    }
    armed.store(false, SeqCst);
    witness.assert_one_end_each();
}

/// Panics when the session exists already.
#[derive(Debug)]
struct PanicsOnCommit;

impl Reservation for PanicsOnCommit {
    fn commit(self: Box<Self>) -> Lease {
        panic!("as told")
    }
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_panics_when_the_session_exists_leaves_nothing() {
    let admission = admit_fn(|_: &_| Ok(Permit::reserving(PanicsOnCommit)));
    let (inner, witness, sessions) = manager(|b| b.max_sessions(1).max_opening(1).admission(admission));
    let sessions = Arc::new(sessions);
    for _ in 0..5 {
        let sessions = Arc::clone(&sessions);
        let attempt = tokio::spawn(async move { sessions.create_session().await.map(drop) });
        assert!(attempt.await.is_err_and(|error| error.is_panic()));
    }
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.reserved, inner.existing(), inner.most()), (0, 0, 0, 1), "{stats:?}");
    witness.assert_one_end_each();
}

/// Looks at the one session there is, as a policy would.
async fn look<T: Send>(sessions: &Manager, look: impl Fn(&SessionInfo<'_>) -> T + Send + Sync) -> T {
    let seen = Mutex::new(None);
    let select = |session: &SessionInfo<'_>| {
        seen.lock().expect("no panic under it").get_or_insert_with(|| look(session));
        false
    };
    assert_eq!(sessions.terminate(select, CloseReason::Revoked).await, 0);
    seen.into_inner().expect("no panic under it").expect("it is there")
}

#[tokio::test(start_paused = true)]
async fn a_policy_sees_the_context_and_the_activity_of_a_session() {
    let (_inner, _witness, sessions) = manager(|b| b);
    let alice = ClientContext::new().with_principal("alice");
    let (id, _transport) = alice.scope(sessions.create_session()).await.expect("a place");
    let software = |session: &SessionInfo<'_>| {
        (session.client_name().map(str::to_owned), session.client_version().map(str::to_owned))
    };
    assert_eq!(look(&sessions, software).await, (None, None), "it has not said yet");
    sessions.initialize_session(&id, initialize()).await.expect("answers");
    sessions.accept_message(&id, initialized()).await.expect("accepts");
    assert_eq!(look(&sessions, software).await, (Some("test".into()), Some("1".into())));
    let principal = |session: &SessionInfo<'_>| session.context()?.principal().map(str::to_owned);
    assert_eq!(look(&sessions, principal).await.as_deref(), Some("alice"));

    let usage = |session: &SessionInfo<'_>| (session.uses(), session.in_flight(), session.is_marked());
    assert_eq!(look(&sessions, usage).await, (0, 0, false));
    let _call = sessions.create_stream(&id, list_tools(1)).await.expect("a call");
    assert_eq!(look(&sessions, usage).await, (1, 1, true));
    let take_mark = |session: &SessionInfo<'_>| session.take_mark();
    assert!(look(&sessions, take_mark).await);
    assert_eq!(look(&sessions, usage).await, (1, 1, false), "the mark is taken");
    assert!(!look(&sessions, take_mark).await);
}

#[tokio::test(start_paused = true)]
async fn a_policy_sees_the_context_of_the_newcomer() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let policy = {
        let seen = Arc::clone(&seen);
        victim_fn(move |candidates: &Candidates<'_>| {
            let principal = candidates.newcomer().and_then(ClientContext::principal).map(str::to_owned);
            seen.lock().expect("no panic under it").push(principal);
            candidates.iter().next().map(|session| session.key())
        })
    };
    let (_inner, _witness, sessions) = manager(|b| b.max_sessions(1).max_opening(1).eviction(policy));
    let (_first, _its) = ready(&sessions).await;
    let (_second, _its) = ClientContext::new().with_principal("alice").scope(ready(&sessions)).await;
    let (_third, _its) = ready(&sessions).await;
    assert_eq!(*seen.lock().expect("no panic under it"), [Some("alice".to_owned()), None]);
}

/// Counts what it is told of.
#[derive(Debug)]
struct Sees(Arc<AtomicUsize>);

impl EvictionPolicy for Sees {
    fn tracks_access(&self) -> bool {
        true
    }

    fn on_access(&mut self, _: &SessionInfo<'_>) {
        self.0.fetch_add(1, SeqCst);
    }

    fn victim(&mut self, _: &Candidates<'_>) -> Option<SessionKey> {
        None
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_tracks_access_is_told_of_each_call_and_of_no_ping() {
    let uses = Arc::new(AtomicUsize::new(0));
    let (_, _, sessions) = manager(|b| b.eviction(Sees(Arc::clone(&uses))));
    let (id, _transport) = ready(&sessions).await;
    assert_eq!(uses.load(SeqCst), 0);
    let _calls = (
        sessions.create_stream(&id, list_tools(1)).await.expect("a call"),
        sessions.create_stream(&id, list_tools(2)).await.expect("a call"),
        sessions.create_stream(&id, ping(3)).await.expect("a ping"),
    );
    assert_eq!(uses.load(SeqCst), 2);
}
