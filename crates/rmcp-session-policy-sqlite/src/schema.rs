//! The tables of the file, and the checks of what a file is.
//!
//! The file is known by its application id, and has a version of its schema. A newer release may add tables, and columns
//! with defaults, and raises the version; as long as `min_reader` allows it, this release goes on with such a file. So each
//! statement names its columns.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, TransactionBehavior, ffi};

use crate::clock::{Clock, Machine, Saved};
use crate::connection;
use crate::error::OpenError;
use crate::journal;

/// `rmsp`.
const APPLICATION: u32 = 0x726d_7370;

/// The version of the schema that this release writes.
const SCHEMA: i64 = 1;

/// The tables.
///
/// - `about` has the clock, the oldest schema whose releases may read the file, and when a server asked for what is due.
/// - `totals` counts the rows; triggers keep it, so that each release keeps it the same way.
/// - `sessions` and `bodies` have a row each for one session. The body is apart, so that a use does not rewrite it. `live` is
///   the stage of the session. By rank those are found that are forgotten first, by server those that a server has, by
///   opening those past their lifetime.
/// - `ended` has the tombstones, `lost` what servers are to be told of.
const TABLES: &str = "
CREATE TABLE about (
    one INTEGER PRIMARY KEY CHECK (one = 1), min_reader INTEGER NOT NULL,
    boot TEXT NOT NULL, boot_offset INTEGER NOT NULL, clock_at INTEGER NOT NULL, wall_at INTEGER NOT NULL, due_at INTEGER
);
CREATE TABLE totals (one INTEGER PRIMARY KEY CHECK (one = 1), sessions INTEGER NOT NULL, ended INTEGER NOT NULL);
INSERT INTO totals (one, sessions, ended) VALUES (1, 0, 0);
CREATE TABLE sessions (
    key INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE,
    server BLOB NOT NULL, epoch INTEGER NOT NULL, live INTEGER NOT NULL, rank INTEGER NOT NULL,
    owner BLOB, ready INTEGER NOT NULL,
    opened_at INTEGER NOT NULL, used_at INTEGER NOT NULL, changed_at INTEGER NOT NULL,
    uses INTEGER NOT NULL, calls INTEGER NOT NULL, last_gap INTEGER
);
CREATE INDEX sessions_by_rank ON sessions (live, rank, changed_at);
CREATE INDEX sessions_by_server ON sessions (server) WHERE live IN (1, 2);
CREATE INDEX sessions_by_opening ON sessions (opened_at) WHERE live = 0;
CREATE TABLE bodies (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE ended (id BLOB PRIMARY KEY, server BLOB NOT NULL, epoch INTEGER NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX ended_by_time ON ended (at);
CREATE TABLE lost (server BLOB NOT NULL, id BLOB NOT NULL, epoch INTEGER NOT NULL, PRIMARY KEY (server, id)) WITHOUT ROWID;
CREATE TRIGGER session_added AFTER INSERT ON sessions BEGIN UPDATE totals SET sessions = sessions + 1; END;
CREATE TRIGGER session_removed AFTER DELETE ON sessions BEGIN
    UPDATE totals SET sessions = sessions - 1;
    DELETE FROM bodies WHERE key = OLD.key;
END;
CREATE TRIGGER ended_added AFTER INSERT ON ended BEGIN UPDATE totals SET ended = ended + 1; END;
CREATE TRIGGER ended_removed AFTER DELETE ON ended BEGIN UPDATE totals SET ended = ended - 1; END;
";

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Empty,
    Sessions,
}

/// Checks that a file is a directory of sessions that this release can read, or empty. Changes nothing, but takes a commit
/// of its first process back that was left unfinished.
pub(crate) fn check(path: &Path) -> Result<(), OpenError> {
    let failed = |error| open_error(path, error);
    let opened = match open_to_check(path) {
        Err(error) if journal::is_left(&error) => {
            if !journal::is_ours(path, APPLICATION) {
                return Err(OpenError::NotADirectoryOfSessions { path: path.to_owned() });
            }
            journal::roll_back(path).map_err(failed)?;
            open_to_check(path)
        }
        opened => opened,
    };
    let (kind, connection) = opened.map_err(failed)?;
    match kind {
        Some(Kind::Empty) => Ok(()),
        None => Err(OpenError::NotADirectoryOfSessions { path: path.to_owned() }),
        Some(Kind::Sessions) => {
            let versions = versions(&connection).map_err(failed)?;
            if versions.0 > SCHEMA && versions.1 > SCHEMA {
                return Err(OpenError::Newer { path: path.to_owned(), schema: versions.0 });
            }
            Ok(())
        }
    }
}

fn open_to_check(path: &Path) -> rusqlite::Result<(Option<Kind>, Connection)> {
    let connection = connection::to_check(path)?;
    Ok((kind(&connection)?, connection))
}

/// Makes the tables if the file is empty, switches it to a write-ahead log, and sets its clock going.
///
/// The tables are made before the switch: so they are never in a log that can be cut.
pub(crate) fn prepare(connection: &mut Connection, machine: &Machine) -> rusqlite::Result<Clock> {
    {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
        if kind(&transaction)? == Some(Kind::Empty) {
            transaction.execute_batch(TABLES)?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            transaction.pragma_update(None, "user_version", SCHEMA)?;
        }
        transaction.commit()?;
    }
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        // The file system has no shared memory.
        let reason = Some(format!("a write-ahead log is not possible here, but only {mode}"));
        return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_NOLFS), reason));
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let saved = transaction.query_row("SELECT boot, boot_offset, clock_at, wall_at FROM about", [], |row| {
        Ok(Saved { boot: row.get(0)?, offset: row.get(1)?, at: row.get(2)?, wall: row.get(3)? })
    });
    let saved = match saved {
        Err(rusqlite::Error::QueryReturnedNoRows) => None,
        saved => Some(saved?),
    };
    let clock = Clock::resume(saved.as_ref(), machine);
    save_clock(&transaction, clock, machine)?;
    transaction.commit()?;
    Ok(clock)
}

/// Writes what the clock needs to go on in a later boot.
pub(crate) fn save_clock(connection: &Connection, clock: Clock, machine: &Machine) -> rusqlite::Result<()> {
    let Saved { boot, offset, at, wall } = clock.saved(machine);
    connection.execute(
        "INSERT INTO about (one, min_reader, boot, boot_offset, clock_at, wall_at) VALUES (1, ?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (one) DO UPDATE SET boot = ?2, boot_offset = ?3, clock_at = ?4, wall_at = ?5",
        (SCHEMA, boot, offset, at, wall),
    )?;
    Ok(())
}

/// Puts an error of SQLite into words.
pub(crate) fn open_error(path: &Path, error: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::NotADirectoryOfSessions { path },
        Some(ErrorCode::DatabaseCorrupt) => OpenError::Damaged { path },
        Some(ErrorCode::ReadOnly) => OpenError::ReadOnly { path },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::Locked { path },
        // A table or column that a file with this application id and version has is missing.
        Some(ErrorCode::Unknown) => OpenError::Damaged { path },
        _ => OpenError::Io { path, source: std::io::Error::other(error) },
    }
}

/// What a file is. `None` if it belongs to another program.
fn kind(connection: &Connection) -> rusqlite::Result<Option<Kind>> {
    let application: u32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if application == APPLICATION {
        return Ok(Some(Kind::Sessions));
    }
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    Ok((application == 0 && tables == 0).then_some(Kind::Empty))
}

/// The version of the schema of a file, and the oldest that may read it.
fn versions(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    let schema = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    // Reads each table that is needed, so that a file without them is found here.
    let totals = "SELECT count(*) FROM totals";
    connection.query_row(totals, [], |_| Ok(()))?;
    match connection.query_row("SELECT min_reader FROM about", [], |row| row.get(0)) {
        // The process that made the file ended before it set the clock.
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok((schema, SCHEMA)),
        reader => Ok((schema, reader?)),
    }
}

/// The tables of an empty file.
#[cfg(test)]
pub(crate) fn in_memory() -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    connection.execute_batch(TABLES)?;
    Ok(connection)
}

/// Asserts that SQLite finds the rows of a query by indexes, and in their order: it reads no table as a whole, and sorts
/// nothing.
#[cfg(test)]
#[track_caller]
pub(crate) fn assert_found_by_index(query: &str) {
    let plan = || -> rusqlite::Result<Vec<String>> {
        let connection = in_memory()?;
        let mut explained = connection.prepare(&format!("EXPLAIN QUERY PLAN {query}"))?;
        // Nothing is bound: the plan does not depend on it.
        explained.raw_query().mapped(|row| row.get("detail")).collect()
    };
    let plan = plan().expect("it can be planned");
    let is_bad = |step: &String| step.contains("TEMP B-TREE") || step.starts_with("SCAN") && !step.contains("USING");
    assert!(!plan.is_empty() && !plan.iter().any(is_bad), "{query}: {plan:?}");
}
