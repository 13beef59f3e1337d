//! docs/design.md, L10.
//!
//! A thousand clients take turns on a hundred places, and each of their calls succeeds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use crate::server::{Client, Server};
use futures_util::stream::{self, StreamExt};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::PolicySessionManager;

const CLIENTS: usize = 1_000;
const PLACES: usize = 100;
const ROUNDS: usize = 2;

type Manager = PolicySessionManager<LocalSessionManager>;

/// Looks at the inner manager again and again.
struct Watch {
    done: Arc<AtomicBool>,
    most: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    fn over(sessions: &Arc<Manager>) -> Self {
        let (done, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let task = {
            let (sessions, done, most) = (Arc::clone(sessions), Arc::clone(&done), Arc::clone(&most));
            tokio::spawn(async move {
                while !done.load(SeqCst) {
                    most.fetch_max(sessions.inner().sessions.read().await.len(), SeqCst);
                    // To look without a pause would take a core from the clients.
                    tokio::time::sleep(std::time::Duration::from_micros(500)).await;
                }
            })
        };
        Self { done, most, task }
    }

    async fn most(self) -> usize {
        self.done.store(true, SeqCst);
        self.task.await.expect("no panic");
        self.most.load(SeqCst)
    }
}

/// Runs an action once per client and round, `at_a_time` clients at a time. Returns what failed.
async fn take_turns(clients: &[Client], at_a_time: usize) -> Vec<String> {
    let turns = (0..ROUNDS).flat_map(|round| clients.iter().enumerate().map(move |(n, client)| (round, n, client)));
    stream::iter(turns)
        .map(|(round, n, client)| async move {
            let said = format!("{n} in round {round}");
            match client.echo(&said).await {
                Ok(heard) if heard == said => None,
                other => Some(format!("{said}: {other:?}")),
            }
        })
        .buffer_unordered(at_a_time)
        .filter_map(std::future::ready)
        .collect()
        .await
}

async fn every_call_succeeds(at_a_time: usize) {
    let sessions = Arc::new(PolicySessionManager::local().max_sessions(PLACES).build().expect("valid"));
    let server = Server::start(Arc::clone(&sessions), Some(sessions.parking())).await;
    let watch = Watch::over(&sessions);
    let clients: Vec<_> = stream::iter(0..CLIENTS).map(|_| server.connect()).buffered(at_a_time).collect().await;
    let failed = take_turns(&clients, at_a_time).await;
    let most = watch.most().await;
    let stats = sessions.stats();
    assert!(failed.is_empty(), "{} calls failed, {:?}; {stats:?}", failed.len(), &failed[..failed.len().min(5)]);
    assert!(most <= PLACES, "{most} sessions at one moment");
    assert_eq!((stats.opened as usize, stats.live + stats.parked), (CLIENTS, CLIENTS), "{stats:?}");
    // Every call but those of the sessions that had a place needed a restore.
    assert!(stats.restored as usize >= ROUNDS * CLIENTS * 8 / 10, "{stats:?}");
    assert_eq!(stats.stuck, 0, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_one_at_a_time_are_served() {
    every_call_succeeds(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_eight_at_a_time_are_served() {
    every_call_succeeds(8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_thirty_two_at_a_time_are_served() {
    every_call_succeeds(32).await;
}
