//! The write-ahead log, which is copied into the file by a thread of its own, and emptied before it is longer than its limit.

use rusqlite::{Connection, ErrorCode, ffi};

use crate::builder::Bounds;

/// From how many pages on, which are not in the file yet, the log is copied into it: SQLite's default.
const CHECKPOINT: u32 = 1_000;

/// What is in the log, in pages.
#[derive(Clone, Copy, Debug)]
struct Log {
    /// Whether a checkpoint was kept from its work.
    busy: bool,
    all: i64,
    copied: i64,
}

/// Prepares for a commit: empties the log if it is longer than its limit. Returns whether it should be copied into the file.
///
/// A log that is copied whole is begun anew by SQLite itself, as soon as no connection reads what it holds. So there is
/// something to empty only if the server writes all the time, or another program reads for long.
///
/// # Errors
///
/// `SQLITE_BUSY` if the log cannot be emptied now.
pub(crate) fn shorten(connection: &Connection, bounds: &Bounds) -> rusqlite::Result<bool> {
    let log = Log::after(connection, "PRAGMA wal_checkpoint(NOOP)")?;
    let limit = bounds.log_frames();
    if log.all <= i64::from(limit) {
        return Ok(log.all - log.copied >= i64::from(CHECKPOINT.min(limit / 2)));
    }
    match Log::after(connection, "PRAGMA wal_checkpoint(RESTART)") {
        Ok(Log { busy: false, .. }) => Ok(false),
        Ok(_) => Err(is_full()),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Err(is_full()),
        Err(error) => Err(error),
    }
}

/// Copies the log into the file, as far as no connection reads what is there. Keeps none from its work.
pub(crate) fn copy(connection: &Connection) -> rusqlite::Result<()> {
    Log::after(connection, "PRAGMA wal_checkpoint(PASSIVE)").map(drop)
}

impl Log {
    fn after(connection: &Connection, pragma: &str) -> rusqlite::Result<Self> {
        let mut checkpoint = connection.prepare_cached(pragma)?;
        checkpoint.query_row([], |row| Ok(Self { busy: row.get(0)?, all: row.get(1)?, copied: row.get(2)? }))
    }
}

fn is_full() -> rusqlite::Error {
    let reason = "its log is full, and cannot be emptied while another connection reads";
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), Some(reason.to_owned()))
}
