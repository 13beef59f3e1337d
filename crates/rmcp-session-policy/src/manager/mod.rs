//! The manager: rmcp's `SessionManager` over admission, places, parking, ends and deadlines.

mod adoption;
mod all_sessions;
mod allowance;
mod asker;
mod asking;
mod availability;
mod builder;
mod chosen;
mod client_limits;
mod close;
mod create;
mod current_session;
mod deadlines;
mod due;
mod durable;
mod durable_sessions;
mod ended_for_good;
mod events;
mod explanations;
mod fair_queue;
mod final_end;
mod final_ends;
mod goes_on;
mod handlers;
mod idle_timeout;
mod in_force;
mod in_turn;
mod leases;
mod lifecycle;
mod listen;
mod live_sessions;
mod live_settings;
mod look_queue;
mod lookup;
mod manager_inner;
#[cfg(feature = "metrics")]
mod measure;
mod misses;
mod operate;
#[cfg(feature = "admin")]
mod oversight;
mod parked;
mod parking;
mod parking_state;
mod place_queue;
mod place_search;
mod policies;
mod probe_answer;
mod reconfigure;
mod restore;
mod restore_right;
mod resume;
mod serving_tasks;
mod session_data;
mod session_manager;
mod session_store;
mod setting_checks;
mod settings;
mod settings_in_force;
mod shrink;
mod single_flight;
mod swap;
mod unservable;

pub use builder::PolicySessionManagerBuilder;
pub use current_session::{BusyGuard, CurrentSession, CurrentSessionError};
pub use durable_sessions::GivenUp;
#[cfg(feature = "http")]
pub(crate) use durable_sessions::LookedUp;
pub use final_end::{FinalEnd, FinalEndReason};
pub use idle_timeout::{IdleTimeout, Worth};
pub use live_settings::LiveSettings;
pub use operate::SessionSelector;
pub use session_data::SessionData;
#[cfg(feature = "simulation")]
pub(crate) use setting_checks::default_opening;
pub use settings_in_force::SettingsInForce;

use std::fmt;
use std::sync::Arc;

use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;

#[cfg(feature = "http")]
pub(crate) use asker::Asker;
#[cfg(feature = "http")]
pub(crate) use lookup::Owner;
pub(crate) use manager_inner::ManagerInner;
#[cfg(feature = "http")]
pub(crate) use manager_inner::rejected;
#[cfg(feature = "http")]
pub(crate) use resume::EndedStream;

/// A session manager that applies policies to any inner session manager.
///
/// It bounds the number of sessions in the inner manager exactly. An
/// [`AdmissionPolicy`](crate::admission::AdmissionPolicy) decides which sessions may be opened, and an
/// [`EvictionPolicy`](crate::eviction::EvictionPolicy) chooses the session to close when the server is full. The
/// manager is itself a [`SessionManager`]: it replaces the inner one in the service, and can be the inner manager of
/// another one.
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
/// A session ends with its transport, which the service holds; the drop of the manager ends no session. To stop in
/// order, call [`drain`](Self::drain). The manager belongs to the tokio runtime in which its first session is opened:
/// its background task runs there.
pub struct PolicySessionManager<I: SessionManager> {
    shared: Arc<ManagerInner<I>>,
}

impl PolicySessionManager<LocalSessionManager> {
    /// Returns a builder over rmcp's own manager. The idle timer and the handshake timer of the inner manager are
    /// switched off, because this manager has its own.
    pub fn local() -> PolicySessionManagerBuilder<LocalSessionManager> {
        let mut inner = LocalSessionManager::default();
        inner.session_config.keep_alive = None;
        inner.session_config.init_timeout = None;
        PolicySessionManagerBuilder::new(inner)
    }
}

impl<I: SessionManager> PolicySessionManager<I> {
    /// Returns a builder over `inner`.
    ///
    /// If `inner` is rmcp's `LocalSessionManager`, switch its `keep_alive` off, because it cuts off running calls.
    /// [`local`](PolicySessionManager::local) does so.
    pub fn builder(inner: I) -> PolicySessionManagerBuilder<I> {
        PolicySessionManagerBuilder::new(inner)
    }

    #[cfg(feature = "http")]
    pub(crate) const fn shared(&self) -> &Arc<ManagerInner<I>> {
        &self.shared
    }

    /// Returns the inner manager.
    #[must_use]
    pub fn inner(&self) -> &I {
        &self.shared.inner
    }
}

impl<I: SessionManager> fmt::Debug for PolicySessionManager<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicySessionManager").field("settings", &self.settings()).finish_non_exhaustive()
    }
}
