//! What waits for the writer: changes of this server, its claims, and its calls for what is due. And what waits for it: the tasks that want to know
//! when a change is written, or which sessions are lost.
//!
//! All is behind one lock, which is held for O(1) steps, and never over a read or a write of the file, with two exceptions:
//! a batch is moved in one go, and a flush counts what is left at its end.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rmcp_session_policy::directory::{Epoch, SessionDigest};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::changes::{BATCH, Changes};
use crate::claiming::ClaimRequest;
use crate::due::DueRequest;
use crate::row::{Moment, Queued};

/// The most claims that wait.
const CLAIMS: usize = 256;

/// The most calls that wait for what is due. A manager makes one at a time.
const DUE_REQUESTS: usize = 16;

/// The queue of one server.
#[derive(Debug)]
pub(crate) struct Queue {
    /// The most bytes of a body, and of the bodies of one commit.
    bodies: usize,
    state: Mutex<State>,
    /// Wakes the writer.
    work: Condvar,
    /// Wakes tasks, at each commit and each loss.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    changes: Changes,
    claims: VecDeque<ClaimRequest>,
    due: VecDeque<DueRequest>,
    lost: Vec<(SessionDigest, Epoch)>,
    /// Whether a task ever waited for losses.
    wants_lost: bool,
    stops: bool,
}

/// What the writer should do next.
#[derive(Debug)]
pub(crate) enum Work {
    Claims(Vec<ClaimRequest>),
    /// Take a batch, and commit it.
    Changes,
    Due(DueRequest),
    /// Nothing was asked for in this time.
    Rest,
    Stop,
}

impl Queue {
    pub(crate) fn new(bodies: usize) -> Self {
        Self { bodies, state: Mutex::default(), work: Condvar::new(), changed: Notify::new() }
    }

    /// Queues a change, merged into an earlier one of the same session.
    pub(crate) fn write(&self, id: SessionDigest, queued: Queued) {
        let mut state = self.lock();
        let was_idle = state.changes.pending() == 0;
        state.changes.write(id, queued, self.bodies);
        let is_full = state.changes.pending() == BATCH;
        drop(state);
        if was_idle || is_full {
            self.work.notify_one();
        }
    }

    /// Queues a claim. Gives it back if too many wait.
    pub(crate) fn claim(&self, claim: ClaimRequest) -> Result<(), ClaimRequest> {
        let mut state = self.lock();
        if state.claims.len() >= CLAIMS || state.stops {
            return Err(claim);
        }
        state.claims.push_back(claim);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Queues claims again that could not be tried, before those that came since.
    pub(crate) fn claim_again(&self, claims: Vec<ClaimRequest>) {
        let mut state = self.lock();
        for claim in claims.into_iter().rev() {
            state.claims.push_front(claim);
        }
    }

    /// Queues a call for what is due. Gives it back if too many wait.
    pub(crate) fn take_due(&self, request: DueRequest) -> Result<(), DueRequest> {
        let mut state = self.lock();
        if state.due.len() >= DUE_REQUESTS || state.stops {
            return Err(request);
        }
        state.due.push_back(request);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Whether something of a session waits to be written.
    pub(crate) fn has(&self, id: &SessionDigest) -> bool {
        self.lock().changes.has(id)
    }

    /// What waits to be written of a session, oldest first.
    pub(crate) fn waiting(&self, id: &SessionDigest) -> [Option<Queued>; 2] {
        let state = self.lock();
        state.changes.of(id).map(|waiting| waiting.cloned())
    }

    /// Waits until what was queued of a session is written. Returns whether it is.
    pub(crate) async fn written(&self, id: &SessionDigest, until: Instant) -> bool {
        let last = {
            let mut state = self.lock();
            let Some(last) = state.changes.hurry(id) else { return !state.changes.has_dropped(id) };
            last
        };
        self.work.notify_one();
        // A commit may have shown that there is no room for it.
        self.until(until, |state| state.changes.is_done(id, last)).await && !self.lock().changes.has_dropped(id)
    }

    /// Waits until all that was queued is written. Returns of how many sessions something is not.
    pub(crate) async fn flush(&self, until: Instant) -> usize {
        let last = self.lock().changes.hurry_all();
        self.work.notify_one();
        self.until(until, |state| state.changes.first() > last).await;
        let state = self.lock();
        state.changes.left(last) + state.changes.dropped()
    }

    /// Waits until sessions are lost.
    pub(crate) async fn lost(&self) -> Vec<(SessionDigest, Epoch)> {
        self.lock().wants_lost = true;
        self.work.notify_one();
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let lost = std::mem::take(&mut self.lock().lost);
            if !lost.is_empty() {
                return lost;
            }
            changed.await;
        }
    }

    /// Whether some task waits for losses that the writer has not looked for.
    pub(crate) fn wants_lost(&self) -> bool {
        let state = self.lock();
        state.wants_lost && state.lost.is_empty()
    }

    pub(crate) fn tell_lost(&self, lost: Vec<(SessionDigest, Epoch)>) {
        self.lock().lost = lost;
        self.changed.notify_waiters();
    }

    /// How many changes wait, and of how many sessions one had no room.
    pub(crate) fn lengths(&self) -> (usize, usize) {
        let state = self.lock();
        (state.changes.len(), state.changes.dropped())
    }

    pub(crate) fn stop(&self) {
        self.lock().stops = true;
        self.work.notify_one();
    }

    pub(crate) fn stops(&self) -> bool {
        self.lock().stops
    }

    /// Waits for work, at most for this long. `holds_back` leaves changes where they are, after a commit that failed.
    pub(crate) fn next(&self, patience: Duration, holds_back: bool, now: impl Fn() -> Moment) -> Work {
        let mut state = self.lock();
        let mut rest = patience;
        loop {
            if !state.claims.is_empty() {
                return Work::Claims(state.take_claims(self.bodies));
            }
            if let Some(request) = state.due.pop_front() {
                return Work::Due(request);
            }
            let due = if holds_back { None } else { state.changes.due(now()) };
            if due == Some(Duration::ZERO) {
                return Work::Changes;
            }
            if state.stops && !holds_back {
                return if state.changes.pending() == 0 { Work::Stop } else { Work::Changes };
            }
            if rest.is_zero() {
                return Work::Rest;
            }
            let began = std::time::Instant::now();
            let wait = due.map_or(rest, |due| due.min(rest));
            (state, _) = self.work.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
            rest = rest.saturating_sub(began.elapsed());
        }
    }

    /// Moves the next changes to those that are being committed, and returns them.
    pub(crate) fn take_batch(&self) -> Vec<(SessionDigest, Queued)> {
        self.lock().changes.take_batch(self.bodies)
    }

    /// Moves what waits of one session, as [`take_batch`](Self::take_batch) does.
    pub(crate) fn take_one(&self, id: &SessionDigest) -> Option<Queued> {
        self.lock().changes.take_one(id)
    }

    /// What was taken is written, but for some sessions that the file had forgotten.
    pub(crate) fn committed(&self, forgotten: &[SessionDigest]) {
        self.lock().changes.committed(forgotten);
        self.changed.notify_waiters();
    }

    /// What was taken could not be written: it waits again, before what came since.
    pub(crate) fn put_back(&self) {
        self.lock().changes.put_back();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the state is as it should be. Returns whether it is.
    async fn until(&self, until: Instant, is: impl Fn(&State) -> bool) -> bool {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if is(&self.lock()) {
                return true;
            }
            if timeout_at(until, changed).await.is_err() {
                return is(&self.lock());
            }
        }
    }
}

impl State {
    /// Takes the next claims, with no more bytes of what waits of their sessions than one commit may have.
    fn take_claims(&mut self, most: usize) -> Vec<ClaimRequest> {
        let (mut claims, mut bodies) = (Vec::new(), 0);
        while let Some(claim) = self.claims.front() {
            bodies += self.changes.bytes_of(&claim.id);
            if bodies > most && !claims.is_empty() {
                break;
            }
            claims.extend(self.claims.pop_front());
        }
        claims
    }
}

#[cfg(test)]
mod tests {
    use rmcp_session_policy::directory::{Change, StoredBody, StoredSession, Usage};

    use super::*;
    use crate::changes::{BYTES, CHANGES, DELAY};

    fn id(number: usize) -> SessionDigest {
        SessionDigest::from_bytes((number as u128).to_be_bytes())
    }

    fn used(uses: u64) -> Change {
        Change::Used(Usage::default().with_uses(uses))
    }

    fn opened() -> Change {
        opened_with(0)
    }

    fn session(uses: u64, bytes: usize) -> StoredSession {
        let usage = Usage::default().with_uses(uses);
        StoredSession::new(None, Duration::ZERO, usage, StoredBody::from_bytes(vec![7; bytes]))
    }

    fn opened_with(bytes: usize) -> Change {
        Change::Opened(session(0, bytes))
    }

    fn data(uses: u64, bytes: usize) -> Change {
        Change::Data(session(uses, bytes))
    }

    fn parked(bytes: usize) -> Change {
        Change::Parked(session(0, bytes))
    }

    fn queue() -> Queue {
        Queue::new(BYTES)
    }

    fn write(queue: &Queue, number: usize, change: Change) {
        queue.write(id(number), Queued { epoch: Epoch::FIRST, change, at: 0 });
    }

    fn commit_all(queue: &Queue) {
        while !queue.take_batch().is_empty() {
            queue.committed(&[]);
        }
    }

    /// What is durable, without waiting.
    async fn is_written(queue: &Queue, number: usize) -> bool {
        queue.written(&id(number), Instant::now()).await
    }

    #[tokio::test]
    async fn a_full_queue_drops_changes_and_says_so_and_has_room_for_ends() {
        let (queue, room) = (queue(), CHANGES / 4 * 3);
        (0..=room).for_each(|number| write(&queue, number, opened()));
        assert_eq!(queue.lengths(), (room, 1));
        write(&queue, 2 * CHANGES, used(1));
        assert_eq!(queue.lengths(), (room, 1), "the next one says it too");
        (0..CHANGES).for_each(|number| write(&queue, room + 1 + number, Change::Dead));
        assert_eq!(queue.lengths(), (CHANGES, 1 + room));
        // What is queued already can still change.
        write(&queue, 0, used(2));
        commit_all(&queue);
        assert_eq!(queue.flush(Instant::now()).await, 1 + room, "what was dropped is not written");
        assert!(is_written(&queue, 0).await && !is_written(&queue, room).await);
        // An end that is queued is written, whatever had no room before.
        write(&queue, room, Change::Dead);
        commit_all(&queue);
        assert!(is_written(&queue, room).await);
        // Parked under its first epoch, a session is written whole.
        write(&queue, room, parked(1));
        commit_all(&queue);
        assert!(is_written(&queue, room).await);
    }

    #[tokio::test]
    async fn bodies_in_the_queue_are_bounded_in_bytes() {
        const BODY: usize = 1 << 20;
        let queue = queue();
        (0..=BYTES / BODY).for_each(|number| write(&queue, number, parked(BODY)));
        assert_eq!(queue.lengths(), (BYTES / BODY + 1, 1));
        commit_all(&queue);
        assert_eq!(queue.lock().changes.bytes(), 0);
        write(&queue, 1_000, parked(BODY));
        write(&queue, 1_000, Change::Dead);
        assert_eq!((queue.lengths(), queue.lock().changes.bytes()), ((1, 1), 0));
    }

    #[tokio::test]
    async fn a_change_without_room_for_its_body_says_what_it_can_and_is_not_written() {
        const BODY: usize = 1 << 20;
        let queue = queue();
        (0..BYTES / BODY - 1).for_each(|number| write(&queue, number, parked(BODY)));
        write(&queue, 100, data(1, BODY / 2));
        write(&queue, 101, data(1, BODY / 2));
        // There is no room left, but for bodies that take the place of others.
        write(&queue, 100, data(2, BODY / 2));
        write(&queue, 101, data(2, BODY / 2 + 1));
        write(&queue, 102, parked(1));
        write(&queue, 103, data(3, 1));
        write(&queue, 104, opened_with(1));
        assert_eq!((queue.lengths(), queue.lock().changes.bytes()), ((BYTES / BODY - 1 + 4, 4), BYTES));
        let change = |number| queue.waiting(&id(number))[1].clone().map(|queued| queued.change);
        assert_eq!(change(100), Some(data(2, BODY / 2)));
        let Some(Change::Data(first)) = change(101) else { panic!("its first data is kept") };
        assert_eq!((first.usage.uses, first.body.as_bytes().len()), (2, BODY / 2));
        assert_eq!((change(102), change(103), change(104)), (Some(Change::Released), Some(used(3)), None));
        commit_all(&queue);
        assert!(is_written(&queue, 100).await);
        for number in [101, 102, 103, 104] {
            assert!(!is_written(&queue, number).await, "{number}");
        }
        // What is whole makes up for it.
        write(&queue, 101, data(3, 1));
        commit_all(&queue);
        assert!(is_written(&queue, 101).await);
    }

    /// Two claims of one session in one commit, and a change that comes between them.
    #[tokio::test]
    async fn what_is_taken_of_a_session_twice_is_committed_or_put_back_whole() {
        let taken_twice = async || {
            let queue = queue();
            write(&queue, 1, opened_with(10));
            let first = queue.lock().changes.hurry(&id(1)).expect("it waits");
            assert_eq!(queue.take_one(&id(1)).map(|queued| queued.change), Some(opened_with(10)));
            write(&queue, 1, data(2, 20));
            assert_eq!(queue.take_one(&id(1)).map(|queued| queued.change), Some(data(2, 20)), "the first is applied");
            assert!(!queue.lock().changes.is_done(&id(1), first), "nothing is committed yet");
            assert!(!is_written(&queue, 1).await);
            queue
        };
        let queue = taken_twice().await;
        queue.committed(&[]);
        assert!(is_written(&queue, 1).await);
        assert_eq!((queue.lengths(), queue.lock().changes.bytes()), ((0, 0), 0));
        let queue = taken_twice().await;
        queue.put_back();
        assert_eq!((queue.lengths(), queue.lock().changes.bytes()), ((1, 0), 20));
        let waits = queue.waiting(&id(1))[1].clone().map(|queued| queued.change);
        assert_eq!(waits, Some(Change::Opened(session(2, 20))));
        commit_all(&queue);
        assert_eq!(queue.lock().changes.bytes(), 0);
    }

    #[tokio::test]
    async fn a_change_without_its_body_is_not_written_by_a_commit_that_was_waited_for() {
        let (queue, id) = (Queue::new(10), id(1));
        write(&queue, 1, data(1, 11));
        let written = queue.written(&id, Instant::now() + Duration::from_secs(3_600));
        let committed = async { commit_all(&queue) };
        let (is_written, ()) = tokio::join!(biased; written, committed);
        assert!(!is_written);
    }

    #[tokio::test]
    async fn what_is_written_after_an_outage_with_more_dropped_sessions_than_are_remembered_is_written() {
        let queue = queue();
        let last = 2 * CHANGES;
        (0..=last).for_each(|number| write(&queue, number, opened()));
        commit_all(&queue);
        let dropped = last + 1 - CHANGES / 4 * 3;
        assert_eq!(queue.lengths(), (0, dropped));
        assert!(!is_written(&queue, last).await, "it was dropped, and is not remembered");
        for (number, change) in [(last, data(1, 1)), (last + 1, opened()), (last - 1, Change::Dead)] {
            write(&queue, number, change);
            commit_all(&queue);
            assert!(is_written(&queue, number).await, "{number}");
        }
        assert!(!is_written(&queue, last - 2).await);
        assert_eq!(queue.flush(Instant::now()).await, dropped, "it is not known of which of them all is written");
    }

    #[test]
    fn changes_of_one_session_are_merged_and_one_that_failed_comes_before_later_ones() {
        let queue = queue();
        write(&queue, 1, used(1));
        write(&queue, 2, used(2));
        assert_eq!(queue.take_batch().len(), 2);
        write(&queue, 3, used(3));
        write(&queue, 1, Change::Ready);
        queue.put_back();
        let batch = queue.take_batch();
        assert_eq!(batch.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id(1), id(2), id(3)]);
        assert_eq!(batch[0].1.change, used(1), "`Ready` after a use says nothing new");
    }

    #[tokio::test]
    async fn what_the_file_had_forgotten_is_not_written_until_a_later_change_says_all_of_it() {
        let queue = queue();
        for (number, change) in [(1, data(1, 1)), (2, data(1, 1)), (3, data(1, 1))] {
            write(&queue, number, change);
        }
        assert_eq!(queue.take_batch().len(), 3);
        write(&queue, 2, used(2));
        write(&queue, 3, Change::Dead);
        queue.committed(&[id(1), id(2), id(3)]);
        assert_eq!(queue.lengths(), (2, 2));
        commit_all(&queue);
        for (number, is) in [(1, false), (2, false), (3, true)] {
            assert_eq!(is_written(&queue, number).await, is, "{number}");
        }
        write(&queue, 1, parked(1));
        commit_all(&queue);
        assert!(is_written(&queue, 1).await);
    }

    #[test]
    fn a_write_under_an_old_epoch_does_not_replace_a_newer_one() {
        let queue = queue();
        let next = Epoch::FIRST.next();
        queue.write(id(1), Queued { epoch: next, change: used(2), at: 0 });
        write(&queue, 1, Change::Dead);
        let batch = queue.take_batch();
        assert_eq!((batch[0].1.epoch, &batch[0].1.change), (next, &used(2)));
    }

    #[test]
    fn changes_wait_for_others_unless_a_task_waits_for_them() {
        let work = |queue: &Queue, now| queue.next(Duration::ZERO, false, || now);
        let queue = queue();
        write(&queue, 1, used(1));
        assert!(matches!(work(&queue, DELAY - 1), Work::Rest));
        assert!(matches!(work(&queue, DELAY), Work::Changes));
        queue.lock().changes.hurry_all();
        assert!(matches!(work(&queue, 0), Work::Changes));
    }
}
