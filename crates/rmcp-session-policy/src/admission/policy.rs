//! [`AdmissionPolicy`], the trait of a policy, and [`AdmissionPolicyExt`], the methods that combine policies.

use std::any::Any;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use super::shape::KeyKind;
use super::{
    And, Arrival, CallerKey, ClientKey, Fallback, Keyed, Lease, Only, Or, Permit, Rejection, Replicate, Shadow,
};
use crate::config_error::ConfigError;
use crate::session::SessionOrigin;

/// Decides whether a session may be opened or restored, or a request served.
///
/// # Contract
///
/// The manager calls [`admit`](Self::admit) before it looks for a place, so that it never evicts a session for a newcomer
/// that is rejected. It commits the permit once the session exists, and drops the permit if the session does not come to
/// exist for any reason. It drops the [lease](super::Lease) when the session is gone. It may drop the future of `admit`
/// at any await.
///
/// A policy takes the time from the [`Arrival`] and reads no clock. A permit that is dropped without a commit must leave
/// the policy as if the admission had never been asked for, and must never cause more to be admitted than that.
///
/// # Implementing
///
/// ```
/// use async_trait::async_trait;
/// use rmcp_session_policy::admission::{AdmissionPolicy, Arrival, Permit, Rejection, Retry};
///
/// /// Admits only known principals.
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
    /// Admits an arrival, or rejects it.
    ///
    /// # Errors
    ///
    /// Returns a [`Rejection`], which says which policy rejected, why, and when to come back.
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection>;

    /// Checks whether [`admit`](Self::admit) would reject now, and consumes nothing. By default it admits.
    ///
    /// The layer calls it to reject a flood before it reads request bodies. It may admit an arrival that `admit` then
    /// rejects; it must not reject an arrival that `admit` would admit.
    ///
    /// # Errors
    ///
    /// Returns the rejection that `admit` would return.
    fn peek(&self, arrival: &Arrival<'_>) -> Result<(), Rejection> {
        let _: &Arrival<'_> = arrival;
        Ok(())
    }

    /// Receives the end of a session that neither lives nor is parked any more: the policy may drop what it keeps under
    /// its [`Arrival::origin`]. By default it does nothing.
    ///
    /// The manager calls it once for each session, whatever ended it. If a request of the session was still being decided
    /// at the end, the manager calls it once more after that decision.
    fn on_session_end(&self, session: SessionOrigin) {
        let _: SessionOrigin = session;
    }

    /// Takes over the numbers of another policy of the same shape, and keeps what it knows: debts, leases and open permits
    /// stay, and count under the new numbers. Returns whether it did. By default it does not; then the manager puts the
    /// other policy in its place. It is called by [`reconfigure`](crate::PolicySessionManager::reconfigure) with a policy
    /// that was [validated](Self::validate). An undo stays exact: what was admitted before counts as it did then.
    ///
    /// The shape of a policy is its type with all that is in it, and the keys and predicates that it asks. To see the other
    /// policy as one of this type, ask it for [`as_any`](Self::as_any).
    ///
    /// ```
    /// use rmcp_session_policy::admission::{AdmissionPolicy, AdmissionPolicyExt, Concurrent, TokenBucket};
    /// use tokio::time::Instant;
    ///
    /// let policy = TokenBucket::per_minute(10).per_client().and(Concurrent::new(5));
    /// let (more, other) = (TokenBucket::per_minute(20), TokenBucket::per_minute(20));
    /// assert!(policy.retune(&more.per_client().and(Concurrent::new(9)), Instant::now()));
    /// assert!(!policy.retune(&other.per_prefix().and(Concurrent::new(9)), Instant::now()));
    /// ```
    fn retune(&self, to: &dyn AdmissionPolicy, now: Instant) -> bool {
        let _: (&dyn AdmissionPolicy, Instant) = (to, now);
        false
    }

    /// Returns the policy itself, if others of its type can take over its numbers by [`retune`](Self::retune). A box and
    /// the like return what is in them. By default none.
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }

    /// Hears of a session that was admitted by an earlier policy, and is live when this one takes its place. Returns what the
    /// session holds of it from then on, even where an arrival would be rejected. By default nothing: only a policy that
    /// counts what is there, such as [`Concurrent`](super::Concurrent), has to know.
    ///
    /// The arrival has the context, the key and the origin of the session, and its kind says how the session came.
    fn adopt(&self, session: &Arrival<'_>) -> Lease {
        let _: &Arrival<'_> = session;
        Lease::free()
    }

    /// Checks the policy's settings. The manager's `build` calls it. By default every setting is valid.
    ///
    /// # Errors
    ///
    /// Returns the first setting that makes no sense.
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

    fn retune(&self, to: &dyn AdmissionPolicy, now: Instant) -> bool {
        (**self).retune(to, now)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        (**self).as_any()
    }

    fn adopt(&self, session: &Arrival<'_>) -> Lease {
        (**self).adopt(session)
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

    fn retune(&self, to: &dyn AdmissionPolicy, now: Instant) -> bool {
        (**self).retune(to, now)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        (**self).as_any()
    }

    fn adopt(&self, session: &Arrival<'_>) -> Lease {
        (**self).adopt(session)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        (**self).validate()
    }
}

/// Combines admission policies.
///
/// ```
/// use rmcp_session_policy::admission::{AdmissionPolicy, AdmissionPolicyExt, SlidingWindow, TokenBucket};
/// use rmcp_session_policy::MINUTE;
///
/// // At most 10 per minute for each client, and 100 per minute in all.
/// let policy = TokenBucket::per_minute(10).per_client().and(SlidingWindow::new(100, MINUTE));
/// assert!(policy.validate().is_ok());
/// ```
pub trait AdmissionPolicyExt: AdmissionPolicy + Sized {
    /// Admits if both policies admit. If the second rejects, the permit of the first is undone. See [`And`].
    fn and<P: AdmissionPolicy>(self, other: P) -> And<Self, P> {
        And::new(self, other)
    }

    /// Admits if either policy admits. The second is asked if the first rejects. See [`Or`].
    fn or<P: AdmissionPolicy>(self, other: P) -> Or<Self, P> {
        Or::new(self, other)
    }

    /// Admits what the policy admits. Where its backend fails, `fallback` decides instead: where the policy rejects with
    /// [`RejectionClass::Backend`](super::RejectionClass::Backend). See [`Fallback`].
    fn fallback<P: AdmissionPolicy>(self, fallback: P) -> Fallback<Self, P> {
        Fallback::new(self, fallback)
    }

    /// Gives every client a policy of its own, by its [`ClientKey`]: by principal, else by address (IPv6 by /64). Unknown
    /// clients share one policy; the log has a warning at the first. See [`Keyed`].
    fn per_client(self) -> Keyed<Self, ClientKey>
    where
        Self: Replicate,
    {
        Keyed::new(self, Some(KeyKind::Client), Box::new(ClientKey::warning_of()))
    }

    /// Gives every network of clients a policy of its own: by /24 of IPv4 and /48 of IPv6, so that a client which has
    /// many addresses gets no more by them. A client with a principal has a policy of its own, as with
    /// [`per_client`](Self::per_client), and unknown clients share one; the log has a warning at the first. See [`Keyed`].
    ///
    /// Use it beside `per_client`, with a limit for all clients of a network together. To limit a network whatever the
    /// principals, use [`per`](Self::per) with a key of your own.
    ///
    /// ```
    /// use rmcp_session_policy::ClientContext;
    /// use rmcp_session_policy::admission::{AdmissionPolicy, AdmissionPolicyExt, Arrival, ArrivalKind, TokenBucket};
    /// use tokio::time::Instant;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), std::net::AddrParseError> {
    /// let policy = TokenBucket::per_minute(1).per_client().and(TokenBucket::per_minute(2).burst(2).per_prefix());
    /// let now = Instant::now();
    /// let mut admitted = Vec::new();
    /// for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.1"] {
    ///     let client = ClientContext::new().with_peer(address.parse()?);
    ///     let arrival = Arrival::new(now, ArrivalKind::Create).with_context(&client);
    ///     admitted.push(policy.admit(&arrival).await.map(|permit| permit.commit()).is_ok());
    /// }
    /// assert_eq!(admitted, [true, true, false, true]);
    /// # Ok(()) }
    /// ```
    fn per_prefix(self) -> Keyed<Self, ClientKey>
    where
        Self: Replicate,
    {
        let warning = "a policy per prefix knows no client: all such clients share one limit";
        let key = ClientKey::warning_of_context(warning, ClientKey::by_prefix);
        Keyed::new(self, Some(KeyKind::Prefix), Box::new(move |arrival| key(arrival.context())))
    }

    /// Gives every session a policy of its own, for
    /// [`requests`](crate::PolicySessionManagerBuilder::requests). A session keeps its policy across evictions and
    /// restores; the policy is dropped when the session ends. A request without a session has the policy of its client,
    /// as with [`per_client`](Self::per_client).
    fn per_session(self) -> Keyed<Self, CallerKey>
    where
        Self: Replicate,
    {
        Keyed::new(self, Some(KeyKind::Session), Box::new(CallerKey::warning_of())).ending_with(CallerKey::Session)
    }

    /// Gives every key a policy of its own. See [`Keyed`].
    fn per<K>(self, key: impl Fn(&Arrival<'_>) -> K + Send + Sync + 'static) -> Keyed<Self, K>
    where
        Self: Replicate,
        K: Hash + Eq + Clone + fmt::Debug + Send + Sync + 'static,
    {
        Keyed::new(self, KeyKind::of(&key), Box::new(key))
    }

    /// Asks the policy only about arrivals for which `predicate` holds, and admits the others. See [`Only`].
    fn only<F>(self, predicate: F) -> Only<Self, F>
    where
        F: Fn(&Arrival<'_>) -> bool + Send + Sync + 'static,
    {
        Only::new(self, predicate)
    }

    /// Admits every arrival, and reports what the policy rejects, to try out a limit. See [`Shadow`].
    fn shadow(self) -> Shadow<Self> {
        Shadow::new(self)
    }
}

impl<P: AdmissionPolicy> AdmissionPolicyExt for P {}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::super::{ArrivalKind, Concurrent, Open, RejectionClass};
    use super::*;

    #[tokio::test]
    async fn a_look_tells_of_a_refusal_whatever_is_around_the_policy() {
        let one = || Concurrent::new(1);
        let policies: [Box<dyn AdmissionPolicy>; 10] = [
            Box::new(one()),
            Box::new(Arc::new(one())),
            Box::new(one().per_client()),
            Box::new(one().per_session()),
            Box::new(one().and(Open)),
            Box::new(Open.and(one())),
            Box::new(one().only(|_: &Arrival<'_>| true)),
            Box::new(one().per_prefix()),
            Box::new(one().fallback(Open)),
            Box::new(Down.fallback(one())),
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

    /// A policy with a backend that fails, and which knows that.
    #[derive(Debug)]
    struct Down;

    #[async_trait]
    impl AdmissionPolicy for Down {
        async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
            self.peek(arrival).map(|()| Permit::free())
        }

        fn peek(&self, _arrival: &Arrival<'_>) -> Result<(), Rejection> {
            Err(Rejection::new("down").with_class(RejectionClass::Backend))
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
        let policies: [Box<dyn AdmissionPolicy>; 10] = [
            boxed,
            Box::new(Arc::new(one())),
            Box::new(one().and(Open)),
            Box::new(Open.and(one())),
            Box::new(Open.or(one()).or(Open)),
            Box::new(one().only(|_: &Arrival<'_>| false)),
            Box::new(one().shadow()),
            Box::new(one().per_session()),
            Box::new(one().fallback(Open)),
            Box::new(Open.fallback(one())),
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
