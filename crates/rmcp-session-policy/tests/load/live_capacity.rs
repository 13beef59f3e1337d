//! docs/design.md, L1 and L18.
//!
//! While 64 tasks open, use and close sessions, the capacity changes. The inner manager never holds more sessions than the
//! capacity in force, once those that were there before are gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use crate::scripted::{Call, Scripted, initialized};
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp_session_policy::PolicySessionManager;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

const TASKS: usize = 64;

type Manager = Arc<PolicySessionManager<Scripted>>;

/// Opens sessions and keeps the last few, until it is told to stop.
async fn client(sessions: Manager, stop: Arc<AtomicBool>) -> usize {
    let (mut held, mut opened) = (Vec::new(), 0);
    for turn in 0_usize.. {
        if stop.load(SeqCst) {
            break;
        }
        if let Ok((id, transport)) = sessions.create_session().await {
            opened += 1;
            if turn % 3 > 0 {
                // An error says that it was evicted meanwhile.
                sessions.accept_message(&id, initialized()).await.ok();
            }
            held.push(transport);
        }
        if held.len() > 4 {
            drop(held.swap_remove(turn % held.len()));
        }
        yield_now().await;
    }
    opened
}

/// Waits until no more places are taken than the capacity.
async fn fits(sessions: &Manager, inner: &Scripted) {
    let fits = async {
        loop {
            let stats = sessions.stats();
            assert!(stats.live + stats.reserved <= 400, "no place is made: {stats:?}");
            if stats.live + stats.reserved <= stats.max_sessions && inner.existing() <= stats.max_sessions {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(30), fits).await.expect("it comes down");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_bound_is_exact_before_during_and_after_changes_under_64_tasks() {
    let inner = Scripted::new();
    let sessions = Arc::new(PolicySessionManager::builder(inner.clone()).max_sessions(200).build().expect("valid"));
    let stop = Arc::new(AtomicBool::new(false));
    let clients = (0..TASKS).map(|_| tokio::spawn(client(Arc::clone(&sessions), Arc::clone(&stop))));
    let clients: Vec<_> = clients.collect();
    let mut before = 200;
    for capacity in [200, 20, 100, 3, 64, 400, 1, 150, 149, 148, 50] {
        sessions.reconfigure(|settings| settings.max_sessions(capacity)).await.expect("valid");
        // Those that were there may still be; what is above both was made.
        assert!(inner.existing() <= before.max(capacity), "{} of {capacity}", inner.existing());
        fits(&sessions, &inner).await;
        inner.forget_most();
        let created = inner.calls(Call::Create);
        let more = async {
            while inner.calls(Call::Create) < created + 300 {
                yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), more).await.expect("sessions come and go");
        assert!(inner.most() <= capacity, "{} of {capacity}", inner.most());
        before = capacity;
    }
    stop.store(true, SeqCst);
    let mut opened = 0;
    for client in clients {
        opened += client.await.expect("no panic");
    }
    assert!(opened > 1_000, "{opened}");
    let rest = async {
        while sessions.stats().live + sessions.stats().reserved > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(30), rest).await.expect("all end");
    // All places are there, and not one more.
    let mut all = Vec::new();
    for _ in 0..50 {
        all.push(sessions.create_session().await.expect("a free place"));
    }
    assert_eq!((sessions.stats().live, inner.existing(), sessions.stats().reserved), (50, 50, 0));
}
