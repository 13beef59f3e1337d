//! A request in flight: from its admission until its handler is done.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use rmcp::model::{Extensions, RequestId};

use crate::admission::Lease;
use crate::session::{Activity, ActivityKind, Recorded};

/// The session of a request in flight, as the request sees it.
pub(crate) trait RequestOwner: Recorded + Sized {
    /// Counts an activity that lingers: no client waits for its end.
    fn lingers_too(&self);
    /// Counts such an activity out. Called before the activity ends.
    fn lingers_no_more(&self);
    /// Frees the id of a request that never arrived at the transport.
    fn forget(&self, id: &RequestId, request: &Arc<InFlight<Self>>);
}

/// A request that is in flight: it keeps its session busy and holds the lease of its admission.
///
/// Its holders are the extensions of the request ([`Carrier`]), which rmcp moves into the handler's context, and the
/// table of ids until the answer is handed over, so that no session looks idle while an answer is between its handler
/// and the transport. After a cancel, the manager holds it until the handler [is done](Self::is_done). It ends with the
/// last holder.
pub(crate) struct InFlight<S: RequestOwner> {
    id: RequestId,
    kind: ActivityKind,
    stage: AtomicU8,
    /// The number of copies of the request's extensions.
    carriers: AtomicU32,
    held: Mutex<Held<S>>,
}

/// The transport has not seen the request yet.
const QUEUED: u8 = 0;
/// The transport has handed the request to the service, which will answer it.
const SERVED: u8 = 1;
/// The handler panicked: no answer will come.
const PANICKED: u8 = 2;

struct Held<S: RequestOwner> {
    activity: Option<Activity<S>>,
    lease: Option<Lease>,
    /// Whether the session counts it among the activities that its end does not wait for.
    lingers: bool,
    /// The id under which the handler's task knows it.
    service_id: Option<Weak<str>>,
}

impl<S: RequestOwner> Held<S> {
    const EMPTY: Self = Self { activity: None, lease: None, lingers: false, service_id: None };

    fn take_activity(&mut self) -> Self {
        Self { activity: self.activity.take(), lingers: std::mem::take(&mut self.lingers), ..Self::EMPTY }
    }

    fn end(self) {
        if let Some(activity) = self.activity {
            if self.lingers {
                activity.session().lingers_no_more();
            }
            drop(activity);
        }
        // The drop of the lease runs code of the policy. A panic in it must not skip anything here.
        let lease = self.lease;
        if lease.is_some() && catch_unwind(AssertUnwindSafe(|| drop(lease))).is_err() {
            tracing::warn!("a lease of the policy for requests panicked when it was dropped");
        }
    }
}

impl<S: RequestOwner> InFlight<S> {
    /// Creates a request that its extensions carry. It has no activity if the end of its session has begun.
    fn new(
        id: RequestId,
        kind: ActivityKind,
        stage: u8,
        carriers: u32,
        activity: Option<Activity<S>>,
        lease: Option<Lease>,
    ) -> Arc<Self> {
        let held = Mutex::new(Held { activity, lease, ..Held::EMPTY });
        Arc::new(Self { id, kind, stage: AtomicU8::new(stage), carriers: AtomicU32::new(carriers), held })
    }

    /// Creates a request that arrived at the transport without its extensions.
    pub(super) fn bare(id: RequestId, kind: ActivityKind, activity: Option<Activity<S>>) -> Arc<Self> {
        Self::new(id, kind, SERVED, 0, activity, None)
    }

    fn lock(&self) -> MutexGuard<'_, Held<S>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) const fn kind(&self) -> ActivityKind {
        self.kind
    }

    /// Records that the transport hands the request to the service under this id.
    pub(super) fn serve(&self, service_id: Option<Weak<str>>) {
        self.stage.store(SERVED, Release);
        if service_id.is_some() {
            self.lock().service_id = service_id;
        }
    }

    /// The number of references to the id that the service has.
    fn ids_left(&self) -> usize {
        self.lock().service_id.as_ref().map_or(0, Weak::strong_count)
    }

    /// For a request without a waiting client: whether its handler is done, and no copy of the context is left.
    pub(crate) fn is_done(&self) -> bool {
        self.carriers.load(Acquire) == 0 && self.ids_left() == 0
    }

    /// Ends the request if its handler panicked after it had dropped the extensions. rmcp's table of requests then has
    /// the only reference to its id. Returns whether the handler panicked.
    pub(super) fn end_if_panicked(&self) -> bool {
        let is_left = self.carriers.load(Acquire) == 0 && self.ids_left() == 1;
        let has = is_left && self.stage.compare_exchange(SERVED, PANICKED, AcqRel, Acquire).is_ok();
        if has {
            self.end();
        }
        has
    }

    /// Whether the handler still holds the lease of the admission.
    pub(crate) fn has_lease(&self) -> bool {
        self.lock().lease.is_some()
    }

    /// Whether the transport has not seen the request yet.
    pub(super) fn is_queued(&self) -> bool {
        self.stage.load(Acquire) == QUEUED
    }

    /// Whether the handler panicked, so that no answer will come.
    pub(super) fn has_panicked(&self) -> bool {
        self.stage.load(Acquire) == PANICKED
    }

    fn is_of(&self, session: &S) -> bool {
        self.lock().activity.as_ref().is_some_and(|activity| activity.is_of(session))
    }

    /// Ends the request before its last holder is gone.
    pub(super) fn end(&self) {
        let held = {
            let mut held = self.lock();
            let service_id = held.service_id.clone();
            std::mem::replace(&mut *held, Held { service_id, ..Held::EMPTY })
        };
        held.end();
    }

    /// Ends the activity, so that the request no longer keeps the session busy. The lease is held until the handler is
    /// done.
    pub(super) fn end_activity(&self) {
        let held = self.lock().take_activity();
        held.end();
    }

    /// Records that the client does not wait for the answer. The session stays busy, but its end does not wait for the
    /// handler.
    pub(super) fn linger(&self) {
        let mut held = self.lock();
        if !held.lingers
            && let Some(activity) = &held.activity
        {
            activity.session().lingers_too();
            held.lingers = true;
        }
    }

    /// Calls [`linger`](Self::linger) if a copy of the extensions outlives the answer.
    pub(super) fn linger_if_carried(&self) {
        if self.carriers.load(Acquire) > 0 {
            self.linger();
        }
    }

    /// Gives the lease back, even if the handler still runs.
    pub(crate) fn release_lease(&self) {
        let lease = self.lock().lease.take();
        Held::<S> { lease, ..Held::EMPTY }.end();
    }
}

impl<S: RequestOwner> Drop for InFlight<S> {
    fn drop(&mut self) {
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(held, Held::EMPTY).end();
    }
}

impl<S: RequestOwner> fmt::Debug for InFlight<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Holds a request in flight from within its own extensions.
///
/// Extensions may be cloned; each copy holds the request. In stacked managers, a carrier holds the carrier of the outer
/// manager.
pub(crate) struct Carrier<S: RequestOwner> {
    guard: Arc<InFlight<S>>,
    outer: Option<Box<Self>>,
}

impl<S: RequestOwner + Send + Sync + 'static> Carrier<S> {
    /// Puts a request in flight into its extensions.
    pub(super) fn attach(
        extensions: &mut Extensions,
        id: RequestId,
        activity: Activity<S>,
        lease: Option<Lease>,
    ) -> Arc<InFlight<S>> {
        let guard = InFlight::new(id, activity.kind(), QUEUED, 1, Some(activity), lease);
        let outer = extensions.insert(Self { guard: Arc::clone(&guard), outer: None });
        if let Some(outer) = outer
            && let Some(carrier) = extensions.get_mut::<Self>()
        {
            carrier.outer = Some(Box::new(outer));
        }
        guard
    }

    fn chain<'a>(extensions: &'a Extensions) -> impl Iterator<Item = &'a Arc<InFlight<S>>> {
        let first = extensions.get::<Self>();
        std::iter::successors(first, |carrier: &&'a Self| carrier.outer.as_deref()).map(|carrier| &carrier.guard)
    }

    /// Whether the extensions carry this request.
    pub(super) fn carries(extensions: &Extensions, guard: &Arc<InFlight<S>>) -> bool {
        Self::chain(extensions).any(|other| Arc::ptr_eq(other, guard))
    }

    /// The request of this session that the extensions carry.
    pub(super) fn of<'a>(extensions: &'a Extensions, session: &S) -> Option<&'a Arc<InFlight<S>>> {
        Self::chain(extensions).find(|guard| guard.is_of(session))
    }
}

impl<S: RequestOwner> Clone for Carrier<S> {
    fn clone(&self) -> Self {
        self.guard.carriers.fetch_add(1, AcqRel);
        Self { guard: Arc::clone(&self.guard), outer: self.outer.clone() }
    }
}

impl<S: RequestOwner> Drop for Carrier<S> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.guard.stage.compare_exchange(SERVED, PANICKED, AcqRel, Acquire).ok();
        }
        if self.guard.carriers.fetch_sub(1, AcqRel) != 1 {
            return;
        }
        match self.guard.stage.load(Acquire) {
            // The table of ids holds it until the answer is handed over.
            SERVED => {}
            // The session is not busy with it any more. Its client waits until the end of the session.
            PANICKED => self.guard.end(),
            // The request has not arrived, or arrived without its extensions. If it arrives later, it counts from then
            // on.
            _ => {
                let session = self.guard.lock().activity.as_ref().map(|activity| Arc::clone(activity.session()));
                if let Some(session) = session {
                    session.forget(&self.guard.id, &self.guard);
                }
                self.guard.end();
            }
        }
    }
}

/// A request in flight that gives its lease back once it is too old.
pub(crate) type Leased<S> = Weak<InFlight<S>>;
