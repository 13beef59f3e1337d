//! [`MemoryDirectory`]: a session directory in memory, which tests can make slow, lossy, or away.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hashlink::LinkedHashMap;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use super::rows::{Queued, Rows};
use crate::directory::{Away, Change, Claim, Due, Epoch, Found, ServerId, SessionDigest, SessionDirectory};

/// How many sessions a directory keeps, if nothing else is said.
const MOST: usize = 100_000;

/// A session directory in memory, for tests and examples. It outlives managers, and not the process.
///
/// A value is one server of the directory. Its clones are the same server: a test keeps one, and gives another to a
/// manager. [`another_server`](Self::another_server) is another server over the same sessions. A server is gone once its
/// last clone is dropped, or after [`crash`](Self::crash).
///
/// The directory keeps 100,000 sessions, or [as many as it is told](Self::with_capacity), and the digests of as many that
/// have ended. Each operation is O(log n), but [`take_due`](SessionDirectory::take_due) looks at all sessions. It keeps
/// sessions whatever their age.
///
/// ```
/// use std::time::Duration;
///
/// use rmcp_session_policy::directory::{
///     Change, Claim, Epoch, FoundState, SessionDigest, SessionDirectory, StoredBody, StoredSession, Usage,
/// };
/// use rmcp_session_policy::testing::directory::MemoryDirectory;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), rmcp_session_policy::directory::Away> {
/// let first = MemoryDirectory::new();
/// let second = first.another_server();
/// let id = SessionDigest::of("80f04fe2-5387-4a93-9fb0-4ef1f686fd95");
/// let stored = StoredSession::new(None, Duration::ZERO, Usage::default(), StoredBody::from_bytes([]));
/// first.write(&id, Epoch::FIRST, Change::Opened(stored));
/// assert_eq!(second.look(&id).await?.map(|found| found.state), Some(FoundState::Live));
///
/// first.crash();
/// let found = second.look(&id).await?.expect("is still there");
/// assert!(matches!(second.claim(&id, &found).await?, Claim::Yours(..)));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct MemoryDirectory {
    server: Arc<Server>,
}

/// One server.
struct Server {
    id: ServerId,
    shared: Arc<Shared>,
}

/// What all servers share.
struct Shared {
    state: Mutex<State>,
    /// Notified at each change of the state.
    changed: Notify,
}

struct State {
    rows: Rows,
    most: usize,
    /// The servers that are not gone.
    servers: HashMap<ServerId, Queue>,
    opened: u64,
    away: bool,
    loses: bool,
    delay: Duration,
    looks: u64,
    claims: u64,
}

/// What one server waits for.
#[derive(Default)]
struct Queue {
    /// Oldest first.
    writes: LinkedHashMap<SessionDigest, Queued>,
    /// Sessions of which a change is lost.
    unwritten: HashSet<SessionDigest>,
    /// Sessions that others have claimed.
    lost: LinkedHashMap<SessionDigest, Epoch>,
    /// Whether the server is about to stop.
    leaving: bool,
}

impl MemoryDirectory {
    /// Creates an empty directory of 100,000 sessions at most, and its first server.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(MOST)
    }

    /// Creates an empty directory of this many sessions at most, and its first server. Beyond them, it forgets sessions
    /// that are not ready first, then those without a call, oldest first.
    #[must_use]
    pub fn with_capacity(sessions: usize) -> Self {
        let state = State {
            rows: Rows::new(sessions),
            most: sessions,
            servers: HashMap::new(),
            opened: 0,
            away: false,
            loses: false,
            delay: Duration::ZERO,
            looks: 0,
            claims: 0,
        };
        Self::server_of(Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }))
    }

    /// Opens the directory as another server.
    #[must_use]
    pub fn another_server(&self) -> Self {
        Self::server_of(Arc::clone(&self.server.shared))
    }

    fn server_of(shared: Arc<Shared>) -> Self {
        let id = {
            let mut state = shared.lock();
            state.opened += 1;
            let id = ServerId::from_bytes(u128::from(state.opened).to_be_bytes());
            state.servers.insert(id, Queue::default());
            id
        };
        Self { server: Arc::new(Server { id, shared }) }
    }

    /// Acts as if the process of this server was killed: what it has not written is lost, what it writes from now on has
    /// no effect, and others may claim its sessions.
    pub fn crash(&self) {
        self.server.shared.end(self.server.id);
    }

    /// Makes the directory answer no server ([`Away`]), or answer again. What servers write meanwhile is queued.
    pub fn be_away(&self, away: bool) {
        self.set(|state| state.away = away);
    }

    /// Makes the directory lose what servers write from now on, or write it again.
    pub fn lose(&self, loses: bool) {
        self.set(|state| state.loses = loses);
    }

    /// Delays each answer, and the moment from which a write is durable. Defaults to zero.
    pub fn delay(&self, delay: Duration) {
        self.set(|state| state.delay = delay);
    }

    /// Returns how many sessions there are, without those that have ended; those that are ending are among them.
    #[must_use]
    pub fn len(&self) -> usize {
        let mut state = self.lock();
        state.write_due(Instant::now());
        state.rows.len()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of look-ups until now, of all servers.
    #[must_use]
    pub fn looks(&self) -> u64 {
        self.lock().looks
    }

    /// Returns the number of claims until now, of all servers.
    #[must_use]
    pub fn claims(&self) -> u64 {
        self.lock().claims
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.server.shared.lock()
    }

    fn set(&self, set: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        set(&mut state);
        state.write_due(Instant::now());
        drop(state);
        self.server.shared.changed.notify_waiters();
    }

    /// Waits for the delay, and locks the state unless the directory is away.
    async fn answer(&self, count: impl FnOnce(&mut State)) -> Result<MutexGuard<'_, State>, Away> {
        let delay = {
            let mut state = self.lock();
            count(&mut state);
            state.delay
        };
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let mut state = self.lock();
        if state.away {
            return Err(Away::new());
        }
        state.write_due(Instant::now());
        Ok(state)
    }

    /// Waits until nothing of what `waits` says is queued. Returns how many sessions are not written in the end.
    async fn until_written(&self, until: Instant, waits: impl Fn(&Queue) -> usize) -> usize {
        loop {
            let mut changed = std::pin::pin!(self.server.shared.changed.notified());
            changed.as_mut().enable();
            let next = {
                let mut state = self.lock();
                let now = Instant::now();
                state.write_due(now);
                let unwritten = state.servers.get(&self.server.id).map_or(0, &waits);
                if unwritten == 0 || now >= until {
                    return unwritten;
                }
                state.next_due(&self.server.id).filter(|_| !state.away).unwrap_or(until)
            };
            // The loop looks again, whether something has changed or is due.
            timeout_at(next.min(until), changed).await.ok();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a server.
    fn end(&self, server: ServerId) {
        let mut state = self.lock();
        state.write_due(Instant::now());
        drop(state.servers.remove(&server));
        drop(state);
        self.changed.notify_waiters();
    }
}

impl State {
    /// Whether a server is about to stop.
    fn leaves(&self, server: &ServerId) -> bool {
        self.servers.get(server).is_some_and(|queue| queue.leaving)
    }

    /// Writes what is due by now, of all servers.
    fn write_due(&mut self, now: Instant) {
        let Self { rows, servers, delay, away: false, .. } = self else { return };
        for (server, queue) in servers {
            while let Some((_, first)) = queue.writes.front()
                && first.at + *delay <= now
                && let Some((id, queued)) = queue.writes.pop_front()
            {
                rows.apply(id, *server, queued);
            }
        }
    }

    /// Writes what this server has queued of a session, for a look-up of its own.
    fn write_own(&mut self, server: &ServerId, id: &SessionDigest) {
        if let Some(queued) = self.servers.get_mut(server).and_then(|queue| queue.writes.remove(id)) {
            self.rows.apply(*id, *server, queued);
        }
    }

    /// When the first change of a server is due.
    fn next_due(&self, server: &ServerId) -> Option<Instant> {
        let (_, first) = self.servers.get(server)?.writes.front()?;
        Some(first.at + self.delay)
    }

    /// Queues a change of a server that is not gone.
    fn queue(&mut self, server: &ServerId, id: SessionDigest, epoch: Epoch, change: Change) {
        let (loses, most, at) = (self.loses, self.most, Instant::now());
        let Some(queue) = self.servers.get_mut(server) else { return };
        if loses {
            queue.unwritten.insert(id);
            return;
        }
        queue.unwritten.remove(&id);
        let change = match queue.writes.get(&id) {
            Some(before) if before.epoch == epoch => {
                change.after(before.change.clone(), at.saturating_duration_since(before.at))
            }
            _ => change,
        };
        queue.writes.insert(id, Queued { epoch, change, at });
        while queue.writes.len() > most {
            queue.writes.pop_front();
        }
    }
}

#[async_trait]
impl SessionDirectory for MemoryDirectory {
    async fn look(&self, id: &SessionDigest) -> Result<Option<Found>, Away> {
        let mut state = self.answer(|state| state.looks += 1).await?;
        state.write_own(&self.server.id, id);
        let found = state.rows.find(id, Instant::now(), |server| state.servers.contains_key(server));
        Ok(found.map(|found| found.with_leaving(state.leaves(&found.server))))
    }

    async fn claim(&self, id: &SessionDigest, seen: &Found) -> Result<Claim, Away> {
        let claim = {
            let mut state = self.answer(|state| state.claims += 1).await?;
            let me = self.server.id;
            if !state.servers.contains_key(&me) {
                return Err(Away::because("this server has crashed"));
            }
            state.write_own(&me, id);
            let State { rows, servers, .. } = &mut *state;
            let (claim, before) = rows.claim(id, seen.epoch, me, Instant::now(), |server| servers.contains_key(server));
            let before = before.filter(|(server, _)| *server != me);
            if let Some((server, epoch)) = before
                && let Some(queue) = servers.get_mut(&server)
            {
                queue.lost.insert(*id, epoch);
            }
            claim
        };
        self.server.shared.changed.notify_waiters();
        Ok(claim)
    }

    fn write(&self, id: &SessionDigest, epoch: Epoch, change: Change) {
        let mut state = self.lock();
        state.queue(&self.server.id, *id, epoch, change);
        state.write_due(Instant::now());
    }

    async fn written(&self, id: &SessionDigest, until: Instant) -> bool {
        let waits = |queue: &Queue| usize::from(queue.writes.contains_key(id) || queue.unwritten.contains(id));
        self.until_written(until, waits).await == 0
    }

    fn leave(&self) {
        self.set(|state| {
            if let Some(queue) = state.servers.get_mut(&self.server.id) {
                queue.leaving = true;
            }
        });
    }

    async fn lost(&self) -> Vec<(SessionDigest, Epoch)> {
        loop {
            let mut changed = std::pin::pin!(self.server.shared.changed.notified());
            changed.as_mut().enable();
            let lost = self.lock().servers.get_mut(&self.server.id).map(|queue| std::mem::take(&mut queue.lost));
            match lost {
                Some(lost) if !lost.is_empty() => return lost.into_iter().collect(),
                _ => changed.await,
            }
        }
    }

    async fn take_due(&self, lifetime: Option<Duration>) -> Result<Vec<Due>, Away> {
        let mut state = self.answer(|_| {}).await?;
        let me = self.server.id;
        if !state.servers.contains_key(&me) {
            return Err(Away::because("this server has crashed"));
        }
        let State { rows, servers, .. } = &mut *state;
        Ok(rows.take_due(lifetime, me, Instant::now(), |server| servers.contains_key(server)))
    }

    async fn flush(&self, until: Instant) -> usize {
        self.until_written(until, |queue| queue.writes.len() + queue.unwritten.len()).await
    }
}

impl Default for MemoryDirectory {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("MemoryDirectory")
            .field("server", &self.server.id)
            .field("sessions", &state.rows.len())
            .field("away", &state.away)
            .finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.end(self.id);
    }
}
