//! A policy per key.

use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use hashlink::LinkedHashMap;
use tokio::time::Instant;

use super::{AdmissionPolicy, Arrival, Permit, Rejection};
use crate::config_error::ConfigError;
use crate::session::SessionOrigin;

/// How many of the longest known keys are looked at to make room for a new one.
const LOOKS: usize = 8;

/// A policy of which every key can have its own.
pub trait Replicate: AdmissionPolicy + Sized {
    /// Makes another with the same settings and no history.
    #[must_use]
    fn replicate(&self) -> Self;

    /// Whether it decides from now on as one without history would.
    fn is_fresh(&self, now: Instant) -> bool;
}

/// Gives every key a policy of its own; made by [`per`](super::AdmissionPolicyExt::per) and
/// [`per_client`](super::AdmissionPolicyExt::per_client).
///
/// Its memory is bounded. When it is full, only keys are forgotten whose policy equals a fresh one, so that a flood of
/// keys never frees a debtor. If none of those looked at is fresh, new keys share one policy until there is room; keys
/// that are known keep theirs.
///
/// With [`per_session`](super::AdmissionPolicyExt::per_session) a key is forgotten when its session ends. Otherwise the
/// policies of the keys are told of no end of a session.
///
/// Cost: one hash look-up under a lock, and the policy's own.
pub struct Keyed<P, K> {
    template: P,
    key: Box<dyn Fn(&Arrival<'_>) -> K + Send + Sync>,
    /// The key that ends with a session.
    ending: Option<fn(SessionOrigin) -> K>,
    max_keys: usize,
    /// Longest not looked at first.
    known: Mutex<LinkedHashMap<K, Arc<P>>>,
    overflow: Arc<P>,
}

impl<P: Replicate, K: Hash + Eq + Clone> Keyed<P, K> {
    pub(super) fn new(template: P, key: Box<dyn Fn(&Arrival<'_>) -> K + Send + Sync>) -> Self {
        let overflow = Arc::new(template.replicate());
        Self { template, key, ending: None, max_keys: 100_000, known: Mutex::default(), overflow }
    }

    /// Sets how many keys are known at one time. Defaults to 100,000.
    #[must_use]
    pub const fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    /// Forgets a key when its session ends.
    pub(super) const fn ending_with(mut self, key: fn(SessionOrigin) -> K) -> Self {
        self.ending = Some(key);
        self
    }

    /// How many keys are known now.
    pub fn keys(&self) -> usize {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The policy of an arrival's key, made if there is room.
    fn policy(&self, arrival: &Arrival<'_>) -> Arc<P> {
        let key = (self.key)(arrival);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(policy) = known.get(&key) {
            return Arc::clone(policy);
        }
        if known.len() >= self.max_keys && !Self::forget_one(&mut known, arrival.now()) {
            return Arc::clone(&self.overflow);
        }
        let policy = Arc::new(self.template.replicate());
        known.insert(key, Arc::clone(&policy));
        policy
    }

    /// Forgets a key that equals a new one, and that nobody is deciding by.
    fn forget_one(known: &mut LinkedHashMap<K, Arc<P>>, now: Instant) -> bool {
        for _ in 0..LOOKS {
            let Some((key, policy)) = known.front() else { return false };
            if Arc::strong_count(policy) == 1 && policy.is_fresh(now) {
                known.pop_front();
                return true;
            }
            let key = key.clone();
            known.to_back(&key);
        }
        false
    }
}

#[async_trait]
impl<P, K> AdmissionPolicy for Keyed<P, K>
where
    P: Replicate,
    K: Hash + Eq + Clone + fmt::Debug + Send + Sync + 'static,
{
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        let policy = self.policy(arrival);
        P::admit(&policy, arrival).await
    }

    fn peek(&self, arrival: &Arrival<'_>) -> Result<(), Rejection> {
        let key = (self.key)(arrival);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // A key that is not known has no history, and a look must not give it one.
        let policy = known.get(&key).map(Arc::clone);
        drop(known);
        policy.map_or(Ok(()), |policy| P::peek(&policy, arrival))
    }

    fn on_session_end(&self, session: SessionOrigin) {
        let Some(ending) = self.ending else { return };
        let policy = self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&ending(session));
        if let Some(policy) = policy {
            P::on_session_end(&policy, session);
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        if self.max_keys == 0 {
            return Err(ConfigError::new("max_keys", self.max_keys, "allow at least 1 key"));
        }
        self.template.validate()
    }
}

impl<P: fmt::Debug, K> fmt::Debug for Keyed<P, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyed")
            .field("template", &self.template)
            .field("max_keys", &self.max_keys)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::super::{AdmissionPolicyExt, ArrivalKind, Concurrent, TokenBucket};
    use super::*;
    use crate::context::ClientContext;

    fn ask(policy: &impl AdmissionPolicy, who: &str, now: Instant) -> Result<Permit, Rejection> {
        let context = ClientContext::new().with_principal(who);
        let arrival = Arrival::new(now, ArrivalKind::Create).with_context(&context);
        policy.admit(&arrival).now_or_never().expect("never waits")
    }

    fn comes_in(policy: &impl AdmissionPolicy, who: &str, now: Instant) -> bool {
        ask(policy, who, now).map(|permit| drop(permit.commit())).is_ok()
    }

    #[test]
    fn each_client_has_its_own() {
        let policy = TokenBucket::per_minute(1).burst(2).per_client();
        let now = Instant::now();
        assert_eq!([0; 3].map(|_| comes_in(&policy, "alice", now)), [true, true, false]);
        assert!(comes_in(&policy, "bob", now));
    }

    #[test]
    fn a_flood_of_keys_frees_no_debtor_and_starves_no_known_client() {
        let policy = TokenBucket::per_minute(1).burst(2).per_client().max_keys(1_000);
        let now = Instant::now();
        assert_eq!([0; 3].map(|_| comes_in(&policy, "debtor", now)), [true, true, false]);
        assert!(comes_in(&policy, "known", now));
        for stranger in 0..1_000_000 {
            let _: bool = comes_in(&policy, &format!("stranger {stranger}"), now);
        }
        assert_eq!(policy.known.lock().expect("no panic").len(), 1_000);
        assert!(!comes_in(&policy, "debtor", now));
        assert!(comes_in(&policy, "known", now));
    }

    #[test]
    fn once_the_debts_are_paid_there_is_room_again() {
        let policy = TokenBucket::per_second(1).per_client().max_keys(4);
        let now = Instant::now();
        for who in ["a", "b", "c", "d"] {
            assert!(comes_in(&policy, who, now));
        }
        assert!(comes_in(&policy, "e", now), "the shared one");
        assert!(!comes_in(&policy, "f", now), "shares it");
        let later = now + Duration::from_secs(1);
        assert!(["g", "h", "i", "j"].into_iter().all(|who| comes_in(&policy, who, later)));
    }

    #[test]
    fn a_key_with_sessions_is_not_forgotten() {
        let policy = Concurrent::new(1).per_client().max_keys(1);
        let now = Instant::now();
        let lease = ask(&policy, "alice", now).expect("the first").commit();
        assert!(comes_in(&policy, "bob", now), "the shared one");
        assert!(!comes_in(&policy, "alice", now));
        drop(lease);
        assert!(comes_in(&policy, "alice", now));
    }

    #[test]
    fn a_look_makes_no_key_known() {
        let policy = TokenBucket::per_second(1).per_client();
        assert!(policy.peek(&Arrival::new(Instant::now(), ArrivalKind::Create)).is_ok());
        assert!(policy.known.lock().expect("no panic").is_empty());
    }

    #[test]
    fn a_session_has_a_limit_of_its_own_until_it_ends_and_what_is_without_one_goes_by_client() {
        let policy = TokenBucket::per_minute(1).burst(1).per_session();
        let now = Instant::now();
        let comes_in = |arrival: Arrival<'_>| {
            let admitted = policy.admit(&arrival).now_or_never().expect("never waits");
            admitted.map(|permit| drop(permit.commit())).is_ok()
        };
        let alice = ClientContext::new().with_principal("alice");
        let bob = ClientContext::new().with_principal("bob");
        let request = Arrival::new(now, ArrivalKind::Request).with_context(&alice);
        let [one, two] = [SessionOrigin::allocate(), SessionOrigin::allocate()];
        assert_eq!(
            [one, one, two, two].map(|session| comes_in(request.with_origin(session))),
            [true, false, true, false]
        );
        assert_eq!([request, request, request.with_context(&bob)].map(comes_in), [true, false, true]);
        assert_eq!(policy.keys(), 4);
        policy.on_session_end(one);
        assert_eq!(policy.keys(), 3);
        assert!(!comes_in(request.with_origin(two)));
    }
}
