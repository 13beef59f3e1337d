//! [`SqliteStats`]: what a directory counts.

/// Counts what waits to be written, and what failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteStats {
    /// Sessions with changes that wait to be written.
    pub queued: usize,
    /// Sessions of which a change had no room in the queue, and was dropped.
    pub dropped: usize,
    /// Whether the latest look-up worked.
    pub is_read: bool,
    /// Whether the latest commit worked.
    pub is_written: bool,
    /// Look-ups and commits that failed.
    pub failures: u64,
}
