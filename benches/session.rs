//! What whole sessions cost: a handshake served from beginning to end, and a session that comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::PolicySessionManager;
use rmcp_session_policy_benches::service::{self, call, mcp, open, parking};
use tokio::runtime::Builder;

async fn handshakes<M: SessionManager>(sessions: &M, iterations: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..iterations {
        service::handshake(sessions).await;
    }
    start.elapsed()
}

fn handshake(c: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut group = c.benchmark_group("a served handshake, create to close");
    let mut alone = LocalSessionManager::default();
    alone.session_config.keep_alive = None;
    group.bench_function("LocalSessionManager alone", |b| {
        b.iter_custom(|iterations| runtime.block_on(handshakes(&alone, iterations)));
    });
    let governed = PolicySessionManager::local().build().expect("valid");
    group.bench_function("under the default policy", |b| {
        b.iter_custom(|iterations| runtime.block_on(handshakes(&governed, iterations)));
    });
    group.finish();
}

/// What a client pays whose session was evicted, on a server with one place: each call costs another session its own.
fn coming_back(c: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut group = c.benchmark_group("a call after an eviction, through HTTP");
    let sessions = Arc::new(PolicySessionManager::local().max_sessions(1).build().expect("valid"));
    let _guard = runtime.enter();
    group.bench_function("in a new session", |b| {
        let mut service = sessions.layer().layer(mcp(Arc::clone(&sessions)));
        b.iter(|| {
            runtime.block_on(async {
                let id = open(&mut service).await;
                call(&mut service, &id).await;
            });
        });
    });
    group.bench_function("in the session that comes back", |b| {
        let mut service = sessions.layer().layer(parking(&sessions));
        let ids = [runtime.block_on(open(&mut service)), runtime.block_on(open(&mut service))];
        let mut turn = ids.iter().cycle();
        b.iter(|| runtime.block_on(call(&mut service, turn.next().expect("endless"))));
    });
    group.finish();
}

criterion_group!(benches, handshake, coming_back);
criterion_main!(benches);
