//! [`And`]: a policy that admits if both of two policies admit.

use std::any::Any;

use async_trait::async_trait;
use tokio::time::Instant;

use super::shape::same;
use super::{AdmissionPolicy, Arrival, Lease, Permit, Rejection, Replicate};
use crate::config_error::ConfigError;
use crate::session::SessionOrigin;

/// Admits if both policies admit; made by [`and`](super::AdmissionPolicyExt::and).
///
/// If both reject, the rejection is the one with the longer wait. If the second rejects, the permit of the first is
/// undone.
///
/// Cost: that of both policies.
///
/// ```
/// use rmcp_session_policy::admission::{AdmissionPolicy, AdmissionPolicyExt, Arrival, ArrivalKind, Concurrent};
/// use rmcp_session_policy::admission::TokenBucket;
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let policy = TokenBucket::per_minute(1).burst(2).and(Concurrent::new(1));
/// let arrival = Arrival::new(Instant::now(), ArrivalKind::Create);
/// let permit = policy.admit(&arrival).await.unwrap();
/// assert_eq!(policy.admit(&arrival).await.unwrap_err().policy(), "concurrent");
/// drop(permit);
/// assert!(policy.admit(&arrival).await.is_ok());
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct And<A, B> {
    first: A,
    second: B,
}

impl<A, B> And<A, B> {
    pub(super) const fn new(first: A, second: B) -> Self {
        Self { first, second }
    }
}

/// Chooses the rejection with the longer wait: until then at least one of the two still rejects.
fn later(first: Rejection, second: Result<(), Rejection>) -> Rejection {
    match second {
        Err(second) if second.retry().wait() > first.retry().wait() => second,
        _ => first,
    }
}

#[async_trait]
impl<A: AdmissionPolicy, B: AdmissionPolicy> AdmissionPolicy for And<A, B> {
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        match self.first.admit(arrival).await {
            // If the second policy rejects, the `?` drops the first permit here, which undoes it.
            Ok(first) => Ok(first.and(self.second.admit(arrival).await?)),
            Err(first) => Err(later(first, self.second.peek(arrival))),
        }
    }

    fn peek(&self, arrival: &Arrival<'_>) -> Result<(), Rejection> {
        match self.first.peek(arrival) {
            Ok(()) => self.second.peek(arrival),
            Err(first) => Err(later(first, self.second.peek(arrival))),
        }
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
        self.first.adopt(session).and(self.second.adopt(session))
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.first.validate()?;
        self.second.validate()
    }
}

impl<A: Replicate, B: Replicate> Replicate for And<A, B> {
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

    use super::super::{AdmissionPolicyExt, ArrivalKind, Concurrent, SlidingWindow, TokenBucket};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_the_first_took_goes_back_when_the_second_refuses() {
        let policy = SlidingWindow::new(2, Duration::from_secs(60)).and(Concurrent::new(1));
        let arrival = Arrival::new(Instant::now(), ArrivalKind::Create);
        let lease = policy.admit(&arrival).await.expect("the first").commit();
        for _ in 0..10 {
            assert_eq!(policy.admit(&arrival).await.expect_err("one at once").policy(), "concurrent");
        }
        drop(lease);
        drop(policy.admit(&arrival).await.expect("the window has one left").commit());
        assert_eq!(policy.admit(&arrival).await.expect_err("two a minute").policy(), "sliding_window");
    }

    #[tokio::test(start_paused = true)]
    async fn refused_by_both_one_is_told_the_later_moment() {
        let window = |secs| SlidingWindow::new(1, Duration::from_secs(secs));
        let policy = window(10).and(window(60));
        let arrival = Arrival::new(Instant::now(), ArrivalKind::Create);
        drop(policy.admit(&arrival).await.expect("the first").commit());
        let retry = super::super::Retry::After(Duration::from_secs(60));
        assert_eq!(policy.admit(&arrival).await.expect_err("both are full").retry(), retry);
        assert_eq!(policy.peek(&arrival).expect_err("both are full").retry(), retry);
    }

    #[tokio::test(start_paused = true)]
    async fn refused_by_both_for_as_long_one_is_told_by_the_first() {
        let window = || SlidingWindow::new(1, Duration::from_secs(10));
        let bucket = || TokenBucket::per_second(0.1).burst(1);
        let arrival = Arrival::new(Instant::now(), ArrivalKind::Create);
        let (one, other) = (window().and(bucket()), bucket().and(window()));
        drop((one.admit(&arrival).await.expect("free").commit(), other.admit(&arrival).await.expect("free").commit()));
        assert_eq!(one.admit(&arrival).await.expect_err("both are full").policy(), "sliding_window");
        assert_eq!(other.admit(&arrival).await.expect_err("both are full").policy(), "token_bucket");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_fresh_when_both_are() {
        let window = |secs| SlidingWindow::new(1, Duration::from_secs(secs));
        for policy in [window(10).and(window(60)), window(60).and(window(10))] {
            let now = Instant::now();
            assert!(policy.is_fresh(now));
            drop(policy.admit(&Arrival::new(now, ArrivalKind::Create)).await.expect("the first").commit());
            assert!(!policy.is_fresh(now + Duration::from_secs(30)), "one of them remembers");
            assert!(policy.is_fresh(now + Duration::from_secs(60)));
        }
    }
}
