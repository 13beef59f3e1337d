//! What servers that are gone have left in the file: sessions that they had, and what they would have been told.

use rmcp_session_policy::directory::ServerId;
use rusqlite::{Connection, OptionalExtension};

use crate::server::Servers;

/// The next server that has sessions.
const HOLDER: &str = "SELECT server FROM sessions INDEXED BY sessions_by_server
    WHERE live IN (1, 2) AND server > ?1 ORDER BY server LIMIT 1";

const LEFT: &str = "UPDATE sessions SET live = iif(live = 1, 0, 3) WHERE key IN
    (SELECT key FROM sessions INDEXED BY sessions_by_server WHERE live IN (1, 2) AND server = ?1 LIMIT ?2)";

const LOST: &str = "DELETE FROM lost WHERE (server, id) IN (SELECT server, id FROM lost WHERE server = ?1 LIMIT ?2)";

/// Parks sessions of servers that are gone, and marks those that they have left ending, at most this many in all. Returns how
/// many there were.
///
/// It changes nothing for look-ups and claims, which ask whether the server is gone. But among the sessions that are parked,
/// those to be forgotten and those that are due are found by an index. Costs O(log n) and a look at a lock file for each server
/// that has sessions, and O(log n) for each session that it parks.
pub(crate) fn park(connection: &Connection, servers: &Servers, most: u32) -> rusqlite::Result<u32> {
    let (mut after, mut parked) = (Vec::new(), 0);
    while parked < most
        && let Some(server) = next_holder(connection, &after)?
    {
        if servers.is_gone(server) {
            let left = connection.prepare_cached(LEFT)?.execute((server.as_bytes(), most - parked))?;
            parked += u32::try_from(left).unwrap_or(u32::MAX);
        }
        after = server.as_bytes().to_vec();
    }
    Ok(parked)
}

/// The first server after this one, in the order of their ids, that has sessions.
fn next_holder(connection: &Connection, after: &[u8]) -> rusqlite::Result<Option<ServerId>> {
    let mut next = connection.prepare_cached(HOLDER)?;
    next.query_row([after], |row| row.get(0).map(ServerId::from_bytes)).optional()
}

/// Removes what servers that are gone would have been told, at most this much of each. Returns how much it was.
pub(crate) fn forget_lost(connection: &Connection, servers: &Servers, most: u32) -> rusqlite::Result<usize> {
    let mut statement = connection.prepare_cached("SELECT DISTINCT server FROM lost LIMIT 100")?;
    let told = statement.query_map([], |row| row.get(0).map(ServerId::from_bytes))?;
    let told = told.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut removed = 0;
    for gone in told.into_iter().filter(|server| servers.is_gone(*server)) {
        removed += connection.prepare_cached(LOST)?.execute((gone.as_bytes(), most))?;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn what_a_server_has_left_is_found_by_an_index() {
        for query in [HOLDER, LEFT, LOST] {
            schema::assert_found_by_index(query);
        }
    }
}
