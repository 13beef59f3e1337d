//! The list of handlers that still run although no client waits for their answers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rmcp::transport::streamable_http_server::session::SessionManager;
use tokio::time::Instant;

use super::manager_inner::ManagerInner;
use crate::transport::InFlight;

/// How often the handlers are checked.
const LOOK: Duration = Duration::from_millis(50);

/// How many handlers a rejected request checks.
const AT_ONCE: usize = 256;

/// The requests that were cancelled or cut off by the end of their session, until their handlers are done.
///
/// A handler that has dropped its context sends no signal when it is done. So the manager polls them: every 50 ms, and
/// when a request is rejected that one of their leases could admit.
#[derive(Debug)]
pub(super) struct Handlers<T> {
    running: VecDeque<Running<T>>,
    next_look: Option<Instant>,
}

#[derive(Debug)]
struct Running<T> {
    request: Arc<InFlight<T>>,
    until: Instant,
}

impl<T> Default for Handlers<T> {
    fn default() -> Self {
        Self { running: VecDeque::new(), next_look: None }
    }
}

impl<T> Handlers<T> {
    /// Removes and returns the requests that are done, among the `limit` that were checked the longest ago.
    fn take_done(&mut self, now: Instant, limit: usize) -> Vec<Arc<InFlight<T>>> {
        let mut done = Vec::new();
        for _ in 0..limit.min(self.running.len()) {
            let Some(running) = self.running.pop_front() else { break };
            if running.request.is_done() || running.until <= now {
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

impl<I: SessionManager> ManagerInner<I> {
    /// Holds a request in flight until its handler is done, for as long as `max_busy`.
    pub(super) fn watch_handler(&self, request: Arc<InFlight<I::Transport>>) {
        if request.is_done() {
            return;
        }
        let until = Instant::now() + self.settings.max_busy;
        let is_only = {
            let mut handlers = self.lock_handlers();
            handlers.running.push_back(Running { request, until });
            handlers.running.len() == 1
        };
        if is_only {
            self.sooner.notify_one();
        }
    }

    /// Ends requests with finished handlers. Returns whether there were any.
    pub(super) fn end_done(&self) -> bool {
        let done = self.lock_handlers().take_done(Instant::now(), AT_ONCE);
        // Dropped outside the lock: this runs code of policies.
        !done.is_empty()
    }

    /// Ends all requests with finished handlers, if the next check is due. Returns when the following check is due.
    pub(super) fn look_after_handlers(&self, now: Instant) -> Option<Instant> {
        let (done, next) = {
            let mut handlers = self.lock_handlers();
            if let Some(next) = handlers.next_look.filter(|next| now < *next) {
                return Some(next);
            }
            let done = handlers.take_done(now, usize::MAX);
            handlers.next_look = (!handlers.running.is_empty()).then_some(now + LOOK);
            (done, handlers.next_look)
        };
        drop(done);
        next
    }
}
