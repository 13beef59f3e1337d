//! A rollback journal that a process left because it was killed before the file had its write-ahead log.
//!
//! SQLite takes such a commit back when a connection that may write opens the file. The check of what a file is may not
//! write, so it fails; this module decides whether the commit is taken back.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, ffi};

/// Where the application id of a database is in its file.
const APPLICATION_AT: u64 = 68;

/// Where a journal has the number of pages that its database had before, after a mark of eight bytes and two numbers
/// (<https://sqlite.org/fileformat2.html#the_rollback_journal>).
const PAGES_AT: u64 = 16;

/// Whether a connection that only reads found a commit that has to be taken back.
pub(crate) fn is_left(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == ffi::SQLITE_READONLY_ROLLBACK)
}

/// Whether that commit is one of this crate: the file has its application id, or it was empty before the commit.
///
/// Closing the file frees the locks that this process has on it. It has none: a connection that had read the file would
/// have taken the commit back.
pub(crate) fn is_ours(path: &Path, application: u32) -> bool {
    let is_known = number_at(path, APPLICATION_AT).is_ok_and(|found| found == application);
    is_known || number_at(&journal_of(path), PAGES_AT).is_ok_and(|pages| pages == 0)
}

/// Takes the commit back.
pub(crate) fn roll_back(path: &Path) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))
}

fn journal_of(path: &Path) -> PathBuf {
    let mut path = OsString::from(path);
    path.push("-journal");
    path.into()
}

fn number_at(path: &Path, at: u64) -> io::Result<u32> {
    let mut bytes = [0; 4];
    File::open(path)?.read_exact_at(&mut bytes, at)?;
    Ok(u32::from_be_bytes(bytes))
}
