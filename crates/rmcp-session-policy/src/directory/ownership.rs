//! [`Ownership`], under which a server has a session, and [`InDirectory`], what a live session keeps of it.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

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
}

impl InDirectory {
    /// `ready`: whether the directory knows that the handshake is finished.
    pub(crate) const fn new(ownership: Ownership, ready: bool) -> Self {
        Self { ownership, ready: AtomicBool::new(ready), over: AtomicBool::new(false) }
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
}
