//! An inner manager with sessions that cost next to nothing.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use futures_core::Stream;
use rmcp::RoleServer;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::streamable_http_server::session::{ServerSseMessage, SessionId, SessionManager};

/// An inner manager with sessions that cost next to nothing and never send a message.
#[derive(Debug, Default)]
pub struct Silent {
    pub sessions: Mutex<HashSet<SessionId>>,
    next: AtomicU64,
}

/// A transport on which nothing ever comes.
#[derive(Debug)]
pub struct Silence;

impl Transport<RoleServer> for Silence {
    type Error = std::io::Error;

    fn send(&mut self, _item: ServerJsonRpcMessage) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        std::future::ready(Ok(()))
    }

    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        std::future::pending().await
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

impl SessionManager for Silent {
    type Error = std::io::Error;
    type Transport = Silence;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        let id = SessionId::from(format!("silent-{}", self.next.fetch_add(1, SeqCst)));
        self.sessions.lock().expect("no panic").insert(SessionId::clone(&id));
        Ok((id, Silence))
    }

    async fn initialize_session(
        &self,
        _id: &SessionId,
        _message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        Ok(self.sessions.lock().expect("no panic").contains(id))
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        self.sessions.lock().expect("no panic").remove(id);
        Ok(())
    }

    async fn create_stream(
        &self,
        _id: &SessionId,
        _message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(futures_util::stream::pending())
    }

    async fn accept_message(&self, _id: &SessionId, _message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn create_standalone_stream(
        &self,
        _id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(futures_util::stream::pending())
    }

    async fn resume(
        &self,
        _id: &SessionId,
        _last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(futures_util::stream::pending())
    }
}
