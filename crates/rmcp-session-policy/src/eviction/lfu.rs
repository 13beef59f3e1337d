//! Least frequently used, with ageing.

use std::collections::BTreeMap;

use super::ranking::Ranking;
use super::{Candidates, EvictionPolicy, SessionInfo};
use crate::session::SessionKey;

/// One session in this many is a newborn.
const NEWBORN_SHARE: usize = 8;

/// Throws out the session with the fewest uses, old uses counting ever less.
///
/// Ageing is that of LFU-DA (Arlitt, Cherkasova, Dilley, Friedrich, Jin: "Evaluating content management techniques for
/// Web proxy caches", 1999): a session's priority is its uses, plus one for being there, plus the age of the cache when
/// they were last counted, and that age is the priority of the last victim. So a session that was popular long ago goes in the end. Of equals
/// the least recently used goes.
///
/// Newborns are safe: the newest eighth of the sessions (at least one) are victims only when nobody else may go. Without
/// that, the policy would throw out whoever just arrived.
///
/// Cost: O(log n) per insert, remove and victim; each use costs at most one repair later.
///
/// Not for servers whose clients come in turns: a crowd of former regulars makes room slowly.
#[derive(Clone, Debug, Default)]
pub struct Lfu {
    grown: Ranking<Priority>,
    newborn: Ranking<Priority>,
    /// The newborns by arrival, oldest first.
    newborns: BTreeMap<u64, SessionKey>,
    arrivals: u64,
    age: u64,
    /// By the key's index.
    known: Vec<Known>,
}

/// Uses plus one plus age, then the time of the last use.
type Priority = (u64, u64);

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    arrival: u64,
    base: u64,
    uses: u64,
}

impl Known {
    fn priority(self, session: &SessionInfo<'_>, age: u64) -> (Self, Priority) {
        let uses = session.uses();
        let base = if uses > self.uses { age.max(self.base) } else { self.base };
        // Being there counts as one use: if newcomers that nobody uses came and went without it, age would stand still.
        (Self { base, uses, ..self }, (base.saturating_add(uses).saturating_add(1), session.rank_by_use()))
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
        let known = Known { arrival: self.arrivals, base: self.age, uses: session.uses() };
        self.known[key.index()] = known;
        self.newborn.insert(key, known.priority(session, self.age).1);
        self.newborns.insert(self.arrivals, key);
        let share = ((self.grown.len() + self.newborn.len()) / NEWBORN_SHARE).max(1);
        while self.newborn.len() > share
            && let Some((_, eldest)) = self.newborns.pop_first()
        {
            self.grow_up(eldest);
        }
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        let key = session.key();
        if self.newborn.remove(key) {
            self.newborns.remove(&self.known[key.index()].arrival);
        }
        self.grown.remove(key);
    }

    fn on_idle(&mut self, session: &SessionInfo<'_>) {
        self.grown.take_back(session.key(), |rank| rank);
        self.newborn.take_back(session.key(), |rank| rank);
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        let Self { grown, newborn, known, age, .. } = self;
        let mut recount = |session: &SessionInfo<'_>, _| {
            let known = &mut known[session.key().index()];
            let (counted, priority) = known.priority(session, *age);
            *known = counted;
            priority
        };
        let (priority, victim) =
            grown.first(candidates, &mut recount).or_else(|| newborn.first(candidates, &mut recount))?;
        *age = priority.0.max(*age);
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
        // Newcomers that nobody ever uses come and go.
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
        assert_eq!(stage.victims(), [2, 3, 4, 5], "their use counts from the age at which they come back");
    }
}
