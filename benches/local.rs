//! Over the real inner manager, beside it alone, and beside the crate `mcp-session`.
//!
//! Each of these leaves the end of a session's task to the scheduler, so each turn ends with a yield: without it the tasks of
//! closed sessions would pile up, gigabytes of them. For the same reason each manager has a runtime of its own, which takes
//! what is left of its sessions with it.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Instant;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use rmcp_old::transport::streamable_http_server::session::SessionManager as _;
use rmcp_session_policy::bounded::BoundedSessionManager;
use rmcp_session_policy::{HOUR, PolicySessionManager};
use rmcp_session_policy_benches::sizes;
use tokio::runtime::{Builder, Runtime};
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

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn fill<M: SessionManager>(sessions: &M, live: usize) -> VecDeque<(SessionId, M::Transport)> {
    let mut held = VecDeque::with_capacity(live + 1);
    for _ in 0..live {
        held.push_back(sessions.create_session().await.expect("a place"));
        yield_now().await;
    }
    held
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn create_and_close<M: SessionManager>(group: &mut Group<'_>, name: &str, live: usize, make: impl FnOnce() -> M) {
    let runtime = runtime();
    let _guard = runtime.enter();
    let sessions = make();
    let _held = runtime.block_on(fill(&sessions, live));
    group.bench_function(BenchmarkId::new(name, live), |b| {
        b.iter_custom(|iterations| {
            runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..iterations {
                    let (id, transport) = sessions.create_session().await.expect("a place");
                    sessions.close_session(&id).await.expect("closes");
                    drop(black_box(transport));
                    yield_now().await;
                }
                start.elapsed()
            })
        });
    });
}

/// With places free: create a session and close it.
fn below_capacity(c: &mut Criterion) {
    let mut group = c.benchmark_group("create + close over LocalSessionManager");
    for &live in sizes(&LIVE) {
        create_and_close(&mut group, "alone", live, bare);
        create_and_close(&mut group, "under the default policy", live, || policies(live + 1));
    }
    group.finish();
}

/// Creates a session in the oldest's place, which the caller has to make free if `by_hand`. Measured once each place
/// has changed hands, as on a server that is long full: by then the allocator has settled too.
fn take_a_place<M: SessionManager>(
    group: &mut Group<'_>,
    name: &str,
    live: usize,
    by_hand: bool,
    make: impl FnOnce() -> M,
) {
    let runtime = runtime();
    let _guard = runtime.enter();
    let sessions = make();
    let mut held = runtime.block_on(fill(&sessions, live));
    let mut take = |iterations| {
        runtime.block_on(async {
            let start = Instant::now();
            for _ in 0..iterations {
                let oldest = held.pop_front();
                if let (true, Some((id, _))) = (by_hand, &oldest) {
                    sessions.close_session(id).await.expect("closes");
                }
                held.push_back(sessions.create_session().await.expect("a place"));
                drop(oldest);
                yield_now().await;
            }
            start.elapsed()
        })
    };
    take(2 * live as u64);
    group.bench_function(BenchmarkId::new(name, live), |b| b.iter_custom(&mut take));
}

/// With no place free: each newcomer costs the oldest its place. No handshakes, so that all do the same.
fn at_capacity(c: &mut Criterion) {
    let mut group = c.benchmark_group("create at capacity over LocalSessionManager");
    group.sample_size(20);
    for &live in sizes(&LIVE) {
        take_a_place(&mut group, "alone, closing the oldest by hand", live, true, bare);
        take_a_place(&mut group, "bounded", live, false, || BoundedSessionManager::new(bare().session_config, live));
        // Filling it takes time that grows with the square of its size: 100,000 take the better part of an hour.
        if live <= 10_000 || std::env::var_os("BENCH_PATIENTLY").is_some() {
            the_peer(&mut group, live);
        }
    }
    group.finish();
}

/// The same with the crate `mcp-session`, which is made for another rmcp.
fn the_peer(group: &mut Group<'_>, live: usize) {
    let runtime = runtime();
    let mut config = rmcp_old::transport::streamable_http_server::session::local::SessionConfig::default();
    config.keep_alive = None;
    let sessions = mcp_session::BoundedSessionManager::new(config, live);
    let mut held = VecDeque::new();
    for _ in 0..live {
        held.push_back(runtime.block_on(sessions.create_session()).expect("created"));
    }
    group.bench_function(BenchmarkId::new("mcp-session 0.2.0", live), |b| {
        b.iter_custom(|iterations| {
            runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..iterations {
                    held.push_back(sessions.create_session().await.expect("a victim's place"));
                    held.pop_front();
                    yield_now().await;
                }
                start.elapsed()
            })
        });
    });
}

fn known<M: SessionManager>(group: &mut Group<'_>, name: &str, live: usize, make: impl FnOnce() -> M) {
    let runtime = runtime();
    let _guard = runtime.enter();
    let sessions = make();
    let held = runtime.block_on(fill(&sessions, live));
    let mut ids = held.iter().map(|(id, _)| id).cycle();
    group.bench_function(BenchmarkId::new(name, live), |b| {
        b.iter(|| sessions.has_session(ids.next().expect("a session")).now_or_never());
    });
}

/// Whether an id that is known is known.
fn look_up(c: &mut Criterion) {
    let mut group = c.benchmark_group("has_session");
    for &live in sizes(&LIVE) {
        known(&mut group, "LocalSessionManager alone", live, bare);
        known(&mut group, "under the default policy", live, || policies(live));
    }
    group.finish();
}

criterion_group!(benches, below_capacity, at_capacity, look_up);
criterion_main!(benches);
