//! [`InTurn`]: a number of permits, which clients that wait get in turn.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::fair_queue::FairQueue;
use crate::admission::ClientKey;

/// A semaphore that is fair to clients: a client with many tasks that wait gets a permit as often as one with few.
///
/// Each operation is O(log n). It keeps what waits, which is bounded, and nothing of a client that does not.
pub(super) struct InTurn {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    all: usize,
    free: usize,
    /// How many permits there are beyond `all`, since it was lowered. They are withdrawn when they come back.
    over: usize,
    queue: FairQueue,
    waiting: HashMap<u64, oneshot::Sender<Permit>>,
    /// The number of the last task that waited.
    last: u64,
}

/// How many tasks may wait.
const MOST_WAITING: usize = 65_536;

/// A permit. Its drop passes it on.
#[derive(Debug)]
pub(super) struct Permit(Arc<InTurn>);

/// A task that waits. Its drop takes it out of the queue.
struct Waiter<'a> {
    turns: &'a InTurn,
    client: &'a ClientKey,
    number: u64,
}

impl InTurn {
    pub(super) fn new(permits: usize) -> Self {
        let state = State {
            all: permits,
            free: permits,
            over: 0,
            queue: FairQueue::default(),
            waiting: HashMap::new(),
            last: 0,
        };
        Self { state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the number of permits. More permits go to what waits.
    pub(super) fn resize(self: &Arc<Self>, permits: usize) {
        let more = {
            let mut state = self.lock();
            let before = std::mem::replace(&mut state.all, permits);
            let fewer = before.saturating_sub(permits);
            let free = fewer.min(state.free);
            state.free -= free;
            state.over += fewer - free;
            let more = permits.saturating_sub(before);
            let withdrawn = more.min(state.over);
            state.over -= withdrawn;
            more - withdrawn
        };
        // The drop of a permit passes it on.
        (0..more).for_each(|_| drop(Permit(Arc::clone(self))));
    }

    /// Waits for a permit. `None` if too many tasks wait already.
    pub(super) async fn permit(self: &Arc<Self>, client: &ClientKey) -> Option<Permit> {
        loop {
            let (waiter, receiver) = {
                let mut state = self.lock();
                if state.free > 0 {
                    state.free -= 1;
                    return Some(Permit(Arc::clone(self)));
                }
                if state.waiting.len() >= MOST_WAITING {
                    return None;
                }
                let (sender, receiver) = oneshot::channel();
                state.last += 1;
                let number = state.last;
                state.waiting.insert(number, sender);
                state.queue.push(client, number);
                (Waiter { turns: self, client, number }, receiver)
            };
            let permit = receiver.await;
            drop(waiter);
            // A sender is dropped only with the queue, which this task keeps.
            if let Ok(permit) = permit {
                return Some(permit);
            }
        }
    }

    /// How many permits are free, and how many tasks wait.
    #[cfg(test)]
    fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.free, state.waiting.len())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let next = {
            let mut state = self.0.lock();
            if let Some(fewer) = state.over.checked_sub(1) {
                state.over = fewer;
                return;
            }
            let next = state.queue.pop().and_then(|number| state.waiting.remove(&number));
            state.free += usize::from(next.is_none());
            next
        };
        // Sent outside the lock, which the drop of a permit takes: the task may have been dropped a moment ago.
        if let Some(next) = next {
            next.send(Self(Arc::clone(&self.0))).ok();
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        if state.waiting.remove(&self.number).is_some() {
            state.queue.remove(self.client, self.number);
        }
    }
}

impl fmt::Debug for InTurn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("InTurn").field("free", &state.free).field("waiting", &state.waiting.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn client(last: u8) -> ClientKey {
        ClientKey::Address([192, 0, 2, last].into())
    }

    #[test]
    fn clients_that_wait_get_permits_in_turn() {
        let turns = Arc::new(InTurn::new(2));
        let (many, one) = (client(1), client(2));
        let mut given: Vec<_> =
            (0..2).map(|_| turns.permit(&many).now_or_never().flatten().expect("is free")).collect();
        let mut waits: Vec<_> = [&many, &many, &many, &one].map(|key| Some(Box::pin(turns.permit(key)))).into();
        assert!(waits.iter_mut().flatten().all(|wait| wait.now_or_never().is_none()));
        let mut order = Vec::new();
        for _ in 0..4 {
            drop(given.remove(0));
            for (place, wait) in waits.iter_mut().enumerate() {
                if let Some(permit) = wait.as_mut().and_then(|wait| wait.now_or_never()).flatten() {
                    given.push(permit);
                    order.push(place);
                    *wait = None;
                }
            }
        }
        assert_eq!(order, [0, 3, 1, 2]);
        drop(given);
        assert_eq!(turns.counts(), (2, 0));
    }

    #[test]
    fn a_task_that_is_dropped_leaves_nothing_behind_and_passes_its_permit_on() {
        let turns = Arc::new(InTurn::new(1));
        let key = client(1);
        let given = turns.permit(&key).now_or_never().flatten().expect("is free");
        let [mut gone, mut late, mut stays] = std::array::from_fn(|_| Box::pin(turns.permit(&key)));
        assert!([&mut gone, &mut late, &mut stays].into_iter().all(|wait| wait.now_or_never().is_none()));
        drop(gone);
        assert_eq!(turns.counts(), (0, 2));
        drop(given);
        // It was given the permit, and is dropped before it took that.
        drop(late);
        let permit = stays.now_or_never().flatten().expect("the next");
        drop(permit);
        assert_eq!(turns.counts(), (1, 0));
        assert!(turns.lock().queue.is_empty());
    }

    #[test]
    fn no_more_than_a_limit_wait() {
        let turns = Arc::new(InTurn::new(1));
        let key = client(1);
        let given = turns.permit(&key).now_or_never().flatten().expect("is free");
        let mut waits: Vec<_> = (0..MOST_WAITING).map(|_| Box::pin(turns.permit(&key))).collect();
        assert!(waits.iter_mut().all(|wait| wait.now_or_never().is_none()));
        assert!(turns.permit(&key).now_or_never().expect("is answered").is_none());
        waits.pop();
        assert!(turns.permit(&key).now_or_never().is_none(), "there is room again");
        drop(given);
    }
}
