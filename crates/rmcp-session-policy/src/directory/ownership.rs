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
    /// How far the session is here: [`OURS`], [`OVER`], [`DEAD`] or [`LOST`]. It only goes up.
    stage: AtomicU8,
    /// How often session data was written that answers wait for.
    data_changes: AtomicU64,
    /// How many of these changes are durable.
    data_written: AtomicU64,
}

/// The session is this server's.
const OURS: u8 = 0;
/// It is parked or released. Nothing but its end may be written.
const OVER: u8 = 1;
/// Its end is written. Nothing more may be.
const DEAD: u8 = 2;
/// Another server has claimed it, so nothing that is decided here counts.
const LOST: u8 = 3;

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
        matches!(self.stage.load(SeqCst), OVER | LOST)
    }

    /// Notes that another server has claimed the session. Returns true if it was this server's.
    pub(crate) fn lose(&self) -> bool {
        self.stage.compare_exchange(OURS, LOST, SeqCst, SeqCst).is_ok()
    }

    /// Notes that the session is parked or released, or that its end is written with its last step. Returns true for
    /// the one caller that did.
    pub(crate) fn end(&self) -> bool {
        self.stage.fetch_max(OVER, SeqCst) == OURS
    }

    /// Notes that the end for good is written. Returns true for the one caller that did. The session may be parked already:
    /// its end counts all the same, unless it is lost.
    pub(crate) fn end_for_good(&self) -> bool {
        self.stage.fetch_update(SeqCst, SeqCst, |stage| (stage < DEAD).then_some(DEAD)).is_ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> InDirectory {
        InDirectory::new(Ownership { digest: SessionDigest::of("one"), epoch: Epoch::FIRST }, true)
    }

    #[test]
    fn a_session_ends_once_and_not_after_another_server_has_claimed_it() {
        let parked = opened();
        assert!(parked.is_ours() && parked.end() && !parked.end());
        assert!(!parked.is_ours() && parked.goes_on());
        assert!(!parked.lose(), "it was parked before");
        assert!(parked.end_for_good() && !parked.end_for_good());
        assert!(!parked.goes_on() && !parked.end());
        let lost = opened();
        assert!(lost.lose() && !lost.lose());
        assert!(!lost.end_for_good() && !lost.end());
        assert!(lost.goes_on() && !lost.is_ours());
    }
}
