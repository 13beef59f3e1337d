//! Tells the policies of sessions that have ended for good.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::lot::Parked;
use crate::admission::AdmissionPolicy;
use crate::registry::SessionOrigin;

/// The policies that are told when a session neither lives nor is parked any more.
#[derive(Debug, Default)]
pub(super) struct Ends {
    policies: Vec<Arc<dyn AdmissionPolicy>>,
}

impl Ends {
    pub(super) fn new(policies: impl IntoIterator<Item = Arc<dyn AdmissionPolicy>>) -> Self {
        Self { policies: policies.into_iter().collect() }
    }

    /// Tells of the end of a session. This runs code of the policies, so the caller holds no lock.
    pub(super) fn tell(&self, session: SessionOrigin) {
        for policy in &self.policies {
            if catch_unwind(AssertUnwindSafe(|| policy.on_session_end(session))).is_err() {
                tracing::warn!("an admission policy panicked when it was told of the end of a session");
            }
        }
    }
}

/// Sessions that have left the parking for good. Every way out ends in the drop of this, which is for outside all locks.
#[must_use = "dropped at once, it is dropped under the locks that are held"]
pub(super) struct Gone<'a> {
    pub(super) ends: &'a Ends,
    pub(super) sessions: Vec<Parked>,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        for parked in self.sessions.drain(..) {
            let session = parked.serial();
            drop(parked);
            self.ends.tell(session);
        }
    }
}
