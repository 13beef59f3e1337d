//! The end of a session: it begins once, has one reason, and runs to its last step.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};

use super::chosen::Chosen;
use super::final_end::FinalEndReason;
use super::goes_on::GoesOn;
use super::manager_inner::{ManagerInner, ManagerState};
use crate::call_rejection::CallRejection;
use crate::context::ClientContext;
use crate::directory::InDirectory;
use crate::eviction::SessionInfo;
use crate::observe::{CloseReason, SessionEvent};
use crate::scope::{detached, is_detached};
use crate::session::{Phase, SessionKey, StateSnapshot};
use crate::timestamp::Timestamp;
use crate::transport::{Flag, InFlight, Session, TransportEvents};

/// How long the close of a session waits for answers to the requests in flight, and for clients that have stopped
/// reading.
pub(super) const CLOSE_GRACE: Duration = Duration::from_millis(100);

impl<T> ManagerState<T> {
    pub(super) fn session(&self, key: SessionKey) -> Option<Arc<Session<T>>> {
        self.registry.get(key).map(|slot| Arc::clone(&slot.session))
    }

    /// Records that the end of a session has begun. Only the caller that moved the state to closing may call it.
    pub(super) fn mark_closing(&mut self, session: &Session<T>, reason: CloseReason, now: Instant) {
        let key = session.record.entry.key;
        session.set_close_reason(reason, Timestamp::at(now));
        self.registry.retire(key);
        self.closing += 1;
        if self.places.over() > 0 && !self.is_shrinking() {
            // What waits takes victims of its own from here on.
            self.places.wake_first();
        }
    }

    /// Sets the next deadline of a session.
    pub(super) fn look_at(&mut self, key: SessionKey, at: Instant) {
        let Self { deadlines, registry, .. } = self;
        deadlines.insert(key, at, registry.len(), |key| registry.get(key).is_some());
    }
}

impl<I: SessionManager> ManagerInner<I> {
    /// Closes a session, even if it is busy. Returns false if its close had begun before.
    pub(super) fn close(self: &Arc<Self>, session: &Arc<Session<I::Transport>>, reason: CloseReason) -> bool {
        let begun = self.begin_close(session, reason);
        if begun {
            self.spawn_close(Arc::clone(session));
        }
        begun
    }

    /// Closes a session that must not be restored, whatever closes it. Returns false if its close had begun before.
    pub(super) fn close_for_good(self: &Arc<Self>, session: &Arc<Session<I::Transport>>, reason: CloseReason) -> bool {
        let begun = self.begin_close(session, reason);
        // Before the close runs, whose last steps read it.
        self.forbid_restore(session);
        if begun {
            self.spawn_close(Arc::clone(session));
        }
        begun
    }

    /// Has a session whose close has begun end for good, whatever closes it.
    pub(super) fn forbid_restore(&self, session: &Session<I::Transport>) {
        session.raise(Flag::NoRestore);
        self.end_for_good_in_directory(session);
        if session.has(Flag::Gone) {
            // The last steps of its close may have parked it, and read the flag before.
            self.parking.take(&session.record.id, final_reason(session));
        }
    }

    /// Closes a session, unless an activity has begun or ended in it since its state was `seen`. Returns whether it did.
    pub(super) fn close_if(
        self: &Arc<Self>,
        session: &Arc<Session<I::Transport>>,
        seen: StateSnapshot,
        reason: CloseReason,
    ) -> bool {
        let closed = session.record.entry.state.close_if(seen).is_ok();
        if closed {
            self.closed(session, seen.phase(), reason);
            self.spawn_close(Arc::clone(session));
        }
        closed
    }

    /// Begins the close of a session, which the caller then runs. Returns false if it had begun before.
    pub(super) fn begin_close(&self, session: &Session<I::Transport>, reason: CloseReason) -> bool {
        let phase = session.record.entry.state.close();
        if let Some(phase) = phase {
            self.closed(session, phase, reason);
        }
        phase.is_some()
    }

    /// Records and reports a session that this call has moved from `phase` to closing.
    fn closed(&self, session: &Session<I::Transport>, phase: Phase, reason: CloseReason) {
        if phase == Phase::Opening {
            session.record.left_opening();
        }
        // Before the reason is set, on which the answers to them wait.
        let waiting = session.ids.waiting();
        self.lock().mark_closing(session, reason, Instant::now());
        // A session that the parking lost during its restore has not ended for the directory.
        if session.has_ended_for_good() && !session.has(Flag::EndTold) {
            self.end_for_good_in_directory(session);
        }
        self.report_closed(session, None, waiting);
    }

    /// Reports and runs the close of a victim, which was marked as closing under the lock.
    pub(super) fn close_victim(self: &Arc<Self>, victim: Arc<Session<I::Transport>>, chosen: Chosen<'_>) {
        self.report_closed(&victim, Some(chosen), victim.ids.waiting());
        self.spawn_close(victim);
    }

    /// Counts, explains and reports an end that has begun. `chosen`: how, if the session is a victim. `waiting`: how
    /// many of its requests were not answered.
    fn report_closed(&self, session: &Session<I::Transport>, chosen: Option<Chosen<'_>>, waiting: usize) {
        let Some((reason, at)) = session.close_reason() else { return };
        let info = SessionInfo::of(&session.record);
        let age = at.instant().saturating_duration_since(info.created());
        self.counters.count_closed(reason);
        #[cfg(feature = "metrics")]
        self.measure_end(session, reason, at);
        if self.settings.logs_ends {
            tracing::info!(session = %info.fingerprint(), %reason, ?age, uses = info.uses(), "session closed");
        }
        self.explain_end(session, (reason, at.instant()), chosen, waiting);
        self.observe(&SessionEvent::Closed { session: info, reason, age });
        if self.draining.load(SeqCst) {
            self.signals.calm.notify_waiters();
        }
    }

    /// Runs the end of a session: up to the first wait at once, the rest on a task of its own.
    fn spawn_close(self: &Arc<Self>, session: Arc<Session<I::Transport>>) {
        let mut end = Box::pin(Arc::clone(self).end(session));
        let runtime = self.any_runtime();
        // The timers need a runtime from the first poll on. A runtime that is entered already is not entered again:
        // while a runtime shuts down, it drops its tasks, and a second entry from such a drop would panic.
        let is_outside = Handle::try_current().is_err();
        let entered = runtime.as_ref().filter(|_| is_outside).map(Handle::enter);
        if let Poll::Ready(_closed) = end.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return;
        }
        drop(entered);
        // Without a runtime, as after a shutdown, no task can finish the end; its drop frees the place.
        if let Some(runtime) = runtime {
            drop(runtime.spawn(end));
        }
    }

    fn any_runtime(&self) -> Option<Handle> {
        Handle::try_current().ok().or_else(|| self.runtime.get().cloned())
    }

    /// Runs the end of a session and waits for the inner manager, for at most the close deadline. If this future is
    /// dropped, the end continues.
    pub(super) async fn close_and_wait(self: &Arc<Self>, session: Arc<Session<I::Transport>>) -> Result<(), I::Error> {
        let mut end = GoesOn::new(Arc::clone(self).end(session), || self.any_runtime());
        let first = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut end).poll(cx))).await;
        match first {
            Poll::Ready(closed) => closed,
            // A longer close continues on a task of its own, and keeps its place until it is done.
            Poll::Pending => timeout(self.close_deadline(), end).await.unwrap_or(Ok(())),
        }
    }

    /// The steps of an end, in order: answer the requests in flight, drop the streams that are not read, close the
    /// session in the inner manager, drop the inner transport.
    async fn end(self: Arc<Self>, session: Arc<Session<I::Transport>>) -> Result<(), I::Error> {
        let closed = Closed { shared: &self, session: &session };
        session.receiver.wake();
        let record = &session.record;
        let quiet = |session: &Session<I::Transport>| session.is_answered() && session.is_taken();
        if !quiet(&session) {
            // If the time passes, the stalled streams are dropped below.
            timeout(CLOSE_GRACE, session.until(quiet)).await.ok();
            if session.sever_stalled_streams() && !session.is_answered() {
                timeout(CLOSE_GRACE, session.until(Session::is_answered)).await.ok();
            }
        }
        // An async block, so that `catch_unwind` also catches a panic before the first await.
        let close = async { self.inner.close_session(&record.id).await };
        let mut inner = std::pin::pin!(AssertUnwindSafe(detached(close)).catch_unwind());
        let first = std::future::poll_fn(|cx| Poll::Ready(inner.as_mut().poll(cx))).await;
        let outcome = match first {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => match timeout(CLOSE_GRACE, &mut inner).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    session.sever_stalled_streams();
                    let begun = session.close_reason().map_or_else(Instant::now, |(_, at)| at.instant());
                    match timeout_at(begun + self.close_deadline(), &mut inner).await {
                        Ok(outcome) => outcome,
                        Err(_) => {
                            tracing::warn!(session = %record.fingerprint(), "the inner manager does not close a session; it keeps its place");
                            session.hang_up();
                            inner.await
                        }
                    }
                }
            },
        };
        drop(closed);
        outcome.unwrap_or_else(|_panic| {
            tracing::error!(session = %record.fingerprint(), "the inner manager panicked closing a session");
            Ok(())
        })
    }

    /// Whether the next request of an ended session restores it.
    fn is_parked_after(session: &Session<I::Transport>) -> bool {
        if session.has(Flag::NoRestore) || session.has(Flag::CloseAsked) {
            return false;
        }
        let reason = session.close_reason().map(|(reason, _)| reason);
        match reason {
            Some(reason) if reason.is_restorable() => true,
            // The client has the id, and may have stopped its handshake after the answer.
            Some(CloseReason::InitTimeout) => session.has(Flag::Initialized) && !session.has(Flag::Unheard),
            // A service also ends because its server stops, and the two cannot be told apart. Then the session stays in the
            // directory; if the service ended by itself, the next request gets a new handler.
            Some(CloseReason::Ended) if session.in_directory().is_some() => {
                !session.has(Flag::InitFailed) && !session.has(Flag::Unheard)
            }
            // The request that restored the session was dropped before the replay ended: the session is parked as
            // before.
            Some(CloseReason::Ended | CloseReason::InitFailed) => {
                session.record.restored && !session.has(Flag::Replayed) && !session.has(Flag::InitFailed)
            }
            _ => false,
        }
    }
}

/// Why a session that must not come back has ended, whatever closed it.
fn final_reason<T>(session: &Session<T>) -> CloseReason {
    let reason = session.close_reason().map(|(reason, _)| reason).filter(|reason| !reason.is_restorable());
    reason.unwrap_or(CloseReason::Client)
}

/// Dropped when the inner manager's `close_session` has returned, failed, or panicked, or its future is dropped.
struct Closed<'a, I: SessionManager> {
    shared: &'a Arc<ManagerInner<I>>,
    session: &'a Arc<Session<I::Transport>>,
}

impl<I: SessionManager> Drop for Closed<'_, I> {
    fn drop(&mut self) {
        self.session.raise(Flag::Closed);
        self.session.hang_up();
        self.shared.settle(self.session);
    }
}

impl<I: SessionManager> ManagerInner<I> {
    /// If the inner manager has closed the session and the transport is dropped, removes the session and passes its
    /// place on.
    fn settle(self: &Arc<Self>, session: &Arc<Session<I::Transport>>) {
        let gone = session.has(Flag::Closed) && session.has(Flag::Dropped);
        if !gone || !session.raise(Flag::Gone) {
            return;
        }
        let now = Instant::now();
        let record = &session.record;
        let initialize_params = session.take_initialize_params();
        let moves = session.in_directory().is_some()
            && session.close_reason().is_some_and(|(reason, _)| reason == CloseReason::Moved);
        let comes_back = Self::is_parked_after(session);
        // In the directory first: a request that finds the session parked here claims it there.
        // A session that the parking lost during its restore has not ended for the directory.
        let stays = comes_back || session.has(Flag::NoRestore) && session.has(Flag::EndTold);
        // It was released, or lost to another server.
        let is_elsewhere = session.in_directory().is_some_and(InDirectory::goes_on);
        let mut goes_on = is_elsewhere || stays && session.in_directory().is_some();
        let data = session.take_data();
        self.end_in_directory(session, initialize_params.as_ref(), data.as_deref(), stays);
        let keep = |params| self.parking.keep(session, params, data.clone(), now);
        let parked = initialize_params.filter(|_| comes_back && !moves).and_then(keep);
        let is_parked = parked.is_some();
        // The streams are held before the session is parked, so that the end of the parking finds them.
        self.settle_streams(session, is_parked);
        if !is_parked {
            self.parking.remember_ended(session);
        }
        let (slot, gone) = {
            let mut core = self.lock();
            core.closing -= 1;
            let slot = core.registry.remove(record.entry.key);
            // The session is parked before it leaves the live ones, so that its id is always in one of them. It is also
            // parked before its place is passed on, so that a session restored into that place makes room for this one.
            let places = core.places_without_session();
            let gone = parked.map(|parked| self.parking.park(SessionId::clone(&record.id), parked, places, now));
            self.live.remove(session);
            core.places.put_back();
            (slot, gone)
        };
        if let (false, Some(durable), Some(session)) = (is_parked, &self.durable, session.in_directory()) {
            durable.is_not_here(session.ownership);
        }
        if session.has(Flag::NoRestore) {
            // It may have been raised after `is_parked_after` read it.
            self.parking.take(&record.id, final_reason(session));
            goes_on = goes_on && !comes_back;
        }
        drop(slot);
        #[cfg(feature = "metrics")]
        if let Some((_, begun)) = session.close_reason() {
            self.measure(|metrics| metrics.gone(now.saturating_duration_since(begun.instant())));
        }
        session.drop_lease();
        session.raise(Flag::Left);
        // A creation may have committed the lease after the first drop, to a session that ended at once.
        session.drop_lease();
        drop(gone);
        if !is_parked && session.raise(Flag::EndTold) {
            if let Some((reason, _)) = session.close_reason()
                && !goes_on
            {
                let (reason, ownership) =
                    (FinalEndReason::Closed(reason), session.in_directory().map(|it| it.ownership));
                self.parking.final_ends().tell(reason, record.entry.context.clone(), data.clone(), ownership);
            }
            self.parking.tell_end(record.entry.serial);
        }
        drop(data);
        record.progress.notify_waiters();
    }
}

impl<I: SessionManager> TransportEvents<I::Transport> for ManagerInner<I> {
    fn call_rejection(&self) -> CallRejection {
        self.call_rejection()
    }

    fn on_handler_left_running(&self, request: Arc<InFlight<Session<I::Transport>>>) {
        self.handlers.watch(request);
    }

    fn on_service_ended(self: Arc<Self>, session: &Arc<Session<I::Transport>>) {
        let reason = if session.has(Flag::InitFailed) { CloseReason::InitFailed } else { CloseReason::Ended };
        self.close(session, reason);
    }

    fn on_close_asked(self: Arc<Self>, session: &Arc<Session<I::Transport>>) {
        self.close_for_good(session, CloseReason::Revoked);
    }

    fn on_late_answer(&self) {
        self.durable.iter().for_each(|durable| durable.note_late());
    }

    fn on_serving(&self, session: &Session<I::Transport>) {
        self.serving_tasks.expect(&session.record);
    }

    fn on_never_served(&self, session: &Session<I::Transport>) {
        // A service that is cancelled before its first message closes the session all the same. In a scope, the request of
        // a client drops the transport, and its task may bring the DELETE of that client next.
        if self.durable.is_some() && !ClientContext::is_in_scope() && !is_detached() {
            self.serving_tasks.expect(&session.record);
        }
    }

    fn on_task_panicked(&self, session: &Session<I::Transport>) {
        self.serving_tasks.take(&session.record.id);
    }

    fn on_close_step(self: Arc<Self>, session: &Arc<Session<I::Transport>>) {
        session.record.progress.notify_waiters();
        self.settle(session);
    }
}
