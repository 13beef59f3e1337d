//! When each activity under way began.

use std::collections::VecDeque;

use crate::clock::Stamp;

/// Room for so many older ones is kept when the last of them has ended.
const KEPT: usize = 16;

/// The activities of one session that are under way.
///
/// Only one question is asked of it: when did the newest begin? If that is longer ago than `max_busy`, all are. The
/// newest has a place of its own, so that a session with one request at a time never allocates.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    newest: Option<(u32, Stamp)>,
    /// Oldest first.
    older: VecDeque<(u32, Stamp)>,
    next: u32,
}

impl Requests {
    pub(crate) fn begin(&mut self, at: Stamp) -> u32 {
        let ticket = self.next;
        self.next = self.next.wrapping_add(1);
        self.older.extend(self.newest.replace((ticket, at)));
        ticket
    }

    pub(crate) fn end(&mut self, ticket: u32) {
        if self.newest.is_some_and(|(newest, _)| newest == ticket) {
            self.newest = self.older.pop_back();
        } else {
            // Compared by distance from the next one, so that the wrap of the counter does no harm.
            let distance = |ticket: u32| self.next.wrapping_sub(ticket);
            if let Ok(place) = self.older.binary_search_by(|(older, _)| distance(ticket).cmp(&distance(*older))) {
                self.older.remove(place);
            }
        }
        if self.older.is_empty() && self.older.capacity() > KEPT {
            self.older.shrink_to(KEPT);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.older.len() + usize::from(self.newest.is_some())
    }

    pub(crate) fn newest(&self) -> Option<Stamp> {
        self.newest.map(|(_, at)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_unfinished_one_is_known_after_any_order_of_ends() {
        let mut requests = Requests { next: u32::MAX - 1, ..Requests::default() };
        let tickets: Vec<_> = (1..=4).map(|at| requests.begin(Stamp(at))).collect();
        requests.end(tickets[3]);
        assert_eq!(requests.newest(), Some(Stamp(3)));
        requests.end(tickets[1]);
        requests.end(tickets[1]);
        assert_eq!(requests.len(), 2);
        requests.end(tickets[2]);
        assert_eq!(requests.newest(), Some(Stamp(1)));
        requests.end(tickets[0]);
        assert_eq!(requests.newest(), None);
    }

    #[test]
    fn a_burst_leaves_no_memory_behind() {
        let mut requests = Requests::default();
        let tickets: Vec<_> = (0..10_000).map(|at| requests.begin(Stamp(at))).collect();
        tickets.into_iter().rev().for_each(|ticket| requests.end(ticket));
        assert_eq!(requests.len(), 0);
        assert!(requests.older.capacity() <= 2 * KEPT);
    }
}
