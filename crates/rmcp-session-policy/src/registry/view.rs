//! The registry as a policy sees it.

use std::cell::RefCell;

use slab::Slab;
use tokio::time::Instant;

use super::dense::Dense;
use super::rules::{Rules, Verdict};
use super::sessions::{Slot, Standing};
use crate::eviction::{AHEAD, View};
use crate::session::{Record, Recorded, SessionKey};

/// All sessions at the moment of a choice. It borrows the slots beside the policy, so that the policy can be called
/// with it.
pub(super) struct SlotsView<'a, S> {
    pub(super) slots: &'a Slab<Slot<S>>,
    pub(super) rules: &'a Rules,
    /// The moment of the choice, rounded down to a microsecond.
    pub(super) now: Instant,
    /// The sessions in the policy's order.
    pub(super) listed: &'a Dense,
    pub(super) draws: RefCell<Draws<'a>>,
}

/// How often a draw tries at random, before it walks through the list.
const TRIES: usize = 8;

/// The draws during one call of the policy.
pub(super) struct Draws<'a> {
    random: &'a mut fastrand::Rng,
    /// Sessions that were drawn and may not go. The registry takes them out of the policy's order.
    pub(super) kept: Vec<SessionKey>,
    /// Whether a draw had to walk through the list. It may be long, so no other draw of this call does.
    walked: bool,
}

impl<'a> Draws<'a> {
    pub(super) const fn new(random: &'a mut fastrand::Rng) -> Self {
        Self { random, kept: Vec::new(), walked: false }
    }
}

impl<S: Recorded> View for SlotsView<'_, S> {
    /// One look in a slot. A closing session is not shown, so a policy that asks does not name it.
    fn get(&self, key: SessionKey) -> Option<&Record> {
        #[cfg(any(test, feature = "testing"))]
        super::test_registry::note_look();
        self.slots.get(key.index()).filter(|slot| slot.is(key) && slot.standing != Standing::Retired).map(Slot::record)
    }

    fn listed(&self) -> usize {
        self.listed.len()
    }

    fn nth(&self, place: usize) -> Option<&Record> {
        let key = self.listed.get(place)?;
        let record = self.slots.get(key.index()).filter(|slot| slot.is(key)).map(Slot::record)?;
        #[cfg(any(test, feature = "testing"))]
        super::test_registry::note_look();
        let may_go = self.rules.judge(record, record.entry.state.read(), self.now) == Verdict::MayGo;
        if !may_go {
            self.draws.borrow_mut().kept.push(key);
        }
        may_go.then_some(record)
    }

    /// A session lies behind three addresses: its place in the list, its slot, and the record. Each is anywhere in memory, and
    /// a wait for it takes a hundred times as long as what is done with it. So all sessions of a sample are followed one
    /// address at a time: the waits for those of one step go on side by side.
    fn draw_ahead(&self, places: &mut [usize]) {
        let (mut keys, mut records) = ([None; AHEAD], [None; AHEAD]);
        let mut draws = self.draws.borrow_mut();
        places.iter_mut().for_each(|place| *place = draws.random.usize(..self.listed.len()));
        for (key, place) in keys.iter_mut().zip(places) {
            *key = self.listed.get(*place);
        }
        for (record, key) in records.iter_mut().zip(keys) {
            *record = key.and_then(|key| self.slots.get(key.index())).map(Slot::record);
        }
        std::hint::black_box(records.iter().flatten().fold(0, |sum, record| sum ^ record.bring_into_cache()));
    }

    /// Tries some at random. If none of them may go, most of the list may not: then it walks until it finds one, and each
    /// that it passes leaves the order.
    fn draw(&self) -> Option<&Record> {
        let listed = self.listed.len();
        if listed == 0 {
            return None;
        }
        let place = || self.draws.borrow_mut().random.usize(..listed);
        if let Some(record) = (0..TRIES).find_map(|_| self.nth(place())) {
            return Some(record);
        }
        if std::mem::replace(&mut self.draws.borrow_mut().walked, true) {
            return None;
        }
        let start = place();
        (start..listed).chain(0..start).find_map(|place| self.nth(place))
    }

    /// Judges each session in the policy's order, without watching it. The judgement may be out of date when the policy
    /// returns a key; the claim notices that.
    fn candidates(&self) -> Box<dyn Iterator<Item = &Record> + '_> {
        let listed = self.slots.iter().filter(|(_, slot)| slot.standing == Standing::Listed);
        Box::new(listed.map(|(_, slot)| slot.record()).filter(|record| {
            #[cfg(any(test, feature = "testing"))]
            super::test_registry::note_look();
            self.rules.judge(record, record.entry.state.read(), self.now) == Verdict::MayGo
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use crate::eviction::{Candidates, victim_fn};
    use crate::registry::test_registry::{TestRegistry, call, looks};

    /// Names the lowest key of a sample of 32.
    fn sampling() -> TestRegistry {
        let lowest = |candidates: &Candidates<'_>| candidates.sample(32).map(|session| session.key()).min();
        TestRegistry::new(victim_fn(lowest))
    }

    #[tokio::test(start_paused = true)]
    async fn a_sample_of_few_sessions_is_all_that_may_go() {
        let mut stage = sampling();
        let crowd: Vec<_> = (0..32).map(|_| stage.ready()).collect();
        let busy = (call(&crowd[0]), call(&crowd[31]));
        assert_eq!(stage.victims(), (2..32).collect::<Vec<_>>());
        drop(busy);
        assert_eq!(stage.victims(), [1, 32]);
        assert_eq!(stage.registry.overruled, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sample_of_many_is_of_those_that_may_go_and_of_different_ones() {
        let mut stage = sampling();
        let crowd: Vec<_> = (0..10_000).map(|_| stage.ready()).collect();
        let busy: Vec<_> = crowd.iter().filter(|record| record.entry.key.generation() % 100 != 0).map(call).collect();
        let victims: HashSet<_> = (0..50).map(|_| stage.victim().unwrap()).collect();
        assert!(victims.len() == 50 && victims.iter().all(|victim| victim % 100 == 0));
        assert_eq!(stage.registry.overruled, 0);
        drop(busy);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sample_costs_no_more_when_nearly_all_sessions_are_busy() {
        const SESSIONS: usize = 10_000;
        const CHOICES: usize = 1_000;
        let mut stage = sampling();
        let crowd: Vec<_> = (0..SESSIONS).map(|_| stage.ready()).collect();
        let _busy: Vec<_> = crowd.iter().skip(1).map(call).collect();
        let count = looks(|| {
            for _ in 0..CHOICES {
                assert!(stage.victim().is_some(), "the one that may go is found");
                stage.ready();
            }
        });
        // A draw in a full list, its look again when it leaves the order, and a sample of each choice.
        assert!(count < 3 * SESSIONS + 100 * CHOICES, "{count} looks");
        let count = looks(|| {
            stage.victim();
        });
        assert!(count <= 40, "{count} looks: all busy ones have left the list");
    }
}
