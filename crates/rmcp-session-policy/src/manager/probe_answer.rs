//! The answers of clients to probes of their listening streams, which are taken out before they count as use.

use rmcp::model::{ClientJsonRpcMessage, RequestId};
#[cfg(feature = "http")]
use rmcp::transport::streamable_http_server::session::SessionId;
use rmcp::transport::streamable_http_server::session::SessionManager;
use tokio::time::Instant;

use super::manager_inner::ManagerInner;

impl<I: SessionManager> ManagerInner<I> {
    /// Takes a message within a session if it is the answer to a probe of this manager. Returns whether it was.
    ///
    /// Nothing else is done for it: it was for no handler. An answer to a probe of another session has no effect.
    pub(super) fn take_probe_answer(&self, session: &str, message: &ClientJsonRpcMessage) -> bool {
        let Some(probes) = self.held.probes() else { return false };
        let id = match message {
            ClientJsonRpcMessage::Response(response) => Some(&response.id),
            ClientJsonRpcMessage::Error(error) => error.id.as_ref(),
            _ => None,
        };
        matches!(id, Some(RequestId::String(id)) if probes.answered(session, id, Instant::now()))
    }
}

/// The methods that the HTTP layer calls.
#[cfg(feature = "http")]
impl<I: SessionManager> ManagerInner<I> {
    pub(crate) fn probes_listeners(&self) -> bool {
        self.held.probes().is_some()
    }

    /// Takes the answer to a probe, before rmcp asks for the session: that would restore a parked one. `id` begins as the ids
    /// of probes do. Returns false if the session has to be asked.
    ///
    /// A probe of another manager may be of one within this one, if the session is live here. Else it is of a server that had
    /// the session before, and there is nothing left to do.
    pub(crate) fn take_probe_answer_early(&self, session: &SessionId, id: &str) -> bool {
        let Some(probes) = self.held.probes() else { return false };
        probes.answered(session, id, Instant::now()) || !self.live.contains(session)
    }
}
