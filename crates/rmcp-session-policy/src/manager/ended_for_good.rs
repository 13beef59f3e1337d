//! Notification of the admission policies and the held streams when a session has ended for good.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::durable::Durable;
use super::final_end::FinalEndReason;
use super::final_ends::FinalEnds;
use super::parked::Parked;
use super::policies::PoliciesInForce;
use crate::session::SessionOrigin;

/// The receivers of an end for good, when a session is neither live nor parked any more: the stream that is held for
/// it, and the policies.
pub(super) struct Ends {
    policies: PoliciesInForce,
    end_stream: EndStream,
    /// The directory that outlives the process. A session that has ended for this process may go on in it.
    durable: Option<Arc<Durable>>,
    pub(super) finals: FinalEnds,
}

/// Ends the held stream of a session, if it has one.
pub(super) type EndStream = Box<dyn Fn(SessionOrigin) + Send + Sync>;

impl Ends {
    pub(super) fn new(
        policies: PoliciesInForce,
        end_stream: EndStream,
        durable: Option<Arc<Durable>>,
        finals: FinalEnds,
    ) -> Self {
        Self { policies, end_stream, durable, finals }
    }

    /// Tells them of the end of a session. This runs code of the policies, so the caller must hold no lock.
    pub(super) fn tell(&self, session: SessionOrigin) {
        (self.end_stream)(session);
        let policies = self.policies.load_full();
        for policy in [&policies.admission, &policies.requests].into_iter().flatten() {
            if catch_unwind(AssertUnwindSafe(|| policy.on_session_end(session))).is_err() {
                tracing::warn!("an admission policy panicked when it was told of the end of a session");
            }
        }
    }
}

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ends").field("policies", &self.policies.load()).finish_non_exhaustive()
    }
}

/// Sessions that have left the parking for good. Its drop tells the policies of their ends, so it must be dropped
/// outside all locks.
#[must_use = "dropped at once, it is dropped under the locks that are held"]
pub(super) struct Gone<'a> {
    pub(super) ends: &'a Ends,
    pub(super) sessions: Vec<Parked>,
}

impl Gone<'_> {
    /// Writes to the directory that the sessions have ended for good.
    pub(super) fn end_in_directory(&self) {
        let Some(durable) = &self.ends.durable else { return };
        for parked in &self.sessions {
            if let Some(ownership) = parked.ownership {
                durable.write(ownership, self.ends.finals.end(parked.data().map(|data| &**data)));
            }
        }
    }

    /// Whether a session is among them that was ended for good while it was being restored.
    pub(super) fn has_barred(&self, session: SessionOrigin) -> bool {
        self.sessions.iter().any(|parked| parked.serial() == session && parked.ended().is_some())
    }
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        for parked in self.sessions.drain(..) {
            let session = parked.serial();
            if let (Some(durable), Some(ownership)) = (&self.ends.durable, parked.ownership) {
                durable.is_not_here(ownership);
            }
            // One that the parking has forgotten may go on in the directory.
            let reason = parked.ended().map(FinalEndReason::Closed);
            if let Some(reason) = reason.or((parked.ownership.is_none()).then_some(FinalEndReason::Forgotten)) {
                let (context, data) = (parked.shared_context().cloned(), parked.data().cloned());
                self.ends.finals.tell(reason, context, data, parked.ownership);
            }
            drop(parked);
            self.ends.tell(session);
        }
    }
}
