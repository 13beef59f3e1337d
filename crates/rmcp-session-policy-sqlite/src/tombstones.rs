//! The sessions of which the file remembers that they have ended for good.

use rmcp_session_policy::directory::{Epoch, ServerId, SessionDigest};
use rusqlite::Connection;

use crate::builder::Bounds;
use crate::row::{self, Moment};

/// How many are forgotten at most for one that is remembered. More than one, so that a limit that was lowered is reached.
const MOST_AT_ONCE: u64 = 2;

/// Remembers that a session has ended. Beyond the limit, the oldest end is forgotten.
pub(crate) fn remember(
    connection: &Connection,
    bounds: &Bounds,
    id: &SessionDigest,
    (server, epoch): (ServerId, Epoch),
    at: Moment,
) -> rusqlite::Result<()> {
    let mut total = connection.prepare_cached("SELECT ended FROM totals")?;
    let ended = total.query_row([], |row| row.get::<_, i64>(0))?;
    let over = (u64::try_from(ended).unwrap_or(0) + 1).saturating_sub(bounds.ends());
    if over > 0 {
        let oldest = "DELETE FROM ended WHERE id IN (SELECT id FROM ended ORDER BY at LIMIT ?1)";
        connection.prepare_cached(oldest)?.execute([u32::try_from(over.min(MOST_AT_ONCE)).unwrap_or(1)])?;
    }
    let query = "INSERT INTO ended (id, server, epoch, at) VALUES (?1, ?2, ?3, ?4)";
    let ended = (id.as_bytes(), server.as_bytes(), row::signed(epoch.get()), at);
    connection.prepare_cached(query)?.execute(ended)?;
    Ok(())
}
