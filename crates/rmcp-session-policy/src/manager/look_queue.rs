//! The look-ups in the directory: which may begin, in which order, and how many may find nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::in_turn::{InTurn, Permit};
use super::misses::{MISSES, Misses};
use crate::admission::ClientKey;
use crate::time::SECOND;

/// How many look-ups run at a time.
const AT_ONCE: usize = 64;
/// How many look-ups may wait for their turn.
const WAITING: usize = 65_536;
/// From how many clients on those are forgotten of which nothing is left to remember.
const CLIENTS: usize = 1_024;

/// The look-ups that run and wait.
///
/// 64 run at a time, those of different clients in turn. A client may miss ten times a second, and once more for each hit
/// of that second. To keep that exact while hits are free, each look-up under way counts as a miss until it is a hit: a
/// client that has as many under way as it has misses left waits for one of them. If all of them miss, what waits is
/// refused.
///
/// So clients that share a key, as behind one address, do not use up each other's look-ups while most of them come back to
/// sessions that exist. A flood of unknown ids is held to ten a second, and takes the look-ups of those that share its key.
///
/// Each operation is O(log n), amortized. It keeps a client while a look-up of it runs or waits, and for a second after a
/// miss; up to 1,024 clients may stay longer.
#[derive(Debug)]
pub(super) struct LookQueue {
    state: Mutex<State>,
    running: Arc<InTurn>,
}

#[derive(Debug, Default)]
struct State {
    clients: HashMap<ClientKey, Client>,
    /// How many look-ups wait, for other ones of their client or for their turn.
    waiting: usize,
    /// At how many clients the next sweep is.
    sweep_at: usize,
}

#[derive(Debug, Default)]
struct Client {
    misses: Misses,
    /// Look-ups that run or wait for their turn.
    under_way: usize,
    /// Look-ups that wait for the outcome of those, oldest first. One whose sender is dropped is refused; one whose receiver
    /// is dropped is passed over.
    behind: VecDeque<oneshot::Sender<UnderWay>>,
}

/// A look-up is refused, because too many of its client found nothing, or too many wait. One may begin after this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooManyMisses(pub(super) Duration);

/// A look-up that runs. Its drop counts as a miss, unless it was a hit or had no answer.
#[derive(Debug)]
pub(super) struct Turn {
    under_way: UnderWay,
    _permit: Permit,
}

/// A look-up that counts as a miss until its outcome is known.
#[derive(Debug)]
struct UnderWay {
    queue: Arc<LookQueue>,
    client: ClientKey,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It has not begun, or had no answer.
    None,
    Miss,
    Hit,
}

/// A look-up that waits. Its drop counts it out.
struct Waits<'a>(&'a LookQueue);

/// The look-ups that are under way from now on. They are told outside the lock, which their drop takes.
type Begun = Vec<(oneshot::Sender<UnderWay>, ClientKey)>;

impl Default for LookQueue {
    fn default() -> Self {
        Self { state: Mutex::default(), running: Arc::new(InTurn::new(AT_ONCE)) }
    }
}

impl LookQueue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a look-up of this client may begin.
    pub(super) async fn turn(self: &Arc<Self>, client: &ClientKey) -> Result<Turn, TooManyMisses> {
        let (entered, begun) = self.lock().enter(client, Instant::now())?;
        let waits = Waits(self);
        self.tell(begun);
        let Ok(mut under_way) = entered.await else {
            let wait = self.lock().wait(client, Instant::now());
            return Err(TooManyMisses(wait));
        };
        let Some(permit) = self.running.permit(client).await else { return Err(TooManyMisses(SECOND)) };
        drop(waits);
        under_way.outcome = Outcome::Miss;
        Ok(Turn { under_way, _permit: permit })
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
            // If the request was dropped a moment ago, the drop of what it is sent lets the next one begin.
            sender.send(UnderWay { queue: Arc::clone(self), client, outcome: Outcome::None }).ok();
        }
    }
}

impl Turn {
    /// The look-up has found a session of its client, which gives it one miss back.
    pub(super) fn hit(mut self) {
        self.under_way.outcome = Outcome::Hit;
    }

    /// The look-up had no answer, so it counts for nothing.
    pub(super) fn unanswered(mut self) {
        self.under_way.outcome = Outcome::None;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let begun = self.queue.lock().finish(&self.client, self.outcome, Instant::now());
        self.queue.tell(begun);
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

impl State {
    /// Lets a look-up wait.
    fn enter(&mut self, key: &ClientKey, now: Instant) -> Result<(oneshot::Receiver<UnderWay>, Begun), TooManyMisses> {
        if self.waiting >= WAITING {
            return Err(TooManyMisses(super::misses::PERIOD));
        }
        self.sweep(now);
        let client = self.clients.entry(ClientKey::clone(key)).or_default();
        if client.misses.left(now) == 0 && client.under_way == 0 {
            return Err(TooManyMisses(client.misses.wait(now)));
        }
        if client.behind.len() == client.behind.capacity() {
            // Those of dropped requests are removed each time that the queue would grow.
            client.behind.retain(|sender| !sender.is_closed());
        }
        let (sender, receiver) = oneshot::channel();
        client.behind.push_back(sender);
        self.waiting += 1;
        Ok((receiver, self.promote(key, now)))
    }

    /// Takes the look-ups of a client that may begin, and refuses the rest if none is under way.
    fn promote(&mut self, key: &ClientKey, now: Instant) -> Begun {
        let mut begun = Begun::new();
        let Some(client) = self.clients.get_mut(key) else { return begun };
        let left = client.misses.left(now);
        while client.under_way < left
            && let Some(sender) = client.behind.pop_front()
        {
            if !sender.is_closed() {
                client.under_way += 1;
                begun.push((sender, ClientKey::clone(key)));
            }
        }
        if client.under_way == 0 {
            client.behind.clear();
            if left == MISSES {
                self.clients.remove(key);
            }
        }
        begun
    }

    fn finish(&mut self, key: &ClientKey, outcome: Outcome, now: Instant) -> Begun {
        if let Some(client) = self.clients.get_mut(key) {
            client.under_way -= 1;
            match outcome {
                Outcome::Miss => client.misses.add(now),
                Outcome::Hit => client.misses.forgive(),
                Outcome::None => {}
            }
        }
        self.promote(key, now)
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
        assert_eq!((state.waiting, state.clients.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hit_gives_one_miss_back_and_no_answer_gives_none() {
        let queue = Arc::<LookQueue>::default();
        // As clients behind one address do after a restart, of which one in ten comes back to a session that has ended.
        for number in 0..1_000 {
            let turn = queue.turn(&client(1)).await.unwrap();
            if number % 10 == 0 { drop(turn) } else { turn.hit() }
        }
        for _ in 0..10 {
            drop(queue.turn(&client(1)).await.unwrap());
        }
        assert!(queue.turn(&client(1)).await.is_err(), "hits are not saved up");
        advance(Duration::from_secs(1)).await;
        for _ in 0..9 {
            drop(queue.turn(&client(1)).await.unwrap());
        }
        queue.turn(&client(1)).await.unwrap().unanswered();
        drop(queue.turn(&client(1)).await.unwrap());
        assert!(queue.turn(&client(1)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_dropped_requests_leaves_nothing_behind() {
        let queue = Arc::<LookQueue>::default();
        let begun: Vec<_> = (0..10).map(|_| begin(&queue, 1).unwrap().unwrap()).collect();
        for _ in 0..10_000 {
            assert!(begin(&queue, 1).is_none(), "is dropped at once");
        }
        let behind = queue.lock().clients[&client(1)].behind.len();
        assert!(behind <= 16, "{behind}");
        assert_eq!(queue.lock().waiting, 0);
        drop(begun);
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
