//! How much room the file has, and what is forgotten to make some.
//!
//! `PRAGMA max_page_count` bounds the file, so a commit that needs more pages than are left fails. Before each commit this
//! module makes as much room as its changes need, by an estimate, and the writer makes more if that was too little.

use rmcp_session_policy::directory::Change;
use rusqlite::Connection;

use crate::builder::{Bounds, PAGE};
use crate::forgetting::{AT_ONCE, forget_first};
use crate::row::{self, Queued};
use crate::server::Servers;

/// How many pages are kept free beyond what changes need, for the branches of the trees.
const SPARE: u64 = 32;

/// How many sessions are forgotten between two looks at the room.
const STEP: u32 = 16;

/// The pages of a file.
#[derive(Clone, Copy, Debug)]
struct Pages {
    all: u64,
    used: u64,
}

/// How many pages some changes need, by an estimate: a large body has pages of its own, small ones share theirs, which are
/// two thirds full, and each change needs an eighth of a page in the other trees.
pub(crate) fn needed<'a>(changes: impl Iterator<Item = &'a Change>) -> u64 {
    const LARGE: u64 = 3_000;
    let (mut pages, mut small, mut count) = (SPARE, 0, 0);
    for change in changes {
        let bytes = row::bytes(change) as u64;
        count += 1;
        if bytes > LARGE {
            pages += bytes / (PAGE - 12) + 2;
        } else {
            small += bytes * 3 / 2;
        }
    }
    pages + small.div_ceil(PAGE) + count / 8
}

/// The same of a batch.
pub(crate) fn needed_by<T>(batch: &[(T, Queued)]) -> u64 {
    needed(batch.iter().map(|(_, queued)| &queued.change))
}

/// Forgets sessions if the file has not as many pages left, at most some more than twice as many as the changes. Returns
/// whether they will fit: if not, the caller commits what was forgotten, and calls again.
///
/// A file that was larger than its limit when it was opened does not grow, and gets below the limit in steps.
pub(crate) fn make(
    connection: &Connection,
    bounds: &Bounds,
    servers: &Servers,
    needed: u64,
    changes: usize,
) -> rusqlite::Result<bool> {
    let most = AT_ONCE.saturating_add(u32::try_from(changes).unwrap_or(u32::MAX).saturating_mul(2));
    let mut forgotten = 0;
    let mut pages = Pages::of(connection)?;
    while pages.used + needed > bounds.pages() && forgotten < most {
        let step = forget_first(connection, bounds, servers, STEP)?;
        if step == 0 {
            // Only what cannot be forgotten is left.
            return Ok(true);
        }
        forgotten += step;
        pages = Pages::of(connection)?;
    }
    Ok(pages.used + needed <= bounds.pages().max(pages.all))
}

/// Whether the file has room for so few pages that a commit may have failed because of it, and not because of the disk.
pub(crate) fn is_scarce(connection: &Connection, bounds: &Bounds, needed: u64) -> rusqlite::Result<bool> {
    Ok(Pages::of(connection)?.used + 2 * needed > bounds.pages())
}

impl Pages {
    fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let value = |pragma: &str| connection.prepare_cached(pragma)?.query_row([], |row| row.get::<_, u32>(0));
        let all = u64::from(value("PRAGMA page_count")?);
        Ok(Self { all, used: all.saturating_sub(u64::from(value("PRAGMA freelist_count")?)) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rmcp_session_policy::directory::{StoredBody, StoredSession, Usage};

    use super::*;

    #[test]
    fn what_changes_need_grows_with_their_bodies_and_their_number() {
        let data = |bytes| {
            let body = StoredBody::from_bytes(vec![7; bytes]);
            Change::Data(StoredSession::new(None, Duration::ZERO, Usage::default(), body))
        };
        assert_eq!(needed([].iter()), 32);
        assert_eq!(needed([Change::Ready, Change::Dead].iter()), 32);
        assert_eq!(needed(vec![Change::Dead; 80].iter()), 32 + 10);
        assert_eq!(needed(vec![data(1_000); 8].iter()), 32 + 1 + 3);
        assert_eq!(needed([data(40_840)].iter()), 32 + 10 + 2);
    }
}
