//! [`Ownership`], under which a server has a session, and [`InDirectory`], what a live session keeps of it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};

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
    /// How far the session is here: [`OURS`], [`OVER`] or [`DEAD`]. It only goes up.
    stage: AtomicU8,
    /// How often session data was written that answers wait for.
    data_changes: AtomicU64,
    /// How many of these changes are durable.
    data_written: AtomicU64,
}

/// The session is this server's.
const OURS: u8 = 0;
/// It is parked or released, or another server has claimed it. Nothing but its end may be written.
const OVER: u8 = 1;
/// Its end is written. Nothing more may be.
const DEAD: u8 = 2;

impl InDirectory {
    /// `ready`: whether the directory knows that the handshake is finished.
    pub(crate) const fn new(ownership: Ownership, ready: bool) -> Self {
        Self {
            ownership,
            ready: AtomicBool::new(ready),
            stage: AtomicU8::new(OURS),
            data_changes: AtomicU64::new(0),
            data_written: AtomicU64::new(0),
        }
    }

    /// Whether the session is this server's.
    pub(crate) fn is_ours(&self) -> bool {
        self.stage.load(SeqCst) == OURS
    }

    /// Whether the session was parked, released or lost, and has not ended.
    pub(crate) fn goes_on(&self) -> bool {
        self.stage.load(SeqCst) == OVER
    }

    /// Whether its end for good is written.
    pub(crate) fn is_dead(&self) -> bool {
        self.stage.load(SeqCst) == DEAD
    }

    /// Notes that the session is parked, released or lost, or that its end is written with its last step. Returns true for
    /// the one caller that did.
    pub(crate) fn end(&self) -> bool {
        self.stage.fetch_max(OVER, SeqCst) == OURS
    }

    /// Notes that the end for good is written. Returns true for the one caller that did. The session may be parked already:
    /// its end counts all the same.
    pub(crate) fn end_for_good(&self) -> bool {
        self.stage.swap(DEAD, SeqCst) != DEAD
    }

    /// Notes that the handshake is finished. Returns true for the one caller that did.
    pub(crate) fn ready(&self) -> bool {
        !self.ready.load(SeqCst) && !self.ready.swap(true, SeqCst)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(SeqCst)
    }

    /// Notes that session data was queued to be written, and that answers wait for it.
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
