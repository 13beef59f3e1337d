//! What the file forgets: sessions, to make room for others, and what is past its age.

use rmcp_session_policy::directory::{ServerId, SessionDigest};
use rusqlite::Connection;

use crate::builder::Bounds;
use crate::leftovers;
use crate::row::{self, Moment, Stage};
use crate::server::Servers;
use crate::tombstones;

/// How many rows one transaction removes or parks at most because of their age, or because the file is too large.
pub(crate) const AT_ONCE: u32 = 200;

const FIRST: &str = "DELETE FROM sessions WHERE key IN
    (SELECT key FROM sessions WHERE live = ?1 ORDER BY rank, changed_at LIMIT ?2)
    RETURNING id, server, epoch, changed_at";

const OLD: &str = "DELETE FROM sessions WHERE key IN
    (SELECT key FROM sessions WHERE live = ?1 AND rank = ?2 AND changed_at < ?3 ORDER BY changed_at LIMIT ?4)";

const OLD_TOMBSTONES: &str = "DELETE FROM ended WHERE id IN (SELECT id FROM ended WHERE at < ?1 ORDER BY at LIMIT ?2)";

/// Removes the sessions that are to be forgotten first, at most this many. Returns how many there were.
///
/// First are those that have ended, of which only a tombstone is kept then. Those that a server has are the last: it goes on
/// with them, and what it writes of them later may not be stored. Of each kind, those that are not ready are the first, then
/// those without a call, and of each the one whose latest change is the oldest. Costs O(log n) for each, by an index; if too
/// few are parked, what [`leftovers::park`] costs as well.
pub(crate) fn forget_first(
    connection: &Connection,
    bounds: &Bounds,
    servers: &Servers,
    count: u32,
) -> rusqlite::Result<u32> {
    let free = [Stage::LeftEnding, Stage::Parked];
    let mut left = forget_some(connection, bounds, &free, count)?;
    if left > 0 {
        leftovers::park(connection, servers, AT_ONCE)?;
        left = forget_some(connection, bounds, &free, left)?;
        left = forget_some(connection, bounds, &[Stage::Ending, Stage::Live], left)?;
    }
    Ok(count - left)
}

/// Removes sessions of these stages, in this order. Returns how many are left to be removed.
fn forget_some(connection: &Connection, bounds: &Bounds, stages: &[Stage], count: u32) -> rusqlite::Result<u32> {
    let mut left = count;
    for stage in stages {
        if left == 0 {
            break;
        }
        let mut first = connection.prepare_cached(FIRST)?;
        let forgotten = first.query_map((stage.number(), left), |row| {
            let (id, server) = (SessionDigest::from_bytes(row.get(0)?), ServerId::from_bytes(row.get(1)?));
            Ok((id, (server, row::epoch(row, 2)?), row.get::<_, Moment>(3)?))
        })?;
        let forgotten = forgotten.collect::<rusqlite::Result<Vec<_>>>()?;
        left = left.saturating_sub(u32::try_from(forgotten.len()).unwrap_or(u32::MAX));
        for (id, had_by, at) in forgotten.iter().filter(|_| stage.is_ending()) {
            tombstones::remember(connection, bounds, id, *had_by, *at)?;
        }
    }
    Ok(left)
}

/// Removes some of the sessions that have not changed since a moment. Those that a server has stay. Returns how many there
/// were.
pub(crate) fn forget_old(connection: &Connection, oldest: Moment) -> rusqlite::Result<usize> {
    let mut removed = 0;
    for stage in [Stage::Parked, Stage::LeftEnding] {
        for rank in row::RANKS {
            removed += connection.prepare_cached(OLD)?.execute((stage.number(), rank, oldest, AT_ONCE))?;
        }
    }
    Ok(removed)
}

/// Removes some of the tombstones from before a moment. Returns how many there were.
pub(crate) fn forget_old_tombstones(connection: &Connection, oldest: Moment) -> rusqlite::Result<usize> {
    connection.prepare_cached(OLD_TOMBSTONES)?.execute((oldest, AT_ONCE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn what_is_forgotten_is_found_by_an_index_in_its_order() {
        for query in [FIRST, OLD, OLD_TOMBSTONES] {
            schema::assert_found_by_index(query);
        }
    }
}
