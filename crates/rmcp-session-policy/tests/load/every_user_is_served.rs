//! docs/design.md, L10.
//!
//! Every call is answered if there are no more users than places and parked entries together.

use std::sync::Arc;

use crate::service::{Service, WELL};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::PolicySessionManager;

type Sessions = PolicySessionManager<LocalSessionManager>;

/// Pseudo-random numbers, the same in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// Runs calls of random users, `at_once` at a time, and checks that each call is answered and each bound is kept.
async fn take_turns(places: usize, room: usize, at_once: usize, turns: usize) {
    let builder = PolicySessionManager::local().max_sessions(places).max_parked(room);
    let sessions: Arc<Sessions> = Arc::new(builder.build().expect("valid"));
    let service = Service::new(Arc::clone(&sessions), Some(sessions.parking()));
    let mut users = Vec::new();
    for _ in 0..places + room {
        let id = service.open().await;
        assert_eq!(service.echo(&id).await, WELL);
        users.push(id);
    }
    let clients = users.chunks(users.len().div_ceil(at_once)).zip(1..).map(async |(users, seed)| {
        let mut chance = Chance(seed);
        for turn in 0..turns / at_once {
            let user = chance.below(users.len());
            assert_eq!(service.echo(&users[user]).await, WELL, "user {user} of client {seed} in turn {turn}");
            let stats = sessions.stats();
            assert!(stats.parked <= room && stats.live <= places, "{stats:?}");
        }
    });
    futures_util::future::join_all(clients).await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.parked), (places, room), "{stats:?}");
    assert!(stats.restored as usize > turns / 20, "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn users_one_after_the_other_are_served() {
    for (places, room) in [(1, 1), (2, 5), (10, 20), (20, 3)] {
        take_turns(places, room, 1, 500).await;
    }
}

#[tokio::test(start_paused = true)]
async fn users_at_once_are_served() {
    for (places, room, at_once) in [(4, 8, 3), (10, 20, 8), (20, 40, 16)] {
        take_turns(places, room, at_once, 2_000).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_at_once_on_several_threads_are_served() {
    take_turns(10, 20, 4, 1_000).await;
}
