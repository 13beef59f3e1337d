//! [`Ownership`], under which a server has a session, and [`InDirectory`], what a live session keeps of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use super::digest::SessionDigest;
use super::epoch::Epoch;

/// The digest of a session, and the epoch under which this server has it or parked it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ownership {
    pub(crate) digest: SessionDigest,
    pub(crate) epoch: Epoch,
}

/// What a live session keeps of the directory that it is in.
#[derive(Debug)]
pub(crate) struct InDirectory {
    pub(crate) ownership: Ownership,
    /// Whether the directory knows that the handshake is finished.
    ready: AtomicBool,
    /// Whether nothing more may be written: the end was written, or another server has claimed the session.
    over: AtomicBool,
    /// How often session data was written that answers wait for.
    data_changes: AtomicU64,
    /// How many of these changes are durable.
    data_written: AtomicU64,
}

impl InDirectory {
    /// `ready`: whether the directory knows that the handshake is finished.
    pub(crate) const fn new(ownership: Ownership, ready: bool) -> Self {
        Self {
            ownership,
            ready: AtomicBool::new(ready),
            over: AtomicBool::new(false),
            data_changes: AtomicU64::new(0),
            data_written: AtomicU64::new(0),
        }
    }

    /// Whether the session is this server's.
    pub(crate) fn is_ours(&self) -> bool {
        !self.over.load(SeqCst)
    }

    /// Notes that the end is written, or that the session is lost. Returns true for the one caller that did.
    pub(crate) fn end(&self) -> bool {
        !self.over.swap(true, SeqCst)
    }

    /// Notes that the handshake is finished. Returns true for the one caller that did.
    pub(crate) fn ready(&self) -> bool {
        !self.ready.load(SeqCst) && !self.ready.swap(true, SeqCst)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(SeqCst)
    }

    /// Notes that session data is about to be written, and that answers wait for it.
    pub(crate) fn data_changed(&self) {
        self.data_changes.fetch_add(1, SeqCst);
    }

    /// How many changes there are, if not all are known to be durable.
    pub(crate) fn unwritten_data(&self) -> Option<u64> {
        let changes = self.data_changes.load(SeqCst);
        (self.data_written.load(SeqCst) < changes).then_some(changes)
    }

    /// Notes that the first `changes` of them are durable.
    pub(crate) fn data_is_written(&self, changes: u64) {
        self.data_written.fetch_max(changes, SeqCst);
    }
}
