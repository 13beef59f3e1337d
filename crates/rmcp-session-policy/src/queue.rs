//! [`Queue`]: sessions by rank, made for ranks that mostly arrive in order.
//!
//! The registry, the deadlines of the lifecycle and the ranking policies use it. It has no lock: each queue is guarded
//! by the lock of the part that owns it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::session::SessionKey;

/// The number of stale entries that a queue may always keep.
///
/// Without it, a queue of few sessions would be tidied again after a few pushes.
pub(crate) const SPARE: usize = 64;

/// Orders sessions by a rank, lowest first.
///
/// Ranks are moments, or grow with them, so most sessions arrive in order. Those are appended to a plain queue, in which
/// nothing moves; the others go into a heap beside it. When a session leaves or changes its rank, its entry is not
/// searched for but becomes stale. A stale entry is removed when it is the first, or by [`tidy`](Self::tidy) when there
/// are twice as many entries as sessions. The caller must check each entry that it takes out.
///
/// Cost: O(1) for an entry in order, O(log n) amortized for the others; 16 bytes per entry.
#[derive(Clone, Debug)]
pub(crate) struct Queue<R> {
    /// Entries that came in order, so it is sorted.
    appended: VecDeque<(R, SessionKey)>,
    /// Entries of a lower rank than the last one of `appended` when they came.
    inserted: BinaryHeap<Reverse<(R, SessionKey)>>,
}

impl<R: Ord> Default for Queue<R> {
    fn default() -> Self {
        Self { appended: VecDeque::new(), inserted: BinaryHeap::new() }
    }
}

impl<R: Ord + Copy> Queue<R> {
    /// Returns the number of entries, stale ones included. It may be larger than the number of sessions.
    pub(crate) fn len(&self) -> usize {
        self.appended.len() + self.inserted.len()
    }

    /// Adds an entry. An earlier entry of the same session is not removed; the caller has to know it as stale, for
    /// instance by its rank. Entries of the same rank are ordered by key.
    pub(crate) fn push(&mut self, rank: R, key: SessionKey) {
        let entry = (rank, key);
        if self.appended.back().is_some_and(|last| entry < *last) {
            self.inserted.push(Reverse(entry));
            return;
        }
        if self.appended.len() == self.appended.capacity() {
            // Grow by a quarter instead of doubling: for most of a server's life the queue has its final length.
            self.appended.reserve_exact(4 + self.appended.len() / 4);
        }
        self.appended.push_back(entry);
    }

    /// Returns the first entry, and whether it was appended. Costs one comparison.
    fn first(&self) -> Option<((R, SessionKey), bool)> {
        let appended = self.appended.front().map(|entry| (*entry, true));
        let inserted = self.inserted.peek().map(|Reverse(entry)| (*entry, false));
        match (appended, inserted) {
            (Some(appended), Some(inserted)) => Some(if inserted.0 < appended.0 { inserted } else { appended }),
            (one, other) => one.or(other),
        }
    }

    /// Returns the entry of the lowest rank. It may be stale.
    pub(crate) fn peek(&self) -> Option<(R, SessionKey)> {
        self.first().map(|(entry, _)| entry)
    }

    /// Takes out the entry of the lowest rank. It may be stale.
    pub(crate) fn pop(&mut self) -> Option<(R, SessionKey)> {
        let (entry, appended) = self.first()?;
        if appended {
            self.appended.pop_front();
        } else {
            self.inserted.pop();
        }
        Some(entry)
    }

    /// Takes all entries of another queue. O(1) if this one has none.
    pub(crate) fn append(&mut self, other: &mut Self) {
        if self.len() == 0 {
            std::mem::swap(self, other);
        }
        while let Some((rank, key)) = other.pop() {
            self.push(rank, key);
        }
    }

    /// Removes stale entries, if there are more than twice as many entries as `sessions`, and [`SPARE`] more.
    ///
    /// `has_meaning` returns false for a stale entry. The owner of a queue calls this with each push. Between two
    /// passes there are about as many pushes as there are sessions, so the cost for each push is O(1) amortized.
    pub(crate) fn tidy(&mut self, sessions: usize, has_meaning: impl Fn(R, SessionKey) -> bool) {
        if self.len() > SPARE + 2 * sessions {
            self.appended.retain(|(rank, key)| has_meaning(*rank, *key));
            self.inserted.retain(|Reverse((rank, key))| has_meaning(*rank, *key));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(index: u32) -> SessionKey {
        SessionKey::new(index, 1)
    }

    #[test]
    fn what_comes_in_its_order_goes_into_no_heap() {
        let mut queue = Queue::default();
        (0..1_000).for_each(|rank| queue.push(rank / 2, key(rank)));
        assert_eq!((queue.appended.len(), queue.inserted.len()), (1_000, 0));
        assert!(queue.appended.capacity() < 1_300);
    }

    #[test]
    fn what_has_no_meaning_is_taken_out_once_there_is_more_than_twice_as_much_as_sessions() {
        let mut queue = Queue::default();
        (0..SPARE as u32 + 20).for_each(|rank| queue.push(rank ^ 1, key(rank)));
        queue.tidy(10, |_, _| false);
        assert_eq!(queue.len(), SPARE + 20);
        queue.tidy(9, |rank, key| rank >= 4 && key.index() != 10);
        assert_eq!(queue.len(), SPARE + 20 - 5);
        assert_eq!(queue.peek(), Some((4, key(5))));
    }

    proptest! {
        /// Against a plain list.
        #[test]
        fn it_gives_the_lowest_first(steps in prop::collection::vec(prop::option::weighted(0.6, 0..50_u8), 0..200)) {
            let mut queue = Queue::default();
            let mut model = Vec::new();
            for (nth, step) in (0..).zip(steps) {
                match step {
                    Some(rank) => {
                        queue.push(rank, key(nth));
                        model.push((rank, key(nth)));
                        model.sort_unstable();
                    }
                    None if model.is_empty() => prop_assert_eq!(queue.pop(), None),
                    None => prop_assert_eq!(queue.pop(), Some(model.remove(0))),
                }
                prop_assert_eq!((queue.peek(), queue.len()), (model.first().copied(), model.len()));
            }
        }
    }
}
