//! Places: one unit of capacity each, owned by exactly one holder.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use rmcp::transport::streamable_http_server::session::SessionManager;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::shared::{Core, Shared};
use crate::admission::ArrivalKind;
use crate::context::ClientContext;
use crate::observe::CloseReason;
use crate::registry::{Choice, Signals};
use crate::transport::Session;

/// How long a newcomer waits for one victim to be gone before it takes another.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long a newcomer waits for anybody to become idle when nobody may go: somebody may only just have been answered.
const BREATH: Duration = Duration::from_millis(20);

/// How long a newcomer waits at most for half-open sessions to finish their handshakes, before it takes a victim at all.
const HANDSHAKES: Duration = Duration::from_secs(1);

/// How many victims a newcomer takes at most.
const VICTIMS: u32 = 3;

/// Where places come from.
pub(super) trait Capacity: Send + Sync {
    /// Takes a place back.
    fn release(self: Arc<Self>);
    /// Forgets a newcomer that waits no longer.
    fn leave(&self, ticket: u64);
}

/// A reserved place; its drop gives it back.
pub(super) struct Place {
    capacity: Option<Arc<dyn Capacity>>,
    arriving: Option<Arriving>,
}

impl Place {
    fn reserved(capacity: Arc<dyn Capacity>) -> Self {
        Self { capacity: Some(capacity), arriving: None }
    }

    fn for_newcomer(mut self, arriving: Option<Arriving>) -> Self {
        self.arriving = arriving;
        self
    }

    /// The session has it from now on, and gives it back when it is gone.
    pub(super) fn settle(mut self) {
        self.capacity = None;
    }
}

/// A newcomer that will be a half-open session: it counts as one before it is, or a burst of newcomers would throw out
/// everybody before the first of them is there.
struct Arriving {
    signals: Arc<Signals>,
}

impl Arriving {
    fn count_in(signals: &Arc<Signals>) -> Self {
        signals.arriving.fetch_add(1, SeqCst);
        Self { signals: Arc::clone(signals) }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.signals.arriving.fetch_sub(1, SeqCst);
        // It is a session now, or never will be: either way whoever waited for it looks again.
        self.signals.handshake.notify_waiters();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(capacity) = self.capacity.take() {
            capacity.release();
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

impl<T> Core<T> {
    /// Hands a place that came free to the newcomer who waits longest, or keeps it.
    pub(super) fn hand_on<C: Capacity + 'static>(&mut self, capacity: &Arc<C>) {
        while let Some((_, newcomer)) = self.waiting.pop_first() {
            match newcomer.send(Place::reserved(Arc::<C>::clone(capacity))) {
                Ok(()) => return,
                // That newcomer has given up. Its place must not come back here by its drop: we hold the lock.
                Err(place) => place.settle(),
            }
        }
        self.free += 1;
    }
}

/// A newcomer in the queue; its drop leaves the queue.
struct Waiter {
    ticket: u64,
    place: oneshot::Receiver<Place>,
    capacity: Arc<dyn Capacity>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.capacity.leave(self.ticket);
    }
}

impl<I: SessionManager> Capacity for Shared<I> {
    fn release(self: Arc<Self>) {
        let this = &self;
        this.lock().hand_on(this);
    }

    fn leave(&self, ticket: u64) {
        let left = self.lock().waiting.remove(&ticket);
        drop(left);
    }
}

/// What a newcomer does next.
enum Step<T> {
    /// Waits for a place to come free, having taken this victim.
    Victim(Arc<Session<T>>),
    /// Waits for a place to come free: some session is closing that nobody else waits for.
    Closing,
    /// Waits for a half-open session to answer its `initialize`.
    Handshakes,
    /// Waits for a moment for anybody to become idle.
    Idle,
}

impl<I: SessionManager> Shared<I> {
    /// Gets a place for a newcomer: a free one, or, unless only a free one will do, that of a victim.
    ///
    /// `None` if nobody may go.
    pub(super) async fn place(
        self: &Arc<Self>,
        kind: ArrivalKind,
        context: Option<&ClientContext>,
        only_free: bool,
    ) -> Option<Place> {
        // Most newcomers need no clock.
        let free = self.free_place(&mut self.lock(), kind);
        if free.is_some() || only_free {
            return free;
        }
        let mut waiter: Option<Waiter> = None;
        let mut arriving: Option<Arriving> = None;
        let mut breath: Option<Instant> = None;
        let mut now = Instant::now();
        let mut give_up = now + HANDSHAKES;
        while now < give_up {
            let mut handshake = std::pin::pin!(self.signals.handshake.notified());
            let mut freed = std::pin::pin!(self.signals.freed.notified());
            let step = {
                let mut core = self.lock();
                if let Some(place) = waiter.as_mut().and_then(|waiter| waiter.place.try_recv().ok()) {
                    return Some(place.for_newcomer(arriving));
                }
                if waiter.is_none()
                    && let Some(place) = self.free_place(&mut core, kind)
                {
                    return Some(place);
                }
                handshake.as_mut().enable();
                freed.as_mut().enable();
                let others = self.signals.arriving.load(SeqCst) as usize - usize::from(arriving.is_some());
                let step = match core.registry.choose(now, context, others) {
                    Choice::Victim(session) => Some(Step::Victim(session)),
                    Choice::Handshakes => Some(Step::Handshakes),
                    Choice::Nobody => {
                        let others = core.waiting.len()
                            - usize::from(waiter.as_ref().is_some_and(|w| core.waiting.contains_key(&w.ticket)));
                        if core.closing > others {
                            Some(Step::Closing)
                        } else {
                            let waits = core.registry.evicts() && now < *breath.get_or_insert(now + BREATH);
                            waits.then_some(Step::Idle)
                        }
                    }
                }?;
                if let Step::Victim(session) = &step {
                    core.begin_end(session, CloseReason::Evicted, now);
                }
                if matches!(step, Step::Victim(_) | Step::Closing) && waiter.is_none() {
                    waiter = Some(self.join_queue(&mut core));
                    give_up = now + PATIENCE * VICTIMS;
                    arriving = self.arriving(kind);
                }
                step
            };
            let idle = matches!(step, Step::Idle);
            if let Step::Victim(session) = step {
                self.announce_end(&session);
                self.start_end(session);
            }
            // Whether it rings or the time passes, the next round sees what has changed.
            match &mut waiter {
                Some(waiter) => {
                    if let Ok(Ok(place)) = timeout(PATIENCE, &mut waiter.place).await {
                        return Some(place.for_newcomer(arriving));
                    }
                }
                None if idle => drop(timeout_at(breath.unwrap_or(now), freed).await),
                None => drop(timeout_at(give_up.min(now + PATIENCE), handshake).await),
            }
            now = Instant::now();
        }
        let mut waiter = waiter?;
        let place = waiter.place.try_recv().ok()?;
        Some(place.for_newcomer(arriving))
    }

    fn free_place(self: &Arc<Self>, core: &mut Core<I::Transport>, kind: ArrivalKind) -> Option<Place> {
        core.free = core.free.checked_sub(1)?;
        Some(Place::reserved(self.as_capacity()).for_newcomer(self.arriving(kind)))
    }

    /// Counts a newcomer in that will be half-open.
    fn arriving(&self, kind: ArrivalKind) -> Option<Arriving> {
        (kind == ArrivalKind::Create).then(|| Arriving::count_in(&self.signals))
    }

    fn as_capacity(self: &Arc<Self>) -> Arc<dyn Capacity> {
        Arc::<Self>::clone(self)
    }

    fn join_queue(self: &Arc<Self>, core: &mut Core<I::Transport>) -> Waiter {
        let (sender, place) = oneshot::channel();
        core.tickets += 1;
        core.waiting.insert(core.tickets, sender);
        Waiter { ticket: core.tickets, place, capacity: self.as_capacity() }
    }
}
