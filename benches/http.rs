//! What a call costs through HTTP, without sockets: rmcp's service alone, and with the layer, the manager and policies.

use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::eviction::Prospects;
use rmcp_session_policy_benches::service::{call, governed, mcp, open};
use tokio::runtime::Runtime;

fn one_call(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = c.benchmark_group("one tool call through HTTP");
    group.bench_function("rmcp alone", |b| {
        let mut service = mcp(Arc::new(LocalSessionManager::default()));
        let id = runtime.block_on(open(&mut service));
        b.iter(|| runtime.block_on(call(&mut service, &id)));
    });
    group.bench_function("with layer, manager and a token bucket", |b| {
        let _guard = runtime.enter();
        let sessions = governed(Prospects::new());
        let mut service = sessions.layer().layer(mcp(Arc::clone(&sessions)));
        let id = runtime.block_on(open(&mut service));
        b.iter(|| runtime.block_on(call(&mut service, &id)));
    });
    group.finish();
}

criterion_group!(benches, one_call);
criterion_main!(benches);
