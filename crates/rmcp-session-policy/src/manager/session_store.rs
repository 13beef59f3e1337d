//! rmcp's trait [`SessionStore`] for the parking.

use std::sync::Arc;

use async_trait::async_trait;
use rmcp::transport::streamable_http_server::session::{SessionManager, SessionState, SessionStore, SessionStoreError};
use tokio::time::Instant;

use super::PolicySessionManager;
use super::manager_inner::ManagerInner;
use super::parked::entry_bytes;
use crate::observe::CloseReason;

/// The parking, as rmcp's `SessionStore`.
struct ParkingStore<I: SessionManager>(Arc<ManagerInner<I>>);

impl<I: SessionManager> PolicySessionManager<I> {
    /// Returns the store to hand to rmcp as `StreamableHttpServerConfig::session_store`. With it, an evicted or idle
    /// session is parked, and its next request restores it under the same id.
    ///
    /// A restored session has a **new handler**: the state of the old handler is gone. What must
    /// outlive the handler is [session data](crate::CurrentSession::data).
    ///
    /// The bounds are the builder's `max_parked`, `max_parked_bytes`, `max_parked_entry_bytes` and `max_parked_age`.
    #[must_use]
    pub fn parking(&self) -> Arc<dyn SessionStore> {
        Arc::new(ParkingStore(Arc::clone(&self.shared)))
    }
}

#[async_trait]
impl<I: SessionManager> SessionStore for ParkingStore<I> {
    async fn load(&self, id: &str) -> Result<Option<SessionState>, SessionStoreError> {
        self.0.parking.is_used();
        match self.0.parking.get(id, Instant::now()) {
            Some(parked) => Ok(Some(SessionState::new(serde_json::from_slice(&parked.initialize_params)?))),
            None => Ok(None),
        }
    }

    /// rmcp calls this after every `initialize`, while the session is live. Only the end of the session parks it.
    async fn store(&self, id: &str, state: &SessionState) -> Result<(), SessionStoreError> {
        self.0.parking.is_used();
        let limits = self.0.parking.limits();
        let Some(session) = self.0.find(id).filter(|session| !session.is_closing()) else { return Ok(()) };
        if limits.entries == 0 && self.0.durable.is_none() {
            return Ok(());
        }
        let initialize_params: Arc<[u8]> = serde_json::to_vec(&state.initialize_params)?.into();
        // A session larger than the whole parking would push all others out first.
        let bytes = entry_bytes(id, initialize_params.len(), session.record.entry.context.as_deref());
        if bytes > limits.entry_bytes.min(limits.bytes) {
            tracing::debug!(session = %session.record.fingerprint(), bytes, "too large to park");
            return Ok(());
        }
        session.set_initialize_params(Arc::clone(&initialize_params));
        self.0.open_in_directory(&session, &initialize_params);
        if let Some(durable) = self.0.durable.as_ref().filter(|durable| durable.directory.is_awaited())
            && let Some(in_directory) = session.in_directory()
        {
            durable.end_written(&in_directory.ownership.digest).await;
        }
        Ok(())
    }

    /// rmcp calls this when a client deletes its session, and only then.
    async fn delete(&self, id: &str) -> Result<(), SessionStoreError> {
        // Done first, so that a restore which runs beside the following steps sees it.
        let restore = self.0.restores.bar(id, CloseReason::Client);
        if let Some(session) = self.0.find(id)
            && !self.0.close(&session, CloseReason::Client)
        {
            self.0.forbid_restore(&session);
        }
        let ownership = self.0.parking.ownership(id);
        if self.0.parking.take(id, CloseReason::Client)
            && let (Some(durable), Some(ownership)) = (&self.0.durable, ownership)
        {
            durable.end_written_after(restore, &ownership.digest).await;
        }
        Ok(())
    }
}
