//! What a request without a session holds of its admission: until its response has ended and its handler is done.
//!
//! A request within a session holds its lease in the manager, which sees its handler end. A request without a session
//! does not reach the manager, so the layer has two holders: the body of the response ([`HeldLease`]), and the
//! extensions of the request (`Carrier`), which rmcp moves into the context of the handler. Both share one
//! [`LeaseSlot`]:
//!
//! - The handler is done before the response has ended: the end of the response gives the lease back.
//! - The response ends first, because the client hung up: the drop of the handler's context gives the lease back, or a
//!   timer does after `max_busy`.
//! - A listening stream has no handler that works for it: the end of its response gives the lease back in every case.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Extensions;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::admission::Lease;

/// Holds a lease until it is dropped.
///
/// It is made empty before the policy is asked, since the extensions of the request have to carry it from the
/// beginning. The two locks are taken one after the other, never together.
#[derive(Default)]
pub(super) struct LeaseSlot {
    /// `None` until the policy has admitted the request, and once the lease was given back.
    lease: Mutex<Option<Lease>>,
    /// Its drop ends the task that waits for `max_busy`: the slot is gone. It is set when the response has ended while
    /// a handler may go on.
    watch: Mutex<Option<oneshot::Sender<Infallible>>>,
}

impl LeaseSlot {
    /// It is called once, with the lock on the progress of the request held.
    fn put(&self, lease: Lease) {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease);
    }

    /// Gives the lease back, if there is one. The lease is taken out first and dropped after the lock. A panic of its
    /// drop is caught and logged. Further calls do nothing.
    fn release(&self) {
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner).take();
        // This runs code of the policy, which may panic where a handler is panicking already.
        if lease.is_some() && catch_unwind(AssertUnwindSafe(|| drop(lease))).is_err() {
            tracing::warn!("a lease of the policy for requests without a session panicked when it was dropped");
        }
    }
}

impl Drop for LeaseSlot {
    fn drop(&mut self) {
        self.release();
    }
}

/// Holds the lease from the extensions of the request, which rmcp moves into the handler's context. Layers stack, so it
/// holds the one of the layer around it.
#[derive(Clone)]
struct Carrier {
    /// Keeps the slot alive, and with it the lease. It is only dropped, never read.
    _slot: Arc<LeaseSlot>,
    /// The carrier of the layer around this one. Extensions hold one value of a type, so it would be lost otherwise.
    _outer: Option<Box<Self>>,
}

/// Has the extensions of a request carry what its admission will give it to hold.
///
/// Returns the slot, which is still empty. It must be called before rmcp gets the request: later the extensions are out
/// of reach.
pub(super) fn carried_by(extensions: &mut Extensions) -> Arc<LeaseSlot> {
    let slot = Arc::<LeaseSlot>::default();
    let outer = extensions.remove::<Carrier>().map(Box::new);
    extensions.insert(Carrier { _slot: Arc::clone(&slot), _outer: outer });
    slot
}

/// Holds the lease from the response. Its drop is the end of the response.
///
/// A client that hangs up ends its response, but not its handler: rmcp signals, and what does not listen runs on.
///
/// Its drop releases the lease if no handler may hold it. Else it leaves the lease to the carrier, and starts one task
/// which releases it after `outlived_for` at the latest. Outside a runtime there is no such task, and the carrier alone
/// decides.
pub(super) struct HeldLease {
    /// If no carrier has it too, the drop of this reference releases the lease at once.
    slot: Arc<LeaseSlot>,
    /// How long a handler may hold the lease after that; `None` if the lease ends with the response.
    outlived_for: Option<Duration>,
}

impl HeldLease {
    /// Puts the lease into the slot. If the extensions carry the slot, the handler holds it from now on too.
    pub(super) fn new(slot: Arc<LeaseSlot>, lease: Lease, outlived_for: Option<Duration>) -> Self {
        slot.put(lease);
        Self { slot, outlived_for }
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        let Some(most) = self.outlived_for else { return self.slot.release() };
        let is_carried = Arc::strong_count(&self.slot) > 1;
        if let (true, Ok(runtime)) = (is_carried, Handle::try_current()) {
            let (watch, is_gone) = oneshot::channel();
            *self.slot.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(watch);
            let slot = Arc::downgrade(&self.slot);
            // It ends with the handler, so clients that hang up leave no more tasks than handlers.
            runtime.spawn(async move {
                if timeout(most, is_gone).await.is_err()
                    && let Some(slot) = slot.upgrade()
                {
                    slot.release();
                }
            });
        }
    }
}

impl std::fmt::Debug for HeldLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeldLease").finish_non_exhaustive()
    }
}
