//! An inner session manager that costs next to nothing, so that what is measured is the policy layer.

use std::convert::Infallible;
use std::future::{pending, ready};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::Stream;
use futures_util::stream::empty;
use rmcp::RoleServer;
use rmcp::model::{ClientJsonRpcMessage, ClientRequest, ListToolsRequest, RequestId, ServerJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::streamable_http_server::session::{ServerSseMessage, SessionId, SessionManager};

/// Hands out ids and transports, and keeps nothing.
#[derive(Debug)]
pub struct StubManager<T = StubTransport> {
    next: AtomicU64,
    transport: PhantomData<fn() -> T>,
}

impl<T> Default for StubManager<T> {
    fn default() -> Self {
        Self { next: AtomicU64::new(0), transport: PhantomData }
    }
}

/// A transport on which nothing ever comes.
#[derive(Debug, Default)]
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

/// A transport on which the same request comes again and again.
#[derive(Debug, Default)]
pub struct Asking;

impl Transport<RoleServer> for Asking {
    type Error = Infallible;

    fn send(&mut self, _: ServerJsonRpcMessage) -> impl Future<Output = Result<(), Infallible>> + Send + 'static {
        ready(Ok(()))
    }

    fn receive(&mut self) -> impl Future<Output = Option<ClientJsonRpcMessage>> + Send {
        let list = ListToolsRequest::default();
        ready(Some(ClientJsonRpcMessage::request(ClientRequest::ListToolsRequest(list), RequestId::Number(7))))
    }

    fn close(&mut self) -> impl Future<Output = Result<(), Infallible>> + Send {
        ready(Ok(()))
    }
}

impl<T: Transport<RoleServer> + Default + Send + 'static> SessionManager for StubManager<T> {
    type Error = Infallible;
    type Transport = T;

    async fn create_session(&self) -> Result<(SessionId, T), Infallible> {
        // As long as the UUIDs of rmcp.
        let id: SessionId = format!("{:036}", self.next.fetch_add(1, Ordering::Relaxed)).into();
        Ok((id, T::default()))
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
