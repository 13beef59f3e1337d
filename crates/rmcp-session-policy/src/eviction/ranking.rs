//! Sessions in the order of a rank that is repaired when somebody looks.

use std::collections::BTreeSet;

use super::{Candidates, SessionInfo};
use crate::registry::SessionKey;

/// An order of sessions by a rank that may only grow while nobody looks, lowest first.
///
/// The rank on record is a lower bound of the true one. So the first in the order whose rank on record is still true
/// is the true first, and a use need not touch the order: this is exact, not approximate. Sessions that may not go are
/// set aside until they may. All operations cost O(log n); a repair is paid for by the use that made it necessary.
#[derive(Clone, Debug)]
pub(crate) struct Ranking<R> {
    order: BTreeSet<(R, SessionKey)>,
    /// By the key's index.
    seats: Vec<Option<Seat<R>>>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Seat<R> {
    generation: u32,
    rank: R,
    aside: bool,
}

impl<R> Default for Ranking<R> {
    fn default() -> Self {
        Self { order: BTreeSet::new(), seats: Vec::new(), len: 0 }
    }
}

impl<R: Ord + Copy> Ranking<R> {
    fn seat(&mut self, key: SessionKey) -> Option<&mut Seat<R>> {
        self.seats.get_mut(key.index())?.as_mut().filter(|seat| seat.generation == key.generation())
    }

    /// Puts a session in.
    pub(crate) fn insert(&mut self, key: SessionKey, rank: R) {
        self.remove(key);
        if self.seats.len() <= key.index() {
            self.seats.resize(key.index() + 1, None);
        }
        self.seats[key.index()] = Some(Seat { generation: key.generation(), rank, aside: false });
        self.order.insert((rank, key));
        self.len += 1;
    }

    /// Takes a session out; tells whether it was in.
    pub(crate) fn remove(&mut self, key: SessionKey) -> bool {
        let Some(&mut Seat { rank, .. }) = self.seat(key) else { return false };
        self.order.remove(&(rank, key));
        self.seats[key.index()] = None;
        self.len -= 1;
        true
    }

    /// How many are in, those set aside included.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The rank on record.
    pub(crate) fn rank(&mut self, key: SessionKey) -> Option<R> {
        self.seat(key).map(|seat| seat.rank)
    }

    /// Takes a session back that was set aside, to its old place.
    pub(crate) fn take_back(&mut self, key: SessionKey) {
        if let Some(seat) = self.seat(key)
            && std::mem::take(&mut seat.aside)
        {
            let rank = seat.rank;
            self.order.insert((rank, key));
        }
    }

    /// The first that may go, by its true rank.
    pub(crate) fn first(
        &mut self,
        candidates: &Candidates<'_>,
        mut true_rank: impl FnMut(&SessionInfo<'_>, R) -> R,
    ) -> Option<(R, SessionKey)> {
        while let Some(&(rank, key)) = self.order.first() {
            let Some(session) = candidates.get(key) else {
                self.order.pop_first();
                if let Some(seat) = self.seat(key) {
                    seat.aside = true;
                }
                continue;
            };
            let now = true_rank(&session, rank);
            if now <= rank {
                return Some((rank, key));
            }
            self.order.pop_first();
            self.order.insert((now, key));
            if let Some(seat) = self.seat(key) {
                seat.rank = now;
            }
        }
        None
    }
}
