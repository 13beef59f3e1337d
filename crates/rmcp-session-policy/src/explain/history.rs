//! [`History`]: the last ends and rejections.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::explanation::{Explanation, Facts};
use crate::session::Fingerprint;

/// Keeps the last ends and rejections, a bounded number of each.
///
/// An entry has a size of its own and at most two texts of 64 bytes, so the bytes are bounded with the entries. What is full
/// forgets the oldest of what it has more of, so a flood of rejections leaves half of the entries to ends.
#[derive(Debug)]
pub(crate) struct History {
    /// How many entries there may be. Not zero.
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    ends: VecDeque<Explanation>,
    rejections: VecDeque<Explanation>,
    /// The number of the next entry.
    next: u64,
}

impl History {
    /// Keeps `most` entries. `None` if that is none.
    pub(crate) fn new(most: usize) -> Option<Self> {
        (most > 0).then(|| Self { most, kept: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an entry, or counts it if it repeats the last rejection. O(1), amortized.
    pub(crate) fn add(&self, mut entry: Explanation) {
        let mut kept = self.lock();
        entry.number = kept.next;
        kept.next += 1;
        let is_end = matches!(entry.facts, Facts::Ended(_));
        if !is_end
            && let Some(last) = kept.rejections.back_mut()
            && entry.replaces(last)
        {
            let before = std::mem::replace(last, entry);
            drop(kept);
            drop(before);
            return;
        }
        let is_full = kept.ends.len() + kept.rejections.len() >= self.most;
        let oldest = match kept.ends.len().cmp(&kept.rejections.len()) {
            _ if !is_full => None,
            // With as many of each, the newcomer's own kind gives way.
            std::cmp::Ordering::Equal if is_end => kept.ends.pop_front(),
            std::cmp::Ordering::Greater => kept.ends.pop_front(),
            _ => kept.rejections.pop_front(),
        };
        let Kept { ends, rejections, .. } = &mut *kept;
        let (line, other) = if is_end { (ends, rejections) } else { (rejections, ends) };
        grow(line, self.most);
        line.push_back(entry);
        shrink(other);
        drop(kept);
        // Not under the lock.
        drop(oldest);
    }

    /// The last entries, newest first.
    pub(crate) fn recent(&self, most: usize) -> Vec<Explanation> {
        let kept = self.lock();
        let (mut ends, mut rejections) = (kept.ends.iter().rev().peekable(), kept.rejections.iter().rev().peekable());
        let newest = std::iter::from_fn(|| {
            let is_end = match (ends.peek(), rejections.peek()) {
                (Some(end), Some(rejection)) => end.number > rejection.number,
                (end, _) => end.is_some(),
            };
            if is_end { ends.next() } else { rejections.next() }
        });
        newest.take(most).cloned().collect()
    }

    /// What is known of a session, newest first. Looks at all entries.
    pub(crate) fn of_session(&self, session: Fingerprint) -> Vec<Explanation> {
        let kept = self.lock();
        let entries = kept.ends.iter().chain(&kept.rejections);
        let mut found: Vec<_> = entries.filter(|entry| entry.session == Some(session)).cloned().collect();
        drop(kept);
        found.sort_by_key(|entry| std::cmp::Reverse(entry.number));
        found
    }
}

/// The room that a short line has to spare.
const SPARE: usize = 16;

/// Makes room for one more entry where there is none: a quarter more, where a deque by itself would take twice as much.
fn grow(line: &mut VecDeque<Explanation>, most: usize) {
    let length = line.len();
    if length == line.capacity() {
        line.reserve_exact((length / 4).max(SPARE).min(most.saturating_sub(length)).max(1));
    }
}

/// Gives back room when the other kind has taken over: half as much as the entries at most stays free.
fn shrink(line: &mut VecDeque<Explanation>) {
    let length = line.len();
    if line.capacity() > length + length / 2 + 2 * SPARE {
        line.shrink_to(length + length / 4 + SPARE);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::explanation::{Cause, End};
    use super::super::{Client, Explained};
    use super::*;
    use crate::admission::{ArrivalKind, Rejection};
    use crate::context::ClientContext;
    use crate::error::Rejected;
    use crate::observe::CloseReason;

    fn end(id: &str) -> Explanation {
        let end = End {
            reason: CloseReason::Client,
            age: Duration::ZERO,
            idle: Duration::ZERO,
            waiting: 0,
            cause: Cause::Plain,
        };
        Explanation::of_end(Fingerprint::of(id), Client::Unknown, end)
    }

    fn rejection(policy: &'static str, principal: &str) -> Explanation {
        let client = Client::of(Some(&ClientContext::new().with_principal(principal)));
        Explanation::of_rejection(None, client, &Rejected::by_policy(ArrivalKind::Create, &Rejection::new(policy)))
    }

    /// The policies of rejections, and "end" for ends.
    fn shown(history: &History, most: usize) -> Vec<String> {
        let name = |entry: &Explanation| match entry.what() {
            Explained::Ended(_) => "end".to_owned(),
            Explained::Rejected { policy, .. } => policy.to_owned(),
        };
        history.recent(most).iter().map(name).collect()
    }

    #[test]
    fn the_last_ends_and_rejections_are_returned_newest_first() {
        let history = History::new(10).unwrap();
        history.add(end("a"));
        history.add(rejection("one", "alice"));
        history.add(end("b"));
        history.add(end("a"));
        history.add(rejection("two", "alice"));
        assert_eq!(shown(&history, 10), ["two", "end", "end", "one", "end"]);
        assert_eq!((shown(&history, 2), shown(&history, 0).len()), (vec!["two".to_owned(), "end".to_owned()], 0));
        let of_a = history.of_session(Fingerprint::of("a"));
        assert!(of_a.len() == 2 && of_a[0].number > of_a[1].number);
        assert!(history.of_session(Fingerprint::of("c")).is_empty());
    }

    #[test]
    fn a_flood_of_rejections_leaves_half_of_the_entries_to_ends_and_the_other_way_round() {
        let history = History::new(10).unwrap();
        let count = |history: &History| {
            let shown = shown(history, usize::MAX);
            (shown.iter().filter(|shown| *shown == "end").count(), shown.len())
        };
        (0..100).for_each(|_| history.add(end("a")));
        assert_eq!(count(&history), (10, 10));
        (0..100).for_each(|nth| history.add(rejection("one", &nth.to_string())));
        assert_eq!(count(&history), (5, 10));
        (0..100).for_each(|_| history.add(end("a")));
        assert_eq!(count(&history), (5, 10));
        let least = History::new(1).unwrap();
        least.add(end("a"));
        least.add(rejection("one", "alice"));
        least.add(end("a"));
        assert_eq!(count(&least), (1, 1));
        assert!(History::new(0).is_none());
    }

    #[test]
    fn the_entries_have_room_for_half_as_many_more_at_most() {
        let most = 10_000;
        let history = History::new(most).unwrap();
        let room = || {
            let kept = history.lock();
            kept.ends.capacity() + kept.rejections.capacity()
        };
        let bound = most + most / 2 + 4 * SPARE;
        let mut largest = 0;
        for round in 0..2 * most {
            history.add(end("a"));
            largest = largest.max(room());
            assert!(round >= most || room() <= round + 1 + round / 4 + SPARE);
        }
        assert_eq!(room(), most);
        for nth in 0..2 * most {
            history.add(rejection("one", &nth.to_string()));
            largest = largest.max(room());
        }
        assert!(largest <= bound, "{largest}");
        (0..2 * most).for_each(|_| history.add(end("a")));
        assert!(room() <= bound);
    }

    #[test]
    fn rejections_that_repeat_the_last_one_are_one_entry() {
        let history = History::new(10).unwrap();
        for principal in ["alice", "alice", "alice", "bob", "alice"] {
            history.add(rejection("one", principal));
            // Ends between them do not matter.
            history.add(end("a"));
        }
        let rejections: Vec<_> = history.recent(10).into_iter().filter(|entry| entry.fingerprint().is_none()).collect();
        let times: Vec<_> = rejections.iter().map(|entry| (entry.client().unwrap(), entry.times())).collect();
        let expected =
            [("\"alice\"", 1), ("\"bob\"", 1), ("\"alice\"", 3)].map(|(name, times)| (name.to_owned(), times));
        assert_eq!(times, expected);
        assert!(rejections[2].for_operator().ends_with(", 3 times in a row"));
        history.add(rejection("another", "alice"));
        assert_eq!(history.recent(1)[0].times(), 1);
    }
}
