//! What whole sessions cost: a handshake served from beginning to end, and a session that comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use rmcp::model::ClientJsonRpcMessage;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::PolicySessionManager;
use rmcp_session_policy_benches::service::{Echo, call, mcp, open, parking};
use serde_json::json;
use tokio::runtime::Builder;

fn message(json: serde_json::Value) -> ClientJsonRpcMessage {
    serde_json::from_value(json).expect("a message")
}

/// Opens sessions as rmcp's service does, serves them, and closes them.
async fn handshakes<M: SessionManager>(sessions: &M, iterations: u64) -> Duration {
    let initialize = message(json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}}));
    let initialized = message(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    let start = Instant::now();
    for _ in 0..iterations {
        let (id, transport) = sessions.create_session().await.expect("a place");
        let service = tokio::spawn(async move {
            let service = rmcp::serve_server(Echo, transport).await.expect("a handshake");
            service.waiting().await.expect("ends");
        });
        sessions.initialize_session(&id, initialize.clone()).await.expect("answers");
        sessions.accept_message(&id, initialized.clone()).await.expect("accepts");
        sessions.close_session(&id).await.expect("closes");
        service.await.expect("ends");
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
