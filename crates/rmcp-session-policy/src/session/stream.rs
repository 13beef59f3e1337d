//! [`Stream`]: whether a client listens.

use tokio::time::Instant;

/// Whether a client holds a listening stream open by GET.
///
/// An open stream is no sign of life: in the field, most sessions that only listen are never used again, and clients
/// that only POST never have a stream.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use rmcp::transport::streamable_http_server::session::SessionManager;
/// use rmcp_session_policy::{PolicySessionManager, Stream};
///
/// let sessions = PolicySessionManager::local().protect(|session| session.stream() == Stream::Open).build()?;
/// let (_id, _transport) = sessions.create_session().await?;
/// assert_eq!(sessions.list()[0].stream, Stream::Never);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The client has opened no stream in this session.
    Never,
    /// A stream is open.
    Open,
    /// The last stream was lost at this moment, and the client has opened no other one since. Proxies cut streams too, and
    /// clients then come back after some seconds. A stream is also lost when its client does not answer a
    /// [probe](crate::PolicySessionManagerBuilder::probe_listeners).
    Lost(Instant),
}
