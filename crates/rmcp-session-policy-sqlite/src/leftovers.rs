//! What servers that are gone have left in the file: sessions that they had, and what they would have been told.

use rmcp_session_policy::directory::ServerId;
use rusqlite::{Connection, OptionalExtension};

use crate::server::Servers;

/// Parks sessions of servers that are gone, at most this many. Returns how many there were.
///
/// It changes nothing for look-ups and claims, which ask whether the server is gone. But among the sessions that are parked,
/// those to be forgotten are found by an index. Costs O(log n) and a look at a lock file for each server that has sessions,
/// and O(log n) for each session that it parks.
pub(crate) fn park(connection: &Connection, servers: &Servers, most: u32) -> rusqlite::Result<u32> {
    let (mut after, mut parked) = (Vec::new(), 0);
    let rows =
        "UPDATE sessions SET live = 0 WHERE key IN (SELECT key FROM sessions WHERE live = 1 AND server = ?1 LIMIT ?2)";
    while parked < most
        && let Some(server) = next_holder(connection, &after)?
    {
        if servers.is_gone(server) {
            let left = connection.prepare_cached(rows)?.execute((server.as_bytes(), most - parked))?;
            parked += u32::try_from(left).unwrap_or(u32::MAX);
        }
        after = server.as_bytes().to_vec();
    }
    Ok(parked)
}

/// The first server after this one, in the order of their ids, that has sessions.
fn next_holder(connection: &Connection, after: &[u8]) -> rusqlite::Result<Option<ServerId>> {
    let next = "SELECT server FROM sessions WHERE live = 1 AND server > ?1 ORDER BY server LIMIT 1";
    let mut next = connection.prepare_cached(next)?;
    next.query_row([after], |row| row.get(0).map(ServerId::from_bytes)).optional()
}

/// Removes what servers that are gone would have been told, at most this much of each. Returns how much it was.
pub(crate) fn forget_lost(connection: &Connection, servers: &Servers, most: u32) -> rusqlite::Result<usize> {
    let mut statement = connection.prepare_cached("SELECT DISTINCT server FROM lost LIMIT 100")?;
    let told = statement.query_map([], |row| row.get(0).map(ServerId::from_bytes))?;
    let told = told.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut removed = 0;
    for gone in told.into_iter().filter(|server| servers.is_gone(*server)) {
        let rows = "DELETE FROM lost WHERE (server, id) IN (SELECT server, id FROM lost WHERE server = ?1 LIMIT ?2)";
        removed += connection.prepare_cached(rows)?.execute((gone.as_bytes(), most))?;
    }
    Ok(removed)
}
