//! Over the real inner manager, beside it alone, and beside the crate `mcp-session`.
//!
//! Each of these leaves the end of a session's task to the scheduler, so each turn ends with a yield: without it the tasks of
//! closed sessions would pile up, gigabytes of them.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_old::transport::streamable_http_server::session::SessionManager as _;
use rmcp_session_policy::bounded::{BoundedSessionManager, SessionConfig};
use rmcp_session_policy::{HOUR, PolicySessionManager};
use tokio::runtime::Builder;
use tokio::task::yield_now;

const LIVE: [usize; 3] = [100, 10_000, 100_000];

fn bare() -> LocalSessionManager {
    let mut sessions = LocalSessionManager::default();
    sessions.session_config.keep_alive = None;
    sessions.session_config.init_timeout = None;
    sessions
}

fn policies(most: usize) -> PolicySessionManager<LocalSessionManager> {
    let sessions = PolicySessionManager::local().max_sessions(most).init_timeout(HOUR).build().expect("valid");
    // As a server does that lets sessions come back.
    drop(sessions.parking());
    sessions
}

async fn fill<M: SessionManager>(sessions: &M, live: usize) -> VecDeque<(std::sync::Arc<str>, M::Transport)> {
    let mut held = VecDeque::with_capacity(live + 1);
    for _ in 0..live {
        held.push_back(sessions.create_session().await.expect("a place"));
    }
    held
}

async fn create_and_close(sessions: &impl SessionManager, iterations: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..iterations {
        let (id, transport) = sessions.create_session().await.expect("a place");
        sessions.close_session(&id).await.expect("closes");
        drop(black_box(transport));
        yield_now().await;
    }
    start.elapsed()
}

/// With places free: create a session and close it.
fn below_capacity(c: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _guard = runtime.enter();
    let mut group = c.benchmark_group("create + close over LocalSessionManager");
    for live in LIVE {
        let sessions = bare();
        let held = runtime.block_on(fill(&sessions, live));
        group.bench_function(BenchmarkId::new("alone", live), |b| {
            b.iter_custom(|iterations| runtime.block_on(create_and_close(&sessions, iterations)));
        });
        drop((held, sessions));
        let sessions = policies(live + 1);
        let held = runtime.block_on(fill(&sessions, live));
        group.bench_function(BenchmarkId::new("under the default policy", live), |b| {
            b.iter_custom(|iterations| runtime.block_on(create_and_close(&sessions, iterations)));
        });
        drop((held, sessions));
    }
    group.finish();
}

/// With no place free: each newcomer costs the oldest its place. No handshakes, so that all do the same.
fn at_capacity(c: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _guard = runtime.enter();
    let mut group = c.benchmark_group("create at capacity over LocalSessionManager");
    group.sample_size(20);
    for live in LIVE {
        let sessions = bare();
        let mut held = runtime.block_on(fill(&sessions, live));
        group.bench_function(BenchmarkId::new("alone, closing the oldest by hand", live), |b| {
            b.iter(|| {
                runtime.block_on(async {
                    let (oldest, transport) = held.pop_front().expect("somebody");
                    sessions.close_session(&oldest).await.expect("closes");
                    drop(transport);
                    held.push_back(sessions.create_session().await.expect("created"));
                    yield_now().await;
                });
            });
        });
        drop((held, sessions));
        let sessions = BoundedSessionManager::new(SessionConfig::default(), live);
        let mut held = runtime.block_on(fill(&sessions, live));
        group.bench_function(BenchmarkId::new("bounded", live), |b| {
            b.iter(|| {
                runtime.block_on(async {
                    held.push_back(sessions.create_session().await.expect("a victim's place"));
                    held.pop_front();
                    yield_now().await;
                });
            });
        });
        drop((held, sessions));
        // Filling it takes time that grows with the square of its size: 100,000 take the better part of an hour.
        if live > 10_000 && std::env::var_os("BENCH_PATIENTLY").is_none() {
            continue;
        }
        let sessions = mcp_session::BoundedSessionManager::new(Default::default(), live);
        let mut held = VecDeque::new();
        for _ in 0..live {
            held.push_back(runtime.block_on(sessions.create_session()).expect("created"));
        }
        group.bench_function(BenchmarkId::new("mcp-session 0.2.0", live), |b| {
            b.iter(|| {
                runtime.block_on(async {
                    held.push_back(sessions.create_session().await.expect("a victim's place"));
                    held.pop_front();
                    yield_now().await;
                });
            });
        });
    }
    group.finish();
}

/// Whether an id that is known is known.
fn look_up(c: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _guard = runtime.enter();
    let mut group = c.benchmark_group("has_session");
    for live in LIVE {
        let sessions = bare();
        let held = runtime.block_on(fill(&sessions, live));
        let mut ids = held.iter().map(|(id, _)| id).cycle();
        group.bench_function(BenchmarkId::new("LocalSessionManager alone", live), |b| {
            b.iter(|| sessions.has_session(ids.next().expect("somebody")).now_or_never());
        });
        drop((held, sessions));
        let sessions = policies(live);
        let held = runtime.block_on(fill(&sessions, live));
        let mut ids = held.iter().map(|(id, _)| id).cycle();
        group.bench_function(BenchmarkId::new("under the default policy", live), |b| {
            b.iter(|| sessions.has_session(ids.next().expect("somebody")).now_or_never());
        });
        drop((held, sessions));
    }
    group.finish();
}

criterion_group!(benches, below_capacity, at_capacity, look_up);
criterion_main!(benches);
