//! The manager: admission, places, ends, deadlines, and rmcp's trait over them.

mod asking;
mod builder;
mod create;
mod current_session;
mod deadlines;
mod directory;
mod end;
mod ends;
mod events;
mod fair_queue;
mod handlers;
mod leases;
mod lifecycle;
mod listen;
mod manager_inner;
mod operate;
mod parking;
mod parking_state;
mod place;
mod places;
mod restore;
mod resume;
mod serving_tasks;
mod session_manager;

pub use builder::PolicySessionManagerBuilder;
pub use current_session::{BusyGuard, CurrentSession, CurrentSessionError};
pub use operate::SessionSelector;

use std::fmt;
use std::sync::Arc;

use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;

pub(crate) use manager_inner::ManagerInner;
#[cfg(feature = "http")]
pub(crate) use manager_inner::Owner;

/// A session manager under policies, over any inner one.
///
/// It bounds how many sessions the inner manager holds, exactly, and lets an
/// [`AdmissionPolicy`](crate::admission::AdmissionPolicy) decide who may come in and an
/// [`EvictionPolicy`](crate::eviction::EvictionPolicy) who goes when there is no room. It is itself a
/// [`SessionManager`], so it goes where the inner one went, and wraps and is wrapped.
///
/// ```
/// use std::sync::Arc;
///
/// use rmcp::transport::streamable_http_server::session::SessionManager;
/// use rmcp_session_policy::PolicySessionManager;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = Arc::new(PolicySessionManager::local().max_sessions(100).build()?);
/// let (id, _transport) = sessions.create_session().await?;
/// assert!(sessions.has_session(&id).await?);
/// assert_eq!(sessions.stats().live, 1);
/// # Ok(()) }
/// ```
///
/// The sessions end with their transports, which the service holds; dropping the manager ends none. To stop in order,
/// [`drain`](Self::drain). It belongs to the tokio runtime in which its first session is opened: its deadlines are kept
/// there.
pub struct PolicySessionManager<I: SessionManager> {
    shared: Arc<ManagerInner<I>>,
}

impl PolicySessionManager<LocalSessionManager> {
    /// Starts to build a manager over rmcp's own, whose idle timer and handshake timer are off: this manager owns both.
    pub fn local() -> PolicySessionManagerBuilder<LocalSessionManager> {
        let mut inner = LocalSessionManager::default();
        inner.session_config.keep_alive = None;
        inner.session_config.init_timeout = None;
        PolicySessionManagerBuilder::new(inner)
    }
}

impl<I: SessionManager> PolicySessionManager<I> {
    /// Starts to build a manager over `inner`.
    ///
    /// If `inner` is rmcp's `LocalSessionManager`, switch its `keep_alive` off: it cuts running calls.
    /// [`local`](PolicySessionManager::local) does so.
    pub fn builder(inner: I) -> PolicySessionManagerBuilder<I> {
        PolicySessionManagerBuilder::new(inner)
    }

    #[cfg(feature = "http")]
    pub(crate) const fn shared(&self) -> &Arc<ManagerInner<I>> {
        &self.shared
    }

    /// The inner manager.
    #[must_use]
    pub fn inner(&self) -> &I {
        &self.shared.inner
    }
}

impl<I: SessionManager> fmt::Debug for PolicySessionManager<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicySessionManager").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}
