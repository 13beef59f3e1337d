//! The list of handlers that still run although no client waits for their answers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::transport::{InFlight, RequestOwner};

/// How often the handlers are checked.
const LOOK: Duration = Duration::from_millis(50);

/// How many handlers a rejected request checks.
const AT_ONCE: usize = 256;

/// The requests that were cancelled or cut off by the end of their session, until their handlers are done.
///
/// A handler that has dropped its context sends no signal when it is done. So the manager polls them: every 50 ms, and
/// when a request is rejected that one of their leases could admit.
#[derive(Debug)]
pub(super) struct Handlers<S: RequestOwner> {
    list: Mutex<List<S>>,
    /// Notified when there is a first handler to poll.
    sooner: Arc<Notify>,
}

#[derive(Debug)]
struct List<S: RequestOwner> {
    max_busy: Duration,
    running: VecDeque<Running<S>>,
    next_look: Option<Instant>,
}

#[derive(Debug)]
struct Running<S: RequestOwner> {
    request: Arc<InFlight<S>>,
    since: Instant,
}

impl<S: RequestOwner> List<S> {
    /// Removes and returns the requests that are done, among the `limit` that were checked the longest ago.
    fn take_done(&mut self, now: Instant, limit: usize) -> Vec<Arc<InFlight<S>>> {
        let mut done = Vec::new();
        for _ in 0..limit.min(self.running.len()) {
            let Some(running) = self.running.pop_front() else { break };
            if running.request.is_done() || running.since + self.max_busy <= now {
                done.push(running.request);
            } else {
                self.running.push_back(running);
            }
        }
        if self.running.is_empty() {
            self.running.shrink_to(AT_ONCE);
        }
        done
    }
}

impl<S: RequestOwner> Handlers<S> {
    pub(super) fn new(max_busy: Duration, sooner: Arc<Notify>) -> Self {
        Self { list: Mutex::new(List { max_busy, running: VecDeque::new(), next_look: None }), sooner }
    }

    /// Changes for what time a handler is looked at, those that run too.
    pub(super) fn set_max_busy(&self, max_busy: Duration) {
        self.lock().max_busy = max_busy;
    }

    fn lock(&self) -> MutexGuard<'_, List<S>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a request in flight until its handler is done, for as long as `max_busy`.
    pub(super) fn watch(&self, request: Arc<InFlight<S>>) {
        if request.is_done() {
            return;
        }
        let since = Instant::now();
        let is_only = {
            let mut list = self.lock();
            list.running.push_back(Running { request, since });
            list.running.len() == 1
        };
        if is_only {
            self.sooner.notify_one();
        }
    }

    /// Ends requests with finished handlers. Returns whether there were any.
    pub(super) fn end_done(&self) -> bool {
        let done = self.lock().take_done(Instant::now(), AT_ONCE);
        // Dropped outside the lock: this runs code of policies.
        !done.is_empty()
    }

    /// Ends all requests with finished handlers, if the next check is due. Returns when the following check is due.
    pub(super) fn poll(&self, now: Instant) -> Option<Instant> {
        let (done, next) = {
            let mut list = self.lock();
            if let Some(next) = list.next_look.filter(|next| now < *next) {
                return Some(next);
            }
            let done = list.take_done(now, usize::MAX);
            list.next_look = (!list.running.is_empty()).then_some(now + LOOK);
            (done, list.next_look)
        };
        drop(done);
        next
    }
}
