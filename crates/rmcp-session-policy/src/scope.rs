//! The scope of one request: what its layer and its manager tell each other beside rmcp, which carries no request.

use std::any::Any;
use std::cell::Cell;
use std::sync::Arc;

use crate::context::ClientContext;
use crate::error::Rejected;

tokio::task_local! {
    /// `None` within a scope: what runs there is no part of the request.
    static CURRENT: Option<Scope>;
}

/// One request, as its [`ClientContext::scope`] spans it.
struct Scope {
    context: Arc<ClientContext>,
    /// What keeps the session of the request until the request has been handed to it.
    lease: Cell<Option<Box<dyn Any + Send>>>,
    /// What the manager last said no to.
    outcome: Cell<Option<Outcome>>,
    /// Whether the body of the request turned out to be a `ping`.
    ping: Cell<bool>,
}

/// What the manager said no to, for whoever answers the client: rmcp hands on an error's text and nothing else.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "http"), expect(dead_code, reason = "read by the HTTP layer"))]
pub(crate) enum Outcome {
    /// The session is not there (any more).
    NotFound,
    /// The stream that a client wants to resume is over: there is nothing left of it.
    StreamOver,
    /// rmcp was told that the session is not there; it may restore it yet.
    Absent,
    /// A newcomer, or a session that wanted to come back, was turned away.
    Rejected(Box<Rejected>),
}

fn in_scope<R>(f: impl FnOnce(&Scope) -> R) -> Option<R> {
    CURRENT.try_with(|scope| scope.as_ref().map(f)).ok().flatten()
}

/// Runs a future as no part of the request whose scope is running: what this manager does for reasons of its own, an inner
/// one of this crate must not take for the client's doing.
pub(crate) async fn detached<F: Future>(future: F) -> F::Output {
    CURRENT.scope(None, future).await
}

/// Whether a manager of this crate is asking for reasons of its own.
pub(crate) fn is_detached() -> bool {
    CURRENT.try_with(Option::is_none).unwrap_or(false)
}

/// Runs a future in which [`ClientContext::current`] is this context, and tells what the manager said no to in it.
pub(crate) async fn observe<F: Future>(context: Arc<ClientContext>, future: F) -> (F::Output, Option<Outcome>) {
    let scope = Scope { context, lease: Cell::new(None), outcome: Cell::new(None), ping: Cell::new(false) };
    let observed = async {
        let output = future.await;
        (output, in_scope(|scope| scope.outcome.take()).flatten())
    };
    CURRENT.scope(Some(scope), observed).await
}

/// Notes what the manager says no to. Outside any scope nobody asks.
pub(crate) fn record_outcome(outcome: Outcome) {
    in_scope(|scope| scope.outcome.set(Some(outcome)));
}

/// Notes that the request of the running scope is a `ping`: the HTTP layer knows once it has read the body.
#[cfg_attr(not(feature = "http"), expect(dead_code, reason = "called by the HTTP layer"))]
pub(crate) fn note_ping() {
    in_scope(|scope| scope.ping.set(true));
}

/// Whether the request of the running scope is no use of its session, so that it restores only into a free place.
pub(crate) fn is_passive() -> bool {
    in_scope(|scope| scope.context.is_passive() || scope.ping.get()).unwrap_or(false)
}

/// Whether the request of the running scope opens a listening stream (a GET), as the HTTP layer says.
pub(crate) fn is_listening() -> bool {
    in_scope(|scope| scope.context.is_listening()).unwrap_or(false)
}

/// Keeps something until the scope that is running ends, or something else is kept instead. Outside any scope it is
/// dropped at once.
pub(crate) fn hold_in_scope<T: Send + 'static>(lease: impl FnOnce() -> Option<T>) {
    let kept = |scope: &Scope| scope.lease.replace(lease().map(|lease| Box::new(lease) as Box<dyn Any + Send>));
    drop(in_scope(kept));
}

/// Takes what was kept for the scope that is running, if it is a `T`.
pub(crate) fn take_held<T: Send + 'static>() -> Option<T> {
    let kept = in_scope(|scope| scope.lease.take()).flatten()?;
    kept.downcast::<T>().ok().map(|kept| *kept)
}

/// Drops what was kept for the scope that is running.
pub(crate) fn clear_held() {
    hold_in_scope(|| None::<()>);
}

impl ClientContext {
    /// Runs a future in which [`current`](Self::current) is this context.
    ///
    /// One scope spans one request: the session that the request finds, opens or restores is no victim until the
    /// request has been handed to it or the scope ends. It is not inherited by spawned tasks: capture the context before
    /// a `tokio::spawn`.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        observe(Arc::new(self), future).await.0
    }

    pub(crate) fn is_in_scope() -> bool {
        in_scope(|_| ()).is_some()
    }

    /// Returns the context of the innermost [`scope`](Self::scope) that is running, if any.
    #[must_use]
    pub fn current() -> Option<Arc<Self>> {
        in_scope(|scope| Arc::clone(&scope.context))
    }
}
