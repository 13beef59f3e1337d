//! docs/design.md, L1.
//!
//! The inner manager never holds more sessions than there are places, under concurrent creations, restores and closes.

use std::sync::Arc;
use std::time::Duration;

use crate::scripted::{Act, Call, Scripted, initialize, initialize_params, initialized, list_tools};
use crate::server::Tools;
use futures_util::poll;
use rmcp::ServiceExt;
use rmcp::transport::Transport;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::session::{RestoreOutcome, SessionId, SessionManager, SessionState};
use rmcp_session_policy::{CloseReason, PolicySessionManager, PolicyTransport};
use tokio::task::yield_now;

const TASKS: u64 = 64;
const CREATIONS: usize = 1_000;

/// Decides what each step does: the same in each run, though not in the same order among tasks.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// An inner manager that can be counted.
trait Counted: SessionManager {
    /// Sessions that exist in it now.
    fn existing(&self) -> impl Future<Output = usize> + Send;
}

impl Counted for Scripted {
    async fn existing(&self) -> usize {
        Self::existing(self)
    }
}

impl Counted for LocalSessionManager {
    async fn existing(&self) -> usize {
        self.sessions.read().await.len()
    }
}

type Manager<I> = Arc<PolicySessionManager<I>>;

/// What a task holds at its end.
type Held<I> = Vec<PolicyTransport<<I as SessionManager>::Transport>>;

fn manager<I: SessionManager>(inner: I, places: usize) -> Manager<I> {
    let builder = PolicySessionManager::builder(inner).max_sessions(places);
    Arc::new(builder.max_parked(256).build().expect("valid"))
}

/// One client among many: creates, uses, closes, restores, gives up, in an order of its own.
async fn client<I: Counted>(sessions: Manager<I>, seed: u64, served: bool) -> Held<I>
where
    I::Transport: 'static,
{
    let places = sessions.stats().max_sessions;
    let state = SessionState::new(serde_json::from_value(initialize_params()).expect("valid"));
    // Together they hold more than there are places.
    let (mut dice, mut held, mut known) = (Dice(seed), Held::<I>::new(), Vec::<SessionId>::new());
    for turn in 0..CREATIONS {
        if dice.roll(8) == 0 {
            // Gives up at its first wait.
            let mut attempt = Box::pin(sessions.create_session());
            drop(poll!(&mut attempt));
        } else if let Ok((id, transport)) = sessions.create_session().await {
            match dice.roll(6) {
                0 => drop(transport),
                1 => {
                    // An error is the inner manager's; the session is closed all the same.
                    sessions.close_session(&id).await.ok();
                    held.push(transport);
                }
                2 if served && turn % 8 == 0 => serve(&sessions, id, transport).await,
                3 => {
                    sessions.parking().store(&id, &state).await.expect("stores");
                    drop(sessions.accept_message(&id, initialized()).await);
                    known.push(id);
                    held.push(transport);
                }
                // A call that is never answered while its session lives.
                4 if !served => {
                    drop(sessions.create_stream(&id, list_tools(1)).await);
                    drop(transport);
                }
                _ => {
                    drop(sessions.accept_message(&id, initialized()).await);
                    held.push(transport);
                }
            }
        } else {
            yield_now().await;
        }
        assert!(sessions.inner().existing().await <= places, "more sessions than places");
        if dice.roll(4) == 0 && !known.is_empty() {
            // The oldest has most likely lost its place.
            let id = known.remove(0);
            match sessions.restore_session(Arc::clone(&id)).await {
                Ok(RestoreOutcome::Restored(transport)) if dice.roll(2) == 0 => {
                    // Or it would be kept for some seconds for the request that brought it back.
                    sessions.accept_message(&id, initialized()).await.ok();
                    held.push(transport);
                }
                Ok(RestoreOutcome::AlreadyPresent) => panic!("it is answered with 500"),
                _ => known.push(id),
            }
            assert!(sessions.inner().existing().await <= places, "more sessions than places");
        }
        while held.len() > (places / 32).max(2) {
            drop(held.swap_remove(0));
        }
        if dice.roll(16) == 0 {
            yield_now().await;
        }
    }
    held
}

/// Serves a session as rmcp does, up to the close that trails it.
async fn serve<I: Counted>(sessions: &Manager<I>, id: SessionId, transport: PolicyTransport<I::Transport>)
where
    I::Transport: 'static,
{
    let (manager, its) = (Arc::clone(sessions), Arc::clone(&id));
    tokio::spawn(async move {
        if let Ok(service) = Tools::default().serve(transport).await {
            service.waiting().await.ok();
        }
        manager.close_session(&its).await.ok();
    });
    // Any of these may find the session gone.
    if sessions.initialize_session(&id, initialize()).await.is_ok() {
        sessions.accept_message(&id, initialized()).await.ok();
        drop(sessions.create_stream(&id, list_tools(1)).await);
    }
}

async fn race<I: Counted>(inner: I, places: usize, served: bool) -> Manager<I>
where
    I::Transport: 'static,
{
    let sessions = manager(inner, places);
    let clients: Vec<_> = (0..TASKS).map(|seed| client(Arc::clone(&sessions), seed, served)).collect();
    let clients: Vec<_> = clients.into_iter().map(|client| tokio::spawn(client)).collect();
    let mut held = Vec::new();
    for client in clients {
        held.extend(client.await.expect("within the bound"));
    }
    let stats = sessions.stats();
    assert!(stats.opened > 1_000 && stats.closed(CloseReason::Evicted) > 0 && stats.restored > 0, "{stats:?}");
    come_to_rest(&sessions).await;
    let stats = sessions.stats();
    assert_eq!((sessions.list().len(), sessions.inner().existing().await), (stats.live, stats.live), "{stats:?}");
    held.clear();
    sessions.terminate(|_: &rmcp_session_policy::eviction::SessionInfo<'_>| true, CloseReason::Revoked).await;
    come_to_rest(&sessions).await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.reserved, sessions.inner().existing().await), (0, 0, 0), "{stats:?}");
    let closed: u64 = CloseReason::ALL.iter().map(|reason| stats.closed(*reason)).sum();
    assert_eq!(stats.opened + stats.restored, closed, "each session ended once: {stats:?}");
    // All places are there still, and not one more.
    let mut all = Vec::new();
    for _ in 0..places {
        all.push(sessions.create_session().await.expect("a free place"));
    }
    let stats = sessions.stats();
    assert_eq!((stats.live, sessions.inner().existing().await), (places, places));
    sessions
}

/// Waits until nothing is closing and no place is reserved.
async fn come_to_rest<I: SessionManager>(sessions: &Manager<I>) {
    let rest = async {
        while sessions.stats().closing + sessions.stats().reserved > 0 {
            yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), rest).await.expect("it comes to rest");
}

fn local() -> LocalSessionManager {
    let mut inner = LocalSessionManager::default();
    inner.session_config.keep_alive = None;
    inner.session_config.init_timeout = None;
    inner
}

async fn race_scripted(places: usize, close: Act) {
    let inner = Scripted::new();
    inner.set(Call::Close, close);
    race(inner.clone(), places, false).await;
    assert_eq!(inner.most(), places, "all places were used, and no more, at any instant");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn capacity_2_is_exact_over_the_scripted_manager() {
    race_scripted(2, Act::Ok).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn capacity_100_is_exact_over_the_scripted_manager() {
    race_scripted(100, Act::Ok).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn capacity_1000_is_exact_over_the_scripted_manager() {
    race_scripted(1_000, Act::Ok).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn capacity_100_is_exact_over_the_scripted_manager_with_closes_that_fail() {
    race_scripted(100, Act::Error).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn capacity_2_is_exact_over_rmcps_own_manager() {
    race(local(), 2, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn capacity_100_is_exact_over_rmcps_own_manager() {
    race(local(), 100, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn capacity_1000_is_exact_over_rmcps_own_manager() {
    race(local(), 1_000, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_place_passes_on_only_when_the_inner_transport_is_gone_too() {
    let inner = Scripted::new();
    let sessions = manager(inner.clone(), 1);
    let (id, mut transport) = sessions.create_session().await.expect("room");
    {
        let mut receive = Box::pin(transport.receive());
        assert!(poll!(&mut receive).is_pending(), "its service waits for a message");
        sessions.close_session(&id).await.expect("closes");
        assert!(sessions.create_session().await.is_err(), "its transport lives");
        assert_eq!((inner.existing(), inner.most()), (1, 1));
        assert!(receive.await.is_none());
    }
    assert!(sessions.create_session().await.is_ok(), "though the wrapper of the transport lives still");
    assert_eq!(inner.most(), 1);
}
