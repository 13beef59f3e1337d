//! A claim on its way to the writer and back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rmcp_session_policy::directory::{Away, Claim, Epoch, SessionDigest};
use tokio::sync::oneshot;

const WAITS: u8 = 0;
const BEGUN: u8 = 1;
const GIVEN_UP: u8 = 2;

/// A claim as the writer sees it.
#[derive(Debug)]
pub(crate) struct ClaimRequest {
    pub(crate) id: SessionDigest,
    pub(crate) seen: Epoch,
    stage: Arc<AtomicU8>,
    answer: oneshot::Sender<Result<Claim, Away>>,
}

/// A claim as its task sees it.
#[derive(Debug)]
pub(crate) struct PendingClaim {
    stage: Arc<AtomicU8>,
    pub(crate) answer: oneshot::Receiver<Result<Claim, Away>>,
}

pub(crate) fn claim_request(id: SessionDigest, seen: Epoch) -> (ClaimRequest, PendingClaim) {
    let stage = Arc::new(AtomicU8::new(WAITS));
    let (sender, answer) = oneshot::channel();
    (ClaimRequest { id, seen, stage: Arc::clone(&stage), answer: sender }, PendingClaim { stage, answer })
}

impl ClaimRequest {
    /// Begins the claim. `false` if its task has given it up: then it must not be won.
    pub(crate) fn begin(&self) -> bool {
        self.stage.compare_exchange(WAITS, BEGUN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.stage.load(Ordering::Acquire) == BEGUN
    }

    pub(crate) fn is_waited_for(&self) -> bool {
        self.stage.load(Ordering::Acquire) != GIVEN_UP
    }

    /// Answers it. Gives an answer back that no task waits for.
    pub(crate) fn answer(self, answer: Result<Claim, Away>) -> Result<(), Result<Claim, Away>> {
        self.answer.send(answer)
    }
}

impl PendingClaim {
    /// Gives the claim up. `false` if it has begun: then its answer comes.
    pub(crate) fn give_up(&self) -> bool {
        self.stage.compare_exchange(WAITS, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Drop for PendingClaim {
    /// A task that is dropped claims nothing later.
    fn drop(&mut self) {
        self.give_up();
    }
}
