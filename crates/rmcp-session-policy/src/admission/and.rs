//! Both must let in.

use async_trait::async_trait;
use tokio::time::Instant;

use super::{AdmissionPolicy, Arrival, InvalidSetting, Permit, Rejection, Replicate};

/// Lets in whom both let in; made by [`and`](super::AdmissionPolicyExt::and).
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

#[async_trait]
impl<A: AdmissionPolicy, B: AdmissionPolicy> AdmissionPolicy for And<A, B> {
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        let first = self.first.admit(arrival).await?;
        // Refused by the second, the first permit is dropped here, and so undone.
        Ok(first.and(self.second.admit(arrival).await?))
    }

    fn peek(&self, arrival: &Arrival<'_>) -> Result<(), Rejection> {
        self.first.peek(arrival)?;
        self.second.peek(arrival)
    }

    fn validate(&self) -> Result<(), InvalidSetting> {
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

    use super::super::{AdmissionPolicyExt, ArrivalKind, Concurrent, SlidingWindow};
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
}
