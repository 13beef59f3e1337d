//! An inner manager that closes some sessions only when it is told to.

use std::collections::HashSet;
use std::sync::Mutex;

use futures_core::Stream;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_server::session::local::{
    LocalSessionManager, LocalSessionManagerError, SessionTransport,
};
use rmcp::transport::streamable_http_server::session::{RestoreOutcome, ServerSseMessage, SessionId, SessionManager};
use tokio::sync::Notify;

/// An inner manager. Its `close_session` does not return for an id in `wedged` until the id is removed.
#[derive(Debug, Default)]
pub struct Wedge {
    pub local: LocalSessionManager,
    pub wedged: Mutex<HashSet<SessionId>>,
    pub freed: Notify,
}

impl Wedge {
    pub fn new() -> Self {
        let mut local = LocalSessionManager::default();
        local.session_config.keep_alive = None;
        local.session_config.init_timeout = None;
        Self { local, ..Self::default() }
    }

    pub fn wedge(&self, id: &SessionId) {
        self.wedged.lock().expect("no panic").insert(SessionId::clone(id));
    }

    pub fn free(&self, id: &SessionId) {
        self.wedged.lock().expect("no panic").remove(id);
        self.freed.notify_waiters();
    }

    fn is_wedged(&self, id: &SessionId) -> bool {
        self.wedged.lock().expect("no panic").contains(id)
    }
}

impl SessionManager for Wedge {
    type Error = LocalSessionManagerError;
    type Transport = SessionTransport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        self.local.create_session().await
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        self.local.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        self.local.has_session(id).await
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if !self.is_wedged(id) {
                return self.local.close_session(id).await;
            }
            freed.await;
        }
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.local.create_stream(id, message).await
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        self.local.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.local.create_standalone_stream(id).await
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.local.resume(id, last_event_id).await
    }

    async fn restore_session(&self, id: SessionId) -> Result<RestoreOutcome<Self::Transport>, Self::Error> {
        self.local.restore_session(id).await
    }
}
