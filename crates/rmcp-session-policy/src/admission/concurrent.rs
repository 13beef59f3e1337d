//! [`Concurrent`]: a limit on the number at one time.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use async_trait::async_trait;
use tokio::time::Instant;

use super::shape::same;
use super::{AdmissionPolicy, Arrival, Lease, Permit, Rejection, Replicate};
use crate::config_error::ConfigError;

/// Admits up to a number at one time: an admission counts until its session is gone, or its request is served.
///
/// Meant for [`per_client`](super::AdmissionPolicyExt::per_client), so that one client cannot open many sessions.
///
/// Source: a counting semaphore. Cost: one atomic update.
///
/// Not for the limit of the whole server. That is the capacity
/// ([`max_sessions`](crate::PolicySessionManagerBuilder::max_sessions)), which makes room by eviction instead of
/// rejecting.
///
/// ```
/// use rmcp_session_policy::admission::{AdmissionPolicy, Arrival, ArrivalKind, Concurrent};
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let policy = Concurrent::new(1);
/// let arrival = Arrival::new(Instant::now(), ArrivalKind::Create);
/// let session = policy.admit(&arrival).await.unwrap().commit();
/// assert_eq!(policy.admit(&arrival).await.unwrap_err().limit(), Some(1));
/// drop(session);
/// assert!(policy.admit(&arrival).await.is_ok());
/// # }
/// ```
#[derive(Debug)]
pub struct Concurrent {
    most: AtomicU64,
    there: Arc<AtomicU64>,
}

impl Concurrent {
    /// Admits at most `most` at one time.
    #[must_use]
    pub fn new(most: u64) -> Self {
        Self { most: AtomicU64::new(most), there: Arc::default() }
    }

    fn most(&self) -> u64 {
        self.most.load(SeqCst)
    }

    fn refusal(&self) -> Rejection {
        Rejection::new("concurrent").with_limit(self.most(), 0)
    }
}

/// Counts one admission until it is dropped.
struct There(Arc<AtomicU64>);

impl Drop for There {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[async_trait]
impl AdmissionPolicy for Concurrent {
    async fn admit(&self, _: &Arrival<'_>) -> Result<Permit, Rejection> {
        self.there
            .fetch_update(SeqCst, SeqCst, |there| (there < self.most()).then_some(there + 1))
            .map(|_| Permit::holding(There(Arc::clone(&self.there))))
            .map_err(|_| self.refusal())
    }

    fn peek(&self, _: &Arrival<'_>) -> Result<(), Rejection> {
        if self.there.load(SeqCst) < self.most() { Ok(()) } else { Err(self.refusal()) }
    }

    fn retune(&self, to: &dyn AdmissionPolicy, _: Instant) -> bool {
        same::<Self>(to).map(|to| self.most.store(to.most(), SeqCst)).is_some()
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn adopt(&self, _: &Arrival<'_>) -> Lease {
        self.there.fetch_add(1, SeqCst);
        Lease::holding(There(Arc::clone(&self.there)))
    }

    fn validate(&self) -> Result<(), ConfigError> {
        if self.most() == 0 {
            return Err(ConfigError::new("the limit of Concurrent", self.most(), "allow at least 1 at once"));
        }
        Ok(())
    }
}

impl Replicate for Concurrent {
    fn replicate(&self) -> Self {
        Self::new(self.most())
    }

    fn is_fresh(&self, _: Instant) -> bool {
        self.there.load(SeqCst) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::super::ArrivalKind;
    use super::*;

    #[tokio::test]
    async fn a_session_counts_until_its_lease_is_dropped() {
        let policy = Concurrent::new(2);
        let arrival = Arrival::new(Instant::now(), ArrivalKind::Create);
        let lease = policy.admit(&arrival).await.expect("the first").commit();
        let undone = policy.admit(&arrival).await.expect("the second");
        assert_eq!(policy.admit(&arrival).await.expect_err("full").remaining(), Some(0));
        assert!(policy.peek(&arrival).is_err());
        drop(undone);
        assert!(policy.peek(&arrival).is_ok());
        drop(lease);
        assert!(policy.is_fresh(arrival.now()));
    }
}
