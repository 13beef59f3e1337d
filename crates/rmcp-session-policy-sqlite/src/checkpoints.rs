//! The thread that copies the write-ahead log into the file, so that no commit and no claim waits for that: a checkpoint
//! waits for the disk, up to three times.

use std::path::PathBuf;
use std::sync::mpsc::Receiver;

use rusqlite::Connection;

use crate::builder::Bounds;
use crate::connection;
use crate::log;

/// What the thread needs.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    pub(crate) path: PathBuf,
    pub(crate) bounds: Bounds,
    pub(crate) connection: Option<Connection>,
}

impl Checkpoints {
    /// Makes a checkpoint each time that the writer asks for one, until it ends.
    ///
    /// One that fails is no loss: the writer tries again, and reports why, once the log is at its limit.
    pub(crate) fn run(mut self, asked: &Receiver<()>) {
        while asked.recv() == Ok(()) {
            let connection = self.connection.take().map_or_else(|| connection::to_copy(&self.path, &self.bounds), Ok);
            self.connection = connection.ok().filter(|connection| log::copy(connection).is_ok());
        }
    }
}
