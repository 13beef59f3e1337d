//! What the tests share: places of files, sessions, and captured log lines.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rmcp_session_policy::directory::{
    Change, Claim, Epoch, Found, SessionDigest, SessionDirectory, StoredBody, StoredSession, Usage,
};
use rmcp_session_policy_sqlite::{SqliteDirectory, SqliteDirectoryBuilder};
use tokio::time::Instant;

/// How long anything may take on a busy machine. A test that passes takes less.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The path of a directory, in a folder of its own that is removed at the end.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { path: folder.path().join("sessions.db"), folder }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn builder(&self) -> SqliteDirectoryBuilder {
        SqliteDirectory::builder(&self.path).max_wait(PATIENCE)
    }

    pub(crate) fn open(&self) -> SqliteDirectory {
        self.builder().open().unwrap()
    }

    /// A connection of another program.
    pub(crate) fn sqlite(&self) -> rusqlite::Connection {
        sqlite(&self.path)
    }

    /// Waits until the threads of a directory that was dropped have closed the file.
    pub(crate) fn wait_until_closed(&self) {
        let until = std::time::Instant::now() + PATIENCE;
        while self.names().len() > 1 {
            assert!(std::time::Instant::now() < until, "still open: {:?}", self.names());
            if self.names().iter().any(|name| name.ends_with(".lock")) {
                std::thread::yield_now();
            } else {
                // Of two connections that close at once, SQLite may take neither for the last, which removes the log.
                self.sqlite().execute_batch("SELECT * FROM totals").unwrap();
            }
        }
    }

    /// The names of the files in the folder.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }
}

pub(crate) fn sqlite(path: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection
}

/// Asserts that SQLite finds nothing wrong with a file.
pub(crate) fn is_whole(connection: &rusqlite::Connection) {
    let checked: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(checked, "ok");
    let totals = "SELECT (SELECT count(*) FROM sessions) = (SELECT sessions FROM totals)
        AND (SELECT count(*) FROM ended) = (SELECT ended FROM totals)
        AND (SELECT count(*) FROM sessions) = (SELECT count(*) FROM sessions JOIN bodies USING (key))";
    assert!(
        connection.query_row(totals, [], |row| row.get::<_, bool>(0)).unwrap(),
        "the totals are not those of the rows"
    );
}

pub(crate) fn later() -> Instant {
    Instant::now() + PATIENCE
}

pub(crate) fn id(name: impl std::fmt::Display) -> SessionDigest {
    SessionDigest::of(&name.to_string())
}

/// A session that was used so often.
pub(crate) fn session(uses: u64) -> StoredSession {
    session_of(uses, &uses.to_be_bytes())
}

pub(crate) fn session_of(uses: u64, body: &[u8]) -> StoredSession {
    let usage = Usage::default().with_uses(uses);
    StoredSession::new(None, Duration::ZERO, usage, StoredBody::from_bytes(body))
}

pub(crate) async fn see(directory: &SqliteDirectory, id: &SessionDigest) -> Found {
    directory.look(id).await.unwrap().expect("it is there")
}

/// Claims a session as it is now.
pub(crate) async fn claim(directory: &SqliteDirectory, id: &SessionDigest) -> Claim {
    directory.claim(id, &see(directory, id).await).await.unwrap()
}

/// Writes a session that is parked.
pub(crate) fn park(directory: &SqliteDirectory, id: &SessionDigest, uses: u64) {
    directory.write(id, Epoch::FIRST, Change::Opened(session(uses)));
    directory.write(id, Epoch::FIRST, Change::Parked(session(uses)));
}

/// Log lines, as text.
#[derive(Clone, Default)]
pub(crate) struct Logs(Arc<Mutex<Vec<u8>>>);

impl Logs {
    /// Runs something of which the log lines, also those of its threads, come here.
    pub(crate) fn of<T>(&self, run: impl FnOnce() -> T) -> T {
        let logs = self.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || logs.clone()).finish();
        tracing::subscriber::with_default(subscriber, run)
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap();
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }
}

impl io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
