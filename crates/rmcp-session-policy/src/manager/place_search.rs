//! The search of a request for a place. A place is one unit of capacity, which exactly one request or session owns.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select;
use rmcp::transport::streamable_http_server::session::SessionManager;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, timeout_at};

use super::chosen::{Chosen, Room};
use super::manager_inner::{ManagerInner, ManagerState};
use crate::admission::{Arrival, ArrivalKind, ClientKey};
use crate::context::ClientContext;
use crate::observe::CloseReason;
use crate::registry::{Choice, ClientId};
use crate::transport::Session;

/// How long a request waits until its victim is gone, before it takes another one.
pub(super) const VICTIM_TIMEOUT: Duration = Duration::from_millis(100);

/// How many victims a request takes at most.
pub(super) const MAX_VICTIMS: u32 = 3;

/// For how long no session may be evictable before the waiting newcomers are rejected; a session becomes idle only a
/// moment after its answer. A restore waits for its whole turn: its client has a session, and a rejection costs it a
/// call.
pub(super) const IDLE_GRACE: Duration = Duration::from_millis(20);

/// How long a request waits at most for its turn, unless it is patient.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// How long a request waits for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Not at all: it takes only a free place.
    OnlyFree,
    /// For its turn for [`MAX_WAIT`], and after that for its victims for [`VICTIM_TIMEOUT`] times [`MAX_VICTIMS`].
    Turn,
    /// For its turn until this moment, and after that for its victims for the close deadline.
    Until(Instant),
}

/// The owner of the places.
trait Capacity: Send + Sync {
    /// Takes back the place of a request that does not become a session. `share`: its client, if that has a share.
    fn release(&self, kind: ArrivalKind, share: Option<ClientId>);
}

impl<I: SessionManager> Capacity for ManagerInner<I> {
    fn release(&self, kind: ArrivalKind, share: Option<ClientId>) {
        let mut core = self.lock();
        core.registry.came(share);
        core.places.give_up(kind);
        core.places.put_back();
    }
}

/// A place that a request holds; its drop gives it back.
pub(super) struct Place {
    capacity: Option<Arc<dyn Capacity>>,
    kind: ArrivalKind,
    /// The client, if it has a share of the places.
    share: Option<ClientId>,
}

impl Place {
    /// Passes the place to the session, which gives it back when it is gone.
    pub(super) fn settle<T>(mut self, core: &mut ManagerState<T>) {
        self.capacity = None;
        core.registry.came(self.share);
        core.places.arrived(self.kind);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(capacity) = self.capacity.take() {
            capacity.release(self.kind, self.share);
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

/// A request that waits for a place; its drop leaves the queue.
struct Waiting<'a, I: SessionManager> {
    shared: &'a Arc<ManagerInner<I>>,
    number: u64,
    wake: Arc<Notify>,
    /// Whether it had its turn, and expects the place of a closing session.
    expects: bool,
    /// The client, if it has a share of the places. The newcomer counts against it once it expects a place.
    share: Option<ClientId>,
    left: bool,
}

impl<I: SessionManager> Drop for Waiting<'_, I> {
    fn drop(&mut self) {
        if !self.left {
            let mut core = self.shared.lock();
            core.places.leave(self.number);
            if self.expects {
                core.registry.came(self.share);
            }
        }
    }
}

/// The search of one request for a place.
struct Search<'a, I: SessionManager> {
    shared: &'a Arc<ManagerInner<I>>,
    kind: ArrivalKind,
    context: Option<&'a ClientContext>,
    /// The client, if it has a share of the places.
    share: Option<ClientId>,
    began: Instant,
    patience: Patience,
    give_up: Instant,
    /// How many victims it has taken.
    victims: u32,
    /// When the request takes another victim.
    next_victim: Instant,
    waiting: Option<Waiting<'a, I>>,
}

/// What a request does next.
enum Step<T> {
    Has(Place),
    Refused,
    /// Waits until it is woken, at most until this moment.
    Waits(Instant),
    /// The same, or until some session becomes evictable. The request has its turn.
    Listens(Instant),
    /// Waits for a place, having taken this victim: why it was chosen, and among how many.
    Takes(Arc<Session<T>>, (&'static str, usize), Instant),
}

impl<I: SessionManager> ManagerInner<I> {
    /// Gets a place for a request: a free one, or that of a victim, for which it waits as `patience` says.
    ///
    /// `None` if no session may go, or it has waited long enough.
    pub(super) async fn place(
        self: &Arc<Self>,
        kind: ArrivalKind,
        context: Option<&ClientContext>,
        share: Option<ClientId>,
        patience: Patience,
    ) -> Option<Place> {
        let mut now = Instant::now();
        let only_free = patience == Patience::OnlyFree;
        let free = {
            let mut core = self.lock();
            let free = core.places.take(kind);
            // What waits for a free place alone asks for none.
            if free || !only_free {
                core.registry.asked(now);
            }
            if free {
                core.registry.comes(share);
            }
            free
        };
        if free || only_free {
            return free.then(|| self.place_of(kind, share));
        }
        let mut search = Search {
            shared: self,
            kind,
            context,
            share,
            began: now,
            patience,
            give_up: match patience {
                Patience::Until(until) => until.max(now + MAX_WAIT),
                _ => now + MAX_WAIT,
            },
            victims: 0,
            next_victim: now,
            waiting: None,
        };
        loop {
            let mut change = pin!(self.signals.evictable.notified());
            let step = search.next_step(&mut self.lock(), now, change.as_mut());
            let (until, listens) = match step {
                Step::Has(place) => {
                    #[cfg(feature = "metrics")]
                    self.measure(|metrics| metrics.room(now.saturating_duration_since(search.began)));
                    return Some(place);
                }
                Step::Refused => return None,
                Step::Waits(until) => (until, false),
                Step::Listens(until) => (until, true),
                Step::Takes(victim, (phrase, among), until) => {
                    self.close_victim(victim, Chosen { phrase, among, room: Room::Arrival(kind, context) });
                    (until, false)
                }
            };
            // The next step reads what has changed, so the cause of the wake does not matter.
            let woken = pin!(search.waiting.as_ref()?.wake.notified());
            if listens {
                timeout_at(until, select(woken, change)).await.ok();
            } else {
                timeout_at(until, woken).await.ok();
            }
            now = Instant::now();
        }
    }

    fn place_of(self: &Arc<Self>, kind: ArrivalKind, share: Option<ClientId>) -> Place {
        let capacity: Arc<dyn Capacity> = Arc::<Self>::clone(self);
        Place { capacity: Some(capacity), kind, share }
    }
}

impl<'a, I: SessionManager> Search<'a, I> {
    /// Looks for a place and decides the next step. `change` is enabled before the look, and fires when a session
    /// becomes evictable.
    fn next_step(
        &mut self,
        core: &mut ManagerState<I::Transport>,
        now: Instant,
        change: Pin<&mut Notified<'_>>,
    ) -> Step<I::Transport> {
        match &mut self.waiting {
            Some(waiting) if core.places.collect(waiting.number) => {
                waiting.left = true;
                if !waiting.expects {
                    core.registry.comes(self.share);
                }
                return Step::Has(self.shared.place_of(self.kind, self.share));
            }
            Some(waiting) if !waiting.expects && core.places.is_expecting(waiting.number) => {
                // A place was handed to it, and withdrawn for a lower capacity before it noticed.
                waiting.expects = true;
                core.registry.comes(self.share);
                self.next_victim = now;
                self.give_up = self.give_up.max(self.victims_until(now));
            }
            Some(_) if now >= self.give_up => return Step::Refused,
            Some(waiting) if waiting.expects => {
                if self.victims >= MAX_VICTIMS {
                    return Step::Waits(self.give_up);
                }
                if now < self.next_victim {
                    return Step::Waits(self.next_victim);
                }
            }
            Some(waiting) if !core.places.is_first(waiting.number) => return Step::Waits(self.give_up),
            Some(_) => drop(change.enable()),
            None if core.places.take(self.kind) => {
                core.registry.comes(self.share);
                return Step::Has(self.shared.place_of(self.kind, self.share));
            }
            None if !core.places.is_next(self.kind) => {
                self.queue(core, now);
                return Step::Waits(self.give_up);
            }
            None => drop(change.enable()),
        }
        if core.is_shrinking() {
            // The places of all victims will be withdrawn.
            self.queue(core, now);
            self.next_victim = now + VICTIM_TIMEOUT;
            return Step::Waits(self.give_up.min(self.next_victim));
        }
        let number = self.waiting.as_ref().map(|waiting| waiting.number);
        let expects = self.waiting.as_ref().is_some_and(|waiting| waiting.expects);
        let arriving = core.places.arriving_beside(number);
        let full = core.registry.full(self.share, expects);
        let choice = core.registry.choose(now, self.kind, self.context, arriving, full);
        if expects && !matches!(choice, Choice::Victim(..)) {
            self.next_victim = now + VICTIM_TIMEOUT;
            return Step::Waits(self.next_victim);
        }
        match choice {
            Choice::Victim(victim, phrase) => {
                // A session that closes counts until it is gone.
                let among = core.registry.len();
                core.mark_closing(&victim, CloseReason::Evicted, now);
                core.places.stalled_since = None;
                self.victims += 1;
                self.expect(core, now);
                Step::Takes(victim, (phrase, among), self.next_victim)
            }
            Choice::Handshakes => {
                core.places.stalled_since = None;
                self.queue(core, now);
                Step::Listens(Self::look_again_at(core, now, self.give_up.min(now + VICTIM_TIMEOUT)))
            }
            // A session is closing, and no other request expects its place.
            Choice::NoVictim if core.closing > core.places.over() + core.places.expecting() => {
                self.expect(core, now);
                Step::Waits(self.next_victim)
            }
            Choice::NoVictim => {
                let since = *core.places.stalled_since.get_or_insert(now);
                let refused_at = match self.kind {
                    ArrivalKind::Restore => self.give_up,
                    _ => self.began.max(since) + IDLE_GRACE,
                };
                if now >= refused_at || !core.registry.evicts() {
                    if let Some(waiting) = &mut self.waiting {
                        waiting.left = true;
                        core.places.refuse(waiting.number);
                    }
                    return Step::Refused;
                }
                self.queue(core, now);
                Step::Listens(Self::look_again_at(core, now, refused_at))
            }
        }
    }

    /// Enters the queue, if the request is not in it.
    fn queue(&mut self, core: &mut ManagerState<I::Transport>, now: Instant) {
        if self.waiting.is_none() {
            let arrival = Arrival::new(now, self.kind);
            let arrival = match self.context {
                Some(context) => arrival.with_context(context),
                None => arrival,
            };
            self.wait(core.places.queue(self.kind, ClientKey::of(&arrival)), false);
        }
    }

    /// Expects the place of a closing session.
    fn expect(&mut self, core: &mut ManagerState<I::Transport>, now: Instant) {
        self.next_victim = now + VICTIM_TIMEOUT;
        match &mut self.waiting {
            Some(waiting) if waiting.expects => return,
            Some(waiting) => {
                waiting.expects = true;
                core.places.expect(waiting.number);
            }
            None => self.wait(core.places.expect_at_once(self.kind), true),
        }
        core.registry.comes(self.share);
        self.give_up = self.victims_until(now);
    }

    /// How long a request that expects a place from now on waits for it.
    fn victims_until(&self, now: Instant) -> Instant {
        now + match self.patience {
            Patience::Until(_) => self.shared.close_deadline(),
            _ => VICTIM_TIMEOUT * MAX_VICTIMS,
        }
    }

    fn wait(&mut self, (number, wake): (u64, Arc<Notify>), expects: bool) {
        self.waiting = Some(Waiting { shared: self.shared, number, wake, expects, share: self.share, left: false });
    }

    /// When the first of the queue looks again without being woken: some sessions become evictable at a known moment.
    fn look_again_at(core: &ManagerState<I::Transport>, now: Instant, latest: Instant) -> Instant {
        let moment = core.registry.next_moment().unwrap_or(latest);
        moment.max(now + Duration::from_millis(1)).min(latest)
    }
}
