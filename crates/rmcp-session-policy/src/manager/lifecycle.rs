//! The manager's one background task, which sleeps until the next deadline and then ends what is due.

use std::sync::{Arc, Weak};

use rmcp::transport::streamable_http_server::session::SessionManager;
use tokio::time::{Instant, timeout_at};

use super::manager_inner::ManagerInner;
use super::settings::Settings;
use crate::observe::CloseReason;
use crate::session::{Phase, SessionKey, StateSnapshot};
use crate::transport::{Flag, Session};

/// Ends sessions that are due, and forgets parked sessions that are too old. A use of a session sets no timer: when the
/// session's deadline comes, the task reads what the session did meanwhile, and sets the next deadline.
pub(super) async fn run<I: SessionManager>(shared: Weak<ManagerInner<I>>) {
    let Some(sooner) = shared.upgrade().map(|shared| Arc::clone(&shared.sooner)) else { return };
    loop {
        let next = {
            let Some(shared) = shared.upgrade() else { return };
            let now = Instant::now();
            let (leases, handlers) = (shared.leases.release_old(now), shared.handlers.poll(now));
            let next = shared.lock().deadlines.next(now);
            match next {
                Ok(key) => {
                    shared.deadline_passed(key);
                    Ok(())
                }
                Err(at) => {
                    // A parked session may never be asked for again, so its age is checked here too.
                    shared.parking.expire(now);
                    let streams = shared.end_overdue_streams(now);
                    let others = [at, shared.parking.next_expiry(), streams, leases, handlers];
                    Err(others.into_iter().flatten().min())
                }
            }
        };
        match next {
            Ok(()) => tokio::task::consume_budget().await,
            Err(Some(at)) => drop(timeout_at(at, sooner.notified()).await),
            Err(None) => sooner.notified().await,
        }
    }
}

/// What to do with a session when its deadline has come.
enum Due {
    End(CloseReason),
    /// Not due yet. Check the session again at this moment.
    At(Option<Instant>),
}

impl<I: SessionManager> ManagerInner<I> {
    /// When a new session is checked for the first time: at the earliest moment at which any of its times may be due.
    pub(super) fn first_deadline(&self, session: &Session<I::Transport>, now: Instant) -> Instant {
        let Settings { init_timeout, idle_timeout, max_lifetime, .. } = &self.settings;
        let lifetime = max_lifetime.map(|lifetime| session.record.entry.opened.instant() + lifetime);
        let idle = idle_timeout.map(|timeout| now + timeout);
        [lifetime, idle].into_iter().flatten().fold(now + *init_timeout, Instant::min)
    }

    fn deadline_passed(self: &Arc<Self>, key: SessionKey) {
        let now = Instant::now();
        let Some(session) = self.lock().session(key) else { return };
        loop {
            let seen = session.record.entry.state.read();
            if seen.phase() == Phase::Closing {
                return;
            }
            match self.due(&session, seen, now) {
                Due::At(next) => {
                    let mut core = self.lock();
                    if let Some(next) = next {
                        core.look_at(key, next);
                    }
                    return;
                }
                Due::End(reason) => {
                    // If a request came since the state was read, the check starts again.
                    if self.close_if(&session, seen, reason) {
                        return;
                    }
                }
            }
        }
    }

    /// When a half-open session is due: the client has until then for its next step, or the handler for its answer to
    /// `initialize`.
    fn handshake_until(&self, session: &Session<I::Transport>) -> Instant {
        let record = &session.record;
        let is_being_answered = session.has(Flag::Initializing) && !session.has(Flag::Initialized);
        // For a new session, the handshake is the last use. A replay comes from rmcp, not from a client, and gets the
        // time of a client.
        if is_being_answered && !record.restored {
            return record.entry.last_used().instant() + self.settings.max_busy;
        }
        record.answered().instant() + self.settings.init_timeout
    }

    fn due(&self, session: &Session<I::Transport>, seen: StateSnapshot, now: Instant) -> Due {
        let record = &session.record;
        let mut next = None;
        let mut at = |when: Instant| next = Some(next.map_or(when, |next: Instant| next.min(when)));
        if let Some(lifetime) = self.settings.max_lifetime {
            let end = record.entry.opened.instant() + lifetime;
            if now >= end {
                return Due::End(CloseReason::Lifetime);
            }
            at(end);
        }
        // A restored session is not half-open any more once its handshake was replayed.
        if seen.phase() == Phase::Opening && !session.has(Flag::Replayed) {
            let end = self.handshake_until(session);
            if now >= end {
                return Due::End(CloseReason::InitTimeout);
            }
            // If `initialize` is answered right now, the client's time starts now.
            at(end.min(now + self.settings.init_timeout));
        }
        if let Some(timeout) = self.settings.idle_timeout {
            let silent_since = record.last_seen().instant() + timeout;
            let busy_until = match seen.active() {
                0 => None,
                _ => Some(
                    record
                        .entry
                        .newest_request(seen)
                        .map_or(now + timeout, |newest| newest.instant() + self.settings.max_busy),
                ),
            };
            let busy_until = busy_until.filter(|until| now < *until);
            if let Some(until) = busy_until {
                // If the last activity ends right now, the idle time starts now.
                at((now + timeout).min(until.max(silent_since)));
            } else if record.open_streams() > 0 {
                at(now + timeout);
            } else if now >= silent_since {
                return Due::End(CloseReason::Idle);
            } else {
                at(silent_since);
            }
        }
        Due::At(next)
    }
}
