//! What a session takes of memory beyond the inner manager's part, by counting allocations.

use std::io::Write;

use rmcp::model::{ClientJsonRpcMessage, ClientNotification, InitializeRequestParams};
use rmcp::transport::streamable_http_server::session::{SessionManager, SessionState};
use rmcp_session_policy::{PolicySessionManager, PolicyTransport};
use rmcp_session_policy_benches::stub::{StubManager, StubTransport};

#[global_allocator]
static COUNTED: dhat::Alloc = dhat::Alloc;

const SESSIONS: usize = 100_000;

fn allocated() -> usize {
    dhat::HeapStats::get().curr_bytes
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let _profiler = dhat::Profiler::builder().testing().build();
    let params = serde_json::json!({
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "memory", "version": "1" }
    });
    let said = params.to_string().len();
    let params: InitializeRequestParams = serde_json::from_value(params).expect("valid");
    let sessions = PolicySessionManager::builder(StubManager::default())
        .max_sessions(SESSIONS)
        .max_opening(SESSIONS)
        .max_parked(SESSIONS)
        .build()
        .expect("valid");
    // An id is the inner manager's as much as ours; the stub makes them as long as rmcp's.
    let before = allocated();
    let id = sessions.inner().create_session().await.expect("an id").0;
    let named = allocated() - before;
    drop(id);
    let mut held = Vec::with_capacity(2 * SESSIONS);
    let before = allocated();
    open(&sessions, &params, &mut held).await;
    let live = allocated() - before;
    // As many again: each costs one of the first its place, which is parked.
    open(&sessions, &params, &mut held).await;
    held.drain(..SESSIONS).for_each(drop);
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.parked), (SESSIONS, SESSIONS), "{stats:?}");
    let parked = allocated() - before - live;
    let mut out = std::io::stdout();
    let live = live / SESSIONS;
    writeln!(out, "a live session    {live} bytes, with the {said} that `initialize` said and the {named} of its id")?;
    writeln!(out, "a parked session  {} bytes, with the same", parked / SESSIONS)?;
    Ok(())
}

/// Opens as many sessions as there are places, each as far as it gets without a service.
async fn open(
    sessions: &PolicySessionManager<StubManager>,
    params: &InitializeRequestParams,
    held: &mut Vec<PolicyTransport<StubTransport>>,
) {
    for _ in 0..SESSIONS {
        let (id, transport) = sessions.create_session().await.expect("a place");
        sessions.parking().store(&id, &SessionState::new(params.clone())).await.expect("stored");
        let initialized = ClientNotification::InitializedNotification(Default::default());
        sessions.accept_message(&id, ClientJsonRpcMessage::notification(initialized)).await.expect("lives");
        held.push(transport);
    }
}
