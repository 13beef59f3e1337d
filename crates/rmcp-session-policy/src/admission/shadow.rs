//! [`Shadow`]: a policy that reports its rejections and rejects nothing.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use tokio::time::Instant;

use super::shape::same;
use super::{AdmissionPolicy, Arrival, Lease, Permit, Rejection};
use crate::config_error::ConfigError;
use crate::session::SessionOrigin;

/// Asks a policy, logs and counts what it rejects, and admits every arrival; made by
/// [`shadow`](super::AdmissionPolicyExt::shadow).
///
/// Use it to try out a limit on a running server.
///
/// Cost: that of the policy, and one log line for each rejection.
///
/// ```
/// use rmcp_session_policy::admission::{AdmissionPolicy, AdmissionPolicyExt, Arrival, ArrivalKind, Concurrent};
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let policy = Concurrent::new(1).shadow();
/// let arrival = Arrival::new(Instant::now(), ArrivalKind::Create);
/// let _held = policy.admit(&arrival).await.unwrap();
/// assert!(policy.admit(&arrival).await.is_ok());
/// assert_eq!(policy.would_have_rejected(), 1);
/// # }
/// ```
#[derive(Debug)]
pub struct Shadow<P> {
    policy: P,
    refused: AtomicU64,
}

impl<P> Shadow<P> {
    pub(super) const fn new(policy: P) -> Self {
        Self { policy, refused: AtomicU64::new(0) }
    }

    /// Returns the number of arrivals that the policy has rejected.
    pub fn would_have_rejected(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

#[async_trait]
impl<P: AdmissionPolicy> AdmissionPolicy for Shadow<P> {
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        match self.policy.admit(arrival).await {
            Ok(permit) => Ok(permit),
            Err(rejection) => {
                self.refused.fetch_add(1, Relaxed);
                tracing::info!(%rejection, kind = ?arrival.kind(), "would have refused");
                Ok(Permit::free())
            }
        }
    }

    fn on_session_end(&self, session: SessionOrigin) {
        self.policy.on_session_end(session);
    }

    fn retune(&self, to: &dyn AdmissionPolicy, now: Instant) -> bool {
        same::<Self>(to).is_some_and(|to| self.policy.retune(&to.policy, now))
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn adopt(&self, session: &Arrival<'_>) -> Lease {
        self.policy.adopt(session)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.policy.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AdmissionPolicyExt, ArrivalKind, Concurrent};
    use super::*;

    #[tokio::test]
    async fn it_counts_whom_it_would_have_refused_and_lets_them_in() {
        let policy = Concurrent::new(1).shadow();
        let arrival = Arrival::new(Instant::now(), ArrivalKind::Create);
        let first = policy.admit(&arrival).await.expect("lets in");
        let second = policy.admit(&arrival).await.expect("lets in");
        assert_eq!(policy.would_have_rejected(), 1);
        let third = policy.admit(&arrival).await.expect("lets in");
        assert_eq!(policy.would_have_rejected(), 2);
        drop((first, second, third));
    }
}
