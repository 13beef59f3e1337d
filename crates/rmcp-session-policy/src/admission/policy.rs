//! The trait of a policy, and what can be made of one.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use async_trait::async_trait;

use super::{And, Arrival, CallerKey, ClientKey, Keyed, Only, Or, Permit, Rejection, Replicate, Shadow};
use crate::config_error::ConfigError;
use crate::session::SessionOrigin;

/// Decides who may come in.
///
/// # Contract
///
/// The manager asks [`admit`](Self::admit) before it looks for a place, so that nobody is thrown out for a newcomer who
/// is refused. It drops the permit if the session does not come to exist, for whatever reason, and commits it once the
/// session does; the [lease](super::Lease) is dropped when the session is gone. The future of `admit` may be dropped at
/// any await.
///
/// A policy takes the time from the [`Arrival`]; it reads no clock. A permit that is dropped uncommitted must leave the
/// policy as if the admission had never been asked for, and must never let more through than that.
///
/// # Implementing
///
/// ```
/// use async_trait::async_trait;
/// use rmcp_session_policy::admission::{AdmissionPolicy, Arrival, Permit, Rejection, Retry};
///
/// /// Lets only known principals in.
/// #[derive(Debug)]
/// struct MembersOnly;
///
/// #[async_trait]
/// impl AdmissionPolicy for MembersOnly {
///     async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
///         match arrival.context().and_then(|context| context.principal()) {
///             Some(_) => Ok(Permit::free()),
///             None => Err(Rejection::new("members_only").with_retry(Retry::Never)),
///         }
///     }
/// }
/// ```
///
/// # Wrapping
///
/// A wrapper forwards every method, the defaulted ones included.
#[async_trait]
pub trait AdmissionPolicy: fmt::Debug + Send + Sync + 'static {
    /// Lets an arrival in, or refuses it.
    ///
    /// # Errors
    ///
    /// The [`Rejection`] says which policy refused, why, and when to come back.
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection>;

    /// Tells whether [`admit`](Self::admit) would refuse now, and consumes nothing. A flood is shed by it before a
    /// request costs anything, so it may say yes to somebody whom `admit` then refuses, but not the other way round.
    ///
    /// # Errors
    ///
    /// The rejection that `admit` would give.
    fn peek(&self, arrival: &Arrival<'_>) -> Result<(), Rejection> {
        let _: &Arrival<'_> = arrival;
        Ok(())
    }

    /// Hears that a session neither lives nor is parked any more: what the policy keeps of it by
    /// [`Arrival::origin`] can go. Told by the manager, once for each session, whatever ended it; and once more if a request
    /// of the session was still being decided when it ended, after that decision.
    fn on_session_end(&self, session: SessionOrigin) {
        let _: SessionOrigin = session;
    }

    /// Checks the policy's settings; the manager's `build` asks.
    ///
    /// # Errors
    ///
    /// The first setting that makes no sense.
    fn validate(&self) -> Result<(), ConfigError> {
        Ok(())
    }
}

#[async_trait]
impl<P: AdmissionPolicy + ?Sized> AdmissionPolicy for Box<P> {
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        (**self).admit(arrival).await
    }

    fn peek(&self, arrival: &Arrival<'_>) -> Result<(), Rejection> {
        (**self).peek(arrival)
    }

    fn on_session_end(&self, session: SessionOrigin) {
        (**self).on_session_end(session);
    }

    fn validate(&self) -> Result<(), ConfigError> {
        (**self).validate()
    }
}

#[async_trait]
impl<P: AdmissionPolicy + ?Sized> AdmissionPolicy for Arc<P> {
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        (**self).admit(arrival).await
    }

    fn peek(&self, arrival: &Arrival<'_>) -> Result<(), Rejection> {
        (**self).peek(arrival)
    }

    fn on_session_end(&self, session: SessionOrigin) {
        (**self).on_session_end(session);
    }

    fn validate(&self) -> Result<(), ConfigError> {
        (**self).validate()
    }
}

/// Composes admission policies.
pub trait AdmissionPolicyExt: AdmissionPolicy + Sized {
    /// Lets in whom both let in. What the first took goes back when the second refuses.
    fn and<P: AdmissionPolicy>(self, other: P) -> And<Self, P> {
        And::new(self, other)
    }

    /// Lets in whom either lets in; the second is asked when the first refuses.
    fn or<P: AdmissionPolicy>(self, other: P) -> Or<Self, P> {
        Or::new(self, other)
    }

    /// Gives every client a policy of its own: by principal, else by address (IPv6 by /64). Clients of whom nothing is
    /// known share one; a warning says so once.
    fn per_client(self) -> Keyed<Self, ClientKey>
    where
        Self: Replicate,
    {
        Keyed::new(self, Box::new(ClientKey::warning_of()))
    }

    /// Gives every session a policy of its own: for the builder's `requests`. It stays the session's across evictions and
    /// restores, and ends with it. What is asked for without a session goes by its client, as with
    /// [`per_client`](Self::per_client).
    fn per_session(self) -> Keyed<Self, CallerKey>
    where
        Self: Replicate,
    {
        Keyed::new(self, Box::new(CallerKey::warning_of())).ending_with(CallerKey::Session)
    }

    /// Gives every key a policy of its own.
    fn per<K>(self, key: impl Fn(&Arrival<'_>) -> K + Send + Sync + 'static) -> Keyed<Self, K>
    where
        Self: Replicate,
        K: Hash + Eq + Clone + fmt::Debug + Send + Sync + 'static,
    {
        Keyed::new(self, Box::new(key))
    }

    /// Asks the policy only about arrivals for which `predicate` holds; the others are let in.
    fn only<F>(self, predicate: F) -> Only<Self, F>
    where
        F: Fn(&Arrival<'_>) -> bool + Send + Sync + 'static,
    {
        Only::new(self, predicate)
    }

    /// Lets everybody in, and reports whom the policy would have refused: to try a limit out.
    fn shadow(self) -> Shadow<Self> {
        Shadow::new(self)
    }
}

impl<P: AdmissionPolicy> AdmissionPolicyExt for P {}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use tokio::time::Instant;

    use super::super::{ArrivalKind, Concurrent, Open};
    use super::*;

    #[tokio::test]
    async fn a_look_tells_of_a_refusal_whatever_is_around_the_policy() {
        let one = || Concurrent::new(1);
        let policies: [Box<dyn AdmissionPolicy>; 7] = [
            Box::new(one()),
            Box::new(Arc::new(one())),
            Box::new(one().per_client()),
            Box::new(one().per_session()),
            Box::new(one().and(Open)),
            Box::new(Open.and(one())),
            Box::new(one().only(|_: &Arrival<'_>| true)),
        ];
        for policy in policies {
            let arrival = Arrival::new(Instant::now(), ArrivalKind::Create);
            assert!(policy.peek(&arrival).is_ok(), "{policy:?}");
            let lease = policy.admit(&arrival).await.expect("the first").commit();
            assert_eq!(policy.peek(&arrival).expect_err("one at once").policy(), "concurrent", "{policy:?}");
            drop(lease);
            assert!(policy.peek(&arrival).is_ok(), "{policy:?}");
        }
    }

    /// Counts the ends that it is told of.
    #[derive(Debug, Default)]
    struct Told(AtomicUsize);

    #[async_trait]
    impl AdmissionPolicy for Told {
        async fn admit(&self, _arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
            Ok(Permit::free())
        }

        fn on_session_end(&self, _session: SessionOrigin) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    impl Replicate for Arc<Told> {
        fn replicate(&self) -> Self {
            Self::clone(self)
        }

        fn is_fresh(&self, _now: Instant) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn an_end_is_told_whatever_is_around_the_policy() {
        let told = Arc::new(Told::default());
        let one = || Arc::clone(&told);
        let boxed: Box<dyn AdmissionPolicy> = Box::new(one());
        let policies: [Box<dyn AdmissionPolicy>; 8] = [
            boxed,
            Box::new(Arc::new(one())),
            Box::new(one().and(Open)),
            Box::new(Open.and(one())),
            Box::new(Open.or(one()).or(Open)),
            Box::new(one().only(|_: &Arrival<'_>| false)),
            Box::new(one().shadow()),
            Box::new(one().per_session()),
        ];
        for (policy, before) in policies.iter().zip(0..) {
            let session = SessionOrigin::allocate();
            let arrival = Arrival::new(Instant::now(), ArrivalKind::Request).with_origin(session);
            drop(policy.admit(&arrival).await.expect("lets in"));
            assert_eq!(told.0.load(SeqCst), before, "{policy:?}");
            policy.on_session_end(session);
            assert_eq!(told.0.load(SeqCst), before + 1, "{policy:?}");
        }
    }
}
