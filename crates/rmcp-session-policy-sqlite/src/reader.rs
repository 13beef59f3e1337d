//! The thread that reads: answers look-ups on a connection of its own, which does not wait for writers.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use rmcp_session_policy::directory::{Away, Found, FoundState, ServerId, SessionDigest};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::builder::Bounds;
use crate::clock::Clock;
use crate::connection;
use crate::health::Health;
use crate::queue::Queue;
use crate::row::{self, Row, Stage};
use crate::server::Servers;
use crate::store;

/// A look-up on its way to the thread.
#[derive(Debug)]
pub(crate) struct LookUp {
    pub(crate) id: SessionDigest,
    pub(crate) answer: oneshot::Sender<Result<Option<Found>, Away>>,
}

/// What the thread needs.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) path: PathBuf,
    pub(crate) bounds: Bounds,
    pub(crate) connection: Option<Connection>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) health: Arc<Health>,
    pub(crate) servers: Servers,
    pub(crate) clock: Clock,
    pub(crate) me: ServerId,
}

impl Reader {
    /// Runs until the directory is dropped.
    pub(crate) fn run(mut self, look_ups: &Receiver<LookUp>) {
        while let Ok(LookUp { id, answer }) = look_ups.recv() {
            // Its task has waited too long.
            if answer.is_closed() {
                continue;
            }
            let found = self.look(&id);
            match &found {
                Ok(_) => self.health.works(),
                Err(error) => {
                    self.health.failed(error);
                    // The next look-up begins anew.
                    self.connection = None;
                }
            }
            answer.send(found.map_err(Away::because)).ok();
        }
    }

    fn look(&mut self, id: &SessionDigest) -> rusqlite::Result<Option<Found>> {
        // Before the file is read: what is written between the two has no effect twice.
        let waiting = self.queue.waiting(id);
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connection::to_read(&self.path, &self.bounds)?,
        };
        let connection = self.connection.insert(connection);
        let mut entry = store::find(connection, id)?;
        for queued in waiting.iter().flatten() {
            entry = row::after(entry, self.me, queued);
        }
        let is_live =
            |row: &Row| row.stage == Stage::Live && (row.server == self.me || !self.servers.is_gone(row.server));
        let found = entry.map(|entry| entry.found(self.clock.now(), is_live));
        Ok(found.map(|found| match found.state {
            FoundState::Live if found.server != self.me => found.with_leaving(self.servers.is_leaving(found.server)),
            _ => found,
        }))
    }
}
