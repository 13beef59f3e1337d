//! [`Keyed`]: a policy of its own for every key, such as every client.

use std::any::Any;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use hashlink::LinkedHashMap;
use tokio::time::Instant;

use super::shape::{KeyKind, same};
use super::{AdmissionPolicy, Arrival, Lease, Permit, Rejection};
use crate::config_error::ConfigError;
use crate::session::SessionOrigin;

/// The number of keys that are checked, oldest first, to make room for a new one.
const LOOKS: usize = 8;

/// Makes copies of a policy, so that every key can have its own.
pub trait Replicate: AdmissionPolicy + Sized {
    /// Makes another policy with the same settings and no history.
    #[must_use]
    fn replicate(&self) -> Self;

    /// Returns whether the policy decides from now on as one without history would.
    fn is_fresh(&self, now: Instant) -> bool;
}

/// Gives every key a policy of its own; made by [`per`](super::AdmissionPolicyExt::per),
/// [`per_client`](super::AdmissionPolicyExt::per_client) and [`per_prefix`](super::AdmissionPolicyExt::per_prefix).
///
/// Memory is bounded by [`max_keys`](Self::max_keys). When it is full, a key is dropped only if its policy is back in its
/// initial state, so creating many keys cannot reset a client that is over its limit. If none of the keys that are
/// checked is, new keys share one policy until there is room; known keys keep their own.
///
/// With [`per_session`](super::AdmissionPolicyExt::per_session) a key is dropped when its session ends. With other keys
/// the policies do not receive [`on_session_end`](AdmissionPolicy::on_session_end).
///
/// Cost: one hash look-up under a lock, and that of the policy. Not for keys that clients can choose freely: use a
/// principal or an address, which clients cannot change at will.
///
/// ```
/// use rmcp_session_policy::ClientContext;
/// use rmcp_session_policy::admission::{AdmissionPolicy, AdmissionPolicyExt, Arrival, ArrivalKind, Concurrent};
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let policy = Concurrent::new(1).per_client();
/// let (alice, bob) = (ClientContext::new().with_principal("alice"), ClientContext::new().with_principal("bob"));
/// let arrival = Arrival::new(Instant::now(), ArrivalKind::Create);
/// let _held = policy.admit(&arrival.with_context(&alice)).await.unwrap();
/// assert!(policy.admit(&arrival.with_context(&alice)).await.is_err());
/// assert!(policy.admit(&arrival.with_context(&bob)).await.is_ok());
/// assert_eq!(policy.keys(), 2);
/// # }
/// ```
pub struct Keyed<P, K> {
    template: P,
    key: Box<dyn Fn(&Arrival<'_>) -> K + Send + Sync>,
    /// Where the keys come from. `None` if another policy of this type may have other ones.
    kind: Option<KeyKind>,
    /// Makes the key to drop when a session ends, if there is one.
    ending: Option<fn(SessionOrigin) -> K>,
    max_keys: AtomicUsize,
    /// In the order in which the keys were added or last checked for room, oldest first.
    known: Mutex<LinkedHashMap<K, Arc<P>>>,
    overflow: Arc<P>,
}

impl<P: Replicate, K: Hash + Eq + Clone> Keyed<P, K> {
    pub(super) fn new(template: P, kind: Option<KeyKind>, key: Box<dyn Fn(&Arrival<'_>) -> K + Send + Sync>) -> Self {
        let overflow = Arc::new(template.replicate());
        let max_keys = AtomicUsize::new(100_000);
        Self { template, key, kind, ending: None, max_keys, known: Mutex::default(), overflow }
    }

    /// Sets the number of keys that are known at one time. Defaults to 100,000.
    #[must_use]
    pub fn max_keys(mut self, keys: usize) -> Self {
        *self.max_keys.get_mut() = keys;
        self
    }

    /// Drops the key that `key` makes when a session ends.
    pub(super) const fn ending_with(mut self, key: fn(SessionOrigin) -> K) -> Self {
        self.ending = Some(key);
        self
    }

    /// Returns the number of keys that are known now.
    pub fn keys(&self) -> usize {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Returns the policy of an arrival's key. Makes it if there is room, else returns the shared one.
    fn policy(&self, arrival: &Arrival<'_>) -> Arc<P> {
        let key = (self.key)(arrival);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(policy) = known.get(&key) {
            return Arc::clone(policy);
        }
        if known.len() >= self.max_keys.load(Relaxed) && !Self::forget_one(&mut known, arrival.now()) {
            return Arc::clone(&self.overflow);
        }
        let policy = Arc::new(self.template.replicate());
        known.insert(key, Arc::clone(&policy));
        policy
    }

    /// Drops a key if its policy is back in its initial state and no decision is using it. Returns whether one was
    /// dropped.
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
        // A key that is not known has no history, and `peek` must not add it.
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

    fn retune(&self, to: &dyn AdmissionPolicy, now: Instant) -> bool {
        let Some(to) = same::<Self>(to).filter(|to| self.kind.is_some() && self.kind == to.kind) else { return false };
        // The template first: a key that comes meanwhile has the new numbers, or is among those below.
        if !self.template.retune(&to.template, now) || !self.overflow.retune(&to.template, now) {
            return false;
        }
        self.max_keys.store(to.max_keys.load(Relaxed), Relaxed);
        let known: Vec<_> = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.values().map(Arc::clone).collect()
        };
        known.iter().all(|policy| P::retune(policy, &to.template, now))
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn adopt(&self, session: &Arrival<'_>) -> Lease {
        P::adopt(&self.policy(session), session)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let max_keys = self.max_keys.load(Relaxed);
        if max_keys == 0 {
            return Err(ConfigError::new("max_keys", max_keys, "allow at least 1 key"));
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

    #[test]
    fn all_keys_take_over_new_numbers_and_other_keys_make_another_policy() {
        let policy = TokenBucket::per_minute(1).burst(2).per_client().max_keys(2);
        let now = Instant::now();
        for who in ["alice", "bob", "shared"] {
            assert_eq!([0; 3].map(|_| comes_in(&policy, who, now)), [true, true, false], "{who}");
        }
        assert!(policy.retune(&TokenBucket::per_minute(1).burst(3).per_client().max_keys(3), now));
        for who in ["alice", "bob", "shared"] {
            assert_eq!([0; 2].map(|_| comes_in(&policy, who, now)), [true, who == "shared"], "{who}");
        }
        assert_eq!(policy.keys(), 3);
        assert!(!policy.retune(&TokenBucket::per_minute(1).per_prefix(), now));
        let per = |_: &Arrival<'_>| 1_u8;
        assert!(TokenBucket::per_minute(1).per(per).retune(&TokenBucket::per_minute(2).per(per), now));
        let captured = |key: u8| TokenBucket::per_minute(1).per(move |_: &Arrival<'_>| key);
        assert!(!captured(1).retune(&captured(2), now));
    }
}
