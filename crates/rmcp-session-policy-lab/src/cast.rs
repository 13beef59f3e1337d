//! [`Cast`]: the clients behind the sessions of a trace.

use std::sync::Arc;

use rmcp_session_policy::ClientContext;

/// What is known of the clients of a trace.
pub trait Cast {
    /// The name of the software of a session's client.
    fn software(&self, session: u32) -> Option<&str>;
    /// The client of a session, as policies see it.
    fn context(&self, session: u32) -> Option<Arc<ClientContext>>;
}
