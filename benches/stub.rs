//! An inner session manager that costs next to nothing, so that what is measured is the policy layer.

use std::convert::Infallible;
use std::future::{pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::Stream;
use futures_util::stream::empty;
use rmcp::RoleServer;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::streamable_http_server::session::{ServerSseMessage, SessionId, SessionManager};

/// Hands out ids and transports, and keeps nothing.
#[derive(Debug, Default)]
pub struct StubManager {
    next: AtomicU64,
}

/// A transport on which nothing ever comes.
#[derive(Debug)]
pub struct StubTransport;

impl Transport<RoleServer> for StubTransport {
    type Error = Infallible;

    fn send(&mut self, _: ServerJsonRpcMessage) -> impl Future<Output = Result<(), Infallible>> + Send + 'static {
        ready(Ok(()))
    }

    fn receive(&mut self) -> impl Future<Output = Option<ClientJsonRpcMessage>> + Send {
        pending()
    }

    fn close(&mut self) -> impl Future<Output = Result<(), Infallible>> + Send {
        ready(Ok(()))
    }
}

impl SessionManager for StubManager {
    type Error = Infallible;
    type Transport = StubTransport;

    async fn create_session(&self) -> Result<(SessionId, StubTransport), Infallible> {
        // As long as the UUIDs of rmcp.
        let id: SessionId = format!("{:036}", self.next.fetch_add(1, Ordering::Relaxed)).into();
        Ok((id, StubTransport))
    }

    async fn initialize_session(
        &self,
        _: &SessionId,
        _: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Infallible> {
        pending().await
    }

    async fn has_session(&self, _: &SessionId) -> Result<bool, Infallible> {
        Ok(true)
    }

    async fn close_session(&self, _: &SessionId) -> Result<(), Infallible> {
        Ok(())
    }

    async fn create_stream(
        &self,
        _: &SessionId,
        _: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Infallible> {
        Ok(empty())
    }

    async fn accept_message(&self, _: &SessionId, _: ClientJsonRpcMessage) -> Result<(), Infallible> {
        Ok(())
    }

    async fn create_standalone_stream(
        &self,
        _: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Infallible> {
        Ok(empty())
    }

    async fn resume(
        &self,
        _: &SessionId,
        _: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Infallible> {
        Ok(empty())
    }
}

/// The sessions' ids and transports, as a server holds them.
pub type Held<T> = Vec<(Arc<str>, T)>;
