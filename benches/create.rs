//! What a creation costs, at 100, 10,000 and 100,000 live sessions: flat.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rmcp::model::{ClientJsonRpcMessage, ClientNotification};
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp_session_policy::eviction::{EvictionPolicy, Fifo, Lfu, Lru, Prospects};
use rmcp_session_policy::{PolicySessionManager, PolicySessionManagerBuilder};
use rmcp_session_policy_benches::sizes;
use rmcp_session_policy_benches::stub::{Held, StubManager};
use tokio::runtime::Runtime;

const LIVE: [usize; 3] = [100, 10_000, 100_000];

fn initialized() -> ClientJsonRpcMessage {
    ClientJsonRpcMessage::notification(ClientNotification::InitializedNotification(Default::default()))
}

/// Fills a manager with ready sessions.
async fn fill<M: SessionManager>(sessions: &M, live: usize) -> Held<M::Transport> {
    let mut held = Held::with_capacity(live);
    for _ in 0..live {
        let (id, transport) = sessions.create_session().await.expect("a place");
        sessions.accept_message(&id, initialized()).await.expect("lives");
        held.push((id, transport));
    }
    held
}

fn builder(most: usize) -> PolicySessionManagerBuilder<StubManager> {
    PolicySessionManager::builder(StubManager::default()).max_sessions(most)
}

async fn create_and_close(sessions: &impl SessionManager, iterations: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..iterations {
        let (id, transport) = sessions.create_session().await.expect("a place");
        sessions.close_session(&id).await.expect("closes");
        drop(black_box(transport));
    }
    start.elapsed()
}

/// With places free: create a session and close it, beside `live` sessions.
fn below_capacity(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = c.benchmark_group("create + close");
    for &live in sizes(&LIVE) {
        group.bench_with_input(BenchmarkId::new("stub alone", live), &live, |b, _| {
            let bare = <StubManager>::default();
            b.iter_custom(|iterations| runtime.block_on(create_and_close(&bare, iterations)));
        });
        group.bench_with_input(BenchmarkId::new("under the default policy", live), &live, |b, &live| {
            let _guard = runtime.enter();
            let sessions = builder(live + 1).build().expect("valid");
            let held = runtime.block_on(fill(&sessions, live));
            b.iter_custom(|iterations| runtime.block_on(create_and_close(&sessions, iterations)));
            drop(held);
        });
    }
    group.finish();
}

/// With no place free: each creation evicts.
fn at_capacity(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = c.benchmark_group("create at capacity");
    let mut bench = |name: &str, policy: fn() -> Box<dyn EvictionPolicy>| {
        for &live in sizes(&LIVE) {
            group.bench_with_input(BenchmarkId::new(name, live), &live, |b, &live| {
                let _guard = runtime.enter();
                let sessions = builder(live).max_opening(live).eviction(policy()).build().expect("valid");
                let mut held = runtime.block_on(fill(&sessions, live));
                let mut next = 0;
                b.iter_custom(|iterations| {
                    runtime.block_on(async {
                        let start = Instant::now();
                        for _ in 0..iterations {
                            let newcomer = sessions.create_session().await.expect("a victim's place");
                            sessions.accept_message(&newcomer.0, initialized()).await.expect("lives");
                            held[next] = newcomer;
                            next = (next + 1) % live;
                        }
                        start.elapsed()
                    })
                });
            });
        }
    };
    bench("fifo", || Box::new(Fifo::new()));
    bench("lru", || Box::new(Lru::new()));
    bench("lfu", || Box::new(Lfu::new()));
    bench("prospects (default)", || Box::new(Prospects::new()));
    group.finish();
}

criterion_group!(benches, below_capacity, at_capacity);
criterion_main!(benches);
