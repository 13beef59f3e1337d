//! What is done from time to time: what servers that are gone have left is parked, and what is too old or too much is removed.

use rusqlite::Connection;

use crate::builder::Bounds;
use crate::due;
use crate::forgetting::{self, AT_ONCE};
use crate::leftovers;
use crate::room;
use crate::row::{self, Moment};
use crate::server::Servers;

/// Parks some of what servers that are gone have left, and removes some of what is past its age, and some sessions while the
/// file is too large. Returns whether there may be more. `started` is when this server did.
pub(crate) fn tidy(
    connection: &Connection,
    bounds: &Bounds,
    servers: &Servers,
    started: Moment,
    now: Moment,
) -> rusqlite::Result<bool> {
    let oldest = now.saturating_sub(row::millis(bounds.age));
    let parked = leftovers::park(connection, servers, AT_ONCE)?;
    let mut removed = forgetting::forget_old_tombstones(connection, oldest)?;
    if !due::is_left(connection, started, now)? {
        removed += forgetting::forget_old(connection, oldest)?;
    }
    room::make(connection, bounds, servers, room::needed([].iter()), 0)?;
    removed += leftovers::forget_lost(connection, servers, AT_ONCE)?;
    Ok(parked >= AT_ONCE || removed >= AT_ONCE as usize)
}
