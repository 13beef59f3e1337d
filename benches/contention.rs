//! What threads cost each other: each does the same to a session of its own.

use std::convert::Infallible;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use rmcp::RoleServer;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use rmcp_session_policy::PolicySessionManager;
use rmcp_session_policy_benches::stub::{Asking, StubManager, StubTransport};
use serde_json::json;
use tokio::runtime::Runtime;

const THREADS: [usize; 4] = [1, 2, 4, 8];

type Sessions<T> = PolicySessionManager<StubManager<T>>;

/// A call comes out of a transport, and its answer goes in.
fn request<T: Transport<RoleServer, Error = Infallible>>(transport: &mut T, answer: &ServerJsonRpcMessage) {
    let asked = transport.receive().now_or_never().flatten();
    assert!(matches!(asked, Some(ClientJsonRpcMessage::Request(_))));
    let Some(Ok(())) = transport.send(answer.clone()).now_or_never() else { unreachable!("it never fails") };
}

fn answer() -> ServerJsonRpcMessage {
    serde_json::from_value(json!({"jsonrpc": "2.0", "id": 7, "result": {}})).expect("an answer")
}

/// Lets threads begin together, and takes the time until the last is done.
fn together<S: Send>(states: &mut [S], iterations: u64, act: impl Fn(&mut S) + Sync) -> Duration {
    let gate = Barrier::new(states.len() + 1);
    thread::scope(|scope| {
        for state in states {
            let (gate, act) = (&gate, &act);
            scope.spawn(move || {
                gate.wait();
                (0..iterations).for_each(|_| act(state));
                gate.wait();
            });
        }
        gate.wait();
        let start = Instant::now();
        gate.wait();
        start.elapsed()
    })
}

fn sessions<T>() -> Sessions<T>
where
    T: Transport<RoleServer> + Default + Send + 'static,
{
    PolicySessionManager::builder(StubManager::default()).build().expect("valid")
}

/// A request as the wrapper of the transport sees it: its beginning, and its end.
fn requests(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let _guard = runtime.enter();
    let mut group = c.benchmark_group("a request seen by the transport, by threads");
    for threads in THREADS {
        let mut alone: Vec<_> = (0..threads).map(|_| (Asking, answer())).collect();
        group.bench_function(BenchmarkId::new("the inner transport alone", threads), |b| {
            b.iter_custom(|n| together(&mut alone, n, |(transport, answer)| request(transport, answer)));
        });
        let sessions = sessions::<Asking>();
        let create = || runtime.block_on(sessions.create_session()).expect("a place").1;
        let mut governed: Vec<_> = (0..threads).map(|_| (create(), answer())).collect();
        group.bench_function(BenchmarkId::new("wrapped", threads), |b| {
            b.iter_custom(|n| together(&mut governed, n, |(transport, answer)| request(transport, answer)));
        });
    }
    group.finish();
}

/// What looks sessions up or changes who is here, each of which is sharded or behind one lock.
fn managers(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let _guard = runtime.enter();
    let mut group = c.benchmark_group("what shares more, by threads");
    for threads in THREADS {
        let sessions = sessions::<StubTransport>();
        let create = || runtime.block_on(sessions.create_session()).expect("a place");
        let mut known: Vec<(SessionId, _)> = (0..threads).map(|_| create()).collect();
        group.bench_function(BenchmarkId::new("has_session", threads), |b| {
            let ask = |(id, _): &mut (SessionId, _)| sessions.has_session(id).now_or_never().expect("at once");
            b.iter_custom(|n| together(&mut known, n, |known| drop(ask(known))));
        });
        let mut handles: Vec<_> = (0..threads).map(|_| runtime.handle().clone()).collect();
        group.bench_function(BenchmarkId::new("create + close", threads), |b| {
            b.iter_custom(|n| {
                together(&mut handles, n, |runtime| {
                    let _guard = runtime.enter();
                    let created = sessions.create_session().now_or_never().expect("at once");
                    let (id, transport) = created.expect("a place");
                    sessions.close_session(&id).now_or_never().expect("at once").expect("closes");
                    drop(transport);
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, requests, managers);
criterion_main!(benches);
