//! [`SessionKey`], the dense name of an incarnation of a session.

/// Names one incarnation of a session by an index, which is dense and reused, and a generation, which is not reused.
///
/// A policy can keep its state of a session in a `Vec` at [`index`](Self::index), or in a map by the whole key.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use rmcp::transport::streamable_http_server::session::SessionManager;
/// use rmcp_session_policy::{CloseReason, PolicySessionManager};
///
/// let sessions = PolicySessionManager::local().build()?;
/// let (_id, transport) = sessions.create_session().await?;
/// let first = sessions.list()[0].key;
/// drop(transport);
/// sessions.terminate(first, CloseReason::Revoked).await;
///
/// let (_id, _transport) = sessions.create_session().await?;
/// let second = sessions.list()[0].key;
/// assert_eq!((first.index(), second.index()), (0, 0));
/// assert_ne!(first.generation(), second.generation());
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    generation: u32,
    index: u32,
}

impl SessionKey {
    pub(crate) const fn new(index: u32, generation: u32) -> Self {
        Self { generation, index }
    }

    /// Returns a small number, less than the highest number of sessions that existed at one time. A later session may
    /// have the same index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.index as usize
    }

    /// Returns the number that distinguishes sessions which had the same index at different times.
    #[must_use]
    pub const fn generation(self) -> u32 {
        self.generation
    }
}
