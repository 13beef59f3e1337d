//! [`SqliteStats`]: what a directory counts.

/// Counts what waits to be written, and what failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteStats {
    /// Sessions with changes that wait to be written.
    pub queued: usize,
    /// Sessions of which a change was dropped, and that no later change has made up for: there was no room for it in the
    /// queue, or the file had forgotten the session, because it was full of sessions that servers have. Beyond 65,536 of
    /// them, each such change counts, and stays counted.
    pub dropped: usize,
    /// Whether the latest look-up worked.
    pub is_read: bool,
    /// Whether the latest commit worked.
    pub is_written: bool,
    /// Look-ups and commits that failed.
    pub failures: u64,
}
