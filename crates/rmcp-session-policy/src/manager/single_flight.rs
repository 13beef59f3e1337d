//! Work that one task at a time does for a key, while the others wait.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use dashmap::{DashMap, Entry};
use foldhash::fast::RandomState;
use tokio::sync::Notify;

use crate::observe::CloseReason;

/// The flights under way. There is one per key at most.
#[derive(Debug)]
pub(super) struct SingleFlight<K: Eq + Hash> {
    under_way: DashMap<K, Arc<Flight>, RandomState>,
}

impl<K: Eq + Hash> Default for SingleFlight<K> {
    fn default() -> Self {
        Self { under_way: DashMap::default() }
    }
}

/// The work for one key, which lasts until its [`FlightGuard`] is dropped.
#[derive(Debug, Default)]
pub(super) struct Flight {
    landed: AtomicBool,
    /// Why the result is not wanted any more.
    barred: OnceLock<CloseReason>,
    landing: Notify,
}

/// The right to work for a key. Its drop gives the right up, and wakes the tasks that wait for it.
#[derive(Debug)]
pub(super) struct FlightGuard<K: Eq + Hash> {
    flights: Arc<SingleFlight<K>>,
    key: K,
    flight: Arc<Flight>,
}

impl<K: Clone + Eq + Hash> SingleFlight<K> {
    /// Begins a flight, or returns the one to wait for.
    pub(super) fn begin(self: &Arc<Self>, key: &K) -> Result<FlightGuard<K>, Arc<Flight>> {
        match self.under_way.entry(key.clone()) {
            Entry::Occupied(other) => Err(Arc::clone(other.get())),
            Entry::Vacant(vacant) => {
                let flight = Arc::clone(&vacant.insert(Arc::default()));
                Ok(FlightGuard { flights: Arc::clone(self), key: key.clone(), flight })
            }
        }
    }

    /// Returns the flight that is under way for a key.
    pub(super) fn get(&self, key: &K) -> Option<Arc<Flight>> {
        self.under_way.get(key).map(|flight| Arc::clone(&flight))
    }

    /// Tells the flight that is under way for a key, if there is one, that its result is not wanted any more. The first
    /// reason counts.
    pub(super) fn bar<Q: Eq + Hash + ?Sized>(&self, key: &Q, reason: CloseReason)
    where
        K: Borrow<Q>,
    {
        if let Some(flight) = self.under_way.get(key) {
            flight.barred.get_or_init(|| reason);
        }
    }
}

impl Flight {
    /// Waits until the flight is over.
    pub(super) async fn landed(&self) {
        let mut landing = std::pin::pin!(self.landing.notified());
        // The order matters: a flight that lands after the look wakes this task.
        landing.as_mut().enable();
        if !self.landed.load(SeqCst) {
            landing.await;
        }
    }
}

impl<K: Eq + Hash> FlightGuard<K> {
    pub(super) const fn key(&self) -> &K {
        &self.key
    }

    /// Why the result is not wanted any more. `None` if it is.
    pub(super) fn barred(&self) -> Option<CloseReason> {
        self.flight.barred.get().copied()
    }
}

impl<K: Eq + Hash> Drop for FlightGuard<K> {
    fn drop(&mut self) {
        // Removed first, so that a task which wakes can begin the next flight.
        self.flights.under_way.remove(&self.key);
        self.flight.landed.store(true, SeqCst);
        self.flight.landing.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    fn flights() -> Arc<SingleFlight<&'static str>> {
        Arc::default()
    }

    #[test]
    fn one_flight_per_key_is_under_way() {
        let flights = flights();
        let alice = flights.begin(&"alice").expect("the first");
        let other = flights.begin(&"alice").expect_err("is under way");
        assert!(Arc::ptr_eq(&other, &flights.get(&"alice").expect("is under way")));
        let bob = flights.begin(&"bob").expect("another key");
        assert_eq!((*alice.key(), *bob.key()), ("alice", "bob"));
        drop(alice);
        assert!(flights.get(&"alice").is_none() && flights.get(&"bob").is_some());
        drop(flights.begin(&"alice").expect("the right is free"));
        drop(bob);
        assert!(flights.under_way.is_empty());
    }

    #[tokio::test]
    async fn all_that_wait_are_woken_and_one_of_them_is_next() {
        let flights = flights();
        let first = flights.begin(&"alice").expect("the first");
        let other = flights.begin(&"alice").expect_err("is under way");
        let [mut one, mut two] = [other.landed(), other.landed()].map(Box::pin);
        assert!(poll!(&mut one).is_pending() && poll!(&mut two).is_pending());
        drop(first);
        let second = flights.begin(&"alice").expect("the right is free");
        assert!(poll!(&mut one).is_ready() && poll!(&mut two).is_ready(), "though there is another flight");
        assert!(poll!(Box::pin(other.landed())).is_ready(), "it was over before the wait");
        let third = flights.begin(&"alice").expect_err("is under way");
        assert!(poll!(Box::pin(third.landed())).is_pending());
        drop(second);
    }

    #[tokio::test]
    async fn a_task_that_is_dropped_gives_up_its_right_or_its_wait() {
        let flights = flights();
        let mut work = Box::pin(async {
            let _right = flights.begin(&"alice").expect("the first");
            std::future::pending::<()>().await;
        });
        assert!(poll!(&mut work).is_pending());
        let other = flights.begin(&"alice").expect_err("is under way");
        let [mut gone, mut stays] = [other.landed(), other.landed()].map(Box::pin);
        assert!(poll!(&mut gone).is_pending() && poll!(&mut stays).is_pending());
        drop(gone);
        drop(work);
        assert!(poll!(&mut stays).is_ready());
        assert!(flights.begin(&"alice").is_ok());
    }

    #[test]
    fn only_the_flight_under_way_is_barred() {
        let flights = flights();
        flights.bar("alice", CloseReason::Client);
        let [alice, bob] = ["alice", "bob"].map(|key| flights.begin(&key).expect("the first"));
        assert_eq!(alice.barred(), None, "it has begun since");
        flights.bar("alice", CloseReason::Revoked);
        flights.bar("alice", CloseReason::Client);
        assert_eq!((alice.barred(), bob.barred()), (Some(CloseReason::Revoked), None));
        drop(alice);
        assert_eq!(flights.begin(&"alice").expect("the next").barred(), None);
    }
}
