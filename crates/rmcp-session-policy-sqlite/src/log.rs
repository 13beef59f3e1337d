//! The write-ahead log, which is emptied before it becomes longer than its limit.

use rusqlite::{Connection, ErrorCode, ffi};

use crate::builder::Bounds;

/// Prepares for a commit: empties the log if it is longer than its limit.
///
/// SQLite does that itself, as soon as no connection reads what the log holds. So there is something to do only if another
/// program reads for long.
///
/// # Errors
///
/// `SQLITE_BUSY` if the log cannot be emptied now.
pub(crate) fn shorten(connection: &Connection, bounds: &Bounds) -> rusqlite::Result<()> {
    let (_, frames) = checkpoint(connection, "PRAGMA wal_checkpoint(NOOP)")?;
    if frames <= i64::from(bounds.log_frames()) {
        return Ok(());
    }
    match checkpoint(connection, "PRAGMA wal_checkpoint(RESTART)") {
        Ok((false, _)) => Ok(()),
        Ok((true, _)) => Err(is_full()),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Err(is_full()),
        Err(error) => Err(error),
    }
}

/// Whether a checkpoint was kept from its work, and how many frames are in the log.
fn checkpoint(connection: &Connection, pragma: &str) -> rusqlite::Result<(bool, i64)> {
    connection.prepare_cached(pragma)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
}

fn is_full() -> rusqlite::Error {
    let reason = "its log is full, and cannot be emptied while another connection reads";
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), Some(reason.to_owned()))
}
