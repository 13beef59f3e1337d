//! [`RequestTracker`]: the HTTP requests without a session, so that a drain can wait for them and end them.
//!
//! A session counts its own requests, and a drain ends it with them. A request without a session has nothing like that,
//! so the HTTP layer registers it here: [`RequestTracker::enter`] counts it, and the drop of its [`Tracked`] ends the
//! count. The layer keeps the token first with the request and then with the body of its response.
//!
//! A drain uses it in this order: it asks [`waiting`](RequestTracker::waiting) until nothing is left or its deadline
//! has passed, then it calls [`cut`](RequestTracker::cut), then it awaits [`settle`](RequestTracker::settle).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, timeout_at};

use crate::session::Signals;

/// Says how a tracked request counts.
///
/// It is decided once, when the request is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A request without a session. A drain waits for it, and cuts it off at the deadline.
    Call,
    /// A request that opens a session. A drain waits until its answer has left, and leaves its end to the session.
    Opening,
    /// A stream without a session that only the client or the server ends. A drain ends it once the calls are over.
    Listener,
}

/// Counts the requests without a session that are under way. A request costs a few atomic operations.
///
/// A response is *unread* if its body has yielded a frame and was not polled again. Its client may have stopped
/// reading, so a drain waits for it only for a short grace.
///
/// There is no lock. All atomics are sequentially consistent, since the order between the counts, the flags here and
/// the drain's own flag matters.
pub(crate) struct RequestTracker {
    /// Those of the manager: whether a drain waits (`draining`), and what wakes it (`calm`).
    signals: Arc<Signals>,
    /// Requests of [`Class::Call`] under way.
    calls: AtomicUsize,
    /// Requests of [`Class::Opening`] under way.
    openings: AtomicUsize,
    /// Requests of [`Class::Listener`] under way.
    listeners: AtomicUsize,
    /// The calls and openings with an unread body. `calls` and `openings` count them too.
    unread: AtomicUsize,
    /// Calls that ended by themselves during a drain; `cut_off` counts the others. The drain takes both out and sets
    /// them to 0.
    finished: AtomicUsize,
    /// Calls that ended during a drain because it cut them off.
    cut_off: AtomicUsize,
    /// Whether calls and listeners are cut off. It is set once and stays, so a request that comes later is cut off too.
    cutting: AtomicBool,
    /// Rung once `cutting` is set. The bodies of responses wait for it.
    cut: Arc<Notify>,
}

/// Counts the tracked calls that ended by themselves in a drain, and those that did not.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Drained {
    /// Calls whose response was read to its end, or dropped by its client.
    pub(crate) finished: usize,
    /// Calls that got a farewell, were rejected at the cut, or had not ended when the wait was over.
    pub(crate) cut_off: usize,
}

/// Says what a drain still waits for, apart from listeners, which it ends itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Nothing.
    Nothing,
    /// Only unread bodies, whose clients may have stopped reading. A short grace is enough for them.
    Unread,
    /// At least one request that is still being answered, or whose client reads.
    Calls,
}

impl RequestTracker {
    /// The drain of the manager sets and awaits `signals`, so they have to be those of the manager.
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

    /// Counts a request until its [`Tracked`] is dropped. Returns `None` if `most` of its class are under way.
    ///
    /// The caller must check whether the server drains after this call, not before: then either the drain counts the
    /// request, or the request sees the drain.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "called by the HTTP layer"))]
    pub(crate) fn enter(self: &Arc<Self>, class: Class, most: usize) -> Option<Tracked> {
        let entered = |count: usize| (count < most).then_some(count + 1);
        self.count_of(class).fetch_update(SeqCst, SeqCst, entered).ok()?;
        Some(Tracked { tracker: Arc::clone(self), class, is_unread: false, is_refused: false, is_cut: false })
    }

    pub(crate) fn listeners(&self) -> usize {
        self.listeners.load(SeqCst)
    }

    /// Returns what a drain still waits for.
    pub(crate) fn waiting(&self) -> Waiting {
        // Load `unread` first: a body that becomes unread between the loads then counts as one that is read.
        let unread = self.unread.load(SeqCst);
        match self.calls.load(SeqCst) + self.openings.load(SeqCst) {
            0 => Waiting::Nothing,
            count if count <= unread => Waiting::Unread,
            _ => Waiting::Calls,
        }
    }

    /// Ends calls with an error, and listeners. Returns the number of listeners.
    ///
    /// It only tells them: [`settle`](Self::settle) waits until they have ended. It leaves openings alone.
    pub(crate) fn cut(&self) -> usize {
        let listeners = self.listeners();
        self.cutting.store(true, SeqCst);
        self.cut.notify_waiters();
        listeners
    }

    /// Waits until every request has ended and its last bytes were read, until `deadline`. For unread bodies and
    /// listeners it waits no longer than `grace`.
    ///
    /// Returns the counts since the last call. What has not ended by then counts as cut off, listeners and openings
    /// aside. If `deadline` has passed already, calls that were cut get `grace` too.
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

    /// Wakes a drain, if one waits, after a count has changed. Without a drain it costs one load.
    fn notify_waiters(&self) {
        if self.signals.draining.load(SeqCst) {
            self.signals.calm.notify_waiters();
        }
    }
}

/// Counts one request under way until it is dropped.
///
/// It has one owner at a time, so its own fields need no lock.
#[derive(Debug)]
pub(crate) struct Tracked {
    tracker: Arc<RequestTracker>,
    class: Class,
    /// Whether this request is one of those in `unread`.
    is_unread: bool,
    /// Whether the layer rejected it. Then its drop counts it neither as finished nor as cut off.
    is_refused: bool,
    /// Whether a drain cut it off. Then its drop counts it as that.
    is_cut: bool,
}

#[cfg_attr(not(feature = "http"), expect(dead_code, reason = "called by the HTTP layer"))]
impl Tracked {
    /// Drops a request that was rejected, without counting it as finished.
    pub(crate) fn refuse(mut self) {
        self.is_refused = true;
    }

    /// Returns a future that resolves when a drain cuts requests off. Make it before calling
    /// [`is_to_be_cut`](Self::is_to_be_cut): then one of the two reports the cut.
    pub(crate) fn signal(&self) -> OwnedNotified {
        Arc::clone(&self.tracker.cut).notified_owned()
    }

    /// Returns whether a drain cuts the request off.
    pub(crate) fn is_to_be_cut(&self) -> bool {
        self.class != Class::Opening && self.tracker.cutting.load(SeqCst)
    }

    pub(crate) const fn is_listener(&self) -> bool {
        matches!(self.class, Class::Listener)
    }

    /// Records that a drain cut the request off. Without it, the drop of this token would count the request as
    /// finished.
    pub(crate) const fn note_cut(&mut self) {
        self.is_cut = true;
    }

    /// Records that the body is polled again, so its reader has what it yielded before.
    pub(crate) fn asked(&mut self) {
        if std::mem::take(&mut self.is_unread) {
            self.tracker.unread.fetch_sub(1, SeqCst);
            self.tracker.notify_waiters();
        }
    }

    /// Records that the body yielded a frame, or exists and was not polled yet.
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
        // Decrement `unread` first, so that it never exceeds the number of requests.
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
