//! Work that one task at a time does for a key, while the others wait.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use dashmap::{DashMap, Entry};
use foldhash::fast::RandomState;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

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
    /// From when on nothing waits for the flight.
    late_at: Mutex<Option<Instant>>,
    /// Notified when the flight has landed, and when it is set from when on nothing waits.
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
    /// reason counts. Returns the flight.
    pub(super) fn bar<Q: Eq + Hash + ?Sized>(&self, key: &Q, reason: CloseReason) -> Option<Arc<Flight>>
    where
        K: Borrow<Q>,
    {
        let flight = Arc::clone(&*self.under_way.get(key)?);
        flight.barred.get_or_init(|| reason);
        Some(flight)
    }
}

impl Flight {
    /// Waits until the flight is over, late or not.
    pub(super) async fn over(&self) {
        let mut landing = std::pin::pin!(self.landing.notified());
        loop {
            landing.as_mut().enable();
            if self.landed.load(SeqCst) {
                return;
            }
            landing.as_mut().await;
            landing.set(self.landing.notified());
        }
    }

    /// Waits until the flight is over. Returns false once it is late: then it goes on, and nothing should wait for it.
    pub(super) async fn landed(&self) -> bool {
        loop {
            let mut landing = std::pin::pin!(self.landing.notified());
            // The order matters: a flight that lands after the look wakes this task.
            landing.as_mut().enable();
            if self.landed.load(SeqCst) {
                return true;
            }
            let late_at = *self.late_at.lock().unwrap_or_else(PoisonError::into_inner);
            match late_at {
                Some(late_at) if late_at <= Instant::now() => return false,
                // After that moment it looks again: the flight may be on time by then.
                Some(late_at) => drop(timeout_at(late_at, landing).await),
                None => landing.await,
            }
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

    /// Sets the moment from which on nothing waits for this flight. `None` takes that back.
    pub(super) fn is_late_at(&self, moment: Option<Instant>) {
        *self.flight.late_at.lock().unwrap_or_else(PoisonError::into_inner) = moment;
        self.flight.landing.notify_waiters();
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

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_for_a_flight_that_is_late_unless_it_is_on_time_again() {
        let flights = flights();
        let flight = flights.begin(&"alice").expect("the first");
        let other = flights.begin(&"alice").expect_err("is under way");
        let began = Instant::now();
        let after = |millis| began + std::time::Duration::from_millis(millis);
        let mut waits = Box::pin(other.landed());
        assert!(poll!(&mut waits).is_pending());
        flight.is_late_at(Some(after(50)));
        assert!(!waits.await);
        assert_eq!(began.elapsed().as_millis(), 50, "though it waited before that was said");
        assert!(!other.landed().await);
        flight.is_late_at(Some(after(60)));
        let mut waits = Box::pin(other.landed());
        assert!(poll!(&mut waits).is_pending());
        flight.is_late_at(None);
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        assert!(poll!(&mut waits).is_pending());
        drop(flight);
        assert!(waits.await);
    }

    #[test]
    fn only_the_flight_under_way_is_barred() {
        let flights = flights();
        assert!(flights.bar("alice", CloseReason::Client).is_none());
        let [alice, bob] = ["alice", "bob"].map(|key| flights.begin(&key).expect("the first"));
        assert_eq!(alice.barred(), None, "it has begun since");
        assert!(flights.bar("alice", CloseReason::Revoked).is_some());
        assert!(flights.bar("alice", CloseReason::Client).is_some());
        assert_eq!((alice.barred(), bob.barred()), (Some(CloseReason::Revoked), None));
        drop(alice);
        assert_eq!(flights.begin(&"alice").expect("the next").barred(), None);
    }
}
