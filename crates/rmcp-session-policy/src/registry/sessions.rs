//! The sessions, their order, and the choice of a victim.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use slab::Slab;
use tokio::time::Instant;
use tokio_util::time::delay_queue;

use super::key::SessionKey;
use super::record::{Origin, Record, Signals};
use super::roster::Roster;
use super::rules::{Rules, Verdict};
use super::state::Phase;
use crate::clock::{Clock, Stamp};
use crate::context::ClientContext;
use crate::eviction::{Candidates, EvictionPolicy, Fifo, SessionInfo};

/// How often a policy is asked for one place before the manager chooses by itself.
const PROPOSALS: usize = 4;

/// How many sessions are looked at again per choice, beyond those that told of themselves.
const LOOKS: usize = 32;

/// A session and its deadline.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) record: Arc<Record>,
    pub(crate) deadline: Option<delay_queue::Key>,
    /// When it is looked at again.
    again: Option<Instant>,
    /// Whether the policy knows of it.
    listed: bool,
}

/// What came of asking for a victim.
#[derive(Debug)]
pub(crate) enum Choice {
    /// This session's end has begun.
    Victim(Arc<Record>),
    /// The half-open sessions hold their share, and each is answering its `initialize`.
    Handshakes,
    /// Nobody may go.
    Nobody,
}

/// All sessions of a manager.
#[derive(Debug)]
pub(crate) struct Registry {
    slots: Slab<Slot>,
    generation: u32,
    clock: Clock,
    rules: Rules,
    signals: Arc<Signals>,
    /// `None`: nobody is ever a victim.
    policy: Option<Box<dyn EvictionPolicy>>,
    /// Chooses where the policy fails to. Filled when first needed.
    deputy: Option<Fifo>,
    /// Half-open sessions, oldest first, those that are restored apart. What has become ready may still be listed.
    opening: BTreeSet<(Stamp, SessionKey)>,
    max_opening: usize,
    /// Sessions that somebody set aside and that may go at some moment without anything happening to them.
    again: BTreeSet<(Instant, SessionKey)>,
    /// Times the policy panicked, or was overruled.
    pub(crate) overruled: u64,
}

impl Registry {
    pub(crate) fn new(
        policy: Option<Box<dyn EvictionPolicy>>,
        rules: Rules,
        max_opening: usize,
        clock: Clock,
        signals: Arc<Signals>,
    ) -> Self {
        Self {
            slots: Slab::new(),
            generation: 0,
            clock,
            rules,
            signals,
            policy,
            deputy: None,
            opening: BTreeSet::new(),
            max_opening,
            again: BTreeSet::new(),
            overruled: 0,
        }
    }

    pub(crate) fn get(&self, key: SessionKey) -> Option<&Slot> {
        self.slots.get(key.index()).filter(|slot| slot.record.key == key)
    }

    pub(crate) fn get_mut(&mut self, key: SessionKey) -> Option<&mut Slot> {
        self.slots.get_mut(key.index()).filter(|slot| slot.record.key == key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.slots.iter().map(|(_, slot)| &slot.record)
    }

    /// Puts a session in.
    pub(crate) fn insert(&mut self, origin: Origin, now: Instant) -> Arc<Record> {
        self.generation = self.generation.wrapping_add(1);
        let entry = self.slots.vacant_entry();
        let key = SessionKey::new(entry.key() as u32, self.generation);
        let created = self.clock.stamp(now);
        let record = Arc::new(Record::new(key, origin, created, self.clock, Arc::clone(&self.signals)));
        entry.insert(Slot { record: Arc::clone(&record), deadline: None, again: None, listed: true });
        if !record.restored {
            self.opening.insert((created, key));
        }
        self.tell(&record, |policy, session| policy.on_insert(session));
        record
    }

    /// Takes a session whose end has begun from the policy.
    pub(crate) fn retire(&mut self, key: SessionKey) {
        let Some(slot) = self.get_mut(key) else { return };
        if std::mem::take(&mut slot.listed) {
            let (record, again) = (Arc::clone(&slot.record), slot.again.take());
            self.opening.remove(&(record.created, key));
            if let Some(at) = again {
                self.again.remove(&(at, key));
            }
            self.tell(&record, |policy, session| policy.on_remove(session));
        }
    }

    /// Takes a session out that is gone.
    pub(crate) fn remove(&mut self, key: SessionKey) -> Option<Slot> {
        self.retire(key);
        self.get(key)?;
        Some(self.slots.remove(key.index()))
    }

    /// Calls a policy and its deputy; a panic costs the policy this one call.
    fn tell(&mut self, record: &Record, call: impl Fn(&mut dyn EvictionPolicy, &SessionInfo<'_>)) {
        let session = SessionInfo::of(record);
        if let Some(policy) = &mut self.policy
            && catch_unwind(AssertUnwindSafe(|| call(&mut **policy, &session))).is_err()
        {
            self.note_overruled("it panicked");
        }
        if let Some(deputy) = &mut self.deputy {
            call(deputy, &session);
        }
    }

    fn note_overruled(&mut self, why: &'static str) {
        self.overruled += 1;
        if self.overruled == 1 {
            tracing::warn!(why, "the eviction policy is overruled: the oldest session that may go goes (said once)");
        }
    }

    /// Chooses a victim and begins its end.
    pub(crate) fn choose(&mut self, now: Instant, newcomer: Option<&ClientContext>) -> Choice {
        if self.policy.is_none() {
            return Choice::Nobody;
        }
        while let Some(key) = self.signals.idle.pop() {
            self.take_back(key);
        }
        self.look_again(now, LOOKS);
        if self.signals.opening.load(SeqCst) as usize >= self.max_opening {
            return match self.oldest_opening() {
                Some(record) => Choice::Victim(record),
                None => Choice::Handshakes,
            };
        }
        let fault = match self.propose(now, newcomer) {
            Ok(record) => return Choice::Victim(record),
            Err(fault) => fault,
        };
        // Nobody is turned away while anybody may go, so here everybody is looked at whose time has come.
        self.look_again(now, usize::MAX);
        let chosen = self.ask_deputy(now, newcomer);
        if let Some(why) = fault.or(chosen.is_some().then_some("it named nobody while somebody might go")) {
            self.note_overruled(why);
        }
        chosen.map_or(Choice::Nobody, Choice::Victim)
    }

    fn take_back(&mut self, key: SessionKey) {
        if let Some(slot) = self.get(key).filter(|slot| slot.listed) {
            let record = Arc::clone(&slot.record);
            self.tell(&record, |policy, session| policy.on_idle(session));
        }
    }

    fn look_again(&mut self, now: Instant, most: usize) {
        for _ in 0..most {
            let Some(&(at, key)) = self.again.first().filter(|(at, _)| *at <= now) else { break };
            self.again.remove(&(at, key));
            if let Some(slot) = self.get_mut(key) {
                slot.again = None;
                slot.record.state.take_met();
                self.take_back(key);
            }
        }
    }

    /// The oldest half-open session that is not answering its `initialize`.
    fn oldest_opening(&mut self) -> Option<Arc<Record>> {
        let mut ready = Vec::new();
        let mut oldest = None;
        for &(at, key) in &self.opening {
            let Some(record) = self.get(key).map(|slot| &slot.record) else { continue };
            let seen = record.state.read();
            if seen.phase() != Phase::Opening {
                ready.push((at, key));
            } else if seen.active() == 0 && record.state.close_if(seen).is_ok() {
                oldest = Some(Arc::clone(record));
                break;
            }
        }
        for entry in ready {
            self.opening.remove(&entry);
        }
        if let Some(record) = &oldest {
            record.left_opening();
            self.retire(record.key);
        }
        oldest
    }

    /// Asks the policy. `Err(Some(..))`: it broke a rule.
    fn propose(&mut self, now: Instant, newcomer: Option<&ClientContext>) -> Result<Arc<Record>, Option<&'static str>> {
        for _ in 0..PROPOSALS {
            let Self { slots, rules, policy, .. } = self;
            let Some(policy) = policy else { return Err(None) };
            let roster = Roster { slots, rules, now, newcomer, again: Default::default() };
            let proposal = catch_unwind(AssertUnwindSafe(|| policy.victim(&Candidates::of(&roster))));
            let again = roster.again.into_inner();
            self.remember(again);
            match proposal {
                Err(_) => return Err(Some("it panicked")),
                Ok(None) => return Err(None),
                Ok(Some(key)) => {
                    if let Some(record) = self.claim(key, now) {
                        return Ok(record);
                    }
                }
            }
        }
        Err(Some("it kept naming sessions that may not go"))
    }

    fn ask_deputy(&mut self, now: Instant, newcomer: Option<&ClientContext>) -> Option<Arc<Record>> {
        if self.deputy.is_none() {
            let mut records: Vec<_> =
                self.slots.iter().filter(|(_, slot)| slot.listed).map(|(_, slot)| &*slot.record).collect();
            records.sort_unstable_by_key(|record| record.created);
            let mut deputy = Fifo::new();
            records.into_iter().for_each(|record| deputy.on_insert(&SessionInfo::of(record)));
            self.deputy = Some(deputy);
        }
        loop {
            let Self { slots, rules, deputy, .. } = self;
            let roster = Roster { slots, rules, now, newcomer, again: Default::default() };
            let key = deputy.as_mut()?.victim(&Candidates::of(&roster));
            let again = roster.again.into_inner();
            self.remember(again);
            // A claim fails only if the session got a request just now; then it is set aside the next time.
            if let Some(record) = self.claim(key?, now) {
                return Some(record);
            }
        }
    }

    /// Notes when to look at sessions again; of two moments for one session the earlier.
    fn remember(&mut self, again: Vec<(Instant, SessionKey)>) {
        for (at, key) in again {
            let Some(slot) = self.get_mut(key).filter(|slot| slot.listed) else { continue };
            match slot.again {
                Some(earlier) if earlier <= at => {}
                later => {
                    slot.again = Some(at);
                    if let Some(later) = later {
                        self.again.remove(&(later, key));
                    }
                    self.again.insert((at, key));
                }
            }
        }
    }

    /// Begins the end of a session that may go, in one atomic step.
    pub(crate) fn claim(&mut self, key: SessionKey, now: Instant) -> Option<Arc<Record>> {
        let record = Arc::clone(&self.get(key)?.record);
        let mut seen = record.state.read();
        while self.rules.judge(&record, seen, now) == Verdict::MayGo {
            match record.state.close_if(seen) {
                Ok(()) => {
                    if seen.phase() == Phase::Opening {
                        record.left_opening();
                    }
                    self.retire(key);
                    return Some(record);
                }
                Err(changed) => seen = changed,
            }
        }
        None
    }
}
