//! What the manager under test is given: a handler, an admission policy that counts leases, and an observer that finds wrong events.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rmcp::ServerHandler;
use rmcp::model::{CallToolRequestParams, CallToolResponse, ErrorData, ServerCapabilities, ServerConfig};
use rmcp::service::{RequestContext, RoleServer};

use crate::admission::{AdmissionPolicy, Arrival, Permit, Rejection};
use crate::observe::{SessionEvent, SessionObserver};
use crate::session::{SessionKey, SessionOrigin};

/// Answers `tools/list` at once, and a call of any tool never.
pub(super) struct Tools;

impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn call_tool(
        &self,
        _: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        context.ct.cancelled().await;
        Err(ErrorData::internal_error("cancelled", None))
    }
}

/// Counts the leases that are held, and notes the ends that it is told of. It is the admission policy of the manager,
/// and admits everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases(Arc<AtomicUsize>, Arc<Mutex<Vec<SessionOrigin>>>);

impl Leases {
    /// How many leases are held.
    pub(super) fn held(&self) -> usize {
        self.0.load(SeqCst)
    }

    /// The sessions of which it was told that they have ended, once for each time.
    pub(super) fn ended(&self) -> Vec<SessionOrigin> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Counts as held until it is dropped.
struct Lease(Arc<AtomicUsize>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[async_trait]
impl AdmissionPolicy for Leases {
    async fn admit(&self, _: &Arrival<'_>) -> Result<Permit, Rejection> {
        self.0.fetch_add(1, SeqCst);
        Ok(Permit::holding(Lease(Arc::clone(&self.0))))
    }

    fn on_session_end(&self, session: SessionOrigin) {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).push(session);
    }
}

/// Observes which sessions are live, and records the last wrong event: an incarnation that comes or ends twice.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends(Arc<Mutex<(Vec<SessionKey>, Option<&'static str>)>>);

impl Ends {
    /// What was wrong, if anything was.
    pub(super) fn wrong(&self) -> Option<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

impl SessionObserver for Ends {
    fn observe(&self, event: &SessionEvent<'_>) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            SessionEvent::Opened { session } | SessionEvent::Restored { session } => {
                if heard.0.contains(&session.key()) {
                    heard.1 = Some("a session came twice");
                }
                heard.0.push(session.key());
            }
            SessionEvent::Closed { session, .. } => match heard.0.iter().position(|key| *key == session.key()) {
                Some(nth) => drop(heard.0.swap_remove(nth)),
                None => heard.1 = Some("a session ended twice"),
            },
            SessionEvent::Rejected { .. } => {}
        }
    }
}
