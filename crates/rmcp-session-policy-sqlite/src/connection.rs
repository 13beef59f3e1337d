//! Connections to the file, and the settings that each has.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::builder::{Bounds, Durability};

/// How long a statement waits for the lock of another process. A claim waits 50 ms in all.
const BUSY: Duration = Duration::from_millis(20);

/// How much each connection caches, in KiB.
const CACHE_KIB: i64 = 4 << 10;

/// Opens a connection that only looks what a file is, and changes nothing in it.
pub(crate) fn to_check(path: &Path) -> rusqlite::Result<Connection> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(2))?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

/// Opens a connection that may write, with a long wait for locks. It is for the opening of a directory.
pub(crate) fn to_write(path: &Path, durability: Durability, bounds: &Bounds) -> rusqlite::Result<Connection> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(2))?;
    let synchronous = match durability {
        Durability::Behind => "NORMAL",
        Durability::Before => "FULL",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    // A page that cannot be read is an error then, and not a signal that ends the process.
    connection.pragma_update_and_check(None, "mmap_size", 0, |_| Ok(()))?;
    connection.pragma_update_and_check(None, "max_page_count", i64::try_from(bounds.pages()).ok(), |_| Ok(()))?;
    // What stays of the log on disk once it is emptied.
    connection.pragma_update_and_check(None, "journal_size_limit", bounds.log_bytes(), |_| Ok(()))?;
    // Else each commit that makes the log long would copy it into the file.
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

/// Opens a connection that only reads, beside the one that writes.
pub(crate) fn to_read(path: &Path, bounds: &Bounds) -> rusqlite::Result<Connection> {
    let connection = to_write(path, Durability::Behind, bounds)?;
    connection.pragma_update(None, "query_only", true)?;
    be_quick(&connection)?;
    Ok(connection)
}

/// Opens a connection that copies the log into the file, beside the one that writes.
pub(crate) fn to_copy(path: &Path, bounds: &Bounds) -> rusqlite::Result<Connection> {
    to_write(path, Durability::Behind, bounds)
}

/// Shortens the wait for locks, from the opening on.
pub(crate) fn be_quick(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)
}
