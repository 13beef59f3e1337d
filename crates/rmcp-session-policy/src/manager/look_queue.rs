//! The look-ups in the directory: which may begin, in which order, and how many may find nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::fair_queue::FairQueue;
use super::misses::{MISSES, Misses};
use crate::admission::ClientKey;

/// How many look-ups run at a time.
const AT_ONCE: usize = 64;
/// How many look-ups may wait for their turn.
const WAITING: usize = 65_536;
/// From how many clients on those are forgotten of which nothing is left to remember.
const CLIENTS: usize = 1_024;

/// The look-ups that run and wait.
///
/// 64 run at a time, those of different clients in turn. A client may miss ten times a second. To keep that exact while
/// hits are free, each look-up under way counts as a miss until it is a hit: a client that has as many under way as it has
/// misses left waits for one of them. If all of them miss, what waits is refused.
///
/// Each operation is O(log n). It keeps a client while a look-up of it runs or waits, and for a second after a miss; up to
/// 1,024 clients may stay longer.
#[derive(Debug, Default)]
pub(super) struct LookQueue {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    clients: HashMap<ClientKey, Client>,
    /// Look-ups that begin when one that runs is done.
    next: FairQueue,
    /// The look-ups that wait, those of `next` included. One whose sender is dropped is refused; one whose receiver is
    /// dropped is passed over at its turn.
    waiting: HashMap<u64, (oneshot::Sender<Turn>, ClientKey)>,
    running: usize,
    /// The number of the last one.
    last: u64,
    /// At how many clients the next sweep is.
    sweep_at: usize,
}

#[derive(Debug, Default)]
struct Client {
    misses: Misses,
    /// Look-ups that run or are in `next`.
    under_way: usize,
    /// Look-ups that wait for the outcome of those, oldest first.
    behind: VecDeque<u64>,
}

/// A look-up is refused, because too many of its client found nothing, or too many wait. One may begin after this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooManyMisses(pub(super) Duration);

/// A look-up that runs. Its drop counts as a miss, unless it was a hit.
#[derive(Debug)]
pub(super) struct Turn {
    queue: Arc<LookQueue>,
    client: ClientKey,
    is_miss: bool,
}

/// The look-ups that begin now. They are told outside the lock, which the drop of a turn takes.
type Begun = Vec<(oneshot::Sender<Turn>, ClientKey)>;

impl LookQueue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a look-up of this client may begin.
    pub(super) async fn turn(self: &Arc<Self>, client: &ClientKey) -> Result<Turn, TooManyMisses> {
        let turn = {
            let mut state = self.lock();
            let turn = state.enter(client, Instant::now())?;
            let begun = state.begin();
            drop(state);
            self.tell(begun);
            turn
        };
        match turn.await {
            Ok(mut turn) => {
                turn.is_miss = true;
                Ok(turn)
            }
            Err(_) => Err(TooManyMisses(self.lock().wait(client, Instant::now()))),
        }
    }

    /// Whether a look-up of this client would be refused now.
    pub(super) fn may(&self, client: &ClientKey) -> Result<(), TooManyMisses> {
        let now = Instant::now();
        let mut state = self.lock();
        let Some(client) = state.clients.get_mut(client).filter(|client| client.under_way == 0) else { return Ok(()) };
        match client.misses.left(now) {
            0 => Err(TooManyMisses(client.misses.wait(now))),
            _ => Ok(()),
        }
    }

    fn tell(self: &Arc<Self>, begun: Begun) {
        for (sender, client) in begun {
            // If the request was dropped a moment ago, the drop of the turn passes it on.
            sender.send(Turn { queue: Arc::clone(self), client, is_miss: false }).ok();
        }
    }
}

impl Turn {
    /// The look-up has found a session of its client, so it counts for nothing.
    pub(super) fn hit(mut self) {
        self.is_miss = false;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.finish(&self.client, self.is_miss, Instant::now());
        let begun = state.begin();
        drop(state);
        self.queue.tell(begun);
    }
}

impl State {
    /// Lets a look-up wait.
    fn enter(&mut self, key: &ClientKey, now: Instant) -> Result<oneshot::Receiver<Turn>, TooManyMisses> {
        if self.waiting.len() >= WAITING {
            return Err(TooManyMisses(super::misses::PERIOD));
        }
        self.sweep(now);
        let client = self.clients.entry(ClientKey::clone(key)).or_default();
        let left = client.misses.left(now);
        if left == 0 && client.under_way == 0 {
            return Err(TooManyMisses(client.misses.wait(now)));
        }
        let (sender, receiver) = oneshot::channel();
        self.last += 1;
        self.waiting.insert(self.last, (sender, ClientKey::clone(key)));
        client.behind.push_back(self.last);
        self.promote(key, now);
        Ok(receiver)
    }

    /// Lets the look-ups of a client go on that may, and refuses the rest if none is under way.
    fn promote(&mut self, key: &ClientKey, now: Instant) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let left = client.misses.left(now);
        while client.under_way < left
            && let Some(number) = client.behind.pop_front()
        {
            if self.waiting.get(&number).is_some_and(|(sender, _)| sender.is_closed()) {
                self.waiting.remove(&number);
                continue;
            }
            client.under_way += 1;
            self.next.push(key, number);
        }
        if client.under_way == 0 {
            for number in client.behind.drain(..) {
                self.waiting.remove(&number);
            }
            if left == MISSES {
                self.clients.remove(key);
            }
        }
    }

    /// Takes the look-ups that begin now.
    fn begin(&mut self) -> Begun {
        let mut begun = Begun::new();
        while self.running < AT_ONCE
            && let Some((sender, client)) = self.next.pop().and_then(|number| self.waiting.remove(&number))
        {
            self.running += 1;
            if sender.is_closed() {
                self.finish(&client, false, Instant::now());
            } else {
                begun.push((sender, client));
            }
        }
        begun
    }

    fn finish(&mut self, key: &ClientKey, is_miss: bool, now: Instant) {
        self.running -= 1;
        if let Some(client) = self.clients.get_mut(key) {
            client.under_way -= 1;
            if is_miss {
                client.misses.add(now);
            }
        }
        self.promote(key, now);
    }

    fn wait(&mut self, key: &ClientKey, now: Instant) -> Duration {
        self.clients.get_mut(key).map_or(Duration::ZERO, |client| {
            client.misses.left(now);
            client.misses.wait(now)
        })
    }

    /// Forgets the clients of which nothing is left to remember, each time that there are twice as many as after the last
    /// time.
    fn sweep(&mut self, now: Instant) {
        if self.clients.len() < self.sweep_at.max(CLIENTS) {
            return;
        }
        self.clients.retain(|_, client| client.under_way > 0 || client.misses.left(now) < MISSES);
        self.sweep_at = 2 * self.clients.len();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join_all};
    use tokio::time::advance;

    use super::*;

    fn client(last: u8) -> ClientKey {
        ClientKey::Address([192, 0, 2, last].into())
    }

    fn begin(queue: &Arc<LookQueue>, last: u8) -> Option<Result<Turn, TooManyMisses>> {
        queue.turn(&client(last)).now_or_never()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_misses_ten_times_a_second_and_another_is_not_touched() {
        let queue = Arc::default();
        for _ in 0..10 {
            drop(begin(&queue, 1).unwrap().unwrap());
        }
        assert_eq!(queue.may(&client(1)), Err(TooManyMisses(Duration::from_secs(1))));
        assert_eq!(begin(&queue, 1).unwrap().unwrap_err(), TooManyMisses(Duration::from_secs(1)));
        assert_eq!(queue.may(&client(2)), Ok(()));
        drop(begin(&queue, 2).unwrap().unwrap());
        advance(Duration::from_secs(1)).await;
        drop(begin(&queue, 1).unwrap().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn hits_are_free() {
        let queue = Arc::<LookQueue>::default();
        for _ in 0..1_000 {
            queue.turn(&client(1)).await.unwrap().hit();
        }
        assert!(queue.lock().clients.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_at_once_ten_are_under_way_and_a_hit_lets_the_next_begin() {
        let queue = Arc::<LookQueue>::default();
        let mut begun: Vec<_> = (0..10).map(|_| begin(&queue, 1).unwrap().unwrap()).collect();
        let key = client(1);
        let mut eleventh = Box::pin(queue.turn(&key));
        assert!((&mut eleventh).now_or_never().is_none());
        begun.pop().unwrap().hit();
        eleventh.await.unwrap().hit();
        let mut waits = Box::pin(join_all((0..5).map(|_| async { queue.turn(&key).await.map(drop) })));
        assert!((&mut waits).now_or_never().is_none(), "one is free");
        drop(begun);
        let refused = waits.await.into_iter().filter(Result::is_err).count();
        assert_eq!(refused, 4, "one began and missed, as the nine did");
    }

    #[tokio::test(start_paused = true)]
    async fn clients_are_served_in_turn() {
        let queue = Arc::<LookQueue>::default();
        let running: Vec<_> = (0..64).map(|last| begin(&queue, last).unwrap().unwrap()).collect();
        let (many, one) = (client(100), client(101));
        let mut waits: Vec<_> = [&many, &many, &many, &one].map(|key| Box::pin(queue.turn(key))).into();
        assert!(waits.iter_mut().all(|wait| wait.now_or_never().is_none()));
        let mut order = Vec::new();
        let mut turns = Vec::new();
        for turn in running.into_iter().take(3) {
            turn.hit();
            let begun = waits.iter_mut().enumerate().find_map(|(place, wait)| Some((place, wait.now_or_never()?)));
            let (place, turn) = begun.unwrap();
            turns.push(turn.unwrap());
            // What was polled to its end is not polled again.
            waits[place] = Box::pin(queue.turn(&one));
            order.push(place);
        }
        assert_eq!(order, [0, 3, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_dropped_gives_its_turn_up() {
        let queue = Arc::<LookQueue>::default();
        let key = client(1);
        let begun: Vec<_> = (0..10).map(|_| begin(&queue, 1).unwrap().unwrap()).collect();
        let (mut gone, mut stays) = (Box::pin(queue.turn(&key)), Box::pin(queue.turn(&key)));
        assert!((&mut gone).now_or_never().is_none() && (&mut stays).now_or_never().is_none());
        drop(gone);
        begun.into_iter().for_each(Turn::hit);
        stays.await.unwrap().hit();
        let state = queue.lock();
        assert_eq!((state.running, state.waiting.len(), state.clients.len()), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_clients_leaves_nothing_behind() {
        let queue = Arc::<LookQueue>::default();
        for number in 0..10_000_u32 {
            let key = ClientKey::Address(std::net::Ipv4Addr::from(number).into());
            drop(queue.turn(&key).now_or_never().unwrap().unwrap());
            advance(Duration::from_millis(1)).await;
        }
        assert!(queue.lock().clients.len() <= 2 * CLIENTS, "{}", queue.lock().clients.len());
    }
}
