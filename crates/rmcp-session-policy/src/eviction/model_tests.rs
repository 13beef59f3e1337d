//! Holds the policies to independent models, over random histories with random busy sessions.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::advance;

use super::{EvictionPolicy, Fifo, Lfu, Lru};
use crate::registry::test_registry::{TestRegistry, call};
use crate::session::{Activity, Record};

/// What happens; the number picks a session that is there.
#[derive(Clone, Debug)]
enum Event {
    Insert,
    Use(usize),
    /// Begins a call, or ends the one under way.
    Toggle(usize),
    Remove(usize),
    Evict,
    /// Milliseconds pass.
    Pass(u64),
}

fn history() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => Just(Event::Insert),
        4 => any::<usize>().prop_map(Event::Use),
        3 => any::<usize>().prop_map(Event::Toggle),
        1 => any::<usize>().prop_map(Event::Remove),
        3 => Just(Event::Evict),
        1 => (0..50_u64).prop_map(Event::Pass),
    ];
    vec(event, 1..200)
}

/// The order of sessions as a second implementation keeps it; a session is called by its arrival.
trait Model {
    fn insert(&mut self, session: u32);
    /// A call begins (`begins`) or ends.
    fn used(&mut self, session: u32, begins: bool);
    fn remove(&mut self, session: u32);
    /// The first in order that may go.
    fn victim(&mut self, may_go: &dyn Fn(u32) -> bool) -> Option<u32>;
}

impl Model for VecDeque<u32> {
    fn insert(&mut self, session: u32) {
        self.push_back(session);
    }
    fn used(&mut self, _: u32, _: bool) {}
    fn remove(&mut self, session: u32) {
        self.retain(|other| *other != session);
    }
    fn victim(&mut self, may_go: &dyn Fn(u32) -> bool) -> Option<u32> {
        self.iter().copied().find(|session| may_go(*session))
    }
}

impl Model for LruCache<u32, ()> {
    fn insert(&mut self, session: u32) {
        self.put(session, ());
    }
    fn used(&mut self, session: u32, _: bool) {
        self.promote(&session);
    }
    fn remove(&mut self, session: u32) {
        self.pop(&session);
    }
    fn victim(&mut self, may_go: &dyn Fn(u32) -> bool) -> Option<u32> {
        self.iter().rev().map(|(session, ())| *session).find(|session| may_go(*session))
    }
}

/// LFU with ageing and newborns, by looking at all sessions.
#[derive(Default)]
struct Frequencies {
    sessions: Vec<Frequency>,
    age: u64,
    time: u64,
}

#[derive(Clone, Copy)]
struct Frequency {
    session: u32,
    newborn: bool,
    busy: u64,
    suspended: bool,
    uses: u64,
    last_used: u64,
    /// As it was counted last: the age then, the uses, the priority.
    counted: (u64, u64, (u64, u64)),
}

impl Frequencies {
    fn resume(&mut self) {
        self.sessions.iter_mut().for_each(|session| session.suspended &= session.busy > 0);
    }
}

impl Model for Frequencies {
    fn insert(&mut self, session: u32) {
        self.resume();
        self.time += 1;
        let counted = (self.age, 0, (self.age + 1, self.time));
        self.sessions.push(Frequency {
            session,
            newborn: true,
            busy: 0,
            suspended: false,
            uses: 0,
            last_used: self.time,
            counted,
        });
        let share = (self.sessions.len() / 8).max(1);
        let newborns = self.sessions.iter().filter(|session| session.newborn).count();
        // They stand in the order of their arrival.
        let grown = self.sessions.iter_mut().filter(|session| session.newborn).take(newborns.saturating_sub(share));
        grown.for_each(|session| session.newborn = false);
    }
    fn used(&mut self, session: u32, begins: bool) {
        self.time += 1;
        let used = self.sessions.iter_mut().find(|other| other.session == session).unwrap();
        used.uses += u64::from(begins);
        used.last_used = self.time;
        if begins {
            used.busy += 1;
        } else {
            used.busy -= 1;
        }
    }
    fn remove(&mut self, session: u32) {
        self.sessions.retain(|other| other.session != session);
    }
    fn victim(&mut self, may_go: &dyn Fn(u32) -> bool) -> Option<u32> {
        self.resume();
        loop {
            let order = self.sessions.iter_mut().filter(|session| !session.suspended);
            let first = order.min_by_key(|session| (session.newborn, session.counted.2))?;
            let (base, uses, priority) = first.counted;
            let base = if first.uses > uses { self.age.max(base) } else { base };
            let now = (base + first.uses + 1, first.last_used);
            if now == priority && !may_go(first.session) {
                first.suspended = true;
            } else if now == priority {
                self.age = self.age.max(now.0);
                return Some(first.session);
            } else {
                first.counted = (base, first.uses, now);
            }
        }
    }
}

async fn agree(policy: impl EvictionPolicy, mut model: impl Model, history: Vec<Event>) {
    let mut stage = TestRegistry::new(policy);
    let mut here: Vec<(Arc<Record>, Option<Activity<Record>>)> = Vec::new();
    let name = |record: &Record| record.entry.key.generation();
    for event in history {
        match event {
            Event::Insert => {
                let record = stage.ready();
                model.insert(name(&record));
                here.push((record, None));
            }
            Event::Pass(millis) => advance(Duration::from_millis(millis)).await,
            Event::Evict => {
                let idle = |session| here.iter().any(|(record, call)| call.is_none() && name(record) == session);
                let expected = model.victim(&idle);
                assert_eq!(stage.victim(), expected);
                if let Some(victim) = expected {
                    model.remove(victim);
                    here.retain(|(record, _)| name(record) != victim);
                }
            }
            Event::Use(nth) | Event::Toggle(nth) | Event::Remove(nth) if !here.is_empty() => {
                let nth = nth % here.len();
                let (record, under_way) = &mut here[nth];
                match event {
                    Event::Remove(_) => {
                        let (record, under_way) = here.swap_remove(nth);
                        record.entry.state.close();
                        stage.registry.remove(record.entry.key).unwrap();
                        model.remove(name(&record));
                        drop(under_way);
                    }
                    Event::Toggle(_) => {
                        let begins = under_way.is_none();
                        *under_way = begins.then(|| call(record));
                        model.used(name(record), begins);
                    }
                    _ => {
                        let long = call(record);
                        model.used(name(record), true);
                        drop(long);
                        model.used(name(record), false);
                    }
                }
            }
            Event::Use(_) | Event::Toggle(_) | Event::Remove(_) => {}
        }
    }
    assert_eq!(stage.registry.overruled, 0);
}

fn paused(scenario: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(scenario);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fifo_agrees_with_a_queue(history in history()) {
        paused(agree(Fifo::new(), VecDeque::new(), history));
    }

    #[test]
    fn lru_agrees_with_the_crate_lru(history in history()) {
        paused(agree(Lru::new(), LruCache::new(NonZeroUsize::new(1_000).unwrap()), history));
    }

    #[test]
    fn lfu_agrees_with_a_model_that_looks_at_everybody(history in history()) {
        paused(agree(Lfu::new(), Frequencies::default(), history));
    }
}
