//! docs/design.md, L18.
//!
//! An eviction policy is exchanged while sessions come, work and go: the new one meets each session once, oldest first, and
//! hears from then on what happens to it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::parked::{Manager, scripted};
use crate::scripted::{Line, Scripted, initialized, list_tools};
use futures_util::poll;
use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use rmcp_session_policy::eviction::{Candidates, EvictionPolicy, Fifo, Lfu, Lru, Prospects, SessionInfo};
use rmcp_session_policy::{CloseReason, MINUTE, PolicySessionManager, PolicyTransport, SECOND, SessionKey, Worth};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

/// What a policy was told, and what of it broke the contract.
#[derive(Debug, Default)]
struct Book {
    /// Whether each session that it knows is in the order.
    sessions: HashMap<SessionKey, bool>,
    /// In the order of `on_insert`.
    met: Vec<(SessionKey, u64)>,
    accesses: usize,
    faults: Vec<String>,
}

/// Evicts the oldest, and keeps a book.
#[derive(Debug, Default)]
struct Bookkeeper {
    order: Fifo,
    book: Arc<Mutex<Book>>,
    tracks_access: bool,
    _alive: Alive,
}

/// Counts those that exist, in tests that count.
#[derive(Debug, Default)]
struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Bookkeeper {
    fn new(book: &Arc<Mutex<Book>>) -> Self {
        Self { book: Arc::clone(book), ..Self::default() }
    }

    fn note(&self, call: &str, session: &SessionInfo<'_>, before: Option<bool>, after: Option<bool>) {
        let mut book = self.book.lock().expect("no panic");
        let was = match after {
            Some(after) => book.sessions.insert(session.key(), after),
            None => book.sessions.remove(&session.key()),
        };
        if was != before {
            book.faults.push(format!("{call}: {was:?}"));
        }
    }
}

impl EvictionPolicy for Bookkeeper {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.note("on_insert", session, None, Some(true));
        self.book.lock().expect("no panic").met.push((session.key(), session.uses()));
        self.order.on_insert(session);
    }
    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        self.note("on_remove", session, Some(true), None);
        self.order.on_remove(session);
    }
    fn on_suspend(&mut self, session: &SessionInfo<'_>) {
        self.note("on_suspend", session, Some(true), Some(false));
        self.order.on_suspend(session);
    }
    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        self.note("on_resume", session, Some(false), Some(true));
        self.order.on_resume(session);
    }
    fn tracks_access(&self) -> bool {
        self.tracks_access
    }
    fn on_access(&mut self, session: &SessionInfo<'_>) {
        let mut book = self.book.lock().expect("no panic");
        book.accesses += 1;
        if book.sessions.get(&session.key()) != Some(&true) {
            book.faults.push("on_access".to_owned());
        }
    }
    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        self.order.victim(candidates)
    }
}

async fn open(sessions: &Manager<Scripted>, count: usize) -> Vec<(SessionId, PolicyTransport<Line>)> {
    let mut held = Vec::new();
    for _ in 0..count {
        let (id, transport) = sessions.create_session().await.expect("room");
        sessions.accept_message(&id, initialized()).await.expect("accepts");
        held.push((id, transport));
    }
    held
}

fn victims(sessions: &Manager<Scripted>) -> u64 {
    sessions.stats().closed(CloseReason::Evicted)
}

#[tokio::test(start_paused = true)]
async fn the_new_policy_meets_the_sessions_oldest_first_with_their_uses_and_decides_from_then_on() {
    let (_, sessions) = scripted(|builder| builder.max_sessions(4).eviction(Fifo::new()));
    let mut held = open(&sessions, 4).await;
    // The newest is used last, and the third most often.
    for nth in [0, 1, 2, 2, 2, 3] {
        sleep(SECOND).await;
        sessions.accept_message(&held[nth].0, initialized()).await.expect("accepts");
    }
    let (id, transport) = held.remove(1);
    drop(transport);
    held.extend(open(&sessions, 1).await);
    assert!(!sessions.has_session(&id).await.expect("answers"));
    let book = Arc::default();
    sessions.reconfigure(|settings| settings.eviction(Bookkeeper::new(&book))).await.expect("valid");
    let live: HashMap<_, _> = sessions.list().into_iter().map(|session| (session.key, session.uses)).collect();
    let met = book.lock().unwrap().met.clone();
    assert!(met.is_sorted_by_key(|(key, _)| key.generation()), "{met:?}");
    assert_eq!(met.into_iter().collect::<HashMap<_, _>>(), live);
    sessions.reconfigure(|settings| settings.eviction(Lru::new())).await.expect("valid");
    sessions.accept_message(&held[0].0, initialized()).await.expect("accepts");
    let _newcomer = open(&sessions, 1).await;
    assert!(sessions.has_session(&held[0].0).await.expect("answers"), "the oldest, but used last");
    sessions.reconfigure(|settings| settings.eviction(Lfu::new())).await.expect("valid");
    assert_eq!((victims(&sessions), sessions.stats().overruled), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn it_meets_1000_at_a_time_and_the_old_policy_decides_meanwhile() {
    let (_, sessions) = scripted(|builder| builder.max_sessions(3_500).eviction(Fifo::new()));
    let mut held = open(&sessions, 3_500).await;
    let book = Arc::<Mutex<Book>>::default();
    let alive = Arc::new(AtomicUsize::new(1));
    let policy = Bookkeeper { _alive: Alive(Arc::clone(&alive)), ..Bookkeeper::new(&book) };
    let mut change = Box::pin(sessions.reconfigure(|settings| settings.eviction(policy)));
    let (mut met, mut steps) = (0, 0);
    while poll!(&mut change).is_pending() {
        steps += 1;
        let now = book.lock().unwrap().met.len();
        assert!(now - met <= 1_000 + 1, "{} at once", now - met);
        met = now;
        // A newcomer each time, for which the oldest goes, whether it was met or not.
        let oldest = held.remove(0);
        let newcomer = open(&sessions, 1).await;
        assert!(!sessions.has_session(&oldest.0).await.expect("answers"));
        held.extend(newcomer);
        // And an end of one that may not have been met.
        drop(held.remove(held.len() - 100));
        held.extend(open(&sessions, 1).await);
    }
    assert!(steps >= 8, "{steps}: four lots of keys, four of sessions");
    let book = book.lock().unwrap();
    assert!(book.faults.is_empty(), "{:?}", book.faults);
    let mut known: Vec<_> = book.sessions.keys().copied().collect();
    let mut live: Vec<_> = sessions.list().into_iter().map(|session| session.key).collect();
    known.sort_unstable();
    live.sort_unstable();
    assert_eq!(known, live);
    assert_eq!((alive.load(SeqCst), sessions.stats().overruled), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_suspended_session_is_met_as_one_and_comes_back() {
    let (_, sessions) = scripted(|builder| builder.max_sessions(2).eviction(Fifo::new()));
    let held = open(&sessions, 2).await;
    let busy = sessions.create_stream(&held[0].0, list_tools(1)).await.expect("a stream");
    let third = open(&sessions, 1).await;
    let book = Arc::default();
    sessions.reconfigure(|settings| settings.eviction(Bookkeeper::new(&book))).await.expect("valid");
    let of = |book: &Mutex<Book>, id: &SessionId| {
        let fingerprint = rmcp_session_policy::Fingerprint::of(id);
        let key = sessions.list().into_iter().find(|session| session.fingerprint == fingerprint).expect("live").key;
        book.lock().unwrap().sessions.get(&key).copied()
    };
    assert_eq!((of(&book, &held[0].0), of(&book, &third[0].0)), (Some(false), Some(true)));
    drop((busy, third));
    assert!(book.lock().unwrap().faults.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_swap_that_is_given_up_or_refused_leaves_the_old_policy_in_force() {
    let old = Arc::<Mutex<Book>>::default();
    let (_, sessions) = scripted(|builder| builder.max_sessions(3_000).eviction(Bookkeeper::new(&old)));
    let held = open(&sessions, 3_000).await;
    let new = Arc::<Mutex<Book>>::default();
    let alive = Arc::new(AtomicUsize::new(1));
    let policy = Bookkeeper { _alive: Alive(Arc::clone(&alive)), tracks_access: true, ..Bookkeeper::new(&new) };
    let mut change = Box::pin(sessions.reconfigure(|settings| settings.max_sessions(1).eviction(policy)));
    while new.lock().unwrap().met.len() < 1_500 {
        assert!(poll!(&mut change).is_pending());
    }
    drop(change);
    assert_eq!((alive.load(SeqCst), sessions.stats().max_sessions, sessions.settings().changes), (0, 3_000, 0));
    // A worth needs a policy that knows one.
    let error = sessions.reconfigure(|settings| settings.eviction(Lru::new()).idle_timeout(Worth::keep(0.9))).await;
    assert_eq!(error.unwrap_err().setting, "idle_timeout");
    let changed = sessions.reconfigure(|settings| settings.eviction(Prospects::new()).idle_timeout(Worth::keep(0.9)));
    changed.await.expect("it does");
    let error = sessions.reconfigure(|settings| settings.eviction(Lru::new())).await.unwrap_err();
    assert_eq!(error.setting, "idle_timeout");
    assert!(old.lock().unwrap().faults.is_empty());
    drop(held);
    sleep(SECOND).await;
    assert_eq!((sessions.stats().live, sessions.stats().overruled), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn uses_and_returns_are_told_to_a_policy_that_wants_them_from_its_swap_on() {
    let (_, sessions) = scripted(|builder| builder.max_sessions(2).eviction(Fifo::new()));
    let held = open(&sessions, 2).await;
    let book = Arc::<Mutex<Book>>::default();
    let wants = Bookkeeper { tracks_access: true, ..Bookkeeper::new(&book) };
    sessions.reconfigure(|settings| settings.eviction(wants)).await.expect("valid");
    drop(sessions.create_stream(&held[0].0, list_tools(1)).await.expect("a stream"));
    assert_eq!(book.lock().unwrap().accesses, 1);
    sessions.reconfigure(|settings| settings.eviction(Fifo::new())).await.expect("valid");
    drop(sessions.create_stream(&held[1].0, list_tools(1)).await.expect("a stream"));
    assert_eq!(book.lock().unwrap().accesses, 1);
    assert!(book.lock().unwrap().faults.is_empty());
}

#[tokio::test(start_paused = true)]
async fn eviction_is_switched_off_and_on() {
    let (inner, sessions) = scripted(|builder| builder.max_sessions(2));
    let mut held = open(&sessions, 2).await;
    sessions.reconfigure(|settings| settings.refuse_when_full()).await.expect("valid");
    assert!(sessions.create_session().await.is_err() && !sessions.settings().evicts);
    sessions.reconfigure(|settings| settings.max_sessions(1)).await.expect("valid");
    sleep(MINUTE).await;
    assert_eq!(inner.existing(), 2, "none is evicted");
    let error = sessions.reconfigure(|settings| settings.per_client_share(0.5)).await.unwrap_err();
    assert_eq!(error.setting, "per_client_share");
    sessions.reconfigure(|settings| settings.eviction(Lru::new())).await.expect("valid");
    sleep(SECOND).await;
    assert_eq!(inner.existing(), 1, "the capacity is reached at last");
    held.extend(open(&sessions, 1).await);
    assert_eq!((inner.existing(), sessions.stats().overruled), (1, 0));
}

/// Opens, uses and ends sessions until it is told to stop.
async fn client(sessions: Manager<Scripted>, stop: Arc<AtomicBool>) {
    let mut held = Vec::new();
    for turn in 0_usize.. {
        if stop.load(SeqCst) {
            return;
        }
        if let Ok((id, transport)) = sessions.create_session().await {
            // An error says that it was evicted meanwhile.
            sessions.accept_message(&id, initialized()).await.ok();
            if turn % 4 == 0 {
                drop(sessions.create_stream(&id, list_tools(1)).await);
            }
            held.push(transport);
        }
        if held.len() > 3 {
            drop(held.swap_remove(turn % held.len()));
        }
        yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_swaps_under_64_tasks_lose_no_session_and_tell_none_twice() {
    let inner = Scripted::new();
    let sessions = Arc::new(PolicySessionManager::builder(inner.clone()).max_sessions(100).build().expect("valid"));
    let stop = Arc::new(AtomicBool::new(false));
    let clients = (0..64).map(|_| tokio::spawn(client(Arc::clone(&sessions), Arc::clone(&stop))));
    let clients: Vec<_> = clients.collect();
    let alive = Arc::new(AtomicUsize::new(0));
    let mut book = Arc::<Mutex<Book>>::default();
    for nth in 0..1_000 {
        let (next, faults) = (Arc::<Mutex<Book>>::default(), Arc::clone(&book));
        alive.fetch_add(1, SeqCst);
        let policy =
            Bookkeeper { _alive: Alive(Arc::clone(&alive)), tracks_access: nth % 2 == 0, ..Bookkeeper::new(&next) };
        sessions.reconfigure(|settings| settings.eviction(policy)).await.expect("valid");
        let faults = &faults.lock().unwrap().faults;
        assert!(faults.is_empty(), "swap {nth}: {faults:?}");
        assert_eq!(alive.load(SeqCst), 1, "the old one is dropped");
        assert!(inner.most() <= 100);
        book = next;
    }
    // The swaps may be done before the clients have done much.
    while sessions.stats().opened <= 1_000 || victims(&sessions) == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    stop.store(true, SeqCst);
    for client in clients {
        client.await.expect("no panic");
    }
    let rest = async {
        while sessions.stats().live + sessions.stats().reserved > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(30 * SECOND, rest).await.expect("all end");
    let stats = sessions.stats();
    let closed: u64 = CloseReason::ALL.iter().map(|reason| stats.closed(*reason)).sum();
    assert_eq!((stats.opened, stats.overruled, inner.existing()), (closed, 0, 0), "each ended once");
    let book = book.lock().unwrap();
    assert!(book.faults.is_empty() && book.sessions.is_empty(), "{:?} {:?}", book.faults, book.sessions);
}
