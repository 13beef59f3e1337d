//! [`Only`]: a policy that is asked only about arrivals for which a predicate holds.

use std::any::Any;
use std::fmt;

use async_trait::async_trait;
use tokio::time::Instant;

use super::shape::{captures_nothing, same};
use super::{AdmissionPolicy, Arrival, Lease, Permit, Rejection};
use crate::config_error::ConfigError;
use crate::session::SessionOrigin;

/// Asks a policy about arrivals for which a predicate holds, and admits the others; made by
/// [`only`](super::AdmissionPolicyExt::only).
///
/// Cost: that of the predicate, and of the policy if it is asked.
///
/// ```
/// use rmcp_session_policy::admission::{AdmissionPolicy, AdmissionPolicyExt, Arrival, ArrivalKind, Concurrent};
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let policy = Concurrent::new(1).only(|arrival| arrival.kind() == ArrivalKind::Create);
/// let create = Arrival::new(Instant::now(), ArrivalKind::Create);
/// let restore = Arrival::new(Instant::now(), ArrivalKind::Restore);
/// let _held = policy.admit(&create).await.unwrap();
/// assert!(policy.admit(&create).await.is_err());
/// assert!(policy.admit(&restore).await.is_ok(), "the policy is not asked");
/// # }
/// ```
#[derive(Clone)]
pub struct Only<P, F> {
    policy: P,
    predicate: F,
}

impl<P, F> Only<P, F> {
    pub(super) const fn new(policy: P, predicate: F) -> Self {
        Self { policy, predicate }
    }
}

#[async_trait]
impl<P, F> AdmissionPolicy for Only<P, F>
where
    P: AdmissionPolicy,
    F: Fn(&Arrival<'_>) -> bool + Send + Sync + 'static,
{
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        if (self.predicate)(arrival) { self.policy.admit(arrival).await } else { Ok(Permit::free()) }
    }

    fn peek(&self, arrival: &Arrival<'_>) -> Result<(), Rejection> {
        if (self.predicate)(arrival) { self.policy.peek(arrival) } else { Ok(()) }
    }

    fn on_session_end(&self, session: SessionOrigin) {
        self.policy.on_session_end(session);
    }

    fn retune(&self, to: &dyn AdmissionPolicy, now: Instant) -> bool {
        captures_nothing::<F>() && same::<Self>(to).is_some_and(|to| self.policy.retune(&to.policy, now))
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn adopt(&self, session: &Arrival<'_>) -> Lease {
        if (self.predicate)(session) { self.policy.adopt(session) } else { Lease::free() }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.policy.validate()
    }
}

impl<P: fmt::Debug, F> fmt::Debug for Only<P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Only").field("policy", &self.policy).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AdmissionPolicyExt, ArrivalKind, Concurrent, admit_fn};
    use super::*;

    #[tokio::test]
    async fn whom_the_predicate_passes_over_is_let_in() {
        let closed = admit_fn(|_| Err(Rejection::new("closed")));
        let policy = closed.only(|arrival| arrival.kind() == ArrivalKind::Create);
        let now = Instant::now();
        assert!(policy.admit(&Arrival::new(now, ArrivalKind::Create)).await.is_err());
        assert!(policy.admit(&Arrival::new(now, ArrivalKind::Restore)).await.is_ok());
    }

    #[test]
    fn a_predicate_that_captures_something_makes_another_policy() {
        let only = |most, admits: bool| Concurrent::new(most).only(move |_: &Arrival<'_>| admits);
        let all = |most| Concurrent::new(most).only(|_: &Arrival<'_>| true);
        let now = Instant::now();
        assert!(all(1).retune(&all(2), now));
        assert!(!only(1, true).retune(&only(2, false), now));
        assert!(!all(1).retune(&Concurrent::new(1), now));
    }
}
