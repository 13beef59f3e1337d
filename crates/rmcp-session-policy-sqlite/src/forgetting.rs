//! What the file forgets: sessions, to make room for others, and what is past its age.

use rusqlite::Connection;

use crate::leftovers;
use crate::row::{Moment, Stage};
use crate::server::Servers;

/// How many rows one transaction removes or parks at most because of their age, or because the file is too large.
pub(crate) const AT_ONCE: u32 = 200;

/// Removes the sessions that are to be forgotten first, at most this many. Returns how many there were.
///
/// Those that a server has are the last: it goes on with them, and what it writes of them later may not be stored. Of each
/// kind, those that are not ready are the first, then those without a call, and of each the one whose latest change is the
/// oldest. Costs O(log n) for each, by an index; if too few are parked, what [`leftovers::park`] costs as well.
pub(crate) fn forget_first(connection: &Connection, servers: &Servers, count: u32) -> rusqlite::Result<u32> {
    let mut forgotten = forget_some(connection, Stage::Parked, count)?;
    if forgotten < count {
        leftovers::park(connection, servers, AT_ONCE)?;
        forgotten += forget_some(connection, Stage::Parked, count - forgotten)?;
        forgotten += forget_some(connection, Stage::Live, count - forgotten)?;
    }
    Ok(forgotten)
}

fn forget_some(connection: &Connection, stage: Stage, count: u32) -> rusqlite::Result<u32> {
    if count == 0 {
        return Ok(0);
    }
    let first = "DELETE FROM sessions WHERE key IN
        (SELECT key FROM sessions WHERE live = ?1 ORDER BY rank, changed_at LIMIT ?2)";
    let forgotten = connection.prepare_cached(first)?.execute((stage.number(), count))?;
    Ok(u32::try_from(forgotten).unwrap_or(u32::MAX))
}

/// Removes some of the sessions that have not changed since a moment, and of the tombstones. Sessions that a server has
/// stay. Returns how many there were.
pub(crate) fn forget_old(connection: &Connection, oldest: Moment) -> rusqlite::Result<usize> {
    let tombstones = "DELETE FROM ended WHERE id IN (SELECT id FROM ended WHERE at < ?1 ORDER BY at LIMIT ?2)";
    let mut removed = connection.prepare_cached(tombstones)?.execute((oldest, AT_ONCE))?;
    let sessions = "DELETE FROM sessions WHERE key IN
        (SELECT key FROM sessions WHERE live = 0 AND rank = ?1 AND changed_at < ?2 ORDER BY changed_at LIMIT ?3)";
    for rank in 0..=2 {
        removed += connection.prepare_cached(sessions)?.execute((rank, oldest, AT_ONCE))?;
    }
    Ok(removed)
}
