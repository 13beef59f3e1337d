//! A request in flight: from its admission until its handler is done.
//!
//! Decision 20 says why three things hold it: the extensions, the table of ids and, once no client waits, the manager.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use rmcp::model::{Extensions, RequestId};

use super::severable::SeverableStream;
use crate::admission::Lease;
use crate::session::{Activity, ActivityKind, Recorded};

/// The session of a request in flight, as the request sees it. A trait, so that a request does not know the type of a
/// session.
pub(crate) trait RequestOwner: Recorded + Sized {
    /// Counts an activity that lingers: no client waits for its end. Called while the activity is under way, so there
    /// are never more of these than activities.
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
    /// The client's id, by which the table of ids has it.
    id: RequestId,
    /// The kind of its activity, known also after that has ended.
    kind: ActivityKind,
    /// [`QUEUED`], then [`SERVED`], then [`PANICKED`] if the handler panics. It does not go back.
    stage: AtomicU8,
    /// The number of copies of the request's extensions.
    carriers: AtomicU32,
    /// What ends with the request. It is taken out under the lock, and dropped after it.
    held: Mutex<Held<S>>,
}

/// The transport has not seen the request yet.
const QUEUED: u8 = 0;
/// The transport has handed the request to the service, which will answer it.
const SERVED: u8 = 1;
/// The handler panicked: no answer will come.
const PANICKED: u8 = 2;

/// What a request holds of its session and of its admission.
struct Held<S: RequestOwner> {
    /// Keeps the session busy. `None` once that has ended, and if the session was closing when the request came.
    activity: Option<Activity<S>>,
    /// What the policy for requests gave. `None` if there is none, or it was given back.
    lease: Option<Lease>,
    /// Whether the session counts it among the activities that its end does not wait for.
    lingers: bool,
    /// The id under which the handler's task knows it. `None` for requests with a context that tells when the handler
    /// is done.
    service_id: Option<Weak<str>>,
    /// The stream on which the client waits for the answer.
    stream: Option<Weak<SeverableStream>>,
    /// Whether the client has cancelled the request, or uses its id for another one.
    given_up: bool,
}

impl<S: RequestOwner> Held<S> {
    const EMPTY: Self =
        Self { activity: None, lease: None, lingers: false, service_id: None, stream: None, given_up: false };

    /// Takes the activity out, and what the session counts with it. The lease stays.
    fn take_activity(&mut self) -> Self {
        Self { activity: self.activity.take(), lingers: std::mem::take(&mut self.lingers), ..Self::EMPTY }
    }

    /// Ends what it holds: the count of lingering activities first, then the activity, then the lease. The session must
    /// never count more lingering activities than activities. No lock may be held, because the lease's drop runs code
    /// of a policy.
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
    ///
    /// `carriers` is the number of extensions that hold it from the start.
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

    /// Creates a request that arrived at the transport without its extensions. It has no lease, and the table of ids
    /// alone holds it, until its answer or its cancel.
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
    ///
    /// 0 if the service has no id of its own for the request. rmcp's table of requests has one reference until the
    /// answer or the cancel, and the handler's task has others.
    fn ids_left(&self) -> usize {
        self.lock().service_id.as_ref().map_or(0, Weak::strong_count)
    }

    /// For a request without a waiting client: whether its handler is done, and no copy of the context is left.
    ///
    /// Nothing tells when that becomes true, so the manager asks now and then.
    pub(crate) fn is_done(&self) -> bool {
        self.carriers.load(Acquire) == 0 && self.ids_left() == 0
    }

    /// Ends the request if its handler panicked after it had dropped the extensions. rmcp's table of requests then has
    /// the only reference to its id. Returns whether the handler panicked.
    ///
    /// `false` for a request that is known to have panicked already, and for one without an id of its own.
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

    /// Whether it keeps this session busy. `false` once its activity has ended.
    fn is_of(&self, session: &S) -> bool {
        self.lock().activity.as_ref().is_some_and(|activity| activity.is_of(session))
    }

    /// Ends the request before its last holder is gone. The id of the service is kept, so [`is_done`](Self::is_done) is
    /// right after it too.
    pub(super) fn end(&self) {
        let held = {
            let mut held = self.lock();
            let (service_id, stream, given_up) = (held.service_id.clone(), held.stream.take(), held.given_up);
            std::mem::replace(&mut *held, Held { service_id, stream, given_up, ..Held::EMPTY })
        };
        held.end();
    }

    /// Ends the activity, so that the request no longer keeps the session busy. The lease is held until the handler is
    /// done.
    ///
    /// A farewell does so once it is handed over.
    pub(super) fn end_activity(&self) {
        let held = self.lock().take_activity();
        held.end();
    }

    /// Records that the client does not wait for the answer. The session stays busy, but its end does not wait for the
    /// handler.
    ///
    /// Called at a cancel, and at an answer that the handler's context outlives. It counts once.
    pub(super) fn linger(&self) {
        let mut held = self.lock();
        if !held.lingers
            && let Some(activity) = &held.activity
        {
            activity.session().lingers_too();
            held.lingers = true;
        }
    }

    /// Records the stream on which the client waits for the answer, unless the client has given the request up.
    pub(super) fn answers_on(&self, stream: &Arc<SeverableStream>) {
        let mut held = self.lock();
        if !held.given_up {
            stream.owe(true);
            held.stream = Some(Arc::downgrade(stream));
        }
    }

    /// Records that the client does not wait for the answer any more: it has cancelled the request, or uses its id for
    /// another one.
    pub(super) fn give_up(&self) {
        let stream = {
            let mut held = self.lock();
            held.given_up = true;
            held.stream.take()
        };
        if let Some(stream) = stream.and_then(|stream| stream.upgrade()) {
            stream.owe(false);
        }
    }

    /// Records that the answer is handed over. Returns false if the stream on which the client waits is not known, or has
    /// ended.
    pub(super) fn hand_over(&self) -> bool {
        let stream = self.lock().stream.as_ref().and_then(Weak::upgrade);
        stream.is_some_and(|stream| stream.hand_over())
    }

    /// Calls [`linger`](Self::linger) if a copy of the extensions outlives the answer.
    pub(super) fn linger_if_carried(&self) {
        if self.carriers.load(Acquire) > 0 {
            self.linger();
        }
    }

    /// Gives the lease back, even if the handler still runs: it is older than `max_busy`.
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
///
/// Only managers over one type of transport share a type of carrier. Carriers of different types are in the extensions
/// side by side.
///
/// The drop of the last copy ends a request that has not reached the service, or with a handler that panicked. A
/// request that is served is held by the table of ids until its answer is handed over.
pub(crate) struct Carrier<S: RequestOwner> {
    /// The request that these extensions belong to.
    guard: Arc<InFlight<S>>,
    /// The carrier that was in the extensions before, of a manager around this one.
    outer: Option<Box<Self>>,
}

impl<S: RequestOwner + Send + Sync + 'static> Carrier<S> {
    /// Puts a request in flight into its extensions.
    ///
    /// The guard that it returns has one carrier, and is queued.
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

    /// The requests that the extensions carry, that of the innermost manager first.
    fn chain<'a>(extensions: &'a Extensions) -> impl Iterator<Item = &'a Arc<InFlight<S>>> {
        let first = extensions.get::<Self>();
        std::iter::successors(first, |carrier: &&'a Self| carrier.outer.as_deref()).map(|carrier| &carrier.guard)
    }

    /// Whether the extensions carry this request. An inner manager that sends messages to another process loses them.
    pub(super) fn carries(extensions: &Extensions, guard: &Arc<InFlight<S>>) -> bool {
        Self::chain(extensions).any(|other| Arc::ptr_eq(other, guard))
    }

    /// The request of this session that the extensions carry.
    pub(super) fn of<'a>(extensions: &'a Extensions, session: &S) -> Option<&'a Arc<InFlight<S>>> {
        Self::chain(extensions).find(|guard| guard.is_of(session))
    }
}

impl<S: RequestOwner> Clone for Carrier<S> {
    /// Counts one more copy, so that [`InFlight::is_done`] waits for all of them.
    fn clone(&self) -> Self {
        self.guard.carriers.fetch_add(1, AcqRel);
        Self { guard: Arc::clone(&self.guard), outer: self.outer.clone() }
    }
}

impl<S: RequestOwner> Drop for Carrier<S> {
    /// A drop during a panic means that the handler has panicked. The request is marked: no answer will come.
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
///
/// The queue of leases has it weakly, so the request ends when it would without the queue.
pub(crate) type Leased<S> = Weak<InFlight<S>>;
