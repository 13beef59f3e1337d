//! The event store of requests without a session. The event ids of each principal have a seal of their own.

use std::convert::Infallible;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use rmcp::transport::streamable_http_server::session::{
    EventId, EventStore, EventStoreError, EventStream, ServerSseMessage, SessionManager,
};

use super::manager_inner::ManagerInner;
use crate::context::ClientContext;
use crate::error::PolicyError;
use crate::transport::{LazySealKey, SealKey};

/// The inner manager's event store, for the requests of one principal.
///
/// rmcp asks the manager for its store within each request that belongs to no session, and then stores and replays
/// events without naming their owner. So the store is bound to the principal of the request: it seals the ids that it
/// returns, and replays only after an id with its own seal. Without a principal, a client needs only the id.
struct SealedEvents {
    inner: Arc<dyn EventStore>,
    context: Option<Arc<ClientContext>>,
    key: LazySealKey,
}

impl SealedEvents {
    fn key(&self) -> &SealKey {
        let principal = || self.context.as_deref().and_then(ClientContext::principal);
        self.key.get(|root| root.of_principal(principal()))
    }
}

#[async_trait]
impl EventStore for SealedEvents {
    async fn store_event(&self, stream_id: &str, event: &ServerSseMessage) -> Result<EventId, EventStoreError> {
        let mut id = self.inner.store_event(stream_id, event).await?;
        self.key().seal(&mut id);
        Ok(id)
    }

    async fn replay_events_after(&self, last_event_id: &str) -> Result<EventStream, EventStoreError> {
        let id = self.key().open(last_event_id).ok_or(PolicyError::<Infallible>::UnknownEvent)?;
        let events = self.inner.replay_events_after(id).await?;
        let key = self.key().clone();
        Ok(Box::pin(events.map(move |mut event| {
            if let Some(id) = &mut event.event_id {
                key.seal(id);
            }
            event
        })))
    }
}

impl<I: SessionManager> ManagerInner<I> {
    /// The inner manager's event store, bound to the principal of the request that is running.
    pub(super) fn events(&self) -> Option<Arc<dyn EventStore>> {
        let inner = self.inner.event_store()?;
        let key = LazySealKey::new(Arc::clone(&self.seal_root));
        Some(Arc::new(SealedEvents { inner, context: ClientContext::current(), key }))
    }
}
