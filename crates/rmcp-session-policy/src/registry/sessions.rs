//! The slots of all sessions, and what the policy is told of each.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use slab::Slab;
use tokio::time::Instant;

use super::clients::Clients;
use super::dense::{Dense, NOWHERE};
use super::rules::Rules;
use super::surge_sessions::SurgeSessions;
use super::told::{Incoming, Told};
use crate::eviction::{EvictionPolicy, SessionInfo};
use crate::queue::Queue;
use crate::session::Origin;
use crate::session::Phase;
use crate::session::SessionKey;
use crate::session::Signals;
use crate::session::{Record, Recorded};
use crate::time::HOUR;
use crate::timestamp::Timestamp;

/// How many records are looked at in one hold of the manager's lock, by what looks at all of them.
pub(crate) const LOT: usize = 1_000;

/// A session, and what the registry notes of it.
///
/// A session has a slot from its creation until it is gone, so a closing session keeps its slot, and its place.
#[derive(Debug)]
pub(crate) struct Slot<S> {
    /// The manager's object, which contains the record. The table of live sessions and the transport share it.
    pub(crate) session: Arc<S>,
    /// Of its key, here so that a stale key is known without a look at the session.
    generation: u32,
    /// What the policy was told of it last.
    pub(super) standing: Standing,
    /// Its place in `listed`, or [`NOWHERE`].
    listed_at: u32,
    /// Whether it was found half-open and not free to go; it is not in `opening` until something happens to it, or its
    /// moment comes. `oldest_opening` sets it, and `look_again` clears it.
    pub(super) answering: bool,
    /// Whether it has an entry in `fallback`, so that it never has two.
    pub(super) in_fallback: bool,
    /// The entry in `moments` or `rechecks` that counts; [`Timestamp::NEVER`] if there is none. Other entries of the
    /// session are stale: the registry drops them when they are the first, or when there are too many.
    pub(super) moment: Timestamp,
    /// The number of the last swap in which the new policy met it.
    pub(super) met: u32,
}

/// Where a session stands with the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// In its order. The session may be busy: it leaves the order only when it is to be a victim.
    Listed,
    /// Not in its order, because it could not go when the policy named it or the fallback came to it. It is watched,
    /// and has a moment if one is known, so the registry looks at it again in time.
    Suspended,
    /// Its close has begun, and the policy knows. A new slot has this standing too, until the policy hears of the
    /// session.
    Retired,
}

impl<S: Recorded> Slot<S> {
    pub(super) fn record(&self) -> &Record {
        self.session.record()
    }

    pub(super) const fn is(&self, key: SessionKey) -> bool {
        self.generation == key.generation()
    }
}

/// All sessions of a manager. `S` is what a session is to the manager; the registry knows of its [`Record`].
///
/// The manager's lock guards all fields. What requests write is not here, but in the records and in `signals`.
#[derive(Debug)]
pub(crate) struct Registry<S> {
    /// The sessions by the index of their key. The slab uses an index again when its session is gone.
    pub(super) slots: Slab<Slot<S>>,
    /// The generation of the newest key. One counter serves all indexes, so a key names one incarnation.
    generation: u32,
    /// What keeps a session from being a victim, whatever the policy names.
    pub(crate) rules: Rules,
    /// What the sessions report without the manager's lock. Each record has a reference to it.
    pub(super) signals: Arc<Signals>,
    /// `None`: no session is ever a victim.
    pub(super) policy: Option<Told>,
    /// The policy that is about to take over.
    pub(super) incoming: Option<Incoming>,
    /// The number of the last swap.
    pub(super) swaps: u32,
    /// The sessions in the policy's order, to draw from. If there are none, a choice needs no fallback.
    pub(super) listed: Dense,
    /// Draws the sessions of a sample.
    pub(crate) random: fastrand::Rng,
    /// What the guard knows. `None` if it is off.
    pub(super) surge: Option<SurgeSessions>,
    /// The places of each client, and its sessions in the policy's order. `None` if clients have no share.
    pub(super) share: Option<Clients>,
    /// The sessions of each client that are not closing. `None` if clients have no limit.
    pub(super) max: Option<Clients>,
    /// Half-open sessions, oldest first, without those that are restored and those that are set aside (`answering`).
    /// Sessions that have become ready, or have ended, may still be in it.
    pub(super) opening: Queue<Timestamp>,
    /// The share of the half-open sessions: from this number on, an arrival takes the place of the oldest one.
    pub(super) max_opening: usize,
    /// When to look at suspended sessions again though nothing happens to them. An entry has a meaning if its session
    /// says the same. It holds moments that are known: the ends of `min_idle`, of `max_busy`, of the grace of a
    /// restored session, and of the wait for the next step of a handshake.
    pub(super) moments: Queue<Timestamp>,
    /// When to ask again whether the author protects a session. A queue of its own, so that neither kind waits for the
    /// other.
    pub(super) rechecks: Queue<Timestamp>,
    /// Entries of `moments` and `rechecks` that are due at once, because the rules have changed.
    pub(super) revisited: [Queue<Timestamp>; 2],
    /// The sessions in the policy's order by age. `None` until the policy names none for the first time, or breaks its
    /// contract. Sessions that were suspended, or have ended, may still be in it.
    pub(super) fallback: Option<Queue<Timestamp>>,
    /// Times the policy panicked, or was overruled. `Stats` shows it.
    pub(crate) overruled: u64,
    /// How many records were looked at in this hold of the lock, and in the longest one.
    #[cfg(test)]
    pub(crate) looked_at: std::cell::Cell<[usize; 2]>,
}

impl<S: Recorded> Registry<S> {
    pub(crate) fn new(
        policy: Option<Box<dyn EvictionPolicy>>,
        rules: Rules,
        max_opening: usize,
        signals: Arc<Signals>,
    ) -> Self {
        Self {
            slots: Slab::new(),
            generation: 0,
            rules,
            signals,
            policy: policy.map(Told::new),
            incoming: None,
            swaps: 0,
            listed: Dense::default(),
            random: fastrand::Rng::new(),
            surge: None,
            share: None,
            max: None,
            opening: Queue::default(),
            max_opening,
            moments: Queue::default(),
            rechecks: Queue::default(),
            revisited: Default::default(),
            fallback: None,
            overruled: 0,
            #[cfg(test)]
            looked_at: std::cell::Cell::default(),
        }
    }

    /// Changes how many places half-open sessions may hold.
    pub(crate) const fn set_max_opening(&mut self, sessions: usize) {
        self.max_opening = sessions;
    }

    /// Whether any session is ever a victim.
    pub(crate) const fn evicts(&self) -> bool {
        self.policy.is_some()
    }

    /// Returns the slot of a key, closing sessions included. `None` if that incarnation is gone, also when a later one
    /// has its index.
    pub(crate) fn get(&self, key: SessionKey) -> Option<&Slot<S>> {
        self.slots.get(key.index()).filter(|slot| slot.is(key))
    }

    pub(crate) fn get_mut(&mut self, key: SessionKey) -> Option<&mut Slot<S>> {
        self.slots.get_mut(key.index()).filter(|slot| slot.is(key))
    }

    /// How many sessions exist. Closing ones count until they are gone, as they hold their places (L1).
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Calls `look` with the sessions of the next [`LOT`] indexes, closing ones included. Returns the index to go on from;
    /// `None` after the last one.
    ///
    /// Nothing else looks at all sessions, so that no hold of the manager's lock grows with their number. A session keeps
    /// its index: one that is there before the first lot and after the last one is met once, and one that comes or goes
    /// meanwhile, once or not at all.
    pub(crate) fn lot(&self, from: usize, mut look: impl FnMut(&Arc<S>)) -> Option<usize> {
        let until = from + LOT;
        for index in from..until.min(self.slots.capacity()) {
            if let Some(slot) = self.slots.get(index) {
                look(&slot.session);
                #[cfg(test)]
                self.looked_at.set({
                    let [hold, longest] = self.looked_at.get();
                    [hold + 1, longest.max(hold + 1)]
                });
            }
        }
        (until < self.slots.capacity()).then_some(until)
    }

    /// All sessions, closing ones included, by index.
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<S>> {
        self.slots.iter().map(|(_, slot)| &slot.session)
    }

    /// Puts a session in, which `make` makes around its record.
    ///
    /// The session is half-open and in the policy's order from here on. The caller holds the manager's lock and a place
    /// for the session. A restored session is not put among the half-open ones, because it does not count against their
    /// share.
    pub(crate) fn insert(&mut self, origin: Origin, now: Instant, make: impl FnOnce(Record) -> S) -> Arc<S> {
        self.generation = self.generation.wrapping_add(1);
        if self.slots.len() == self.slots.capacity() {
            // By a quarter, not by as much again: there are as many slots as sessions for most of a server's life.
            self.slots.reserve_exact(4 + self.slots.len() / 4);
        }
        let entry = self.slots.vacant_entry();
        let key = SessionKey::new(entry.key() as u32, self.generation);
        let created = Timestamp::of(now);
        let session = Arc::new(make(Record::new(key, origin, created, Arc::clone(&self.signals))));
        entry.insert(Slot {
            session: Arc::clone(&session),
            generation: key.generation(),
            // Until the policy is told.
            standing: Standing::Retired,
            listed_at: NOWHERE,
            answering: false,
            in_fallback: false,
            moment: Timestamp::NEVER,
            met: 0,
        });
        if !session.record().restored {
            self.forget_ready();
            self.opening.push(created, key);
        }
        self.hear_of_returns();
        self.stand(key, Standing::Listed, |policy, session| policy.on_insert(session));
        self.note_newcomer(key);
        self.note_begin(key, now);
        // Here too, so that no more are queued than there are sessions if no victim is ever wanted.
        self.hear(Timestamp::at(now).instant());
        session
    }

    /// Takes sessions that are half-open no longer off the front of those that are; two for each that comes, so that it
    /// stays short.
    fn forget_ready(&mut self) {
        let Self { opening, slots, signals, .. } = self;
        let is_opening = |key: SessionKey| {
            let slot = slots.get(key.index()).filter(|slot| slot.is(key));
            slot.is_some_and(|slot| slot.record().entry.state.read().phase() == Phase::Opening)
        };
        // By their number, not that of all sessions: each entry is a look at a session, while the lock is held.
        opening.tidy(signals.opening.load(SeqCst) as usize, |_, key| is_opening(key));
        for _ in 0..2 {
            if opening.peek().is_none_or(|(_, key)| is_opening(key)) {
                return;
            }
            opening.pop();
        }
    }

    /// Tells the policy of a use, which it asked for.
    ///
    /// The caller does so only if the policy's `tracks_access` says so, since it needs the manager's lock. The policy
    /// hears of no use of a suspended or closing session.
    pub(crate) fn used(&mut self, record: &Record) {
        let key = record.entry.key;
        if !self.is_listed(key) {
            return;
        }
        if self.policy.as_ref().is_some_and(|told| told.tracks_access) {
            self.call_policy(|policy| policy.on_access(&SessionInfo::of(record)));
        }
        if self.incoming.as_ref().is_some_and(|incoming| incoming.told.tracks_access) {
            self.tell_incoming(key, |policy, session| policy.on_access(session));
        }
    }

    /// Takes a session out that is gone.
    ///
    /// Returns `None` if it was removed before, so a late close does not hit a later incarnation with the same index.
    /// The caller drops the slot when no lock is held.
    pub(crate) fn remove(&mut self, key: SessionKey) -> Option<Slot<S>> {
        self.retire(key);
        self.get(key)?;
        [&mut self.share, &mut self.max].into_iter().flatten().for_each(|clients| clients.ends(key));
        Some(self.slots.remove(key.index()))
    }

    /// Tells the policy where a session stands from now on; a panic costs the policy this one call.
    ///
    /// `call` is the policy's method for it. The count of listed sessions and the fallback follow the standing, so all
    /// changes of the standing come through here. A key that is not there changes nothing.
    pub(super) fn stand(
        &mut self,
        key: SessionKey,
        standing: Standing,
        call: impl Fn(&mut dyn EvictionPolicy, &SessionInfo<'_>),
    ) {
        if standing == Standing::Listed {
            self.push_fallback(key);
        }
        let Some(slot) = self.get_mut(key) else { return };
        let before = std::mem::replace(&mut slot.standing, standing);
        match (before == Standing::Listed, standing == Standing::Listed) {
            (false, true) => self.enlist(key),
            (true, false) => self.delist(key),
            _ => {}
        }
        self.tell(key, call);
    }

    /// Calls the policy about a session, and the one that is about to take over if it has met the session; a panic costs
    /// the policy this one call.
    pub(super) fn tell(&mut self, key: SessionKey, call: impl Fn(&mut dyn EvictionPolicy, &SessionInfo<'_>)) {
        let Some(session) = self.get(key).map(|slot| Arc::clone(&slot.session)) else { return };
        self.call_policy(|policy| call(policy, &SessionInfo::of(session.record())));
        if self.incoming.is_some() {
            self.tell_incoming(key, call);
        }
    }

    /// Asks the policy, if there is one. `None` if there is none, or it panics.
    pub(crate) fn ask_policy<R>(&mut self, ask: impl FnOnce(&mut dyn EvictionPolicy) -> R) -> Option<R> {
        let mut answer = None;
        self.call_policy(|policy| answer = Some(ask(policy)));
        answer
    }

    /// Some sessions from an index on, `most` at most, and the index that follows if there may be more.
    pub(crate) fn some(&self, from: usize, most: usize) -> (Vec<Arc<S>>, Option<usize>) {
        let until = (from + most).min(self.slots.capacity());
        let some = (from..until).filter_map(|index| self.slots.get(index)).map(|slot| Arc::clone(&slot.session));
        (some.collect(), (until < self.slots.capacity()).then_some(until))
    }

    /// Calls the policy, if there is one.
    pub(super) fn call_policy(&mut self, call: impl FnOnce(&mut dyn EvictionPolicy)) {
        if let Some(told) = &mut self.policy
            && !told.call(call)
        {
            self.note_overruled("it panicked");
        }
    }

    /// Until when an idle session is worth its place. A policy that panics keeps it for an hour.
    pub(crate) fn worth_until(&mut self, key: SessionKey, now: Instant) -> Instant {
        self.hear_of_returns();
        let session = self.get(key).map(|slot| Arc::clone(&slot.session));
        let until = session.and_then(|session| {
            let session = SessionInfo::of(session.record());
            self.ask_policy(|policy| policy.worth_until(&session, now))
        });
        until.unwrap_or(now + HOUR)
    }

    /// What the policy says of itself.
    pub(crate) fn advantage(&mut self) -> Option<f64> {
        let mut advantage = None;
        self.call_policy(|policy| advantage = policy.advantage());
        advantage
    }

    fn enlist(&mut self, key: SessionKey) {
        let place = self.listed.push(key);
        let Self { slots, surge, share, .. } = self;
        let Some(slot) = slots.get_mut(key.index()).filter(|slot| slot.is(key)) else { return };
        slot.listed_at = place;
        if let Some(surge) = surge {
            surge.enlist(slot.record());
        }
        if let Some(share) = share
            && let Some(client) = share.client(key)
        {
            share.groups.insert(key, client);
        }
    }

    fn delist(&mut self, key: SessionKey) {
        let Some(place) = self.get_mut(key).map(|slot| std::mem::replace(&mut slot.listed_at, NOWHERE)) else { return };
        let moved = self.listed.remove(place);
        if let Some(slot) = moved.and_then(|moved| self.get_mut(moved)) {
            slot.listed_at = place;
        }
        if let Some(surge) = &mut self.surge {
            surge.delist(key);
        }
        if let Some(share) = &mut self.share {
            share.groups.remove(key);
        }
    }

    /// Puts a session into the order of the registry's own, once there is one.
    ///
    /// A session that is suspended and resumed may still have its entry there; its age does not change, so the entry is
    /// right.
    fn push_fallback(&mut self, key: SessionKey) {
        let Self { slots, fallback: Some(fallback), .. } = self else { return };
        fallback.tidy(slots.len(), |_, key| slots.get(key.index()).is_some_and(|slot| slot.is(key)));
        if let Some(slot) = slots.get_mut(key.index()).filter(|slot| slot.is(key))
            && !std::mem::replace(&mut slot.in_fallback, true)
        {
            fallback.push(slot.record().entry.created, key);
        }
    }

    /// Counts a fault of the policy, and logs the first one. Later faults are only counted, so a policy with a bug does
    /// not flood the log.
    pub(super) fn note_overruled(&mut self, why: &'static str) {
        self.overruled += 1;
        if self.overruled == 1 {
            tracing::warn!(why, "the eviction policy is overruled: the oldest session that may go goes (said once)");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::eviction::Lru;
    use crate::registry::test_registry::{TestRegistry, call};

    #[tokio::test(start_paused = true)]
    async fn an_index_is_reused_and_a_key_is_not() {
        let mut stage = TestRegistry::new(Lru::new());
        let one = stage.ready().entry.key;
        assert_eq!(stage.victim(), Some(1));
        let two = stage.ready().entry.key;
        assert_eq!(one.index(), two.index());
        assert!(stage.registry.get(one).is_none() && stage.registry.get(two).is_some());
        assert!(stage.registry.remove(one).is_none(), "a stale end changes nothing");
        assert_eq!(stage.victim(), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn lots_meet_each_session_once_and_are_no_larger_than_they_may_be() {
        let mut stage = TestRegistry::new(Lru::new());
        let all = stage.ready_many::<{ 2 * super::LOT + 7 }>();
        for gone in all.iter().step_by(3) {
            stage.registry.remove(gone.entry.key);
        }
        let (mut from, mut met, mut largest) = (Some(0), Vec::new(), 0);
        while let Some(at) = from {
            let before = met.len();
            from = stage.registry.lot(at, |record| met.push(record.entry.key));
            largest = largest.max(met.len() - before);
        }
        let left: Vec<_> = stage.registry.iter().map(|record| record.entry.key).collect();
        assert_eq!(met, left);
        assert!(largest <= super::LOT && largest > super::LOT / 2, "{largest}");
    }

    #[tokio::test(start_paused = true)]
    async fn each_call_that_puts_a_session_in_has_one_that_takes_it_out() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

        use super::EvictionPolicy;
        use crate::eviction::{Candidates, SessionInfo};
        use crate::session::SessionKey;

        #[derive(Debug, Default)]
        struct Counts(Arc<AtomicI64>);
        impl EvictionPolicy for Counts {
            fn on_insert(&mut self, _: &SessionInfo<'_>) {
                self.0.fetch_add(1, SeqCst);
            }
            fn on_remove(&mut self, _: &SessionInfo<'_>) {
                self.0.fetch_sub(1, SeqCst);
            }
            fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
                candidates.iter().map(|session| session.key()).min()
            }
        }

        let here = Arc::new(AtomicI64::new(0));
        let mut stage = TestRegistry::new(Counts(Arc::clone(&here)));
        let [one, two, three] = stage.ready_many();
        assert_eq!(here.load(SeqCst), 3);
        two.entry.state.close();
        stage.registry.retire(two.entry.key);
        stage.registry.retire(two.entry.key);
        assert_eq!(here.load(SeqCst), 2);
        assert_eq!(stage.registry.iter().count(), 3, "its place is held until it is gone");
        stage.registry.remove(two.entry.key);
        stage.registry.remove(three.entry.key);
        assert_eq!((stage.victim(), here.load(SeqCst)), (Some(one.entry.key.generation()), 0));
        let busy = call(&stage.ready());
        stage.registry.suspend(busy.session().entry.key);
        assert_eq!(here.load(SeqCst), 0, "suspended, of which it hears as of an end");
        stage.registry.remove(busy.session().entry.key);
        assert_eq!(here.load(SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_list_of_half_open_sessions_stays_short() {
        let mut stage = TestRegistry::new(Lru::new());
        stage.ready_many::<1_000>();
        assert!(stage.registry.opening.len() <= 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_ends_while_it_is_suspended_is_forgotten() {
        let mut stage = TestRegistry::new(Lru::new());
        let [one, _] = stage.ready_many();
        let busy = call(&one);
        assert_eq!(stage.victims(), [2]);
        one.entry.state.close();
        drop(busy);
        stage.registry.remove(one.entry.key);
        stage.ready();
        assert_eq!(stage.victims(), [3]);
    }
    #[tokio::test(start_paused = true)]
    async fn a_policy_that_sees_uses_orders_by_them() {
        use super::EvictionPolicy;
        use crate::eviction::{Candidates, SessionInfo};
        use crate::session::SessionKey;

        /// Throws out the session that was used last.
        #[derive(Debug, Default)]
        struct MostRecent(Vec<SessionKey>);
        impl EvictionPolicy for MostRecent {
            fn tracks_access(&self) -> bool {
                true
            }
            fn on_access(&mut self, session: &SessionInfo<'_>) {
                self.0.push(session.key());
            }
            fn on_remove(&mut self, session: &SessionInfo<'_>) {
                self.0.retain(|key| *key != session.key());
            }
            fn victim(&mut self, _: &Candidates<'_>) -> Option<SessionKey> {
                self.0.last().copied()
            }
        }

        let mut stage = TestRegistry::new(MostRecent::default());
        let [one, two, _] = stage.ready_many();
        for used in [&two, &one] {
            stage.registry.used(used);
        }
        assert_eq!([stage.victim(), stage.victim()], [Some(1), Some(2)]);
    }
}
