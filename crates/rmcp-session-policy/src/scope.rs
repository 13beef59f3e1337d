//! The scope of one request: what the HTTP layer and the manager pass each other in a task-local, since rmcp passes no
//! request to a manager.
//!
//! rmcp handles one request by several calls of the manager, such as `has_session` and then `create_stream`. The scope
//! ties them together: it tells the manager which client asks, keeps a guard from one call to the next, and brings the
//! decision of the manager back to the layer. [`ClientContext::scope`] opens one without the layer.
//!
//! A scope lives on the task of its request. Tasks that are spawned in it have none.

use std::any::Any;
use std::cell::Cell;
use std::sync::Arc;

use crate::context::ClientContext;
use crate::directory::Found;
use crate::error::Rejected;

tokio::task_local! {
    /// `None` inside [`detached`]: what runs there does not belong to a request.
    static CURRENT: Option<Scope>;
}

/// Holds what the manager and the layer know of one request.
///
/// Each value has a cell of its own, which is enough since one task polls the request. A guard is dropped after it was
/// taken out of its cell, because its drop may run code that reads the scope.
struct Scope {
    /// The client of the request, as the layer or the author made it.
    context: Arc<ClientContext>,
    /// The guard that keeps the session of the request until the request has been handed to it: a hold of the session,
    /// the right to restore it with a permit and a place, or the reserved stream of a parked session. One at a time.
    /// Its drop gives all of it back, so a request that is dropped or rejected by rmcp leaves nothing behind.
    lease: Cell<Option<Box<dyn Any + Send>>>,
    /// The last rejection of the manager. A later one replaces it, as rmcp's answer follows the last call.
    outcome: Cell<Option<Outcome>>,
    /// Whether the body of the request turned out to be a `ping`. The context says the rest about a passive request,
    /// and is made before the body is read.
    ping: Cell<bool>,
    /// What a look-up in the directory found of the session of the request. Boxed, because few requests have it.
    found: Cell<Option<Box<Found>>>,
}

/// Says why the manager rejected a request. The HTTP layer reads it, since rmcp passes on only the text of an error.
///
/// The layer looks at it only after rmcp has answered. A request that the layer does not reject, and for which nothing
/// is recorded, gets rmcp's own answer.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "http"), expect(dead_code, reason = "read by the HTTP layer"))]
pub(crate) enum Outcome {
    /// The session is not there (any more).
    NotFound,
    /// Nothing is left of the stream that a client wants to resume.
    StreamOver,
    /// The manager told rmcp that the session is not there; rmcp may restore it next. It counts only if rmcp then
    /// answers 404.
    Absent,
    /// A newcomer, or a session that was to be restored, was rejected.
    Rejected(Box<Rejected>),
}

/// Runs a closure on the current scope. Returns `None` without one, and inside [`detached`].
fn in_scope<R>(f: impl FnOnce(&Scope) -> R) -> Option<R> {
    CURRENT.try_with(|scope| scope.as_ref().map(f)).ok().flatten()
}

/// Runs a future outside the scope of the current request. A manager uses it for what it does for its own reasons, so
/// that an inner manager of this crate does not attribute it to the client.
pub(crate) async fn detached<F: Future>(future: F) -> F::Output {
    CURRENT.scope(None, future).await
}

/// Returns whether the current call is made by another manager of this crate for its own reasons.
///
/// False outside any scope: a caller that uses neither a scope nor [`detached`] counts as a client.
pub(crate) fn is_detached() -> bool {
    CURRENT.try_with(Option::is_none).unwrap_or(false)
}

/// Runs a future in which [`ClientContext::current`] is this context, and returns the last rejection of the manager in
/// it.
///
/// What the scope still holds is dropped with it, also if this future is dropped before its end. A scope within another
/// one hides it until it ends.
pub(crate) async fn observe<F: Future>(context: Arc<ClientContext>, future: F) -> (F::Output, Option<Outcome>) {
    let (lease, outcome) = (Cell::new(None), Cell::new(None));
    let scope = Scope { context, lease, outcome, ping: Cell::new(false), found: Cell::new(None) };
    let observed = async {
        let output = future.await;
        (output, in_scope(|scope| scope.outcome.take()).flatten())
    };
    CURRENT.scope(Some(scope), observed).await
}

/// Records a rejection of the manager. Outside any scope it does nothing.
pub(crate) fn record_outcome(outcome: Outcome) {
    in_scope(|scope| scope.outcome.set(Some(outcome)));
}

/// Records that the request of the current scope is a `ping`. The HTTP layer knows once it has read the body.
#[cfg_attr(not(feature = "http"), expect(dead_code, reason = "called by the HTTP layer"))]
pub(crate) fn note_ping() {
    in_scope(|scope| scope.ping.set(true));
}

/// Notes what a look-up in the directory found of the session of the current scope.
#[cfg_attr(not(feature = "http"), expect(dead_code, reason = "called by the HTTP layer"))]
pub(crate) fn note_found(found: Found) {
    in_scope(|scope| scope.found.set(Some(Box::new(found))));
}

/// Takes out what such a look-up found.
pub(crate) fn take_found() -> Option<Found> {
    in_scope(|scope| scope.found.take()).flatten().map(|found| *found)
}

/// Returns whether the request of the current scope does not use its session, so that it restores only into a free place.
pub(crate) fn is_passive() -> bool {
    in_scope(|scope| scope.context.is_passive() || scope.ping.get()).unwrap_or(false)
}

/// Returns whether the request of the current scope opens a listening stream (a GET), as the HTTP layer says.
pub(crate) fn is_listening() -> bool {
    in_scope(|scope| scope.context.is_listening()).unwrap_or(false)
}

/// Keeps a guard until the current scope ends or another guard replaces it. Outside any scope the guard is not made.
///
/// `lease` may decide that there is nothing to keep; the guard of before is dropped all the same, after the new one was
/// made.
pub(crate) fn hold_in_scope<T: Send + 'static>(lease: impl FnOnce() -> Option<T>) {
    let kept = |scope: &Scope| scope.lease.replace(lease().map(|lease| Box::new(lease) as Box<dyn Any + Send>));
    drop(in_scope(kept));
}

/// Takes the guard of the current scope out, if it is a `T`; drops it if it is not.
///
/// The caller has to check that the guard is for its session and its manager: managers stack, and a scope is not bound
/// to one session.
pub(crate) fn take_held<T: Send + 'static>() -> Option<T> {
    let kept = in_scope(|scope| scope.lease.take()).flatten()?;
    kept.downcast::<T>().ok().map(|kept| *kept)
}

/// Drops the guard of the current scope. A call of the manager that begins something new does this first, so that it
/// does not hold one session while it waits for another.
pub(crate) fn clear_held() {
    hold_in_scope(|| None::<()>);
}

impl ClientContext {
    /// Runs a future in which [`current`](Self::current) is this context.
    ///
    /// One scope spans one request. The session that the request finds, opens or restores is not evicted until the
    /// request has been handed to it or the scope ends. Spawned tasks do not inherit the scope, so capture the context
    /// before a `tokio::spawn`.
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        observe(Arc::new(self), future).await.0
    }

    /// Returns whether the current call belongs to a request with a scope. Only there can a hold last from one call to
    /// the next.
    pub(crate) fn is_in_scope() -> bool {
        in_scope(|_| ()).is_some()
    }

    /// Returns the context of the innermost running [`scope`](Self::scope), if there is one.
    #[must_use]
    pub fn current() -> Option<Arc<Self>> {
        in_scope(|scope| Arc::clone(&scope.context))
    }
}
