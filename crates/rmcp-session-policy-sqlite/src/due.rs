//! Sessions that are to be ended though no request asks for that: those that are too old, and those that a server which is
//! gone has left ending.

use std::time::Duration;

use rmcp_session_policy::directory::{Away, Due, ServerId, SessionDigest};
use rusqlite::{Connection, OptionalExtension, Params};
use tokio::sync::oneshot;

use crate::forgetting::AT_ONCE;
use crate::leftovers;
use crate::row::{self, Entry, Moment, Stage};
use crate::server::Servers;
use crate::store;

/// The most sessions that are taken at once.
const MOST: u32 = 100;

/// How long servers leave what is past its age to those that take what is due, after one has asked for it, and after they
/// have started themselves: four times as long as the manager waits between two calls.
const LEFT_FOR: Duration = Duration::from_secs(120);

const LEFT_ENDING: &str = "SELECT id FROM sessions WHERE live = 3 ORDER BY rank, changed_at LIMIT ?1";

const OVER_AGE: &str =
    "SELECT id FROM sessions WHERE live = 0 AND rank = ?2 AND changed_at < ?3 ORDER BY changed_at LIMIT ?1";

const OVER_LIFETIME: &str = "SELECT id FROM sessions INDEXED BY sessions_by_opening
    WHERE live = 0 AND opened_at <= ?2 ORDER BY opened_at LIMIT ?1";

/// A call that waits for what is due.
#[derive(Debug)]
pub(crate) struct DueRequest {
    pub(crate) lifetime: Option<Duration>,
    pub(crate) answer: oneshot::Sender<Result<Vec<Due>, Away>>,
}

/// What is due, and to which server.
#[derive(Debug)]
pub(crate) struct Taking<'a, W> {
    pub(crate) connection: &'a Connection,
    pub(crate) servers: &'a Servers,
    pub(crate) me: ServerId,
    pub(crate) now: Moment,
    /// Sessions that have not changed since then are past their age.
    pub(crate) oldest: Moment,
    /// Sessions that were opened until then are past their lifetime.
    pub(crate) opened: Option<Moment>,
    /// How many bytes bodies may have until no more sessions are taken.
    pub(crate) bytes: usize,
    /// Whether this server has queued a change of a session. Such a session is due once that is written.
    pub(crate) waits: W,
}

impl<W: Fn(&SessionDigest) -> bool> Taking<'_, W> {
    /// Takes sessions that are due, and notes that they were asked for. Costs O(log n) for each, by indexes, and what
    /// [`leftovers::park`] costs.
    pub(crate) fn take(&self) -> rusqlite::Result<Vec<Due>> {
        self.connection.prepare_cached("UPDATE about SET due_at = ?1")?.execute([self.now])?;
        leftovers::park(self.connection, self.servers, AT_ONCE)?;
        let mut taken = Taken { due: Vec::new(), left: MOST, bytes: self.bytes };
        self.take_some(&mut taken, |left| self.ids(LEFT_ENDING, [left]))?;
        for rank in row::RANKS {
            self.take_some(&mut taken, |left| self.ids(OVER_AGE, (left, rank, self.oldest)))?;
        }
        if let Some(opened) = self.opened {
            self.take_some(&mut taken, |left| self.ids(OVER_LIFETIME, (left, opened)))?;
        }
        Ok(taken.due)
    }

    fn ids(&self, query: &str, params: impl Params) -> rusqlite::Result<Vec<SessionDigest>> {
        let mut ids = self.connection.prepare_cached(query)?;
        ids.query_map(params, |row| row.get(0).map(SessionDigest::from_bytes))?.collect()
    }

    fn take_some(
        &self,
        taken: &mut Taken,
        find: impl Fn(u32) -> rusqlite::Result<Vec<SessionDigest>>,
    ) -> rusqlite::Result<()> {
        for id in find(taken.left)? {
            if taken.bytes == 0 {
                break;
            }
            if (self.waits)(&id) {
                continue;
            }
            let Some(Entry::Session(row)) = store::find(self.connection, &id)? else { continue };
            let was_ending = row.stage == Stage::LeftEnding;
            // How long ago it ended.
            let at = if was_ending { row.changed_at } else { self.now };
            let (servers, to) = (self.servers, (self.me, Stage::Ending, at));
            let (epoch, session) = store::take_over(self.connection, servers, &id, row, to, self.now)?;
            taken.bytes = taken.bytes.saturating_sub(session.body.as_bytes().len());
            taken.left -= 1;
            taken.due.push(Due::new(id, epoch, session).with_ending(was_ending));
        }
        Ok(())
    }
}

/// What was taken, and how much more may be.
#[derive(Debug)]
struct Taken {
    due: Vec<Due>,
    left: u32,
    bytes: usize,
}

/// Whether what is past its age is left to the servers that take what is due. It is if one has asked for that within the last
/// minutes, or at any time before this server has started, which it has within the last minutes.
pub(crate) fn is_left(connection: &Connection, started: Moment, now: Moment) -> rusqlite::Result<bool> {
    let mut asked = connection.prepare_cached("SELECT due_at FROM about")?;
    let asked = asked.query_row([], |row| row.get::<_, Option<Moment>>(0)).optional()?.flatten();
    Ok(asked.is_some_and(|asked| asked.max(started).saturating_add(row::millis(LEFT_FOR)) > now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn what_is_too_old_is_left_to_others_for_a_time_after_a_call_and_after_a_start() {
        let connection = schema::in_memory().expect("tables");
        let left = |started, now| is_left(&connection, started, now).expect("it can be read");
        assert!(!left(0, 0), "nothing has asked, and the clock is not set");
        connection.execute_batch("INSERT INTO about VALUES (1, 1, '', 0, 0, 0, NULL)").expect("written");
        assert!(!left(0, 0), "nothing has asked");
        connection.execute_batch("UPDATE about SET due_at = 1000").expect("written");
        assert!(left(0, 1_000) && left(0, 120_999) && !left(0, 121_000));
        assert!(left(500_000, 619_999) && !left(500_000, 620_000), "a server has started after a long time");
    }

    #[test]
    fn what_is_due_is_found_by_an_index_in_its_order() {
        for query in [LEFT_ENDING, OVER_AGE, OVER_LIFETIME] {
            schema::assert_found_by_index(query);
        }
    }
}
