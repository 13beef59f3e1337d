//! Whether the file can be read or written, with one log line for each change of that.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rusqlite::ErrorCode;

/// The state of one thread's work on the file.
#[derive(Debug)]
pub(crate) struct Health {
    path: PathBuf,
    /// `read` or `written`.
    work: &'static str,
    away: AtomicBool,
    failures: AtomicU64,
}

impl Health {
    pub(crate) const fn new(path: PathBuf, work: &'static str) -> Self {
        Self { path, work, away: AtomicBool::new(false), failures: AtomicU64::new(0) }
    }

    /// The work failed.
    pub(crate) fn failed(&self, error: &rusqlite::Error) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if !self.away.swap(true, Ordering::Relaxed) {
            let (path, reason) = (self.path.display(), reason(error));
            tracing::warn!(%path, %error, "the session directory cannot be {}: {reason}", self.work);
        }
    }

    /// The work succeeded.
    pub(crate) fn works(&self) {
        if self.away.load(Ordering::Relaxed) && self.away.swap(false, Ordering::Relaxed) {
            tracing::info!(path = %self.path.display(), "the session directory can be {} again", self.work);
        }
    }

    pub(crate) fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

/// What is wrong, in words for an operator.
fn reason(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk is full",
        Some(ErrorCode::ReadOnly) => "it is read-only",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "another process holds it locked",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => "it is damaged",
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => "its disk fails",
        _ => "SQLite fails",
    }
}
