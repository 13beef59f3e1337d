//! [`CurrentSession`], the session of a request as its handler sees it, and [`BusyGuard`], which keeps that session
//! busy.

use std::fmt;
use std::sync::Arc;

use rmcp::model::{ClientJsonRpcMessage, ErrorData, GetExtensions};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, model::Extensions};
use tokio::time::Instant;

use super::session_data::{HasData, SessionData};
use crate::context::ClientContext;
use crate::session::{Activity, ActivityKind, Fingerprint, SessionKey};
use crate::transport::{Flag, RequestOwner, Session};

/// Names the session that a request came in, and lets its handler hold it busy for work of its own.
///
/// A request counts as in flight until its handler is done. A handler that answers at once and goes on working in the
/// background takes a [`BusyGuard`]. Its session is then not evicted and not idle, and
/// [`drain`](crate::PolicySessionManager::drain) waits for it. A `CurrentSession` alone keeps nothing busy.
///
/// A tool can also take it as an argument, `Extension<CurrentSession>`. Requests of protocol 2026-07-28 have none,
/// because they belong to no session.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use futures_util::StreamExt;
/// # use rmcp::transport::streamable_http_server::session::SessionManager;
/// # use rmcp_session_policy::PolicySessionManager;
/// # async fn write_page() { tokio::time::sleep(std::time::Duration::from_millis(100)).await }
/// use rmcp::service::RequestContext;
/// use rmcp::{ErrorData, RoleServer, tool, tool_router};
/// use rmcp_session_policy::CurrentSession;
///
/// #[derive(Clone)]
/// struct Reports;
///
/// #[tool_router(server_handler)]
/// impl Reports {
///     #[tool(description = "starts a report")]
///     async fn start(&self, context: RequestContext<RoleServer>) -> Result<String, ErrorData> {
///         let mut busy = CurrentSession::of(&context)?.keep_busy()?;
///         tokio::spawn(async move {
///             for _page in 0..10 {
///                 write_page().await; // takes less than `max_busy`
///                 if busy.renew().is_err() {
///                     return; // the session has ended
///                 }
///             }
///         });
///         Ok("started".to_owned())
///     }
/// }
///
/// # let sessions = PolicySessionManager::local().build()?;
/// # let (id, transport) = sessions.create_session().await?;
/// # let service = tokio::spawn(rmcp::serve_server(Reports, transport));
/// # let initialize = serde_json::from_value(serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
/// #     "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } }))?;
/// # sessions.initialize_session(&id, initialize).await?;
/// # let initialized = serde_json::json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
/// # sessions.accept_message(&id, serde_json::from_value(initialized)?).await?;
/// # let _service = service.await??;
/// # let call = serde_json::json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "start" } });
/// # let answer = sessions.create_stream(&id, serde_json::from_value(call)?).await?;
/// # let _answer: Vec<_> = answer.collect().await;
/// // The call is answered. The report still keeps the session busy.
/// assert_eq!(sessions.list()[0].in_flight, 1);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct CurrentSession {
    session: Arc<dyn Held>,
    /// The same session in the outer manager, where managers are stacked.
    outer: Option<Arc<Self>>,
}

/// Why a handler cannot have its session, or hold it busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CurrentSessionError {
    /// The request does not belong to a session of this crate.
    #[error("the request belongs to no session")]
    Absent,
    /// The end of the session has begun.
    #[error("the session is closing")]
    Closing,
}

impl From<CurrentSessionError> for ErrorData {
    fn from(error: CurrentSessionError) -> Self {
        Self::internal_error(error.to_string(), None)
    }
}

impl CurrentSession {
    /// Returns the session of a request.
    ///
    /// # Errors
    ///
    /// [`CurrentSessionError::Absent`] if the request belongs to no session.
    pub fn of(context: &RequestContext<RoleServer>) -> Result<Self, CurrentSessionError> {
        Self::among(&context.extensions).ok_or(CurrentSessionError::Absent)
    }

    fn among(extensions: &Extensions) -> Option<Self> {
        extensions.get::<Self>().cloned()
    }

    /// Puts the session into the extensions of a request.
    pub(super) fn attach<T: Send + 'static>(message: &mut ClientJsonRpcMessage, session: &Arc<Session<T>>) {
        let ClientJsonRpcMessage::Request(request) = message else { return };
        let extensions = request.request.extensions_mut();
        let session: Arc<dyn Held> = Arc::<Session<T>>::clone(session);
        let outer = extensions.insert(Self { session, outer: None });
        if let Some(outer) = outer
            && let Some(current) = extensions.get_mut::<Self>()
        {
            current.outer = Some(Arc::new(outer));
        }
    }

    /// The outermost manager's view of the session, which is the one that users configure.
    fn outermost(&self) -> &dyn Held {
        let mut current = self;
        while let Some(outer) = &current.outer {
            current = outer;
        }
        &*current.session
    }

    /// The key of the session in its manager, as observers and [`list`](crate::PolicySessionManager::list) show it.
    #[must_use]
    pub fn key(&self) -> SessionKey {
        self.outermost().key()
    }

    /// The fingerprint that logs show in place of the session id.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.outermost().fingerprint()
    }

    /// Returns the principal of the client that opened the session, if the layer knew one.
    #[must_use]
    pub fn principal(&self) -> Option<&str> {
        self.outermost().principal()
    }

    /// Returns what handlers keep in the session under a type: state that outlives its handler, and also the process if
    /// the type is [registered](crate::PolicySessionManagerBuilder::session_data). See [`SessionData`].
    #[must_use]
    pub fn data<T: Send + Sync + 'static>(&self) -> SessionData<T> {
        let mut current = self;
        while let Some(outer) = &current.outer {
            current = outer;
        }
        SessionData::of(Arc::clone(&current.session).data())
    }

    /// Has the session closed for good, with the reason [`Revoked`](crate::CloseReason::Revoked), once no request of it
    /// waits for an answer: the call of a tool that closes its session is answered. Returns at once.
    pub fn close(&self) {
        self.outermost().ask_to_close();
    }

    /// Holds the session busy until the guard is dropped: it counts as one more request in flight.
    ///
    /// [`max_busy`](crate::PolicySessionManagerBuilder::max_busy) bounds it, as it bounds a request; longer work has to
    /// [`renew`](BusyGuard::renew) it. A drain waits for the guard within its deadline. Other ends of a session do not.
    ///
    /// # Errors
    ///
    /// [`CurrentSessionError::Closing`] if the end of the session has begun.
    pub fn keep_busy(&self) -> Result<BusyGuard, CurrentSessionError> {
        let mut parts = Vec::with_capacity(1);
        let mut current = Some(self);
        while let Some(layer) = current {
            parts.push(Arc::clone(&layer.session).begin_work().ok_or(CurrentSessionError::Closing)?);
            current = layer.outer.as_deref();
        }
        Ok(BusyGuard { parts })
    }
}

impl fmt::Debug for CurrentSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CurrentSession")
            .field("session", &self.fingerprint())
            .field("key", &self.key())
            .finish_non_exhaustive()
    }
}

/// Keeps a session busy until it is dropped. [`CurrentSession::keep_busy`] creates it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use futures_util::StreamExt;
/// # use rmcp::transport::streamable_http_server::session::SessionManager;
/// # use rmcp_session_policy::{CloseReason, PolicySessionManager};
/// use rmcp::service::RequestContext;
/// use rmcp::{ErrorData, RoleServer, tool, tool_router};
/// use rmcp_session_policy::{BusyGuard, CurrentSession, CurrentSessionError};
/// use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
///
/// #[derive(Clone)]
/// struct Jobs(UnboundedSender<BusyGuard>);
///
/// #[tool_router(server_handler)]
/// impl Jobs {
///     #[tool(description = "starts a job in the background")]
///     async fn start(&self, context: RequestContext<RoleServer>) -> Result<String, ErrorData> {
///         self.0.send(CurrentSession::of(&context)?.keep_busy()?).ok();
///         Ok("started".to_owned())
///     }
/// }
///
/// let (jobs, mut guards) = unbounded_channel();
/// # let sessions = PolicySessionManager::local().build()?;
/// # let (id, transport) = sessions.create_session().await?;
/// # let service = tokio::spawn(rmcp::serve_server(Jobs(jobs), transport));
/// # let initialize = serde_json::from_value(serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
/// #     "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } }))?;
/// # sessions.initialize_session(&id, initialize).await?;
/// # let initialized = serde_json::json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
/// # sessions.accept_message(&id, serde_json::from_value(initialized)?).await?;
/// # let _service = service.await??;
/// # let call = serde_json::json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "start" } });
/// # let answer = sessions.create_stream(&id, serde_json::from_value(call)?).await?;
/// # let _answer: Vec<_> = answer.collect().await;
/// let mut busy = guards.recv().await.expect("a job");
/// assert_eq!(sessions.list()[0].in_flight, 1);
/// assert_eq!(busy.renew(), Ok(()));
///
/// sessions.terminate(sessions.list()[0].key, CloseReason::Revoked).await;
/// assert_eq!(busy.renew(), Err(CurrentSessionError::Closing));
/// # Ok(()) }
/// ```
#[must_use = "dropped at once, the session is busy no longer"]
pub struct BusyGuard {
    /// One part for each of the stacked managers.
    parts: Vec<Box<dyn Work>>,
}

impl BusyGuard {
    /// Starts [`max_busy`](crate::PolicySessionManagerBuilder::max_busy) anew, as if the work were a request that
    /// begins now.
    ///
    /// # Errors
    ///
    /// [`CurrentSessionError::Closing`] if the end of the session has begun. The guard then has no effect any more.
    pub fn renew(&mut self) -> Result<(), CurrentSessionError> {
        if !self.parts.is_empty() && self.parts.iter_mut().all(|part| part.renew()) {
            return Ok(());
        }
        self.parts.clear();
        Err(CurrentSessionError::Closing)
    }
}

impl fmt::Debug for BusyGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusyGuard").field("holds", &!self.parts.is_empty()).finish()
    }
}

/// A session, without the type of its transport.
trait Held: Send + Sync {
    fn key(&self) -> SessionKey;
    fn fingerprint(&self) -> Fingerprint;
    fn principal(&self) -> Option<&str>;
    fn ask_to_close(&self);
    fn data(self: Arc<Self>) -> Arc<dyn HasData>;
    /// Counts work in, unless the session is closing.
    fn begin_work(self: Arc<Self>) -> Option<Box<dyn Work>>;
}

impl<T: Send + 'static> Held for Session<T> {
    fn key(&self) -> SessionKey {
        self.record.entry.key
    }

    fn fingerprint(&self) -> Fingerprint {
        self.record.fingerprint()
    }

    fn principal(&self) -> Option<&str> {
        self.record.entry.context.as_deref().and_then(ClientContext::principal)
    }

    fn ask_to_close(&self) {
        self.raise(Flag::CloseAsked);
        self.receiver.wake();
    }

    fn data(self: Arc<Self>) -> Arc<dyn HasData> {
        self
    }

    fn begin_work(self: Arc<Self>) -> Option<Box<dyn Work>> {
        let activity = Activity::begin(&self, ActivityKind::Work, Instant::now())?;
        // Said after the activity has begun: the count of lingering activities must never exceed the count of
        // activities.
        self.lingers_too();
        Some(Box::new(Working { activity: Some(activity), session: self }))
    }
}

/// Work of a handler in one session.
trait Work: Send + Sync {
    /// Begins anew; false if the session is closing.
    fn renew(&mut self) -> bool;
}

struct Working<T> {
    activity: Option<Activity<Session<T>>>,
    session: Arc<Session<T>>,
}

impl<T: Send + 'static> Work for Working<T> {
    fn renew(&mut self) -> bool {
        let Some(activity) = self.activity.take() else { return false };
        // Said before the activity ends: the count of lingering activities must never exceed the count of activities.
        self.session.lingers_no_more();
        self.activity = activity.turn_into(ActivityKind::Work, Instant::now());
        if self.activity.is_some() {
            self.session.lingers_too();
        }
        self.activity.is_some()
    }
}

impl<T> Drop for Working<T> {
    fn drop(&mut self) {
        if let Some(activity) = self.activity.take() {
            self.session.lingers_no_more();
            drop(activity);
        }
    }
}
