//! Parked sessions over the scripted manager and over rmcp's own.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::missing_panics_doc,
    missing_docs,
    missing_debug_implementations,
    reason = "a fixture, of which each test file uses a part"
)]

use std::sync::Arc;

use crate::scripted::{Failed, Line, Scripted, initialize, initialize_params, initialized};
use crate::service::Service;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::session::{RestoreOutcome, SessionId, SessionManager, SessionState};
use rmcp_session_policy::eviction::SessionInfo;
use rmcp_session_policy::{
    CloseReason, Fingerprint, PolicyError, PolicySessionManager, PolicySessionManagerBuilder, PolicyTransport,
};

pub type Manager<I> = Arc<PolicySessionManager<I>>;

pub fn local(
    configure: impl FnOnce(
        PolicySessionManagerBuilder<LocalSessionManager>,
    ) -> PolicySessionManagerBuilder<LocalSessionManager>,
) -> Manager<LocalSessionManager> {
    Arc::new(configure(PolicySessionManager::local()).build().expect("valid"))
}

/// A service with parking.
pub fn parking<I: SessionManager>(sessions: &Manager<I>) -> Service<PolicySessionManager<I>> {
    Service::new(Arc::clone(sessions), Some(sessions.parking()))
}

pub fn scripted(
    configure: impl FnOnce(PolicySessionManagerBuilder<Scripted>) -> PolicySessionManagerBuilder<Scripted>,
) -> (Scripted, Manager<Scripted>) {
    let inner = Scripted::new();
    let sessions = configure(PolicySessionManager::builder(inner.clone())).build().expect("valid");
    (inner, Arc::new(sessions))
}

/// Creates a session over the scripted manager, ready and with something to park.
pub async fn ready(sessions: &Manager<Scripted>) -> (SessionId, PolicyTransport<Line>) {
    ready_saying(sessions, initialize_params()).await
}

pub async fn ready_saying(
    sessions: &Manager<Scripted>,
    params: serde_json::Value,
) -> (SessionId, PolicyTransport<Line>) {
    let (id, transport) = sessions.create_session().await.expect("room");
    sessions.initialize_session(&id, initialize()).await.expect("answers");
    let state = SessionState::new(serde_json::from_value(params).expect("valid"));
    sessions.parking().store(&id, &state).await.expect("stores");
    sessions.accept_message(&id, initialized()).await.expect("accepts");
    (id, transport)
}

/// Creates a session and evicts it.
pub async fn parked(sessions: &Manager<Scripted>) -> SessionId {
    let (id, transport) = ready(sessions).await;
    park(sessions, &id).await;
    drop(transport);
    id
}

pub async fn park(sessions: &Manager<Scripted>, id: &SessionId) {
    let fingerprint = Fingerprint::of(id);
    let this = move |session: &SessionInfo<'_>| session.fingerprint() == fingerprint;
    assert_eq!(sessions.terminate(this, CloseReason::Evicted).await, 1);
}

pub async fn park_any(sessions: &PolicySessionManager<Scripted>) {
    sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Evicted).await;
}

pub fn is_restored<T>(outcome: &Result<RestoreOutcome<T>, PolicyError<Failed>>) -> bool {
    matches!(outcome, Ok(RestoreOutcome::Restored(_)))
}

pub fn is_not_there<T>(outcome: &Result<RestoreOutcome<T>, PolicyError<Failed>>) -> bool {
    matches!(outcome, Ok(RestoreOutcome::NotSupported))
}

pub async fn knows(sessions: &Manager<Scripted>, id: &SessionId) -> bool {
    sessions.parking().load(id).await.expect("loads").is_some()
}
