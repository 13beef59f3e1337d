//! [`SqliteDirectory`]: the directory as the manager sees it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rmcp_session_policy::directory::{
    Away, Change, Claim, Due, Epoch, Found, ServerId, SessionDigest, SessionDirectory,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::builder::{Bounds, Durability, SqliteDirectoryBuilder};
use crate::checkpoints::Checkpoints;
use crate::claiming::claim_request;
use crate::clock::{Clock, Machine};
use crate::connection;
use crate::due::DueRequest;
use crate::error::OpenError;
use crate::health::Health;
use crate::place;
use crate::queue::Queue;
use crate::reader::{LookUp, Reader};
use crate::row::Queued;
use crate::schema;
use crate::server::{ServerLock, Servers};
use crate::stats::SqliteStats;
use crate::writer::{Times, Writer};

/// The most look-ups that wait.
const LOOK_UPS: usize = 256;

/// The oldest SQLite that is used. Up to 3.51.2 two connections that write at the same time can corrupt a file with a
/// write-ahead log (<https://sqlite.org/wal.html#walresetbug>).
const OLDEST_SQLITE: i32 = 3_051_003;

/// Directories of one process are opened one after another: `place` may close a file that it has just made.
static OPENING: Mutex<()> = Mutex::new(());

/// A session directory in one SQLite file. A value is one server of it.
///
/// Several processes of one machine, and several values in one process, may have the same file open. A server is gone when
/// its value is dropped or its process ends, in whichever way.
///
/// Dropping it does not wait: what is queued is written by its thread within a moment, if the process lasts that long. Call
/// [`flush`](SessionDirectory::flush) before, as a drain of the manager does.
///
/// A look-up costs two or three indexed reads, a change in a group a read and a write more. A call that waits for the file
/// ends after 50 ms with [`Away`], unless it is a claim that is being committed. Under tokio's paused clock those 50 ms pass
/// at once, and the file is slower: use the real clock in tests with this directory.
///
/// ```
/// use std::time::Duration;
///
/// use rmcp_session_policy::directory::{
///     Change, Claim, Epoch, FoundState, SessionDigest, SessionDirectory, StoredBody, StoredSession, Usage,
/// };
/// use rmcp_session_policy_sqlite::SqliteDirectory;
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("sessions.db");
/// let before = SqliteDirectory::open(&path)?;
/// let id = SessionDigest::of("80f04fe2-5387-4a93-9fb0-4ef1f686fd95");
/// let stored = StoredSession::new(None, Duration::ZERO, Usage::default(), StoredBody::from_bytes([]));
/// before.write(&id, Epoch::FIRST, Change::Opened(stored));
/// assert!(before.written(&id, Instant::now() + Duration::from_secs(5)).await);
///
/// // A claim waits 50 ms at most; this example may run on a busy machine.
/// let after = SqliteDirectory::builder(&path).max_wait(Duration::from_secs(5)).open()?;
/// let found = after.look(&id).await?.expect("it was written");
/// assert_eq!(found.state, FoundState::Live);
/// assert_eq!(after.claim(&id, &found).await?, Claim::Elsewhere(before.server()));
///
/// before.write(&id, Epoch::FIRST, Change::Released);
/// assert_eq!(before.flush(Instant::now() + Duration::from_secs(5)).await, 0);
/// assert!(matches!(after.claim(&id, &found).await?, Claim::Yours(..)));
/// # Ok(()) }
/// ```
pub struct SqliteDirectory {
    path: PathBuf,
    server: ServerId,
    clock: Clock,
    max_wait: Duration,
    is_awaited: bool,
    queue: Arc<Queue>,
    look_ups: SyncSender<LookUp>,
    reads: Arc<Health>,
    writes: Arc<Health>,
    lock: Arc<ServerLock>,
}

impl SqliteDirectory {
    /// Opens a file with the defaults of [`builder`](Self::builder), or makes it. Blocks.
    ///
    /// # Errors
    ///
    /// As [`SqliteDirectoryBuilder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::builder(path).open()
    }

    /// Sets up a directory in this file.
    pub fn builder(path: impl AsRef<Path>) -> SqliteDirectoryBuilder {
        SqliteDirectoryBuilder::new(path.as_ref().to_owned())
    }

    /// Returns the id of this server.
    #[must_use]
    pub const fn server(&self) -> ServerId {
        self.server
    }

    /// Returns what waits and what failed until now. O(1).
    #[must_use]
    pub fn stats(&self) -> SqliteStats {
        let (queued, dropped) = self.queue.lengths();
        SqliteStats {
            queued,
            dropped,
            is_read: !self.reads.is_away(),
            is_written: !self.writes.is_away(),
            failures: self.reads.failures() + self.writes.failures(),
        }
    }

    pub(crate) fn start(
        path: PathBuf,
        durability: Durability,
        bounds: Bounds,
        max_wait: Duration,
    ) -> Result<Self, OpenError> {
        check_sqlite(rusqlite::version_number(), rusqlite::version())?;
        let _one_at_a_time = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        let (path, is_new) = place::prepare(&path)?;
        if !is_new {
            schema::check(&path)?;
        }
        let io = |source| OpenError::Io { path: path.clone(), source };
        let sqlite = |error| schema::open_error(&path, error);
        let machine = Machine::read().map_err(io)?;
        let mut connection = connection::to_write(&path, durability, &bounds).map_err(sqlite)?;
        let clock = schema::prepare(&mut connection, &machine).map_err(sqlite)?;
        connection::be_quick(&connection).map_err(sqlite)?;
        let reading = connection::to_read(&path, &bounds).map_err(sqlite)?;
        let servers = Servers::of(&path);
        servers.tidy().map_err(io)?;
        let lock = Arc::new(servers.enter().map_err(io)?);
        let server = lock.id();
        let queue = Arc::new(Queue::new(bounds.bodies()));
        let (reads, writes) = (Health::new(path.clone(), "read"), Health::new(path.clone(), "written"));
        let (reads, writes) = (Arc::new(reads), Arc::new(writes));
        let reader = Reader {
            path: path.clone(),
            bounds: bounds.clone(),
            connection: Some(reading),
            queue: Arc::clone(&queue),
            health: Arc::clone(&reads),
            servers: servers.clone(),
            clock,
            me: server,
        };
        let (held, started) = (Arc::clone(&lock), clock.now());
        let (queued, health, times) = (Arc::clone(&queue), Arc::clone(&writes), Times::default());
        let copying = connection::to_copy(&path, &bounds).map_err(sqlite)?;
        let copies = Checkpoints { path: path.clone(), bounds: bounds.clone(), connection: Some(copying) };
        let (checkpoints, checkpoints_asked) = sync_channel(1);
        let writer = Writer {
            connection,
            queue: queued,
            health,
            servers,
            bounds,
            clock,
            machine,
            started,
            times,
            checkpoints,
            lock,
        };
        let (look_ups, asked) = sync_channel(LOOK_UPS);
        spawn("sessions-reader", move || reader.run(&asked)).map_err(io)?;
        spawn("sessions-copier", move || copies.run(&checkpoints_asked)).map_err(io)?;
        spawn("sessions-writer", move || writer.run()).map_err(io)?;
        let is_awaited = durability == Durability::Before;
        Ok(Self { path, server, clock, max_wait, is_awaited, queue, look_ups, reads, writes, lock: held })
    }
}

#[async_trait]
impl SessionDirectory for SqliteDirectory {
    async fn look(&self, id: &SessionDigest) -> Result<Option<Found>, Away> {
        let (answer, found) = oneshot::channel();
        let asked = self.look_ups.try_send(LookUp { id: *id, answer });
        asked.map_err(|_| Away::because("too many look-ups wait"))?;
        match timeout(self.max_wait, found).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => Err(Away::because("the reading thread has ended")),
            Err(_) => Err(Away::because("a look-up took too long")),
        }
    }

    async fn claim(&self, id: &SessionDigest, seen: &Found) -> Result<Claim, Away> {
        let (request, mut pending) = claim_request(*id, seen.epoch);
        self.queue.claim(request).map_err(|_| Away::because("too many claims wait"))?;
        let ended = || Away::because("the writing thread has ended");
        if let Ok(claim) = timeout(self.max_wait, &mut pending.answer).await {
            return claim.map_err(|_| ended())?;
        }
        if pending.give_up() {
            return Err(Away::because("a claim took too long"));
        }
        // It is being committed, so its answer is the only one that is true.
        (&mut pending.answer).await.map_err(|_| ended())?
    }

    fn write(&self, id: &SessionDigest, epoch: Epoch, change: Change) {
        self.queue.write(*id, Queued { epoch, change, at: self.clock.now() });
    }

    async fn written(&self, id: &SessionDigest, until: Instant) -> bool {
        self.queue.written(id, until).await
    }

    fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    fn leave(&self) {
        if let Err(error) = self.lock.leave() {
            tracing::warn!(%error, "other servers cannot be told that this one is about to stop");
        }
    }

    async fn lost(&self) -> Vec<(SessionDigest, Epoch)> {
        self.queue.lost().await
    }

    async fn take_due(&self, lifetime: Option<Duration>) -> Result<Vec<Due>, Away> {
        let (answer, due) = oneshot::channel();
        let queued = self.queue.take_due(DueRequest { lifetime, answer });
        queued.map_err(|_| Away::because("too many calls for what is due wait"))?;
        due.await.map_err(|_| Away::because("the writing thread has ended"))?
    }

    async fn flush(&self, until: Instant) -> usize {
        self.queue.flush(until).await
    }
}

impl fmt::Debug for SqliteDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteDirectory")
            .field("path", &self.path)
            .field("server", &self.server)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Drop for SqliteDirectory {
    fn drop(&mut self) {
        self.queue.stop();
    }
}

fn check_sqlite(number: i32, version: &'static str) -> Result<(), OpenError> {
    if number < OLDEST_SQLITE { Err(OpenError::OldSqlite { version }) } else { Ok(()) }
}

/// Starts a thread whose log lines go where those of this one go.
fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let logs = tracing::dispatcher::get_default(Clone::clone);
    let run = move || tracing::dispatcher::with_default(&logs, run);
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_sqlite_is_refused_and_the_bundled_one_is_not() {
        let refused = check_sqlite(3_051_002, "3.51.2").expect_err("it is too old");
        let text = "SQLite 3.51.2 is too old: build with 3.51.3 or newer, as rusqlite's feature `bundled` does";
        assert_eq!(refused.to_string(), text);
        assert!(check_sqlite(rusqlite::version_number(), rusqlite::version()).is_ok());
    }
}
