//! Reads and writes of rows, within a transaction of the caller.

use std::time::Duration;

use rmcp_session_policy::directory::{Claim, Epoch, OwnerDigest, ServerId, SessionDigest, StoredBody};
use rusqlite::{Connection, OptionalExtension, Row as SqlRow};

use crate::builder::Bounds;
use crate::forgetting::{self, AT_ONCE};
use crate::leftovers;
use crate::room;
use crate::row::{self, Effect, Entry, Moment, Queued, Row, Stage};
use crate::server::Servers;

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
    ended.query_row([id.as_bytes()], |row| Ok(Entry::Ended(server(row, 0)?, epoch(row, 1)?))).optional()
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
    let Some(Entry::Session(before)) = find(connection, id)? else { return Ok(Claim::Gone) };
    let is_mine = before.server == me;
    let is_gone = !is_mine && servers.is_gone(before.server);
    // What is live at this server itself, it has lost: its queue had no room for what became of it.
    if before.epoch != seen || before.stage == Stage::Live && !is_mine && !is_gone {
        return Ok(Claim::Elsewhere(before.server));
    }
    if !is_mine && !is_gone {
        let tell = "INSERT OR REPLACE INTO lost (server, id, epoch) VALUES (?1, ?2, ?3)";
        let lost = (before.server.as_bytes(), id.as_bytes(), number(before.epoch.get()));
        connection.prepare_cached(tell)?.execute(lost)?;
    }
    let row = Row { server: me, epoch: before.epoch.next(), stage: Stage::Live, changed_at: now, ..before };
    update(connection, id, &row, None)?;
    let body = "SELECT body FROM bodies WHERE key = (SELECT key FROM sessions WHERE id = ?1)";
    let body: Vec<u8> = connection.prepare_cached(body)?.query_row([id.as_bytes()], |row| row.get(0))?;
    Ok(Claim::Yours(row.epoch, row.session(StoredBody::from_bytes(body), now)))
}

/// Takes some of the sessions that others have claimed from this server.
pub(crate) fn take_lost(connection: &Connection, me: ServerId) -> rusqlite::Result<Vec<(SessionDigest, Epoch)>> {
    let query = "DELETE FROM lost WHERE (server, id) IN (SELECT server, id FROM lost WHERE server = ?1 LIMIT 1000) RETURNING id, epoch";
    let mut statement = connection.prepare_cached(query)?;
    let lost =
        statement.query_map([me.as_bytes()], |row| Ok((SessionDigest::from_bytes(row.get(0)?), epoch(row, 1)?)))?;
    lost.collect()
}

/// Whether others have claimed sessions from this server. Does not write.
pub(crate) fn has_lost(connection: &Connection, me: ServerId) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM lost WHERE server = ?1 LIMIT 1")?.exists([me.as_bytes()])
}

/// Parks some of what servers that are gone have left, and removes some of what is past its age, and some sessions while the
/// file is too large. Returns whether there may be more.
pub(crate) fn forget(
    connection: &Connection,
    bounds: &Bounds,
    servers: &Servers,
    now: Moment,
) -> rusqlite::Result<bool> {
    let parked = leftovers::park(connection, servers, AT_ONCE)?;
    let mut removed = forgetting::forget_old(connection, now.saturating_sub(row::millis(bounds.age)))?;
    room::make(connection, bounds, servers, room::needed([].iter()), 0)?;
    removed += leftovers::forget_lost(connection, servers, AT_ONCE)?;
    Ok(parked >= AT_ONCE || removed >= AT_ONCE as usize)
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
    forgetting::forget_first(connection, servers, u32::try_from(over.min(MOST_AT_INSERT)).unwrap_or(1))?;
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
        number(row.epoch.get()),
        row.stage.number(),
        row.owner.as_ref().map(OwnerDigest::as_bytes),
        row.ready,
        row.opened_at,
        row.used_at,
        row.changed_at,
        number(row.uses),
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
    let over = (total(connection, "SELECT ended FROM totals")? + 1).saturating_sub(bounds.ends());
    if over > 0 {
        let oldest = "DELETE FROM ended WHERE id IN (SELECT id FROM ended ORDER BY at LIMIT ?1)";
        connection.prepare_cached(oldest)?.execute([u32::try_from(over.min(MOST_AT_INSERT)).unwrap_or(1)])?;
    }
    let query = "INSERT INTO ended (id, server, epoch, at) VALUES (?1, ?2, ?3, ?4)";
    let ended = (id.as_bytes(), me.as_bytes(), number(queued.epoch.get()), queued.at);
    connection.prepare_cached(query)?.execute(ended)?;
    Ok(())
}

fn total(connection: &Connection, query: &str) -> rusqlite::Result<u64> {
    let total = connection.prepare_cached(query)?.query_row([], |row| row.get::<_, i64>(0))?;
    Ok(u64::try_from(total).unwrap_or(0))
}

fn read(row: &SqlRow<'_>) -> rusqlite::Result<Row> {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(Row {
        server: server(row, 0)?,
        epoch: epoch(row, 1)?,
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

fn epoch(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<Epoch> {
    let number = row.get::<_, i64>(column)?;
    let epoch = u64::try_from(number).ok().and_then(Epoch::new);
    epoch.ok_or(rusqlite::Error::IntegralValueOutOfRange(column, number))
}

fn stage(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<Stage> {
    let number = row.get::<_, i64>(column)?;
    Stage::of(number).ok_or(rusqlite::Error::IntegralValueOutOfRange(column, number))
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
