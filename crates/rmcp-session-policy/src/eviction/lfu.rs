//! Least frequently used, with ageing.

use std::collections::BTreeMap;

use super::ranking::Ranking;
use super::{Candidates, EvictionPolicy, SessionInfo};
use crate::session::SessionKey;

/// The share of the newborns: one session in 8, and at least one.
const NEWBORN_SHARE: usize = 8;

/// Throws out the session with the fewest uses, old uses counting ever less.
///
/// Ageing is that of LFU-DA (Arlitt, Cherkasova, Dilley, Friedrich, Jin: "Evaluating content management techniques for
/// Web proxy caches", 1999): a session's priority is its uses, plus one for being there, plus the age of the cache when
/// they were last counted, and that age is the priority of the last victim. So a session that was popular long ago goes
/// in the end. Of equals the least recently used goes.
///
/// Newborns are safe: the newest eighth of the sessions (at least one) are victims only when no other session may go.
/// Without that, the policy would evict the session that has just come.
///
/// Cost: O(log n) per insert, remove and victim; each use costs at most one repair later.
///
/// Not for servers with clients that come in turns: a crowd of former regulars makes room slowly.
#[derive(Clone, Debug, Default)]
pub struct Lfu {
    /// The sessions that are no newborns, lowest priority first, without the suspended ones.
    grown: Ranking<Priority>,
    /// The newborns, lowest priority first, without the suspended ones. They are asked when `grown` has none that may
    /// go.
    newborn: Ranking<Priority>,
    /// The newborns by arrival, oldest first, the suspended ones included.
    newborns: BTreeMap<u64, SessionKey>,
    /// How many sessions have come. Resumed sessions do not count again.
    arrivals: u64,
    /// How many sessions there are, the suspended ones included.
    sessions: usize,
    /// The age of the cache: the priority of the last victim. It never goes down.
    age: u64,
    /// The session that was named last, and its priority. When that session is removed, its priority is the new age. A
    /// suspension clears this, because the session that was named was no victim.
    named: Option<(SessionKey, u64)>,
    /// What is known of each session, by the key's index. An entry is replaced when a later session gets the index.
    known: Vec<Known>,
}

/// Uses plus one plus age, then the time of the last use.
type Priority = (u64, u64);

/// What the policy remembers of one session.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The number of its arrival, which is its key in `newborns`.
    arrival: u64,
    /// The age when its uses were last found to have grown; at first the age at its arrival.
    base: u64,
    /// Its uses when they were counted last.
    uses: u64,
    /// As it was counted last.
    priority: Priority,
}

impl Known {
    /// Counts the uses since the last count. Only a session that was used gets the present age, so the priority of the
    /// others falls behind as the age grows.
    fn count(&mut self, session: &SessionInfo<'_>, age: u64) {
        let uses = session.uses();
        if uses > self.uses {
            self.base = age.max(self.base);
        }
        self.uses = uses;
        // Being there counts as one use: if newcomers that are never used came and went without it, age would stand still.
        self.priority = (self.base.saturating_add(uses).saturating_add(1), session.rank_by_use());
    }
}

impl Lfu {
    /// Creates the policy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Lfu {
    /// Moves a session out of the newborns' order. A suspended one is in no order: it comes back among the grown.
    fn grow_up(&mut self, session: SessionKey) {
        if let Some(priority) = self.newborn.rank(session) {
            self.newborn.remove(session);
            self.grown.insert(session, priority);
        }
    }
}

impl EvictionPolicy for Lfu {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        let key = session.key();
        if self.known.len() <= key.index() {
            self.known.resize(key.index() + 1, Known::default());
        }
        self.arrivals += 1;
        self.sessions += 1;
        let mut known = Known { arrival: self.arrivals, base: self.age, ..Known::default() };
        known.count(session, self.age);
        self.known[key.index()] = known;
        self.newborn.insert(key, known.priority);
        self.newborns.insert(self.arrivals, key);
        let share = (self.sessions / NEWBORN_SHARE).max(1);
        while self.newborns.len() > share
            && let Some((_, eldest)) = self.newborns.pop_first()
        {
            self.grow_up(eldest);
        }
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        let key = session.key();
        if self.newborn.remove(key) {
            self.newborns.remove(&self.known[key.index()].arrival);
            self.sessions -= 1;
        } else if self.grown.remove(key) {
            self.sessions -= 1;
        }
        if let Some((_, priority)) = self.named.take_if(|(named, _)| *named == key) {
            self.age = priority.max(self.age);
        }
    }

    /// Takes the session out of its order. It stays what it is, a newborn or a grown session, and keeps its count of
    /// uses.
    fn on_suspend(&mut self, session: &SessionInfo<'_>) {
        self.newborn.remove(session.key());
        self.grown.remove(session.key());
        self.named = None;
    }

    /// Puts the session back with the priority that was counted last. Uses that came meanwhile are counted when it is
    /// named.
    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        let key = session.key();
        let Some(known) = self.known.get(key.index()) else { return };
        let is_newborn = self.newborns.contains_key(&known.arrival);
        let order = if is_newborn { &mut self.newborn } else { &mut self.grown };
        order.insert(key, known.priority);
    }

    fn phrase(&self) -> &'static str {
        "least used"
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        let Self { grown, newborn, known, age, named, .. } = self;
        let mut recount = |session: &SessionInfo<'_>, _| {
            let known = &mut known[session.key().index()];
            known.count(session, *age);
            known.priority
        };
        let (priority, victim) =
            grown.first(candidates, &mut recount).or_else(|| newborn.first(candidates, &mut recount))?;
        *named = Some((victim, priority.0));
        Some(victim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::test_registry::{TestRegistry, call, touch};

    fn used(stage: &mut TestRegistry, times: usize) {
        let record = stage.ready();
        (0..times).for_each(|_| touch(&record));
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_used_goes_first() {
        let mut stage = TestRegistry::new(Lfu::new());
        [3, 1, 2, 0].into_iter().for_each(|times| used(&mut stage, times));
        stage.ready();
        assert_eq!(stage.victims(), [4, 2, 3, 1, 5], "the newborn last");
    }

    #[tokio::test(start_paused = true)]
    async fn of_equals_the_least_recently_used_goes() {
        let mut stage = TestRegistry::new(Lfu::new());
        let [one, two, three, _newborn] = stage.ready_many();
        [&three, &one, &two].into_iter().for_each(touch);
        assert_eq!(stage.victims(), [3, 1, 2, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_eighth_goes_only_when_nobody_else_may() {
        let mut stage = TestRegistry::new(Lfu::new());
        (0..14).for_each(|_| used(&mut stage, 5));
        stage.ready_many::<2>();
        assert_eq!(stage.victims(), (1..=16).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_was_popular_long_ago_goes_in_the_end() {
        let mut stage = TestRegistry::new(Lfu::new());
        let hot = stage.ready();
        (0..20).for_each(|_| touch(&hot));
        stage.ready_many::<3>();
        // Newcomers that are never used come and go.
        let gone = (0..200).position(|_| {
            stage.ready();
            stage.victim() == Some(1)
        });
        assert!((20..200).contains(&gone.expect("it goes")), "not at once, but in the end: {gone:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_busy_come_back_in_their_old_order() {
        let mut stage = TestRegistry::new(Lfu::new());
        [2, 3].into_iter().for_each(|times| used(&mut stage, times));
        let [one, two, _newborn] = stage.ready_many();
        let calls = [call(&one), call(&two)];
        assert_eq!(stage.victim(), Some(1));
        drop(calls);
        assert_eq!(stage.victims(), [3, 4, 2, 5], "their use counts from the age at which it was noticed");
    }
}
