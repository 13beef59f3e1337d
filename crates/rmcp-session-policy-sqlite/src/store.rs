//! Reads and writes of rows, within a transaction of the caller.

use std::time::Duration;

use rmcp_session_policy::directory::{Claim, Epoch, OwnerDigest, ServerId, SessionDigest, StoredBody, StoredSession};
use rusqlite::{Connection, OptionalExtension, Row as SqlRow};

use crate::builder::Bounds;
use crate::forgetting;
use crate::row::{self, Effect, Entry, Moment, Queued, Row, Stage};
use crate::server::Servers;
use crate::tombstones;

/// How many rows are removed at most for one that is inserted. More than one, so that a limit that was lowered is reached.
const MOST_AT_INSERT: u64 = 2;

const COLUMNS: &str = "server, epoch, live, owner, ready, opened_at, used_at, changed_at, uses, calls, last_gap";

/// Finds a session or its tombstone.
pub(crate) fn find(connection: &Connection, id: &SessionDigest) -> rusqlite::Result<Option<Entry>> {
    let query = format!("SELECT {COLUMNS} FROM sessions WHERE id = ?1");
    let session = connection.prepare_cached(&query)?.query_row([id.as_bytes()], read).optional()?;
    if let Some(row) = session {
        return Ok(Some(Entry::Session(row)));
    }
    let mut ended = connection.prepare_cached("SELECT server, epoch FROM ended WHERE id = ?1")?;
    ended.query_row([id.as_bytes()], |row| Ok(Entry::Ended(server(row, 0)?, row::epoch(row, 1)?))).optional()
}

/// Writes a change of a server, unless it comes too late. `false` if it is not written because the file has forgotten the
/// session.
pub(crate) fn apply(
    connection: &Connection,
    bounds: &Bounds,
    servers: &Servers,
    me: ServerId,
    id: &SessionDigest,
    queued: &Queued,
) -> rusqlite::Result<bool> {
    let before = find(connection, id)?;
    match row::effect(before.as_ref(), me, queued) {
        Effect::Nothing => {}
        Effect::Insert(row, body) => insert(connection, bounds, servers, id, &row, body)?,
        Effect::Update(row, body) => update(connection, id, &row, body)?,
        Effect::End => end(connection, bounds, id, me, queued)?,
        Effect::Forgotten => return Ok(false),
    }
    Ok(true)
}

/// Claims a session for a server, if its epoch is this one.
pub(crate) fn claim(
    connection: &Connection,
    servers: &Servers,
    me: ServerId,
    id: &SessionDigest,
    seen: Epoch,
    now: Moment,
) -> rusqlite::Result<Claim> {
    let before = match find(connection, id)? {
        Some(Entry::Session(row)) if !row.stage.is_ending() => row,
        _ => return Ok(Claim::Gone),
    };
    // What is live at this server itself, it has lost: its queue had no room for what became of it.
    let is_free = before.stage == Stage::Parked || before.server == me || servers.is_gone(before.server);
    if before.epoch != seen || !is_free {
        return Ok(Claim::Elsewhere(before.server));
    }
    let (epoch, session) = take_over(connection, servers, id, before, (me, Stage::Live, now), now)?;
    Ok(Claim::Yours(epoch, session))
}

/// Sets a session to a server, its stage there, and the moment of its latest change, under the next epoch. Returns what is
/// stored. The server before is told, if it is another one and not gone.
pub(crate) fn take_over(
    connection: &Connection,
    servers: &Servers,
    id: &SessionDigest,
    before: Row,
    (server, stage, changed_at): (ServerId, Stage, Moment),
    now: Moment,
) -> rusqlite::Result<(Epoch, StoredSession)> {
    if before.server != server && !servers.is_gone(before.server) {
        let tell = "INSERT OR REPLACE INTO lost (server, id, epoch) VALUES (?1, ?2, ?3)";
        let lost = (before.server.as_bytes(), id.as_bytes(), row::signed(before.epoch.get()));
        connection.prepare_cached(tell)?.execute(lost)?;
    }
    let row = Row { server, epoch: before.epoch.next(), stage, changed_at, ..before };
    update(connection, id, &row, None)?;
    let body = "SELECT body FROM bodies WHERE key = (SELECT key FROM sessions WHERE id = ?1)";
    let body: Vec<u8> = connection.prepare_cached(body)?.query_row([id.as_bytes()], |row| row.get(0))?;
    Ok((row.epoch, row.session(StoredBody::from_bytes(body), now)))
}

/// Takes some of the sessions that others have claimed from this server.
pub(crate) fn take_lost(connection: &Connection, me: ServerId) -> rusqlite::Result<Vec<(SessionDigest, Epoch)>> {
    let query = "DELETE FROM lost WHERE (server, id) IN (SELECT server, id FROM lost WHERE server = ?1 LIMIT 1000) RETURNING id, epoch";
    let mut statement = connection.prepare_cached(query)?;
    let lost = statement
        .query_map([me.as_bytes()], |row| Ok((SessionDigest::from_bytes(row.get(0)?), row::epoch(row, 1)?)))?;
    lost.collect()
}

/// Whether others have claimed sessions from this server. Does not write.
pub(crate) fn has_lost(connection: &Connection, me: ServerId) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM lost WHERE server = ?1 LIMIT 1")?.exists([me.as_bytes()])
}

fn insert(
    connection: &Connection,
    bounds: &Bounds,
    servers: &Servers,
    id: &SessionDigest,
    row: &Row,
    body: &StoredBody,
) -> rusqlite::Result<()> {
    let over = (total(connection, "SELECT sessions FROM totals")? + 1).saturating_sub(bounds.sessions);
    forgetting::forget_first(connection, bounds, servers, u32::try_from(over.min(MOST_AT_INSERT)).unwrap_or(1))?;
    let query = format!(
        "INSERT INTO sessions ({COLUMNS}, rank, id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)"
    );
    write(connection, &query, id, row)?;
    let key = connection.last_insert_rowid();
    connection.prepare_cached("INSERT INTO bodies (key, body) VALUES (?1, ?2)")?.execute((key, body.as_bytes()))?;
    Ok(())
}

fn update(connection: &Connection, id: &SessionDigest, row: &Row, body: Option<&StoredBody>) -> rusqlite::Result<()> {
    let query = format!(
        "UPDATE sessions SET ({COLUMNS}, rank) = (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) WHERE id = ?13"
    );
    write(connection, &query, id, row)?;
    if let Some(body) = body {
        // Most often it is the same, and then no page changes.
        let query = "UPDATE bodies SET body = ?2 WHERE key = (SELECT key FROM sessions WHERE id = ?1) AND body <> ?2";
        connection.prepare_cached(query)?.execute((id.as_bytes(), body.as_bytes()))?;
    }
    Ok(())
}

/// Runs a statement with the columns, the rank and the id of a row.
fn write(connection: &Connection, query: &str, id: &SessionDigest, row: &Row) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(query)?;
    statement.execute((
        row.server.as_bytes(),
        row::signed(row.epoch.get()),
        row.stage.number(),
        row.owner.as_ref().map(OwnerDigest::as_bytes),
        row.ready,
        row.opened_at,
        row.used_at,
        row.changed_at,
        row::signed(row.uses),
        row.calls,
        row.last_gap.map(row::millis),
        row.rank(),
        id.as_bytes(),
    ))?;
    Ok(())
}

fn end(
    connection: &Connection,
    bounds: &Bounds,
    id: &SessionDigest,
    me: ServerId,
    queued: &Queued,
) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM sessions WHERE id = ?1")?.execute([id.as_bytes()])?;
    tombstones::remember(connection, bounds, id, (me, queued.epoch), queued.at)
}

fn total(connection: &Connection, query: &str) -> rusqlite::Result<u64> {
    let total = connection.prepare_cached(query)?.query_row([], |row| row.get::<_, i64>(0))?;
    Ok(u64::try_from(total).unwrap_or(0))
}

fn read(row: &SqlRow<'_>) -> rusqlite::Result<Row> {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(Row {
        server: server(row, 0)?,
        epoch: row::epoch(row, 1)?,
        stage: stage(row, 2)?,
        owner: row.get::<_, Option<[u8; 16]>>(3)?.map(OwnerDigest::from_bytes),
        ready: row.get(4)?,
        opened_at: row.get(5)?,
        used_at: row.get(6)?,
        changed_at: row.get(7)?,
        uses: unsigned(row.get(8)?),
        calls: row.get(9)?,
        last_gap: row.get::<_, Option<i64>>(10)?.map(|millis| Duration::from_millis(unsigned(millis))),
    })
}

fn server(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<ServerId> {
    Ok(ServerId::from_bytes(row.get(column)?))
}

fn stage(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<Stage> {
    let number = row.get::<_, i64>(column)?;
    Stage::of(number).ok_or(rusqlite::Error::IntegralValueOutOfRange(column, number))
}
