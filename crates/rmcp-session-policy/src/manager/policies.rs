//! [`Policies`]: the admission policies in force.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::admission::AdmissionPolicy;

/// A policy, if there is one.
pub(super) type Admits = Option<Arc<dyn AdmissionPolicy>>;

/// The admission policies in force. A change puts others in their place; permits and leases of the old ones end with them.
#[derive(Debug, Default)]
pub(super) struct Policies {
    pub(super) admission: Admits,
    /// Of requests within sessions.
    pub(super) requests: Admits,
}

/// Where they stand. Readers load it without a lock.
pub(super) type PoliciesInForce = Arc<ArcSwap<Policies>>;

/// Whether two are one.
pub(super) fn is_same(one: &Admits, other: &Admits) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// Has a policy take over the numbers of another one, or else be replaced by it. A policy that panics is replaced.
pub(super) fn changed(before: &Admits, to: Box<dyn AdmissionPolicy>, now: Instant) -> Admits {
    let retuned = before.as_ref().filter(|before| {
        let retune = || before.retune(&*to, now);
        catch_unwind(AssertUnwindSafe(retune)).unwrap_or(false)
    });
    retuned.map(Arc::clone).or_else(|| Some(Arc::from(to)))
}
