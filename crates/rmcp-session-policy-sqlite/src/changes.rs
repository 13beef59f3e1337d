//! The changes of a server that wait to be written, one for each session, with their bounds. No lock.

use std::collections::HashMap;
use std::time::Duration;

use hashlink::LinkedHashMap;
use rmcp_session_policy::directory::{Change, SessionDigest};

use crate::dropped::Dropped;
use crate::row::{Moment, Queued, bytes};

/// The most changes that wait. Only ends may take the last quarter.
pub(crate) const CHANGES: usize = 65_536;

/// The most bytes of bodies that wait.
pub(crate) const BYTES: usize = 64 << 20;

/// How many changes one commit has at most, so that a claim does not wait long for it, and the log does not grow by much.
pub(crate) const BATCH: usize = 256;

/// How long a change waits for others, in milliseconds. A commit has as much again until its 100 ms are over.
pub(crate) const DELAY: i64 = 50;

/// What waits, and what is being committed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Oldest first.
    pending: LinkedHashMap<SessionDigest, Waiting>,
    /// What the writer is committing.
    committing: HashMap<SessionDigest, Waiting>,
    /// Bytes of bodies in both.
    bytes: usize,
    /// The number of the next change.
    next: u64,
    /// Changes before this number are to be written at once.
    urgent: u64,
    /// Sessions of which a change had no room, here or in the file.
    dropped: Dropped,
}

/// A change, with the numbers of the first and of the last one that are merged in it.
#[derive(Clone, Debug)]
struct Waiting {
    queued: Queued,
    first: u64,
    last: u64,
}

impl Changes {
    /// Queues a change, or without room for its body what is left of it, or nothing.
    pub(crate) fn write(&mut self, id: SessionDigest, queued: Queued, longest: usize) {
        self.next += 1;
        let number = self.next;
        let (is_first, is_whole) = (matches!(queued.change, Change::Opened(_)), is_whole(&queued.change));
        // The next one says it too.
        let is_repeated = matches!(queued.change, Change::Ready | Change::Used(_));
        let (epoch, at, rest) = (queued.epoch, queued.at, without_body(&queued.change));
        let fits = bytes(&queued.change) <= longest;
        if fits && self.insert(id, Waiting { queued, first: number, last: number }) {
            if is_whole {
                self.dropped.restate(id);
            } else if is_first {
                self.dropped.begin(id);
            }
            return;
        }
        if let Some(change) = rest {
            self.insert(id, Waiting { queued: Queued { epoch, change, at }, first: number, last: number });
        }
        if !is_repeated {
            self.dropped.add(id);
        }
    }

    /// Queues a change as it is. Returns whether there was room.
    fn insert(&mut self, id: SessionDigest, later: Waiting) -> bool {
        let (before, merged) = match self.pending.get(&id) {
            Some(earlier) => (bytes(&earlier.queued.change), earlier.clone().then(later)),
            None => {
                // Without it, the session would stay live at this server, which does not have it any more.
                let is_last = is_last(&later.queued.change);
                let limit = if is_last { CHANGES } else { CHANGES / 4 * 3 };
                if self.pending.len() >= limit {
                    return false;
                }
                (0, later)
            }
        };
        let after = bytes(&merged.queued.change);
        if after > before && self.bytes - before + after > BYTES {
            return false;
        }
        self.bytes = self.bytes - before + after;
        // In its old place, if it has one.
        match self.pending.get_mut(&id) {
            Some(earlier) => *earlier = merged,
            None => drop(self.pending.insert(id, merged)),
        }
        true
    }

    /// What waits of a session, oldest first.
    pub(crate) fn of(&self, id: &SessionDigest) -> [Option<&Queued>; 2] {
        [self.committing.get(id), self.pending.get(id)].map(|waiting| waiting.map(|waiting| &waiting.queued))
    }

    /// Whether something waits of a session.
    pub(crate) fn has(&self, id: &SessionDigest) -> bool {
        self.pending.contains_key(id) || self.committing.contains_key(id)
    }

    /// How many bytes the body has of what waits of a session and is not being committed.
    pub(crate) fn bytes_of(&self, id: &SessionDigest) -> usize {
        self.pending.get(id).map_or(0, |waiting| bytes(&waiting.queued.change))
    }

    /// Makes what waits of a session urgent. Returns the number of its latest change, or `None` if nothing waits.
    pub(crate) fn hurry(&mut self, id: &SessionDigest) -> Option<u64> {
        let last = self.pending.get(id).or_else(|| self.committing.get(id))?.last;
        self.urgent = self.urgent.max(last);
        Some(last)
    }

    /// Makes all that waits urgent. Returns the number of the latest change.
    pub(crate) fn hurry_all(&mut self) -> u64 {
        self.urgent = self.next;
        self.next
    }

    /// Whether what was queued of a session up to this number waits no more.
    pub(crate) fn is_done(&self, id: &SessionDigest, last: u64) -> bool {
        let waits = |waiting: Option<&Waiting>| waiting.is_some_and(|waiting| waiting.first <= last);
        !waits(self.committing.get(id)) && !waits(self.pending.get(id))
    }

    /// Whether a change of the session had no room.
    pub(crate) fn has_dropped(&self, id: &SessionDigest) -> bool {
        self.dropped.has(id)
    }

    /// Of how many sessions a change had no room.
    pub(crate) fn dropped(&self) -> usize {
        self.dropped.len()
    }

    /// Bytes of bodies of all that waits.
    #[cfg(test)]
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many changes wait, without those that are being committed.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// How many changes wait, with those that are being committed.
    pub(crate) fn len(&self) -> usize {
        self.pending.len() + self.committing.len()
    }

    /// Moves the next changes to those that are being committed, with no more bytes of bodies, and returns them.
    pub(crate) fn take_batch(&mut self, most: usize) -> Vec<(SessionDigest, Queued)> {
        let mut batch = Vec::with_capacity(self.pending.len().min(BATCH));
        let mut bodies = 0;
        while batch.len() < BATCH
            && let Some((_, waiting)) = self.pending.front()
        {
            bodies += bytes(&waiting.queued.change);
            if bodies > most {
                break;
            }
            let Some((id, waiting)) = self.pending.pop_front() else { break };
            batch.push((id, waiting.queued.clone()));
            self.committing.insert(id, waiting);
        }
        batch
    }

    /// Moves what waits of one session, as [`take_batch`](Self::take_batch) does. What was taken of it for the same commit is
    /// merged with it, and not returned again.
    pub(crate) fn take_one(&mut self, id: &SessionDigest) -> Option<Queued> {
        let waiting = self.pending.remove(id)?;
        let queued = waiting.queued.clone();
        let taken = match self.committing.remove(id) {
            Some(earlier) => self.merge(earlier, waiting),
            None => waiting,
        };
        self.committing.insert(*id, taken);
        Some(queued)
    }

    /// What was taken is written, but for some sessions that the file had forgotten. What is queued of them since then is
    /// found out when it is written.
    pub(crate) fn committed(&mut self, forgotten: &[SessionDigest]) {
        let committed = std::mem::take(&mut self.committing);
        self.bytes -= committed.values().map(|waiting| bytes(&waiting.queued.change)).sum::<usize>();
        for id in forgotten {
            if !self.pending.get(id).is_some_and(|later| is_whole(&later.queued.change)) {
                self.dropped.add(*id);
            }
        }
    }

    /// What was taken could not be written: it waits again, before what came since.
    pub(crate) fn put_back(&mut self) {
        let mut failed: Vec<_> = std::mem::take(&mut self.committing).into_iter().collect();
        failed.sort_unstable_by_key(|(_, waiting)| std::cmp::Reverse(waiting.first));
        for (id, failed) in failed {
            let waiting = match self.pending.remove(&id) {
                Some(later) => self.merge(failed, later),
                None => failed,
            };
            self.pending.insert(id, waiting);
            self.pending.to_front(&id);
        }
    }

    /// Merges two changes that were both counted.
    fn merge(&mut self, earlier: Waiting, later: Waiting) -> Waiting {
        self.bytes -= bytes(&earlier.queued.change) + bytes(&later.queued.change);
        let merged = earlier.then(later);
        self.bytes += bytes(&merged.queued.change);
        merged
    }

    /// The number of the oldest change that waits.
    pub(crate) fn first(&self) -> u64 {
        let pending = self.pending.front().map(|(_, waiting)| waiting.first);
        let committing = self.committing.values().map(|waiting| waiting.first).min();
        pending.into_iter().chain(committing).min().unwrap_or(u64::MAX)
    }

    /// Of how many sessions something up to this number waits.
    pub(crate) fn left(&self, last: u64) -> usize {
        let pending = self.pending.iter().filter(|(_, waiting)| waiting.first <= last);
        let again = |id: &&SessionDigest| !self.committing.contains_key(*id);
        pending.map(|(id, _)| id).filter(again).count() + self.committing.len()
    }

    /// In how long changes should be written. `None` if there are none.
    pub(crate) fn due(&self, now: Moment) -> Option<Duration> {
        let (_, oldest) = self.pending.front()?;
        let at_once = oldest.first <= self.urgent || self.pending.len() >= BATCH;
        if at_once {
            return Some(Duration::ZERO);
        }
        let left = oldest.queued.at.saturating_add(DELAY).saturating_sub(now).min(DELAY);
        Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }
}

impl Waiting {
    /// Merges a later change into this one. Of two epochs the higher one counts: the other server has lost the session.
    fn then(self, later: Self) -> Self {
        let (first, last) = (self.first, later.last);
        let (before, after) = (self.queued, later.queued);
        let queued = match before.epoch.cmp(&after.epoch) {
            std::cmp::Ordering::Greater => before,
            std::cmp::Ordering::Less => after,
            std::cmp::Ordering::Equal => {
                let passed = u64::try_from(after.at.saturating_sub(before.at)).unwrap_or(0);
                let change = after.change.after(before.change, Duration::from_millis(passed));
                Queued { epoch: after.epoch, change, at: after.at }
            }
        };
        Self { queued, first, last }
    }
}

/// Whether a change says all of a session, so that what had no room before it is not missing.
const fn is_whole(change: &Change) -> bool {
    matches!(change, Change::Dead | Change::Ending(_) | Change::Data(_) | Change::Parked(_))
}

/// Whether this server does not have a session any more after a change.
const fn is_last(change: &Change) -> bool {
    matches!(change, Change::Dead | Change::Ending(_) | Change::Parked(_) | Change::Released)
}

/// What a change says without its body. `None` if that is nothing, or as much.
fn without_body(change: &Change) -> Option<Change> {
    match change {
        // As it was stored before, another server can claim it.
        Change::Parked(_) => Some(Change::Released),
        Change::Data(session) => Some(Change::Used(session.usage)),
        Change::Ending(Some(_)) => Some(Change::Ending(None)),
        _ => None,
    }
}
