//! One incarnation of a session, as its transport, its streams and its manager share it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures_util::task::AtomicWaker;
use slab::Slab;
use tokio::time::Instant;

use super::cell::HangUp;
use super::stream::Slot;
use crate::admission::Lease;
use crate::observe::CloseReason;
use crate::registry::{Phase, Record};

/// What has happened to an incarnation; each once.
#[derive(Clone, Copy, Debug)]
#[repr(u16)]
pub(crate) enum Flag {
    /// Its service has asked for a message.
    Served = 1,
    /// The transport is to be dropped.
    HangUp = 2,
    /// The inner manager's `close_session` has returned.
    Closed = 4,
    /// The inner transport was dropped.
    Dropped = 8,
    /// Both are so, and somebody is putting it away.
    Gone = 16,
    /// `initialize` was asked for.
    Initializing = 32,
    /// `initialize` was answered with an error, or failed.
    InitFailed = 64,
    /// The handshake of a restored session was replayed.
    Replayed = 128,
    /// It is out of the directory, and its place has passed on.
    Left = 256,
    /// It was deleted or revoked while its end was under way, so it must not come back.
    Barred = 512,
}

/// An incarnation of a session. The [`Record`] is what policies see of it; this is the rest.
pub(crate) struct Session {
    pub(crate) record: Arc<Record>,
    flags: AtomicU16,
    end: OnceLock<(CloseReason, Instant)>,
    /// Wakes the transport's `receive`.
    pub(crate) receiver: AtomicWaker,
    streams: Mutex<Slab<Arc<Slot>>>,
    lease: Mutex<Option<Lease>>,
    /// What parking keeps of it, as serialized by the store.
    parcel: Mutex<Option<Arc<[u8]>>>,
    cell: Arc<dyn HangUp>,
    /// Messages that the inner transport does not have yet.
    on_their_way: AtomicU32,
}

/// A message from the service that the inner transport does not have yet; its drop is its arrival.
pub(crate) struct OnItsWay(Arc<Session>);

impl OnItsWay {
    pub(crate) fn begin(session: &Arc<Session>) -> Self {
        session.on_their_way.fetch_add(1, SeqCst);
        Self(Arc::clone(session))
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        if self.0.on_their_way.fetch_sub(1, SeqCst) == 1 && self.0.is_closing() {
            self.0.record.progress.notify_waiters();
        }
    }
}

impl Session {
    pub(crate) fn new(record: Arc<Record>, cell: Arc<dyn HangUp>, parcel: Option<Arc<[u8]>>) -> Self {
        Self {
            record,
            flags: AtomicU16::new(0),
            end: OnceLock::new(),
            receiver: AtomicWaker::new(),
            streams: Mutex::default(),
            lease: Mutex::default(),
            parcel: Mutex::new(parcel),
            cell,
            on_their_way: AtomicU32::new(0),
        }
    }

    pub(crate) fn has(&self, flag: Flag) -> bool {
        self.flags.load(SeqCst) & flag as u16 != 0
    }

    /// Raises a flag; true for the one caller that did. Costs next to nothing if it is raised.
    pub(crate) fn raise(&self, flag: Flag) -> bool {
        !self.has(flag) && self.flags.fetch_or(flag as u16, SeqCst) & flag as u16 == 0
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.record.state.read().phase() == Phase::Closing
    }

    /// Whether a restored session still waits for its handshake to be replayed.
    pub(crate) fn is_replaying(&self) -> bool {
        self.record.restored && !self.has(Flag::Replayed) && self.record.state.read().phase() == Phase::Opening
    }

    /// Notes the one reason and moment of the end.
    pub(crate) fn ends(&self, reason: CloseReason, now: Instant) {
        // The end begins once, so this is set once.
        self.end.set((reason, now)).ok();
    }

    pub(crate) fn end(&self) -> Option<(CloseReason, Instant)> {
        self.end.get().copied()
    }

    pub(crate) fn lock_streams(&self) -> MutexGuard<'_, Slab<Arc<Slot>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock_lease(&self) -> MutexGuard<'_, Option<Lease>> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back what the session holds of its admission. A policy may panic in it.
    pub(crate) fn drop_lease(&self) {
        let lease = self.lock_lease().take();
        if catch_unwind(AssertUnwindSafe(|| drop(lease))).is_err() {
            tracing::warn!("a lease of the admission policy panicked when it was dropped");
        }
    }

    pub(crate) fn lock_parcel(&self) -> MutexGuard<'_, Option<Arc<[u8]>>> {
        self.parcel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is in flight, neither a request nor an answer; or nothing can be answered any more.
    pub(crate) fn is_answered(&self) -> bool {
        let quiet = self.record.state.read().active() == 0 && self.on_their_way.load(SeqCst) == 0;
        quiet || self.has(Flag::Dropped)
    }

    /// Whether a stream has something for a client that does not take it.
    pub(crate) fn has_stalled_streams(&self) -> bool {
        self.lock_streams().iter().any(|(_, slot)| slot.is_stalled())
    }

    /// Drops the streams that nobody polls; tells whether there were any.
    pub(crate) fn sever_stalled_streams(&self) -> bool {
        let stalled: Vec<_> = self
            .lock_streams()
            .iter()
            .filter(|(_, slot)| slot.is_stalled())
            .map(|(_, slot)| Arc::clone(slot))
            .collect();
        stalled.iter().for_each(|slot| slot.sever());
        !stalled.is_empty()
    }

    /// Ends the inner transport.
    pub(crate) fn hang_up(&self) {
        self.raise(Flag::HangUp);
        if self.cell.hang_up() {
            self.raise(Flag::Dropped);
        }
        self.receiver.wake();
    }

    /// Waits until `done`, asked again at each step of the end.
    pub(crate) async fn until(&self, done: impl Fn(&Self) -> bool + Send + Sync) {
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

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("record", &self.record).field("end", &self.end).finish_non_exhaustive()
    }
}

/// The manager, as the transport sees it.
pub(crate) trait Host: Send + Sync {
    /// The service is done with the session: the incarnation ends, if it has not ended yet.
    fn service_ended(self: Arc<Self>, session: &Arc<Session>);
    /// The running task serves the session, and closes it once more when the service ends.
    fn serves(&self, session: &Session);
    /// The running task panics, and so closes nothing.
    fn will_not_trail(&self, session: &Session);
    /// Another step of the end was made.
    fn step_made(self: Arc<Self>, session: &Arc<Session>);
}
