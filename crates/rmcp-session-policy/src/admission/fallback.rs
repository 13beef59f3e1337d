//! [`Fallback`]: a policy with another one for the arrivals that it cannot decide.

use std::any::Any;

use async_trait::async_trait;
use tokio::time::Instant;

use super::shape::same;
use super::{AdmissionPolicy, Arrival, Lease, Permit, Rejection, RejectionClass, Replicate};
use crate::config_error::ConfigError;
use crate::session::SessionOrigin;

/// Asks another policy about the arrivals for which the backend of the first one fails; made by
/// [`fallback`](super::AdmissionPolicyExt::fallback).
///
/// The backend has failed if the first policy rejects with [`RejectionClass::Backend`]. Any other answer stands, and the
/// fallback is not asked. Each permit is of one policy only, so what is undone or given back goes to the policy that
/// admitted; what the fallback has admitted does not count with the first policy, later on either. With
/// [`Open`](super::Open) as the fallback, a backend that fails lets all arrivals in.
///
/// [`peek`](AdmissionPolicy::peek) goes by the class that the first policy's `peek` returns. A policy that can only know
/// by its backend should let `peek` admit.
///
/// Use it for limits that several servers share. Not for a policy that should reject when it cannot decide: without a
/// fallback it does, and clients get HTTP 503.
///
/// Cost: that of the first policy, and of the fallback if the first one's backend fails. The first policy is asked each
/// time, so it should find out fast that its backend does not answer.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
///
/// use rmcp_session_policy::admission::{AdmissionPolicy, AdmissionPolicyExt, Arrival, ArrivalKind, Concurrent, Permit};
/// use rmcp_session_policy::admission::{Rejection, RejectionClass, admit_fn};
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let up = Arc::new(AtomicBool::new(true));
/// let shared = {
///     let up = Arc::clone(&up);
///     admit_fn(move |_| match up.load(SeqCst) {
///         true => Ok(Permit::free()),
///         false => Err(Rejection::new("shared").with_class(RejectionClass::Backend)),
///     })
/// };
/// let policy = shared.fallback(Concurrent::new(1));
///
/// let arrival = Arrival::new(Instant::now(), ArrivalKind::Create);
/// let _many = [policy.admit(&arrival).await.unwrap(), policy.admit(&arrival).await.unwrap()];
/// up.store(false, SeqCst);
/// let _one = policy.admit(&arrival).await.unwrap();
/// assert_eq!(policy.admit(&arrival).await.unwrap_err().policy(), "concurrent");
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Fallback<P, Q> {
    policy: P,
    fallback: Q,
}

impl<P, Q> Fallback<P, Q> {
    pub(super) const fn new(policy: P, fallback: Q) -> Self {
        Self { policy, fallback }
    }
}

/// Whether a policy could not decide.
fn has_failed<T>(decision: &Result<T, Rejection>) -> bool {
    decision.as_ref().is_err_and(|rejection| rejection.class() == RejectionClass::Backend)
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<P: AdmissionPolicy, Q: AdmissionPolicy> AdmissionPolicy for Fallback<P, Q> {
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        let decision = self.policy.admit(arrival).await;
        if has_failed(&decision) { self.fallback.admit(arrival).await } else { decision }
    }

    fn peek(&self, arrival: &Arrival<'_>) -> Result<(), Rejection> {
        let decision = self.policy.peek(arrival);
        if has_failed(&decision) { self.fallback.peek(arrival) } else { decision }
    }

    fn on_session_end(&self, session: SessionOrigin) {
        self.policy.on_session_end(session);
        self.fallback.on_session_end(session);
    }

    fn retune(&self, to: &dyn AdmissionPolicy, now: Instant) -> bool {
        // Both: if one cannot, this policy is replaced, and what was changed in it does not matter.
        same::<Self>(to)
            .is_some_and(|to| self.policy.retune(&to.policy, now) && self.fallback.retune(&to.fallback, now))
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn adopt(&self, session: &Arrival<'_>) -> Lease {
        self.policy.adopt(session)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.policy.validate()?;
        self.fallback.validate()
    }
}

impl<P: Replicate, Q: Replicate> Replicate for Fallback<P, Q> {
    fn replicate(&self) -> Self {
        Self::new(self.policy.replicate(), self.fallback.replicate())
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.policy.is_fresh(now) && self.fallback.is_fresh(now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::time::Duration;

    use futures_util::poll;
    use tokio::time::sleep;

    use super::super::{AdmissionPolicyExt, ArrivalKind, Concurrent, Open, SlidingWindow, TokenBucket, admit_fn};
    use super::*;

    /// A limit behind a backend that a test can stop.
    #[derive(Debug)]
    struct Remote<P> {
        limit: P,
        is_down: Arc<AtomicBool>,
        takes: Duration,
    }

    impl<P> Remote<P> {
        fn new(limit: P) -> (Self, Arc<AtomicBool>) {
            let is_down = Arc::default();
            (Self { limit, is_down: Arc::clone(&is_down), takes: Duration::ZERO }, is_down)
        }
    }

    #[async_trait]
    impl<P: AdmissionPolicy> AdmissionPolicy for Remote<P> {
        async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
            if !self.takes.is_zero() {
                sleep(self.takes).await;
            }
            match self.is_down.load(SeqCst) {
                true => Err(Rejection::new("remote").with_class(RejectionClass::Backend)),
                false => self.limit.admit(arrival).await,
            }
        }
    }

    fn now() -> Arrival<'static> {
        Arrival::new(Instant::now(), ArrivalKind::Create)
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_backend_that_fails_is_replaced() {
        for class in [RejectionClass::Quota, RejectionClass::NoCapacity, RejectionClass::Overload] {
            let policy = admit_fn(move |_| Err(Rejection::new("first").with_class(class))).fallback(Open);
            assert_eq!(policy.admit(&now()).await.expect_err("stands").policy(), "first", "{class:?}");
        }
        let (remote, is_down) = Remote::new(Concurrent::new(1));
        let second = admit_fn(|_| Err(Rejection::new("second")));
        let policy = remote.fallback(second);
        let lease = policy.admit(&now()).await.expect("the first").commit();
        assert_eq!(policy.admit(&now()).await.expect_err("one at once").policy(), "concurrent");
        is_down.store(true, SeqCst);
        assert_eq!(policy.admit(&now()).await.expect_err("down").policy(), "second");
        drop(lease);
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_is_of_the_policy_that_admitted_and_of_no_other() {
        let minute = Duration::from_secs(60);
        let (remote, is_down) = Remote::new(SlidingWindow::new(1, minute));
        let policy = remote.fallback(SlidingWindow::new(1, minute));
        let [up, down] = [false, true];
        let admit = async |state: bool| {
            is_down.store(state, SeqCst);
            policy.admit(&now()).await
        };
        // Undone, whatever the state of the backend is by then.
        for (state, later) in [(up, down), (down, up)] {
            let permit = admit(state).await.expect("room");
            assert!(admit(state).await.is_err(), "it is reserved");
            is_down.store(later, SeqCst);
            drop(permit);
        }
        drop(admit(up).await.expect("given back").commit());
        drop(admit(down).await.expect("given back, and not taken by the other").commit());
        assert!(admit(up).await.is_err() && admit(down).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_arrival_that_is_dropped_while_the_backend_is_asked_takes_nothing() {
        let (mut remote, is_down) = Remote::new(Concurrent::new(1));
        remote.takes = Duration::from_secs(1);
        let policy = remote.fallback(Concurrent::new(1));
        for state in [true, false] {
            is_down.store(state, SeqCst);
            let arrival = now();
            let mut gone = policy.admit(&arrival);
            assert!(poll!(&mut gone).is_pending());
            drop(gone);
            let lease = policy.admit(&now()).await.expect("nothing was taken").commit();
            assert!(policy.admit(&now()).await.is_err());
            drop(lease);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_fresh_when_both_are_and_a_copy_has_no_history() {
        let window = |secs| SlidingWindow::new(1, Duration::from_secs(secs));
        for policy in [window(10).fallback(window(60)), window(60).fallback(window(10))] {
            let arrival = now();
            assert!(policy.is_fresh(arrival.now()));
            drop(policy.policy.admit(&arrival).await.expect("the first").commit());
            drop(policy.fallback.admit(&arrival).await.expect("the first").commit());
            assert!(!policy.is_fresh(arrival.now() + Duration::from_secs(30)), "one of them remembers");
            assert!(policy.is_fresh(arrival.now() + Duration::from_secs(60)));
            let copy = policy.replicate();
            assert!(copy.policy.peek(&arrival).is_ok() && copy.fallback.peek(&arrival).is_ok());
        }
    }

    #[test]
    fn the_settings_of_both_are_checked() {
        let bad = || TokenBucket::per_second(0);
        assert!(Open.fallback(Open).validate().is_ok());
        assert_eq!(bad().fallback(Open).validate(), bad().validate());
        assert_eq!(Open.fallback(bad()).validate(), bad().validate());
        assert!(bad().validate().is_err());
    }
}
