//! docs/design.md, L1 and L11.
//!
//! Inner managers that differ from rmcp's own: one gives an id twice, one has an event store.

use std::sync::Arc;

use crate::scripted::{Failed, Line, Scripted};
use futures_core::Stream;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_server::session::{
    EventId, EventStore, EventStoreError, EventStream, RestoreOutcome, ServerSseMessage, SessionId, SessionManager,
};
use rmcp_session_policy::{PolicyError, PolicySessionManager};

/// Gives each session the same id, and has a store of events.
struct Strange {
    scripted: Scripted,
    events: Arc<dyn EventStore>,
}

struct Forgetful;

#[async_trait::async_trait]
impl EventStore for Forgetful {
    async fn store_event(&self, _: &str, _: &ServerSseMessage) -> Result<EventId, EventStoreError> {
        Err("forgets".into())
    }

    async fn replay_events_after(&self, _: &str) -> Result<EventStream, EventStoreError> {
        Err("forgets".into())
    }
}

impl SessionManager for Strange {
    type Error = Failed;
    type Transport = Line;

    async fn create_session(&self) -> Result<(SessionId, Line), Failed> {
        let id: SessionId = "the one".into();
        match self.scripted.restore_session(Arc::clone(&id)).await? {
            RestoreOutcome::Restored(line) => Ok((id, line)),
            _already_present => Ok((id, self.scripted.create_session().await?.1)),
        }
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Failed> {
        self.scripted.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Failed> {
        self.scripted.has_session(id).await
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Failed> {
        self.scripted.close_session(id).await
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Failed> {
        self.scripted.create_stream(id, message).await
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Failed> {
        self.scripted.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Failed> {
        self.scripted.create_standalone_stream(id).await
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Failed> {
        self.scripted.resume(id, last_event_id).await
    }

    fn event_store(&self) -> Option<Arc<dyn EventStore>> {
        Some(Arc::clone(&self.events))
    }
}

fn strange() -> PolicySessionManager<Strange> {
    let inner = Strange { scripted: Scripted::new(), events: Arc::new(Forgetful) };
    PolicySessionManager::builder(inner).max_sessions(2).build().expect("valid")
}

#[tokio::test(start_paused = true)]
async fn an_id_that_the_inner_manager_gives_twice_is_refused_and_takes_no_place() {
    let sessions = strange();
    let (id, first) = sessions.create_session().await.expect("room");
    for _ in 0..3 {
        let twice = sessions.create_session().await.map(drop);
        assert!(matches!(twice, Err(PolicyError::DuplicateId)), "{twice:?}");
        assert_eq!((sessions.stats().live, sessions.stats().reserved), (1, 0));
    }
    assert!(sessions.has_session(&id).await.expect("knows"), "the first is as it was");
    drop(first);
    let (_, _again) = sessions.create_session().await.expect("room, and the id is free");
    assert_eq!(sessions.stats().live, 1);
}

#[tokio::test]
async fn the_inner_manager_s_event_store_is_used_and_its_errors_are_told() {
    let store = strange().event_store().expect("the inner one's");
    let stored = store.store_event("a stream", &ServerSseMessage::default()).await;
    assert_eq!(stored.expect_err("it forgets").to_string(), "forgets");
    let plain = PolicySessionManager::builder(Scripted::new()).build().expect("valid");
    assert!(plain.event_store().is_none());
}
