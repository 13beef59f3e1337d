//! The queue of the leases that requests in flight hold, which gives them back after `max_busy`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::transport::{InFlight, Leased, RequestOwner};

/// The queue is tidied for the first time when it is this long.
const SPARE: usize = 64;

/// The requests in flight that hold a lease, oldest first, of all sessions, also of those that ended meanwhile.
///
/// A request that ends stays in the queue until it is due, or the queue is twice as long as after the last tidying.
#[derive(Debug)]
pub(super) struct Leases<S: RequestOwner> {
    list: Mutex<List<S>>,
    /// Notified when there is a first lease.
    sooner: Arc<Notify>,
}

#[derive(Debug)]
struct List<S: RequestOwner> {
    max_busy: Duration,
    queue: VecDeque<(Instant, Leased<S>)>,
    tidy_at: usize,
}

impl<S: RequestOwner> List<S> {
    /// Appends a request. Returns whether it is the only one.
    fn push(&mut self, begun: Instant, request: &Arc<InFlight<S>>) -> bool {
        if self.queue.len() >= self.tidy_at {
            self.queue.retain(|(_, request)| request.strong_count() > 0);
            self.queue.shrink_to(SPARE.max(2 * self.queue.len()));
            self.tidy_at = SPARE.max(2 * self.queue.len());
        }
        // Requests that begin at about the same time may be appended in any order; the newer moment counts.
        let begun = self.queue.back().map_or(begun, |(newest, _)| begun.max(*newest));
        self.queue.push_back((begun, Arc::downgrade(request)));
        self.queue.len() == 1
    }

    /// Takes the next request that is older than `max_busy`, or returns when the next one will be.
    fn next(&mut self, now: Instant) -> Result<Arc<InFlight<S>>, Option<Instant>> {
        while let Some((begun, request)) = self.queue.front() {
            let overdue = *begun + self.max_busy;
            // Not upgraded: the drop of the last reference here would end the request, which runs code of a policy
            // under the lock.
            if request.strong_count() > 0 && now < overdue {
                return Err(Some(overdue));
            }
            let request = request.upgrade();
            self.queue.pop_front();
            if let Some(request) = request {
                return Ok(request);
            }
        }
        Err(None)
    }
}

impl<S: RequestOwner> Leases<S> {
    pub(super) fn new(max_busy: Duration, sooner: Arc<Notify>) -> Self {
        Self { list: Mutex::new(List { max_busy, queue: VecDeque::new(), tidy_at: SPARE }), sooner }
    }

    /// Changes after what time a request gives its lease back, those in flight too.
    pub(super) fn set_max_busy(&self, max_busy: Duration) {
        self.lock().max_busy = max_busy;
    }

    fn lock(&self) -> MutexGuard<'_, List<S>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a request give its lease back when it is older than `max_busy`.
    pub(super) fn watch(&self, begun: Instant, request: &Arc<InFlight<S>>) {
        let is_only = self.lock().push(begun, request);
        if is_only {
            self.sooner.notify_one();
        }
    }

    /// Gives back the leases of requests that are older than `max_busy`. Returns when the next one will be.
    pub(super) fn release_old(&self, now: Instant) -> Option<Instant> {
        loop {
            let next = self.lock().next(now);
            match next {
                Ok(request) => request.release_lease(),
                Err(at) => return at,
            }
        }
    }
}
