//! An inner manager of one's own: sessions answered by a function, without a worker.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use futures_util::stream::{self, Empty, Iter};
use rmcp::RoleServer;
use rmcp::model::{ClientJsonRpcMessage, RootsListChangedNotification, ServerJsonRpcMessage, ServerResult};
use rmcp::transport::OneshotTransport;
use rmcp::transport::streamable_http_server::session::{ServerSseMessage, SessionId, SessionManager};
use rmcp_session_policy::PolicySessionManager;

/// Answers every request with an empty result.
#[derive(Debug, Default)]
struct Yes {
    live: AtomicUsize,
    opened: AtomicUsize,
}

fn yes(message: ClientJsonRpcMessage) -> Option<ServerJsonRpcMessage> {
    let (_, id) = message.into_request()?;
    Some(ServerJsonRpcMessage::response(ServerResult::empty(()), id))
}

#[expect(refining_impl_trait, reason = "the types are simple")]
impl SessionManager for Yes {
    type Error = Infallible;
    type Transport = OneshotTransport<RoleServer>;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Infallible> {
        self.live.fetch_add(1, SeqCst);
        let id = format!("session {}", self.opened.fetch_add(1, SeqCst));
        let message = ClientJsonRpcMessage::notification(RootsListChangedNotification::default().into());
        Ok((id.into(), OneshotTransport::new(message).0))
    }
    async fn initialize_session(
        &self,
        _: &SessionId,
        hello: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Infallible> {
        Ok(yes(hello).expect("initialize is a request"))
    }
    async fn has_session(&self, _: &SessionId) -> Result<bool, Infallible> {
        Ok(true)
    }
    async fn close_session(&self, _: &SessionId) -> Result<(), Infallible> {
        self.live.fetch_sub(1, SeqCst);
        Ok(())
    }
    async fn create_stream(
        &self,
        _: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<Iter<std::option::IntoIter<ServerSseMessage>>, Infallible> {
        Ok(stream::iter(yes(message).map(ServerSseMessage::from_message)))
    }
    async fn accept_message(&self, _: &SessionId, _: ClientJsonRpcMessage) -> Result<(), Infallible> {
        Ok(())
    }
    async fn create_standalone_stream(&self, _: &SessionId) -> Result<Empty<ServerSseMessage>, Infallible> {
        Ok(stream::empty())
    }
    async fn resume(&self, _: &SessionId, _: String) -> Result<Empty<ServerSseMessage>, Infallible> {
        Ok(stream::empty())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sessions = PolicySessionManager::builder(Yes::default()).max_sessions(3).build()?;
    let mut transports = Vec::new();
    for _ in 0..10 {
        transports.push(sessions.create_session().await?);
        assert!(sessions.inner().live.load(SeqCst) <= 3);
    }
    assert_eq!((sessions.stats().opened, sessions.stats().live), (10, 3));
    Ok(())
}
