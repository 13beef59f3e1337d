//! When each request in flight began.

use std::collections::VecDeque;

use crate::clock::Stamp;

/// The requests of one session that are under way, oldest first.
///
/// Only one question is asked of it: when did the newest begin? If that is longer ago than `max_busy`, all are.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    begun: VecDeque<(u32, Stamp)>,
    next: u32,
}

impl Requests {
    pub(crate) fn begin(&mut self, at: Stamp) -> u32 {
        let ticket = self.next;
        self.next = self.next.wrapping_add(1);
        self.begun.push_back((ticket, at));
        ticket
    }

    pub(crate) fn end(&mut self, ticket: u32) {
        // Compared by distance from the next one, so that the wrap of the counter does no harm.
        let next = self.next;
        if let Ok(place) = self.begun.binary_search_by(|(t, _)| next.wrapping_sub(ticket).cmp(&next.wrapping_sub(*t))) {
            self.begun.remove(place);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.begun.len()
    }

    pub(crate) fn newest(&self) -> Option<Stamp> {
        self.begun.back().map(|(_, at)| *at)
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
}
