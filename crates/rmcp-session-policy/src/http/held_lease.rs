//! What a request without a session holds of its admission: until its response has ended and its handler is done.

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
#[derive(Default)]
pub(super) struct LeaseSlot {
    lease: Mutex<Option<Lease>>,
    /// Its drop ends the task that waits for `max_busy`: the slot is gone.
    watch: Mutex<Option<oneshot::Sender<Infallible>>>,
}

impl LeaseSlot {
    fn put(&self, lease: Lease) {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease);
    }

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
    _slot: Arc<LeaseSlot>,
    _outer: Option<Box<Self>>,
}

/// Has the extensions of a request carry what its admission will give it to hold.
pub(super) fn carried_by(extensions: &mut Extensions) -> Arc<LeaseSlot> {
    let slot = Arc::<LeaseSlot>::default();
    let outer = extensions.remove::<Carrier>().map(Box::new);
    extensions.insert(Carrier { _slot: Arc::clone(&slot), _outer: outer });
    slot
}

/// Holds the lease from the response. Its drop is the end of the response.
///
/// A client that hangs up ends its response, but not its handler: rmcp signals, and what does not listen runs on.
pub(super) struct HeldLease {
    slot: Arc<LeaseSlot>,
    /// How long a handler may hold the lease after that; `None` if the lease ends with the response.
    outlived_for: Option<Duration>,
}

impl HeldLease {
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
