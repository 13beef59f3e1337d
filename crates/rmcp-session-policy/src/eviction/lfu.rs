//! Least frequently used, with ageing.

use std::collections::BTreeMap;

use super::ranking::Ranking;
use super::{Candidates, EvictionPolicy, SessionInfo};
use crate::registry::SessionKey;

/// One session in this many is a newborn.
const NEWBORN_SHARE: usize = 8;

/// Throws out the session with the fewest uses, old uses counting ever less.
///
/// Ageing is that of LFU-DA (Arlitt, Cherkasova, Dilley, Friedrich, Jin: "Evaluating content management techniques for
/// Web proxy caches", 1999): a session's priority is its uses plus the age of the cache when they were last counted,
/// and that age is the priority of the last victim. So a session that was popular long ago goes in the end. Of equals
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

/// Uses plus age, then the time of the last use.
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
        (Self { base, uses, ..self }, (base.saturating_add(uses), session.rank_by_use()))
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
