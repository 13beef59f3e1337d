//! [`SqliteDirectoryBuilder`]: when writes are durable, and how much the file keeps.

use std::path::PathBuf;
use std::time::Duration;

use crate::directory::SqliteDirectory;
use crate::error::OpenError;

/// Says when what is written is durable. Each end for good is committed before
/// [`written`](rmcp_session_policy::directory::SessionDirectory::written) returns, in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// A write is committed within 100 ms, without waiting for the disk (`synchronous=NORMAL`). What is committed outlives
    /// the process, also one that is killed, and may be lost when the power fails.
    #[default]
    Behind,
    /// Answers wait until what they acknowledge is committed: a new session, or a change of its data. It is committed at once,
    /// with all that wait beside it, the rest within 100 ms. Each commit waits for the disk (`synchronous=FULL`). What is
    /// committed outlives a power failure.
    Before,
}

/// Sets up a [`SqliteDirectory`].
///
/// ```
/// use std::time::Duration;
///
/// use rmcp_session_policy_sqlite::{Durability, OpenError, SqliteDirectory};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("sessions.db");
/// let directory = SqliteDirectory::builder(&path)
///     .durability(Durability::Before)
///     .max_sessions(10_000)
///     .max_age(Duration::from_secs(7 * 24 * 3_600))
///     .open()?;
/// assert!(path.exists());
///
/// let refused = SqliteDirectory::builder(&path).max_sessions(0).open();
/// assert_eq!(refused.unwrap_err().to_string(), "max_sessions must be at least 1");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder opens nothing before `open`"]
pub struct SqliteDirectoryBuilder {
    path: PathBuf,
    durability: Durability,
    bounds: Bounds,
    max_wait: Duration,
}

/// The size of a page, in bytes: SQLite's default.
pub(crate) const PAGE: u64 = 4_096;

/// The most bytes that a tombstone takes in its tree and its index.
const TOMBSTONE: u64 = 256;

/// How much the file keeps.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    pub(crate) sessions: u64,
    bytes: u64,
    pub(crate) age: Duration,
    tombstones: u64,
}

impl SqliteDirectoryBuilder {
    pub(crate) const fn new(path: PathBuf) -> Self {
        let age = Duration::from_secs(30 * 24 * 3_600);
        let bounds = Bounds { sessions: 1_000_000, bytes: 1 << 30, age, tombstones: 1_000_000 };
        Self { path, durability: Durability::Behind, bounds, max_wait: Duration::from_millis(50) }
    }

    /// Sets when what is written is durable. Defaults to [`Durability::Behind`].
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets the most sessions in the file. Beyond them, sessions are forgotten: those that no server has before those that one
    /// has; of both, those that are not ready first, then those without a call, and of each the one whose latest change is
    /// the oldest. At least 1. Defaults to 1,000,000.
    ///
    /// Give more than the servers of the file have at a time. A session that is forgotten while a server has it goes on there.
    /// Its next change of data, or that it is parked, stores it again if that server opened it. If the server had claimed it,
    /// that counts as [`dropped`](crate::SqliteStats::dropped), and the session ends with its place at that server.
    pub const fn max_sessions(mut self, sessions: u64) -> Self {
        self.bounds.sessions = sessions;
        self
    }

    /// Sets the most bytes of the file. Sessions are forgotten before it would grow beyond them, in the same order, and a
    /// quarter of it is for remembered ends. A body of more than a sixteenth of it, or of 4 MiB, is not kept. A file that is
    /// larger when it is opened does not grow: what it holds gets below the limit in steps, with the changes that come.
    ///
    /// The write-ahead log beside the file comes on top. No commit begins while it holds more than half as much, or 16 MiB,
    /// and cannot be emptied. So all files together take at most three times as much, and at most 64 MiB more.
    ///
    /// At least 1 MiB. Defaults to 1 GiB.
    pub const fn max_bytes(mut self, bytes: u64) -> Self {
        self.bounds.bytes = bytes;
        self
    }

    /// Sets how long a session stays without a change, and how long the end of one is remembered. Give more than the
    /// longest lifetime of a session. A session that a server has stays. So do those past their age until
    /// [`take_due`](rmcp_session_policy::directory::SessionDirectory::take_due) takes them, for two minutes after each call of
    /// it, and after the start of a server if it was ever called. At least one second. Defaults to 30 days.
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.bounds.age = age;
        self
    }

    /// Sets the most sessions that ended for good of which the file remembers that. Beyond them, the oldest end is
    /// forgotten. A remembered end takes about 100 bytes, and counts as 256 for the quarter of the file's bytes that ends may
    /// take. At least 1. Defaults to 1,000,000.
    pub const fn max_tombstones(mut self, tombstones: u64) -> Self {
        self.bounds.tombstones = tombstones;
        self
    }

    /// Sets how long a look-up waits, and a claim that is not being committed. Longer is for tests on a busy machine: the
    /// manager gives up after 50 ms. Defaults to 50 ms.
    pub const fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = wait;
        self
    }

    /// Opens the file, or makes it, readable to this user alone (mode 0600), and starts three threads: one reads, one
    /// writes, and one copies the write-ahead log into the file.
    ///
    /// Blocks while it reads and writes some pages, and up to some seconds if another process holds the file locked.
    ///
    /// # Errors
    ///
    /// [`OpenError`], whose text says what to do. A file that exists is as it was then.
    pub fn open(self) -> Result<SqliteDirectory, OpenError> {
        self.bounds.check()?;
        SqliteDirectory::start(self.path, self.durability, self.bounds, self.max_wait)
    }
}

impl Bounds {
    /// The most pages of the file.
    pub(crate) const fn pages(&self) -> u64 {
        self.bytes / PAGE
    }

    /// The most sessions of which the file remembers that they ended: they have their quarter of it, so that neither ends
    /// nor sessions push out the other.
    pub(crate) fn ends(&self) -> u64 {
        self.tombstones.min(self.bytes / 4 / TOMBSTONE)
    }

    /// The most bytes of a body, and of the bodies of one commit.
    pub(crate) fn bodies(&self) -> usize {
        usize::try_from((self.bytes / 16).min(4 << 20)).unwrap_or(usize::MAX)
    }

    /// The most bytes of the write-ahead log with which a commit begins.
    pub(crate) fn log_bytes(&self) -> u32 {
        u32::try_from((self.bytes / 2).min(16 << 20)).unwrap_or(u32::MAX)
    }

    /// The same in pages. Each has a header.
    pub(crate) fn log_frames(&self) -> u32 {
        self.log_bytes() / (4_096 + 24)
    }

    fn check(&self) -> Result<(), OpenError> {
        let checks = [
            (self.sessions >= 1, "max_sessions", "at least 1"),
            (self.bytes >= 1 << 20, "max_bytes", "at least 1 MiB"),
            (self.age >= Duration::from_secs(1), "max_age", "at least one second"),
            (self.tombstones >= 1, "max_tombstones", "at least 1"),
        ];
        match checks.into_iter().find(|(holds, ..)| !holds) {
            Some((_, setting, must_be)) => Err(OpenError::Setting { setting, must_be }),
            None => Ok(()),
        }
    }
}
