//! The manager's one background task, which sleeps until the next deadline and then ends what is due.

use std::sync::{Arc, Weak};
use std::time::Duration;

use rmcp::transport::streamable_http_server::session::SessionManager;
use tokio::time::{Instant, timeout_at};

use super::chosen::{Chosen, Room};
use super::idle_timeout::IdleTimeout;
use super::manager_inner::ManagerInner;
use super::settings::Given;
use crate::observe::CloseReason;
use crate::session::{Phase, SessionKey, StateSnapshot};
use crate::time::{HOUR, MINUTE};
use crate::transport::{Flag, Session};

/// When a session without any time is looked at again.
const NO_TIME: Duration = Duration::from_secs(365 * 24 * HOUR.as_secs());

/// Ends sessions that are due, and forgets parked sessions that are too old. A use of a session sets no timer: when the
/// session's deadline comes, the task reads what the session did meanwhile, and sets the next deadline.
pub(super) async fn run<I: SessionManager>(shared: Weak<ManagerInner<I>>) {
    let Some(sooner) = shared.upgrade().map(|shared| Arc::clone(&shared.sooner)) else { return };
    loop {
        let next = {
            let Some(shared) = shared.upgrade() else { return };
            let now = Instant::now();
            let (leases, handlers) = (shared.leases.release_old(now), shared.handlers.poll(now));
            let (next, lot) = {
                let mut core = shared.lock();
                (core.deadlines.next(now), core.shrink(now))
            };
            for (victim, phrase, among) in lot.victims {
                shared.close_victim(victim, Chosen { phrase, among, room: Room::LowerCapacity });
            }
            match next {
                Ok(key) => {
                    shared.deadline_passed(key);
                    Ok(())
                }
                Err(at) => {
                    // A parked session may never be asked for again, so its age is checked here too.
                    shared.parking.expire(now);
                    let streams = shared.end_overdue_streams(now);
                    let probes = shared.held.probe(now);
                    let others = [at, lot.next, shared.parking.next_expiry(), streams, probes, leases, handlers];
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
        let in_force = self.in_force.load();
        let Given { init_timeout, idle_timeout, max_lifetime, .. } = &in_force.given;
        let lifetime = max_lifetime.map(|lifetime| session.record.entry.opened.plus(lifetime));
        let idle = shortest_idle(*idle_timeout).map(|shortest| now + shortest);
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
            let in_force = self.in_force.load_full();
            match self.due(&in_force.given, &session, seen, now) {
                Due::At(next) => {
                    let mut core = self.lock();
                    // A change that came meanwhile did not find the session in the queue, so the check starts again. Changes
                    // are put in force under this lock.
                    if self.in_force.load().changes == in_force.changes {
                        // Without one it stays in the queue all the same, so that a change of the times finds it.
                        core.look_at(key, next.unwrap_or(now + NO_TIME));
                        return;
                    }
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
    fn handshake_until(given: &Given, session: &Session<I::Transport>) -> Instant {
        let record = &session.record;
        let is_being_answered = session.has(Flag::Initializing) && !session.has(Flag::Initialized);
        // For a new session, the handshake is the last use. A replay comes from rmcp, not from a client, and gets the
        // time of a client.
        if is_being_answered && !record.restored {
            return record.entry.last_used().instant() + given.max_busy;
        }
        record.answered().instant() + given.init_timeout
    }

    /// `given`: the settings in force, read once for the whole verdict.
    fn due(&self, given: &Given, session: &Session<I::Transport>, seen: StateSnapshot, now: Instant) -> Due {
        let record = &session.record;
        let mut next = None;
        let mut at = |when: Instant| next = Some(next.map_or(when, |next: Instant| next.min(when)));
        if let Some(lifetime) = given.max_lifetime {
            let end = record.entry.opened.plus(lifetime);
            if now >= end {
                return Due::End(CloseReason::Lifetime);
            }
            at(end);
        }
        // A restored session is not half-open any more once its handshake was replayed.
        if seen.phase() == Phase::Opening && !session.has(Flag::Replayed) {
            let end = Self::handshake_until(given, session);
            if now >= end {
                return Due::End(CloseReason::InitTimeout);
            }
            // If `initialize` is answered right now, the client's time starts now.
            at(end.min(now + given.init_timeout));
        }
        if let Some(shortest) = shortest_idle(given.idle_timeout) {
            let idle_until = self.idle_until(given, session, seen, now, shortest);
            if now >= idle_until {
                return Due::End(CloseReason::Idle);
            }
            at(idle_until);
        }
        Due::At(next)
    }

    /// When the session is to be checked for its idle timeout: `now` or before if it has been idle for too long. `shortest`
    /// is the shortest time for which a session may be idle.
    fn idle_until(
        &self,
        given: &Given,
        session: &Session<I::Transport>,
        seen: StateSnapshot,
        now: Instant,
        shortest: Duration,
    ) -> Instant {
        let record = &session.record;
        let silent_until = record.last_seen().instant() + shortest;
        let busy_until = (seen.active() > 0).then(|| {
            let newest = record.entry.newest_request(seen);
            newest.map_or(now + shortest, |newest| newest.instant() + given.max_busy)
        });
        if let Some(until) = busy_until.filter(|until| now < *until) {
            // If the last activity ends right now, the idle time starts now.
            return (now + shortest).min(until.max(silent_until));
        }
        match given.idle_timeout {
            // Its handshake has times of its own, and what is not finished has no worth.
            IdleTimeout::Worth(_) if seen.phase() == Phase::Opening => now + shortest,
            IdleTimeout::Worth(_) => self.lock().registry.worth_until(record.entry.key, now),
            _ if record.open_streams() > 0 => now + shortest,
            _ => silent_until,
        }
    }
}

/// The shortest time after which a session may be closed as idle.
const fn shortest_idle(timeout: IdleTimeout) -> Option<Duration> {
    match timeout {
        IdleTimeout::Never => None,
        IdleTimeout::After(timeout) => Some(timeout),
        IdleTimeout::Worth(_) => Some(MINUTE),
    }
}
