//! The HTTP requests that no session accounts for, so that a drain can wait for them and end them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, timeout_at};

use crate::session::Signals;

/// How a tracked request counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A request without a session. A drain waits for it, and cuts it off at the deadline.
    Call,
    /// A request that opens a session. A drain waits until its answer has left; its session decides when it ends.
    Opening,
    /// A stream without a session that ends only when somebody ends it. A drain ends it once the calls are over.
    Listener,
}

/// Counts the requests under way that no session accounts for. A request costs a few atomic operations.
///
/// A response whose body has given something and was not asked for more is *unread*: its client may have stopped reading,
/// and no drain waits for that.
pub(crate) struct RequestTracker {
    signals: Arc<Signals>,
    calls: AtomicUsize,
    openings: AtomicUsize,
    listeners: AtomicUsize,
    /// Of the calls and openings, those whose body nobody reads.
    unread: AtomicUsize,
    /// Calls that ended while the server drained, by themselves and not.
    finished: AtomicUsize,
    cut_off: AtomicUsize,
    cutting: AtomicBool,
    cut: Arc<Notify>,
}

/// What the tracked requests came to in a drain.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Drained {
    pub(crate) finished: usize,
    pub(crate) cut_off: usize,
}

/// What a drain waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Nothing.
    Nothing,
    /// Only bodies that nobody reads.
    Unread,
    Calls,
}

impl RequestTracker {
    pub(crate) fn new(signals: Arc<Signals>) -> Self {
        Self {
            signals,
            calls: AtomicUsize::new(0),
            openings: AtomicUsize::new(0),
            listeners: AtomicUsize::new(0),
            unread: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            cut_off: AtomicUsize::new(0),
            cutting: AtomicBool::new(false),
            cut: Arc::default(),
        }
    }

    const fn count_of(&self, class: Class) -> &AtomicUsize {
        match class {
            Class::Call => &self.calls,
            Class::Opening => &self.openings,
            Class::Listener => &self.listeners,
        }
    }

    /// Counts a request in until its [`Tracked`] is dropped; `None` if there are as many of its class as there may be.
    ///
    /// Who enters asks only then whether the server drains: a drain that has not seen the request is seen by the request.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "called by the HTTP layer"))]
    pub(crate) fn enter(self: &Arc<Self>, class: Class, most: usize) -> Option<Tracked> {
        let entered = |count: usize| (count < most).then_some(count + 1);
        self.count_of(class).fetch_update(SeqCst, SeqCst, entered).ok()?;
        Some(Tracked { tracker: Arc::clone(self), class, is_unread: false, is_refused: false, is_cut: false })
    }

    pub(crate) fn listeners(&self) -> usize {
        self.listeners.load(SeqCst)
    }

    /// What a drain still waits for.
    pub(crate) fn waiting(&self) -> Waiting {
        // In this order: what becomes unread in between is waited for.
        let unread = self.unread.load(SeqCst);
        match self.calls.load(SeqCst) + self.openings.load(SeqCst) {
            0 => Waiting::Nothing,
            count if count <= unread => Waiting::Unread,
            _ => Waiting::Calls,
        }
    }

    /// Ends what is under way: calls with an error, and listeners. Tells how many listeners there were.
    pub(crate) fn cut(&self) -> usize {
        let listeners = self.listeners();
        self.cutting.store(true, SeqCst);
        self.cut.notify_waiters();
        listeners
    }

    /// Waits until everything has ended and its last bytes were taken, until `deadline`. What nobody reads is waited for no
    /// longer than `grace`.
    pub(crate) async fn settle(&self, grace: Duration, deadline: Instant) -> Drained {
        let grace = Instant::now() + grace;
        loop {
            let mut calm = std::pin::pin!(self.signals.calm.notified());
            calm.as_mut().enable();
            let until = match (self.waiting(), self.listeners()) {
                (Waiting::Nothing, 0) => break,
                (Waiting::Calls, _) => deadline.max(grace),
                _ => grace,
            };
            if timeout_at(until, calm).await.is_err() {
                break;
            }
        }
        let left = self.calls.load(SeqCst);
        Drained { finished: self.finished.swap(0, SeqCst), cut_off: self.cut_off.swap(0, SeqCst) + left }
    }

    fn notify_waiters(&self) {
        if self.signals.draining.load(SeqCst) {
            self.signals.calm.notify_waiters();
        }
    }
}

/// A request under way; its drop is its end.
#[derive(Debug)]
pub(crate) struct Tracked {
    tracker: Arc<RequestTracker>,
    class: Class,
    is_unread: bool,
    is_refused: bool,
    is_cut: bool,
}

#[cfg_attr(not(feature = "http"), expect(dead_code, reason = "called by the HTTP layer"))]
impl Tracked {
    /// Drops a request that was refused: it is no call that finished.
    pub(crate) fn refuse(mut self) {
        self.is_refused = true;
    }

    /// Wakes the task that polls it once a drain cuts requests off. If it is made before
    /// [`is_to_be_cut`](Self::is_to_be_cut) is asked, one of the two tells.
    pub(crate) fn signal(&self) -> OwnedNotified {
        Arc::clone(&self.tracker.cut).notified_owned()
    }

    /// Whether a drain cuts the request off.
    pub(crate) fn is_to_be_cut(&self) -> bool {
        self.class != Class::Opening && self.tracker.cutting.load(SeqCst)
    }

    pub(crate) const fn is_listener(&self) -> bool {
        matches!(self.class, Class::Listener)
    }

    /// Notes that a drain cut the request off.
    pub(crate) const fn note_cut(&mut self) {
        self.is_cut = true;
    }

    /// Notes that somebody asks the body for more, and so has what it gave before.
    pub(crate) fn asked(&mut self) {
        if std::mem::take(&mut self.is_unread) {
            self.tracker.unread.fetch_sub(1, SeqCst);
            self.tracker.notify_waiters();
        }
    }

    /// Notes that the body gave something, or is there to be asked.
    pub(crate) fn gave(&mut self) {
        if self.class != Class::Listener && !std::mem::replace(&mut self.is_unread, true) {
            self.tracker.unread.fetch_add(1, SeqCst);
            self.tracker.notify_waiters();
        }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let tracker = &self.tracker;
        if self.class == Class::Call && !self.is_refused && tracker.signals.draining.load(SeqCst) {
            let count = if self.is_cut { &tracker.cut_off } else { &tracker.finished };
            count.fetch_add(1, SeqCst);
        }
        // Counted out first, so that at no moment more are unread than there are.
        if self.is_unread {
            tracker.unread.fetch_sub(1, SeqCst);
        }
        tracker.count_of(self.class).fetch_sub(1, SeqCst);
        tracker.notify_waiters();
    }
}

impl fmt::Debug for RequestTracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestTracker")
            .field("calls", &self.calls)
            .field("openings", &self.openings)
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}
