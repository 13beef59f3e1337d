//! The start times of the activities in progress.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use crate::timestamp::Timestamp;

/// The capacity for older activities that is kept when the last of them has ended.
const KEPT: usize = 16;

/// Names an activity of a session.
pub(crate) type ActivityId = NonZeroU32;

/// The activities in progress of one session.
///
/// It answers one question: when did the newest activity begin? If that is longer ago than `max_busy`, it is so for
/// all. The newest activity has a field of its own, so that a session with one request at a time never allocates. Every
/// session has one of these, so it is small.
///
/// The lock of the record guards it. Activities are ordered by when they enter, and their start times are nearly in
/// that order: a thread may read the clock before another thread and enter after it.
#[derive(Debug)]
pub(crate) struct Requests {
    /// The activity that entered last of those in progress.
    newest: Option<(ActivityId, Timestamp)>,
    /// The older activities, oldest first. Allocated at the first use.
    #[expect(clippy::box_collection, reason = "most sessions never have it, and each would hold 24 bytes more")]
    older: Option<Box<VecDeque<(ActivityId, Timestamp)>>>,
    /// The id of the next activity. It starts again at 1 after the last number.
    next: ActivityId,
    /// How many of them move the moment of the last use. While there are any, the session is not idle.
    pub(super) working: u32,
}

impl Default for Requests {
    fn default() -> Self {
        Self { newest: None, older: None, next: ActivityId::MIN, working: 0 }
    }
}

impl Requests {
    /// Enters an activity that began at this moment. Its end needs the id that this returns.
    pub(crate) fn begin(&mut self, at: Timestamp) -> ActivityId {
        let id = self.next;
        self.next = id.checked_add(1).unwrap_or(ActivityId::MIN);
        if let Some(older) = self.newest.replace((id, at)) {
            self.older.get_or_insert_default().push_back(older);
        }
        id
    }

    /// Takes an activity out; an id that is not there changes nothing. O(log n) to find an older activity, and O(n) to
    /// close the gap.
    pub(crate) fn end(&mut self, id: ActivityId) {
        if self.newest.is_some_and(|(newest, _)| newest == id) {
            self.newest = self.older.as_mut().and_then(|older| older.pop_back());
        } else if let Some(older) = &mut self.older {
            // Compared by the distance to the next id, so that a wrap of the counter does no harm.
            let distance = |id: ActivityId| self.next.get().wrapping_sub(id.get());
            if let Ok(place) = older.binary_search_by(|(older, _)| distance(id).cmp(&distance(*older))) {
                older.remove(place);
            }
        }
        if self.older.as_ref().is_some_and(|older| older.is_empty() && older.capacity() > KEPT) {
            self.older = None;
        }
    }

    /// How many activities are in progress. It differs from the count in the state word while an activity begins or
    /// ends.
    pub(crate) fn len(&self) -> usize {
        self.older.as_ref().map_or(0, |older| older.len()) + usize::from(self.newest.is_some())
    }

    /// When the activity that entered last began, of those in progress.
    pub(crate) fn newest(&self) -> Option<Timestamp> {
        self.newest.map(|(_, at)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_unfinished_one_is_known_after_any_order_of_ends() {
        let last = ActivityId::new(u32::MAX - 1).unwrap();
        let mut requests = Requests { next: last, ..Requests::default() };
        let ids: Vec<_> = (1..=4).map(|at| requests.begin(Timestamp(at))).collect();
        requests.end(ids[3]);
        assert_eq!(requests.newest(), Some(Timestamp(3)));
        requests.end(ids[1]);
        requests.end(ids[1]);
        assert_eq!(requests.len(), 2);
        requests.end(ids[2]);
        assert_eq!(requests.newest(), Some(Timestamp(1)));
        requests.end(ids[0]);
        assert_eq!(requests.newest(), None);
    }

    #[test]
    fn those_still_under_way_are_known_while_a_burst_ends() {
        let mut requests = Requests::default();
        let ids: Vec<_> = (0..10_000).map(|at| requests.begin(Timestamp(at))).collect();
        for (left, id) in ids.into_iter().enumerate().skip(1).rev() {
            requests.end(id);
            assert_eq!((requests.len(), requests.newest()), (left, Some(Timestamp(left as u64 - 1))));
        }
    }

    #[test]
    fn a_burst_leaves_no_memory_behind() {
        let mut requests = Requests::default();
        let ids: Vec<_> = (0..10_000).map(|at| requests.begin(Timestamp(at))).collect();
        ids.into_iter().rev().for_each(|id| requests.end(id));
        assert_eq!(requests.len(), 0);
        assert!(requests.older.is_none_or(|older| older.capacity() <= 2 * KEPT));
    }
}
