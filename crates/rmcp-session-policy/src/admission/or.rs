//! [`Or`]: a policy that admits if either of two policies admits.

use std::any::Any;

use async_trait::async_trait;
use tokio::time::Instant;

use super::shape::same;
use super::{AdmissionPolicy, Arrival, Lease, Permit, Rejection, Replicate};
use crate::config_error::ConfigError;
use crate::session::SessionOrigin;

/// Admits if either policy admits; made by [`or`](super::AdmissionPolicyExt::or).
///
/// The second policy is asked only if the first rejects. If both reject, the rejection is the one with the shorter wait.
///
/// Cost: that of the first policy, and of the second if the first rejects.
///
/// ```
/// use rmcp_session_policy::admission::{AdmissionPolicy, AdmissionPolicyExt, Arrival, ArrivalKind, Concurrent, Permit};
/// use rmcp_session_policy::admission::{Rejection, admit_fn};
/// use rmcp_session_policy::ClientContext;
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let staff = admit_fn(|arrival: &Arrival<'_>| match arrival.context().and_then(ClientContext::principal) {
///     Some("staff") => Ok(Permit::free()),
///     _ => Err(Rejection::new("staff")),
/// });
/// let policy = staff.or(Concurrent::new(1));
///
/// let staff = ClientContext::new().with_principal("staff");
/// let guest = Arrival::new(Instant::now(), ArrivalKind::Create);
/// let _held = policy.admit(&guest).await.unwrap();
/// assert!(policy.admit(&guest).await.is_err(), "one guest at a time");
/// assert!(policy.admit(&guest.with_context(&staff)).await.is_ok());
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Or<A, B> {
    first: A,
    second: B,
}

impl<A, B> Or<A, B> {
    pub(super) const fn new(first: A, second: B) -> Self {
        Self { first, second }
    }
}

fn sooner(first: Rejection, second: Rejection) -> Rejection {
    if second.retry().wait() < first.retry().wait() { second } else { first }
}

#[async_trait]
impl<A: AdmissionPolicy, B: AdmissionPolicy> AdmissionPolicy for Or<A, B> {
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        match self.first.admit(arrival).await {
            Ok(permit) => Ok(permit),
            Err(first) => self.second.admit(arrival).await.map_err(|second| sooner(first, second)),
        }
    }

    fn peek(&self, arrival: &Arrival<'_>) -> Result<(), Rejection> {
        self.first.peek(arrival).or_else(|first| self.second.peek(arrival).map_err(|second| sooner(first, second)))
    }

    fn on_session_end(&self, session: SessionOrigin) {
        self.first.on_session_end(session);
        self.second.on_session_end(session);
    }

    fn retune(&self, to: &dyn AdmissionPolicy, now: Instant) -> bool {
        // Both: if one cannot, this policy is replaced, and what was changed in it does not matter.
        same::<Self>(to).is_some_and(|to| self.first.retune(&to.first, now) && self.second.retune(&to.second, now))
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn adopt(&self, session: &Arrival<'_>) -> Lease {
        self.first.adopt(session)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.first.validate()?;
        self.second.validate()
    }
}

impl<A: Replicate, B: Replicate> Replicate for Or<A, B> {
    fn replicate(&self) -> Self {
        Self::new(self.first.replicate(), self.second.replicate())
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.first.is_fresh(now) && self.second.is_fresh(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{AdmissionPolicyExt, ArrivalKind, Retry, SlidingWindow, TokenBucket};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn refused_by_both_one_is_told_the_sooner_moment() {
        let minute = SlidingWindow::new(1, Duration::from_secs(60));
        let policy = minute.or(SlidingWindow::new(1, Duration::from_secs(10)));
        let arrival = Arrival::new(Instant::now(), ArrivalKind::Create);
        for _ in 0..2 {
            drop(policy.admit(&arrival).await.expect("one by each").commit());
        }
        let refused = policy.admit(&arrival).await.expect_err("both are full");
        assert_eq!(refused.retry(), Retry::After(Duration::from_secs(10)));
    }

    #[tokio::test(start_paused = true)]
    async fn refused_by_both_for_as_long_one_is_told_by_the_first() {
        let window = || SlidingWindow::new(1, Duration::from_secs(10));
        let policy = window().or(TokenBucket::per_second(0.1).burst(1));
        let arrival = Arrival::new(Instant::now(), ArrivalKind::Create);
        for _ in 0..2 {
            drop(policy.admit(&arrival).await.expect("one by each").commit());
        }
        assert_eq!(policy.admit(&arrival).await.expect_err("both are full").policy(), "sliding_window");
        assert_eq!(policy.peek(&arrival).expect_err("both are full").policy(), "sliding_window");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_fresh_when_both_are() {
        let policy = SlidingWindow::new(1, Duration::from_secs(10)).or(SlidingWindow::new(1, Duration::from_secs(60)));
        let now = Instant::now();
        assert!(policy.is_fresh(now));
        for secs in [10, 60] {
            drop(policy.admit(&Arrival::new(now, ArrivalKind::Create)).await.expect("one by each").commit());
            assert!(!policy.is_fresh(now + Duration::from_secs(secs - 1)));
            assert!(policy.is_fresh(now + Duration::from_secs(secs)));
        }
    }
}
