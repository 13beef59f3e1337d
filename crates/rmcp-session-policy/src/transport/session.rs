//! The state of one incarnation of a session: one object, which its transport, its streams, its manager and the
//! registry share.
//!
//! Two atomic words decide what happens to it. The state word of the [`Record`] decides whether a close may begin. The
//! flags here note the steps of the handshake and of the close. `docs/design.md`, section 4.2, has the order of all
//! steps.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use futures_util::task::AtomicWaker;
use rmcp::model::RequestId;
use slab::Slab;
use tokio::time::Instant;

use super::ids::Ids;
use super::in_flight::{InFlight, RequestOwner};
use super::listener::Listener;
use super::seal::{LazySealKey, SealKey};
use super::severable::{Delivery, SeverableStream};
use super::transport_slot::TransportSlot;
use crate::admission::Lease;
use crate::call_rejection::CallRejection;
use crate::data::Values;
use crate::directory::InDirectory;
use crate::observe::CloseReason;
use crate::session::{Phase, Record, Recorded};
use crate::timestamp::Timestamp;

/// The steps in the life of an incarnation. Each flag is raised at most once, and never lowered. A task that waits for
/// a step waits on `Record::progress`.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum Flag {
    /// The service has asked for its first message, or was dropped before. The manager then knows the task that serves the
    /// session.
    Served = 1,
    /// The transport is to be dropped: the inner close has returned, or its deadline has passed.
    HangUp = 2,
    /// The inner manager's `close_session` has returned, failed or panicked.
    Closed = 4,
    /// The inner transport was dropped. This may come before `Closed`: a service that ends drops it first.
    Dropped = 8,
    /// Both `Closed` and `Dropped` are raised, and one task settles the session: the one that raises this.
    Gone = 16,
    /// `initialize` was requested, by the client or by the replay of a restore.
    Initializing = 32,
    /// `initialize` was answered with an error, or failed.
    InitFailed = 64,
    /// The handshake of a restored session was replayed. `has_session` makes requests wait for that, for a time.
    Replayed = 128,
    /// The session is no longer among the live ones, and its place is passed on. Callers that wait for a close wait for this.
    Left = 256,
    /// The session was deleted or revoked during its end, so it must not be restored.
    NoRestore = 512,
    /// The policies were told that the session has ended for good, or the caller that raises this tells them.
    EndTold = 1024,
    /// An outer manager of this crate closes the session, and tells the clients why.
    ByOuter = 1 << 12,
    /// `initialize` was answered, and the answer was handed over to be sent.
    Initialized = 1 << 13,
    /// The body of that answer was dropped before the client had received it. Then the client does not know the id, so
    /// the session is not parked after an `InitTimeout`.
    Unheard = 1 << 14,
    /// The session data was taken for what comes after this incarnation. It does not change any more.
    DataTaken = 1 << 15,
    /// Its handler wants the session to be closed, once no client waits for an answer.
    CloseAsked = 1 << 16,
}

/// The shift of the close reason, above the flags in the same word: the index of the reason plus 1, or 0.
const REASON: u32 = 24;

/// An incarnation of a session over an inner transport `T`. The [`Record`] is the part that policies see.
///
/// It exists as long as any of its holders, so it may outlive its place in the registry. Its transport does not: the
/// close drops that.
// `repr(C)` keeps the record first, for the reason given at the record.
#[repr(C)]
pub(crate) struct Session<T> {
    /// What the registry and the policies know. Each request reads and writes it.
    pub(crate) record: Record,
    /// The raised [`Flag`]s, and the close reason above them. Bits are only added.
    flags: AtomicU32,
    /// The number of messages on their way to the inner transport. The close waits for them, for a time, and a request
    /// counts as answered only when there are none.
    on_their_way: AtomicU32,
    /// The moment at which the end began. Valid once the reason is set, because it is stored before the reason.
    ended: AtomicU64,
    /// The number of activities that the end does not wait for, because no client waits for their answers: cancelled
    /// requests, those that are answered and carried on, and work of handlers. Never more than the activities of the
    /// state word.
    lingering: AtomicU32,
    /// Wakes the transport's `receive`, which has to notice that the close has begun, and that it should hang up.
    pub(crate) receiver: AtomicWaker,
    /// The requests of clients that wait.
    pub(crate) ids: Ids<Self>,
    /// What is needed at the opening or the end of a stream and at the close, but not by each message.
    belongings: Mutex<Belongings>,
    /// The protocol version that `initialize` was answered with. Set only if there is a directory, or there are
    /// metrics.
    protocol_version: OnceLock<Arc<str>>,
    /// What it is in the directory that outlives the process. Empty without one, and until `initialize` was answered.
    in_directory: OnceLock<Box<InDirectory>>,
    /// What handlers keep in the session. While it is locked, nothing of it is dropped, and it is written to the directory.
    data: Mutex<Option<Arc<Values>>>,
    /// What the ids of its events are sealed with. Derived at the first event with an id.
    seal_key: LazySealKey,
    /// The inner transport, from which the close can take it.
    pub(crate) slot: TransportSlot<T>,
}

/// What a session holds behind its lock. What is taken out is dropped after the lock, because a stream's drop runs code
/// of the inner manager, and a lease's drop code of a policy.
struct Belongings {
    /// The streams that clients read, so that the close can wait for them and drop them.
    streams: Slab<Arc<SeverableStream>>,
    /// The listening streams that may be held when the session is parked, the newest last; `None` once that is settled.
    listeners: Option<Vec<Weak<Listener>>>,
    /// What the admission policy gave for the session. Boxed, because most sessions hold nothing.
    lease: Option<Box<Lease>>,
    /// The parameters of `initialize` as serialized by the store, for the parking. rmcp stores them after the answer,
    /// and a session without them is not parked. A session that comes from the parking has them from the start.
    initialize_params: Option<Arc<[u8]>>,
}

/// Counts a message on its way from the service to the inner transport. Its drop is the arrival of the message.
pub(crate) struct OnItsWay<T> {
    session: Arc<Session<T>>,
    /// Whether the session counts it among the answers that are not taken until it has arrived.
    is_untaken: bool,
}

impl<T> OnItsWay<T> {
    /// Counts a message in. A caller that answers a request does so before the id of the request is free.
    pub(crate) fn begin(session: &Arc<Session<T>>) -> Self {
        session.on_their_way.fetch_add(1, SeqCst);
        Self { session: Arc::clone(session), is_untaken: false }
    }

    pub(super) const fn session(&self) -> &Arc<Session<T>> {
        &self.session
    }

    /// Counts the answer to a request among those that are not taken: until its stream gives it out or is dropped. If the
    /// stream is not known, until the answer has arrived.
    ///
    /// Called before the inner transport has the answer, and before the activity of the request ends.
    pub(super) fn answers(&mut self, request: &InFlight<Session<T>>) {
        self.session.record.entry.untaken.hand_over(Instant::now());
        self.is_untaken = !request.hand_over();
    }
}

impl<T> Drop for OnItsWay<T> {
    /// Counts the message out, and wakes a close that waits for it, or that the handler has asked for.
    fn drop(&mut self) {
        if self.is_untaken {
            self.session.record.entry.answer_taken();
        }
        if self.session.on_their_way.fetch_sub(1, SeqCst) > 1 {
            return;
        }
        if self.session.is_closing() {
            self.session.record.progress.notify_waiters();
        } else if self.session.has(Flag::CloseAsked) {
            self.session.receiver.wake();
        }
    }
}

impl<T> Session<T> {
    /// Makes the object of an incarnation around its record. `initialize_params` are those of a parked session.
    pub(crate) fn new(
        record: Record,
        transport: T,
        initialize_params: Option<Arc<[u8]>>,
        seal_key: LazySealKey,
    ) -> Self {
        Self {
            record,
            flags: AtomicU32::new(0),
            ended: AtomicU64::new(0),
            lingering: AtomicU32::new(0),
            ids: Ids::default(),
            receiver: AtomicWaker::new(),
            belongings: Mutex::new(Belongings {
                streams: Slab::new(),
                listeners: Some(Vec::new()),
                lease: None,
                initialize_params,
            }),
            protocol_version: OnceLock::new(),
            in_directory: OnceLock::new(),
            data: Mutex::default(),
            seal_key,
            slot: TransportSlot::new(transport),
            on_their_way: AtomicU32::new(0),
        }
    }

    /// Locks the belongings. Nothing is polled, awaited or dropped under the lock that runs code of others.
    fn lock(&self) -> MutexGuard<'_, Belongings> {
        self.belongings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has(&self, flag: Flag) -> bool {
        self.flags.load(SeqCst) & flag as u32 != 0
    }

    /// Raises a flag. Returns true for the one caller that did. A raised flag costs one load.
    pub(crate) fn raise(&self, flag: Flag) -> bool {
        !self.has(flag) && self.flags.fetch_or(flag as u32, SeqCst) & flag as u32 == 0
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.record.entry.state.read().phase() == Phase::Closing
    }

    /// Whether a restored session still waits for its handshake to be replayed. A request that finds the session waits
    /// for that too.
    pub(crate) fn is_replaying(&self) -> bool {
        self.record.restored && !self.has(Flag::Replayed) && self.record.entry.state.read().phase() == Phase::Opening
    }

    /// Sets the reason and the moment of the end.
    ///
    /// Called by the one caller that began the close, under the manager's lock. The transport's `receive` waits for it
    /// before it says farewell.
    pub(crate) fn set_close_reason(&self, reason: CloseReason, now: Timestamp) {
        // An end begins once, so the moment is set once.
        self.ended.store(now.0, Relaxed);
        let place = CloseReason::ALL.iter().position(|other| *other == reason).unwrap_or_default() as u32;
        self.flags.fetch_or((place + 1) << REASON, SeqCst);
    }

    /// The reason and the moment of the end. `None` until both are set, which is a little after the state is closing.
    pub(crate) fn close_reason(&self) -> Option<(CloseReason, Timestamp)> {
        let place = (self.flags.load(SeqCst) >> REASON).checked_sub(1)?;
        let reason = CloseReason::ALL.get(place as usize)?;
        Some((*reason, Timestamp(self.ended.load(Relaxed))))
    }

    /// Whether it was decided that the session ends for good: by its client, by an operator, or by its lifetime.
    pub(crate) fn has_ended_for_good(&self) -> bool {
        let reason = self.close_reason().map(|(reason, _)| reason);
        self.has(Flag::NoRestore)
            || matches!(reason, Some(CloseReason::Client | CloseReason::Lifetime | CloseReason::Revoked))
    }

    /// The reason of the end, for what it cuts off. In the moment before the reason is set this is
    /// [`CloseReason::Ended`].
    pub(super) fn why_closed(&self) -> CloseReason {
        self.close_reason().map_or(CloseReason::Ended, |(reason, _)| reason)
    }

    /// Adds a stream that can be dropped from outside. Returns its index.
    pub(crate) fn add_stream(&self, slot: Arc<SeverableStream>) -> usize {
        self.lock().streams.insert(slot)
    }

    /// Takes a stream out that its client has dropped. Its inner stream is dropped after the lock.
    pub(crate) fn remove_stream(&self, place: usize) {
        let slot = self.lock().streams.try_remove(place);
        drop(slot);
    }

    /// Adds a listening stream. Returns false if the end of the session has taken the streams already.
    ///
    /// The caller then ends the stream, since no close will come to it.
    pub(super) fn listen(&self, listener: &Arc<Listener>) -> bool {
        let mut belongings = self.lock();
        let Some(listeners) = &mut belongings.listeners else { return false };
        // Listeners that hung up are removed whenever the list would grow.
        if listeners.len() == listeners.capacity() {
            listeners.retain(|listener| listener.strong_count() > 0);
        }
        listeners.push(Arc::downgrade(listener));
        true
    }

    /// The listening streams that are open, the newest last.
    pub(super) fn listeners(&self) -> Vec<Arc<Listener>> {
        self.lock().listeners.iter().flatten().filter_map(Weak::upgrade).collect()
    }

    /// Takes the open listening streams at the end of the session, the newest last. No stream can be added from now on.
    ///
    /// Called once the session is gone, to hold the newest one or to end them all.
    pub(crate) fn take_listeners(&self) -> Vec<Arc<Listener>> {
        let listeners = self.lock().listeners.take();
        listeners.into_iter().flatten().filter_map(|listener| listener.upgrade()).collect()
    }

    /// Holds the lease of its admission, and gives back what another admission policy gave meanwhile.
    ///
    /// A lease that gives nothing back is not kept, and replaces none. It must not be called under a lock.
    pub(crate) fn hold(&self, lease: Lease) {
        if !lease.is_free() {
            self.hold_instead(lease);
        }
    }

    /// Sets what the session holds of its admission, and gives back what it held before.
    ///
    /// It must not be called under a lock.
    pub(crate) fn hold_instead(&self, lease: Lease) {
        let lease = Some(lease).filter(|lease| !lease.is_free()).map(Box::new);
        let before = std::mem::replace(&mut self.lock().lease, lease);
        if catch_unwind(AssertUnwindSafe(|| drop(before))).is_err() {
            tracing::warn!("a lease of the admission policy panicked when it was dropped");
        }
    }

    /// Gives the lease of its admission back. The policy may panic in it.
    ///
    /// A second call does nothing. It must not be called under a lock.
    pub(crate) fn drop_lease(&self) {
        let lease = self.lock().lease.take();
        if catch_unwind(AssertUnwindSafe(|| drop(lease))).is_err() {
            tracing::warn!("a lease of the admission policy panicked when it was dropped");
        }
    }

    /// The protocol version that its client speaks. The first call sets it, and a later one with another version has no
    /// effect. Returns the version that counts.
    pub(crate) fn speaks(&self, version: &str) -> &Arc<str> {
        self.protocol_version.get_or_init(|| version.into())
    }

    /// The protocol version that its client speaks, if it was noted.
    pub(crate) fn protocol_version(&self) -> Option<Arc<str>> {
        self.protocol_version.get().cloned()
    }

    /// Records that the session is in the directory that outlives the process. Does so once.
    pub(crate) fn set_in_directory(&self, session: InDirectory) {
        self.in_directory.set(Box::new(session)).ok();
    }

    /// What the session is in the directory, if it is in one.
    pub(crate) fn in_directory(&self) -> Option<&InDirectory> {
        self.in_directory.get().map(|session| &**session)
    }

    /// Keeps the parameters that it can be restored from. From here on the session can be parked.
    pub(crate) fn set_initialize_params(&self, initialize_params: Arc<[u8]>) {
        self.lock().initialize_params = Some(initialize_params);
    }

    /// The parameters that it can be restored from, if rmcp has stored any.
    pub(crate) fn initialize_params(&self) -> Option<Arc<[u8]>> {
        self.lock().initialize_params.clone()
    }

    /// Locks what handlers keep in the session. The lock of the belongings may be taken under it.
    pub(crate) fn lock_data(&self) -> MutexGuard<'_, Option<Arc<Values>>> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what handlers keep in the session, for what comes after this incarnation. Later changes are refused.
    pub(crate) fn take_data(&self) -> Option<Arc<Values>> {
        let mut data = self.lock_data();
        self.raise(Flag::DataTaken);
        data.take()
    }

    /// Takes the parameters for the parking. `None` if rmcp has not stored any.
    pub(crate) fn take_initialize_params(&self) -> Option<Arc<[u8]>> {
        self.lock().initialize_params.take()
    }

    /// Whether no client waits for an answer and no answer is on its way, or no answer can be sent any more. The close
    /// waits for this, for a time, before it closes the session in the inner manager.
    pub(crate) fn is_answered(&self) -> bool {
        // The order matters: an activity that lingers and ends between the two reads must not hide one that a client
        // waits for.
        let active = self.record.entry.state.read().active();
        let unanswered = active.saturating_sub(self.lingering.load(SeqCst) as usize);
        unanswered == 0 && self.is_delivered() || self.has(Flag::Dropped)
    }

    /// What the ids of its events are sealed with.
    pub(crate) fn seal_key(&self) -> &SealKey {
        self.seal_key.get(|root| root.of_session(&self.record.id))
    }

    /// That key, if it came from a directory, so that this manager cannot derive it.
    pub(crate) fn given_seal_key(&self) -> Option<&SealKey> {
        self.seal_key.as_given()
    }

    /// Whether the inner transport has all messages of the service. Their clients may not have read them yet.
    pub(crate) fn is_delivered(&self) -> bool {
        self.on_their_way.load(SeqCst) == 0
    }

    /// The streams at this moment, to look at them without the lock.
    fn streams(&self) -> Vec<Arc<SeverableStream>> {
        self.lock().streams.iter().map(|(_, slot)| Arc::clone(slot)).collect()
    }

    /// Whether the clients of all streams have taken all messages. It polls the inner streams for what is ready, up to
    /// the first stream that is not taken, and wakes the client of that one if it waits.
    pub(crate) fn is_taken(&self) -> bool {
        self.streams().iter().all(|slot| slot.delivery() == Delivery::Done)
    }

    /// Whether the next poll of a client takes a message from one of the streams. A drain waits at its end until no
    /// stream is due. A client that has stopped reading does not count.
    pub(crate) fn has_due_streams(&self) -> bool {
        self.streams().iter().any(|slot| slot.delivery() == Delivery::Due)
    }

    /// Drops the streams that are not polled. Returns whether there were any.
    ///
    /// The inner manager may wait for such a stream before it closes the session. What the stream had ready is kept for
    /// the client.
    pub(crate) fn sever_stalled_streams(&self) -> bool {
        let stalled: Vec<_> = self.streams().into_iter().filter(|slot| slot.is_stalled()).collect();
        stalled.iter().for_each(|slot| slot.sever());
        !stalled.is_empty()
    }

    /// Ends the inner transport: drops it at once, or has the task that uses it drop it. Called when the inner close
    /// has returned, and before that at the close deadline.
    pub(crate) fn hang_up(&self) {
        self.raise(Flag::HangUp);
        if let Some(transport) = self.slot.take() {
            drop(transport);
            self.raise(Flag::Dropped);
        }
        self.receiver.wake();
    }

    /// Waits until `done` holds. It is called again at each step of the end.
    ///
    /// It listens before it asks, so no step is missed. Without a deadline of the caller it may wait for ever.
    pub(crate) async fn until(&self, done: impl Fn(&Self) -> bool + Send + Sync)
    where
        T: Send,
    {
        loop {
            let mut step = std::pin::pin!(self.record.progress.notified());
            step.as_mut().enable();
            if done(self) {
                return;
            }
            step.await;
        }
    }
}

impl<T> Recorded for Session<T> {
    fn record(&self) -> &Record {
        &self.record
    }
}

impl<T> RequestOwner for Session<T> {
    fn lingers_too(&self) {
        self.lingering.fetch_add(1, SeqCst);
        if self.is_closing() {
            self.record.progress.notify_waiters();
        }
    }

    fn lingers_no_more(&self) {
        self.lingering.fetch_sub(1, SeqCst);
    }

    fn forget(&self, id: &RequestId, request: &Arc<InFlight<Self>>) {
        self.ids.forget(id, request);
    }
}

impl<T> fmt::Debug for Session<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("record", &self.record)
            .field("end", &self.close_reason())
            .finish_non_exhaustive()
    }
}

/// The events of a transport, which the manager handles.
///
/// The transport knows the manager by this trait alone.
pub(crate) trait TransportEvents<T>: Send + Sync {
    /// Returns how a `tools/call` that is cut off is answered.
    fn call_rejection(&self) -> CallRejection;
    /// The client does not wait for this request any more, but its handler may still run.
    ///
    /// The manager holds the request until the handler is done, at most for `max_busy`.
    fn on_handler_left_running(&self, request: Arc<InFlight<Session<T>>>);
    /// The service is done with the session, so the incarnation ends.
    ///
    /// Begins the close with reason `Ended` or `InitFailed`, unless it has begun. May be called more than once.
    fn on_service_ended(self: Arc<Self>, session: &Arc<Session<T>>);
    /// The handler wants the session to be closed, and no client waits for an answer.
    fn on_close_asked(self: Arc<Self>, session: &Arc<Session<T>>);
    /// An answer leaves before what it acknowledges is durable.
    fn on_late_answer(&self);
    /// The current task serves the session, and will close it once more when the service ends.
    ///
    /// Called once per incarnation, on that task.
    fn on_serving(&self, session: &Session<T>);
    /// The transport is dropped before a service has asked for its first message. The current task may close the session
    /// once more.
    fn on_never_served(&self, session: &Session<T>);
    /// The current task panics, so it will not close the session.
    fn on_task_panicked(&self, session: &Session<T>);
    /// One more step of the end is done.
    ///
    /// The caller that completes the close settles the session within this call, so it must hold no lock.
    fn on_close_step(self: Arc<Self>, session: &Arc<Session<T>>);
}
