//! Changes of the admission policies, and the sessions that a new one adopts.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rmcp::transport::streamable_http_server::session::SessionManager;
use tokio::time::Instant;

use super::manager_inner::ManagerInner;
use super::policies::{Admits, Policies, changed, is_same};
use crate::admission::{AdmissionPolicy, Arrival, ArrivalKind, Lease};
use crate::transport::{Flag, Session};

impl<I: SessionManager> ManagerInner<I> {
    /// The policy of newcomers and restores.
    pub(crate) fn admission(&self) -> Admits {
        self.policies.load().admission.clone()
    }

    /// The policy of requests within a session.
    pub(crate) fn requests(&self) -> Admits {
        self.policies.load().requests.clone()
    }

    /// Changes the admission policies that are given. Returns whether that of newcomers is another one now, which then has to
    /// [adopt](Self::adopt) the sessions there are.
    pub(super) fn change_admission(
        &self,
        admission: Option<Box<dyn AdmissionPolicy>>,
        requests: Option<Box<dyn AdmissionPolicy>>,
    ) -> bool {
        let (before, now) = (self.policies.load_full(), Instant::now());
        let change = |before: &Admits, to: Option<Box<dyn AdmissionPolicy>>| match to {
            Some(to) => changed(before, to, now),
            None => before.clone(),
        };
        let after =
            Policies { admission: change(&before.admission, admission), requests: change(&before.requests, requests) };
        let is_other = !is_same(&before.admission, &after.admission);
        self.policies.store(Arc::new(after));
        is_other
    }

    /// Has the admission policy in force adopt a session that another one has admitted. What the session holds of that one
    /// ends. No lock may be held.
    pub(super) fn adopt(&self, session: &Session<I::Transport>) {
        loop {
            let policy = self.admission();
            let lease = policy.as_ref().map_or_else(Lease::free, |policy| {
                let entry = &session.record.entry;
                let kind = if session.record.restored { ArrivalKind::Restore } else { ArrivalKind::Create };
                let arrival = Arrival::new(Instant::now(), kind).with_session(entry.key).with_origin(entry.serial);
                let arrival = match entry.context.as_deref() {
                    Some(context) => arrival.with_context(context),
                    None => arrival,
                };
                catch_unwind(AssertUnwindSafe(|| policy.adopt(&arrival))).unwrap_or_else(|_| {
                    tracing::warn!("an admission policy panicked when it adopted a session");
                    Lease::free()
                })
            });
            session.hold_instead(lease);
            if session.has(Flag::Left) {
                session.drop_lease();
            }
            if is_same(&policy, &self.admission()) {
                return;
            }
        }
    }
}
