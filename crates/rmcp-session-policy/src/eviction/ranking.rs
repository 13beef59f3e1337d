//! Sessions in the order of a rank that is repaired when the order is read.

use super::{Candidates, SessionInfo};
use crate::queue::Queue;
use crate::session::SessionKey;

/// An order of sessions by a rank that may only grow between two reads, lowest first.
///
/// The rank on record is a lower bound of the true one. So the first in the order is the true first if its rank on
/// record is still true, and a use need not touch the order: this is exact, not approximate. All operations cost O(log
/// n), amortized; a repair is paid for by the use that made it necessary.
#[derive(Clone, Debug)]
pub(crate) struct Ranking<R> {
    /// An entry has a meaning if it says what the seat of its session says.
    order: Queue<R>,
    /// The rank on record of each session, by the key's index. `None` for an index without a session here.
    seats: Vec<Option<Seat<R>>>,
    /// How many seats are taken. The queue is tidied by it.
    len: usize,
}

/// A session and its rank on record. The generation tells a stale key from the present one.
#[derive(Clone, Copy, Debug)]
struct Seat<R> {
    generation: u32,
    rank: R,
}

impl<R: Ord + Copy> Seat<R> {
    fn of(seats: &[Option<Self>], key: SessionKey) -> Option<&Self> {
        seats.get(key.index())?.as_ref().filter(|seat| seat.generation == key.generation())
    }
}

impl<R: Ord> Default for Ranking<R> {
    fn default() -> Self {
        Self { order: Queue::default(), seats: Vec::new(), len: 0 }
    }
}

impl<R: Ord + Copy> Ranking<R> {
    fn seat(&mut self, key: SessionKey) -> Option<&mut Seat<R>> {
        self.seats.get_mut(key.index())?.as_mut().filter(|seat| seat.generation == key.generation())
    }

    /// Puts a session in. One that is in already gets the new rank; an earlier session with the same index loses its
    /// seat.
    pub(crate) fn insert(&mut self, key: SessionKey, rank: R) {
        self.remove(key);
        if self.seats.len() <= key.index() {
            if self.seats.capacity() <= key.index() {
                // By a quarter, not by as much again: no server needs a seat more than it has places.
                self.seats.reserve_exact(key.index() + 1 - self.seats.len() + self.seats.len() / 4);
            }
            self.seats.resize(key.index() + 1, None);
        }
        self.seats[key.index()] = Some(Seat { generation: key.generation(), rank });
        self.len += 1;
        self.push(rank, key);
    }

    /// Gives a session that has a seat its place in the order.
    fn push(&mut self, rank: R, key: SessionKey) {
        let Self { order, seats, len } = self;
        order.tidy(*len, |rank, key| Seat::of(seats, key).is_some_and(|seat| seat.rank == rank));
        order.push(rank, key);
    }

    /// Takes a session out; tells whether it was in.
    pub(crate) fn remove(&mut self, key: SessionKey) -> bool {
        if self.seat(key).is_none() {
            return false;
        }
        self.seats[key.index()] = None;
        self.len -= 1;
        true
    }

    /// How many are in.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// The rank on record.
    pub(crate) fn rank(&mut self, key: SessionKey) -> Option<R> {
        self.seat(key).map(|seat| seat.rank)
    }

    /// The first, by its true rank.
    ///
    /// `true_rank` gets a session and its rank on record, and returns the rank that it has now. A session with a
    /// greater rank than on record moves back, and the next is looked at. What is stale, or has ended, is dropped on
    /// the way.
    ///
    /// Returns the rank on record, which is true by then, and the key. The session stays in; `None` if there is none.
    pub(crate) fn first(
        &mut self,
        candidates: &Candidates<'_>,
        mut true_rank: impl FnMut(&SessionInfo<'_>, R) -> R,
    ) -> Option<(R, SessionKey)> {
        while let Some((rank, key)) = self.order.peek() {
            if self.seat(key).is_none_or(|seat| seat.rank != rank) {
                self.order.pop();
                continue;
            }
            let Some(session) = candidates.get(key) else {
                self.remove(key);
                continue;
            };
            let now = true_rank(&session, rank);
            if now <= rank {
                return Some((rank, key));
            }
            self.order.pop();
            self.order.push(now, key);
            if let Some(seat) = self.seat(key) {
                seat.rank = now;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::{EvictionPolicy, Fifo, Lfu, Lru};
    use crate::registry::test_registry::{TestRegistry, call, looks};

    #[test]
    fn whoever_comes_and_goes_and_whoever_moves_leaves_little_behind_and_costs_nobody_a_place() {
        let mut ranking = Ranking::default();
        let key = |index| SessionKey::new(index, 1);
        (0..10).for_each(|index| ranking.insert(key(index), index));
        for rank in 10..1_000 {
            ranking.insert(key(0), rank);
            ranking.insert(SessionKey::new(10, rank), rank);
            assert!(ranking.remove(SessionKey::new(10, rank)));
        }
        assert_eq!(ranking.len(), 10);
        assert!(ranking.order.len() < 200, "{}", ranking.order.len());
        let mut order = Vec::new();
        while let Some((rank, key)) = ranking.order.pop() {
            order.extend(ranking.rank(key).filter(|now| *now == rank).map(|_| key));
        }
        assert_eq!(order, [1, 2, 3, 4, 5, 6, 7, 8, 9, 0].map(key));
    }

    fn costs_the_same_when_99_of_100_are_busy(policy: impl EvictionPolicy) {
        const SESSIONS: usize = 10_000;
        const CHOICES: usize = 3_000;
        let mut stage = TestRegistry::new(policy);
        let mut calls = Vec::new();
        for nth in 0..SESSIONS {
            let record = stage.ready();
            if nth % 100 != 50 {
                calls.push(call(&record));
            }
        }
        let count = looks(|| {
            for nth in 0..CHOICES {
                assert!(stage.victim().is_some());
                // A newcomer takes up work where another session leaves it.
                calls.push(call(&stage.ready()));
                calls.swap_remove(nth * 7_919 % SESSIONS.min(calls.len()));
            }
        });
        // Each is looked at when it is named and repaired, and suspended once; after that, for each choice the victim and the session that became busy are named.
        assert!(count < 4 * SESSIONS + 6 * CHOICES, "{count} looks");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_victim_costs_does_not_grow_with_the_busy() {
        costs_the_same_when_99_of_100_are_busy(Fifo::new());
        costs_the_same_when_99_of_100_are_busy(Lru::new());
        costs_the_same_when_99_of_100_are_busy(Lfu::new());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_looked_at_twice_while_all_are_busy() {
        let mut stage = TestRegistry::new(Lru::new());
        let calls = stage.ready_many::<100>().map(|record| call(&record));
        assert_eq!(stage.victim(), None);
        assert_eq!(looks(|| assert_eq!(stage.victim(), None)), 0);
        drop(calls);
        assert_eq!(stage.victims().len(), 100);
    }
}
