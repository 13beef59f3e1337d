//! The API for operators: `stats`, `list`, `terminate`, `drain`.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use tokio::time::{Instant, timeout, timeout_at};

use super::PolicySessionManager;
use super::all_sessions::RestoreWatch;
use super::close::CLOSE_GRACE;
use super::durable::DIRECTORY_WAIT;
use super::manager_inner::ManagerInner;
use super::parked::Parked;
use super::single_flight::Flight;
use crate::eviction::SessionInfo;
use crate::observe::{CloseReason, DrainReport, SessionSnapshot, Stats};
use crate::session::{Phase, Record, SessionKey};
use crate::time::HOUR;
use crate::timestamp::Timestamp;
use crate::tracker::Waiting;
use crate::transport::{Flag, Probes, Session};

/// The longest drain. A longer one could overflow an `Instant`.
const LONGEST_DRAIN: Duration = Duration::from_secs(365 * 24 * HOUR.as_secs());

/// Selects the sessions to [`terminate`](PolicySessionManager::terminate): one by its [`SessionKey`], or all for which
/// a closure returns true.
///
/// ```
/// use rmcp::transport::streamable_http_server::session::SessionManager;
/// use rmcp_session_policy::eviction::SessionInfo;
/// use rmcp_session_policy::{CloseReason, PolicySessionManager, SessionSelector};
///
/// /// The sessions of one principal.
/// struct Of(&'static str);
///
/// impl SessionSelector for Of {
///     fn selects(&self, session: &SessionInfo<'_>) -> bool {
///         session.context().and_then(|client| client.principal()) == Some(self.0)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = PolicySessionManager::local().build()?;
/// let (_id, _transport) = sessions.create_session().await?;
/// assert_eq!(sessions.terminate(Of("mallory"), CloseReason::Revoked).await, 0);
/// assert_eq!(sessions.terminate(sessions.list()[0].key, CloseReason::Revoked).await, 1);
/// # Ok(()) }
/// ```
pub trait SessionSelector {
    /// Returns whether to terminate this session.
    fn selects(&self, session: &SessionInfo<'_>) -> bool;
}

impl SessionSelector for SessionKey {
    fn selects(&self, session: &SessionInfo<'_>) -> bool {
        session.key() == *self
    }
}

impl<F: Fn(&SessionInfo<'_>) -> bool> SessionSelector for F {
    fn selects(&self, session: &SessionInfo<'_>) -> bool {
        self(session)
    }
}

impl<I: SessionManager> PolicySessionManager<I> {
    /// Returns the numbers of sessions now, and the counts since the start. Its cost grows with the number of sessions,
    /// but it holds the manager's lock for 1,000 of them at a time. With more, sessions may come and go during the look:
    /// `live` and `reserved` are of one moment, and the others fit to them.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.census(|_| {})
    }

    /// The numbers of sessions, and the counts. Calls `also` with the record of each session, under the lock.
    pub(super) fn census(&self, mut also: impl FnMut(&Record)) -> Stats {
        let shared = &*self.shared;
        let (now, deadline) = (Instant::now(), shared.close_deadline());
        let mut stats = Stats::empty(0);
        let (mut opening, mut closing, mut stuck, mut busy, mut streams) = (0, 0, 0, 0, 0);
        let look = |session: &Session<I::Transport>| {
            also(&session.record);
            let seen = session.record.entry.state.read();
            let is_closing = seen.phase() == Phase::Closing;
            opening += usize::from(seen.phase() == Phase::Opening);
            closing += usize::from(is_closing);
            busy += usize::from(seen.active() > 0 && !is_closing);
            streams += session.record.open_streams();
            let is_late = |(_, since): (_, Timestamp)| now.saturating_duration_since(since.instant()) >= deadline;
            stuck += usize::from(is_closing && session.close_reason().is_some_and(is_late));
        };
        shared.look_at_all(look, |core| {
            // Read in one hold, so that they add up to the places that are taken.
            stats.max_sessions = core.places.all();
            stats.live = core.registry.len();
            stats.reserved = (stats.max_sessions + core.places.over()) - core.places.free() - stats.live;
            stats.surge_since = core.registry.surge_since(now);
            stats.advantage = core.registry.advantage();
            stats.overruled = core.registry.overruled;
        });
        // Beyond one lot, sessions come and go during the look.
        stats.closing = stats.live.min(closing);
        stats.opening = opening.min(stats.live - stats.closing);
        stats.ready = stats.live - stats.closing - stats.opening;
        (stats.stuck, stats.busy, stats.streams) = (stuck.min(stats.closing), busy.min(stats.live), streams);
        stats.missed_returns = shared.signals.missed_returns();
        (stats.parked, stats.parked_bytes) = shared.parking.size(now);
        stats.parked_streams = shared.held.len();
        stats.dead_streams = shared.held.probes().map_or(0, Probes::ended);
        if let Some(durable) = &shared.durable {
            (stats.directory_away, stats.directory_late) = (durable.availability.is_away(), durable.late.load(Relaxed));
        }
        stats.draining = self.is_draining();
        stats.listeners = shared.tracker.listeners();
        shared.counters.fill(&mut stats);
        stats
    }

    /// Lists the live sessions. Its cost grows with the number of sessions, but it holds the manager's lock for 1,000 of them
    /// at a time. Sessions that come or go meanwhile may be on the list or not; all others are on it once.
    #[must_use]
    pub fn list(&self) -> Vec<SessionSnapshot> {
        // Rounded to a full microsecond, as the moments of sessions are.
        let now = Timestamp::at(Instant::now()).instant();
        self.shared.sessions().iter().map(|session| SessionSnapshot::of(&session.record, now)).collect()
    }

    /// Ends the selected sessions, live and parked, and waits until they are gone, for at most the close deadline.
    /// Returns how many it selected. A closure must name the type of its argument, as below. It holds the manager's lock for
    /// 1,000 sessions at a time.
    ///
    /// Requests in flight are answered with an error. The reason decides whether the sessions may be
    /// [restored](CloseReason::is_restorable): [`Revoked`](CloseReason::Revoked) ones may not, and then this comes to each
    /// session that exists when it is called, also to those that are parked or restored meanwhile. With a reason after which
    /// sessions may come back, such as [`Evicted`](CloseReason::Evicted), it comes to live sessions alone: parked ones stay
    /// parked, and one that is restored meanwhile may stay live.
    ///
    /// ```
    /// # use rmcp_session_policy::{CloseReason, PolicySessionManager};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let sessions = PolicySessionManager::local().build()?;
    /// use rmcp_session_policy::eviction::SessionInfo;
    ///
    /// let of_mallory = |session: &SessionInfo<'_>| session.context().and_then(|c| c.principal()) == Some("mallory");
    /// assert_eq!(sessions.terminate(of_mallory, CloseReason::Revoked).await, 0);
    /// # Ok(()) }
    /// ```
    pub async fn terminate(&self, select: impl SessionSelector, reason: CloseReason) -> usize {
        let deadline = Instant::now() + self.shared.close_deadline();
        let Selected { ended, parked, restores } = self.shared.close_selected(&select, reason);
        ManagerInner::<I>::wait_until_gone(&ended, deadline).await;
        if let Some(durable) = self.shared.durable.as_ref().filter(|_| !reason.is_restorable()) {
            durable.all_written(&restores, deadline).await;
        }
        ended.len() + parked
    }

    /// Returns whether newcomers are rejected, because [`refuse_newcomers`](Self::refuse_newcomers) or
    /// [`drain`](Self::drain) was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.shared.refusing.load(SeqCst)
    }

    /// Rejects newcomers from now on, as [`drain`](Self::drain) does, but goes on serving the sessions there are,
    /// parked ones too.
    ///
    /// Call it some time before `drain`, so that load balancers see that the server is about to stop
    /// ([`is_draining`](Self::is_draining), [`Stats::draining`]) and send newcomers elsewhere. It cannot be taken back.
    pub fn refuse_newcomers(&self) {
        if !self.shared.refusing.swap(true, SeqCst) {
            tracing::info!("newcomers are refused from now on");
        }
    }

    /// Stops in order. The manager rejects newcomers and closes idle sessions. It lets calls in flight finish until
    /// `deadline` has passed, and answers calls that come meanwhile with an error. Then it closes the remaining
    /// sessions. The listening streams end last, after a hint when to reconnect
    /// ([`expected_downtime`](crate::PolicySessionManagerBuilder::expected_downtime)), so call this just before the process
    /// exits.
    ///
    /// Within the deadline it waits until the server has taken each answer from its stream, but not for a client that
    /// has stopped reading. It covers the requests without a session that come through the layer: it waits for calls,
    /// and answers them with an error at the deadline; listening streams end when the calls are over.
    ///
    /// The manager admits no newcomers afterwards. Drained sessions are parked, but this manager restores them no more.
    pub async fn drain(&self, deadline: Duration) -> DrainReport {
        let shared = &self.shared;
        let deadline = Instant::now() + deadline.min(LONGEST_DRAIN);
        self.refuse_newcomers();
        shared.durable.iter().for_each(|durable| durable.directory.leave());
        shared.signals.draining.store(true, SeqCst);
        shared.draining.store(true, SeqCst);
        shared.held.end_last(shared.expected_downtime());
        tracing::info!("draining");
        let mut report = DrainReport::default();
        // The list includes sessions that were closing already.
        let all = shared.sessions();
        loop {
            let mut calm = std::pin::pin!(shared.signals.calm.notified());
            calm.as_mut().enable();
            let mut busy = 0;
            for session in shared.sessions() {
                match shared.close_if_idle(&session, CloseReason::Drained) {
                    Some(true) => report.finished += 1,
                    Some(false) => busy += 1,
                    None => {}
                }
            }
            let until = match (busy, shared.tracker.waiting()) {
                (0, Waiting::Nothing) => break,
                (0, Waiting::Unread) => deadline.min(Instant::now() + CLOSE_GRACE),
                _ => deadline,
            };
            if timeout_at(until, calm).await.is_err() {
                break;
            }
        }
        let rest = shared.sessions();
        for session in &rest {
            match shared.close_if_idle(session, CloseReason::Drained) {
                // It became idle after the last look, or came after it.
                Some(true) => report.finished += 1,
                _ => report.cut_off += usize::from(shared.close(session, CloseReason::Drained)),
            }
        }
        report.listeners = shared.tracker.cut();
        let calls = shared.tracker.settle(CLOSE_GRACE, deadline);
        let gone = ManagerInner::<I>::wait_until_gone(&rest, Instant::now() + shared.close_deadline());
        let (calls, ()) = tokio::join!(calls, gone);
        (report.calls_finished, report.calls_cut_off) = (calls.finished, calls.cut_off);
        report.stuck = rest.iter().filter(|session| !session.has(Flag::Left)).count();
        for session in &all {
            // Past the deadline this does not wait. Each close has waited for its streams already.
            timeout_at(deadline, session.until(|session| !session.has_due_streams())).await.ok();
        }
        shared.flush_directory(deadline).await;
        if shared.durable.is_none() && shared.parking.final_ends().has_hook() {
            // Parked sessions come back no more.
            shared.parking.take_all(CloseReason::Drained, |_, parked| parked.data().is_some());
        }
        shared.parking.final_ends().done(deadline.max(Instant::now() + CLOSE_GRACE)).await;
        if shared.parking.final_ends().has_hook() {
            // What the hooks were needed for.
            shared.flush_directory(deadline).await;
        }
        timeout(CLOSE_GRACE, shared.held.close().read()).await.ok();
        tracing::info!(?report, "drained");
        report
    }
}

/// What a selector has selected.
struct Selected<T> {
    /// The live sessions whose close this has begun.
    ended: Vec<Arc<Session<T>>>,
    /// How many were parked.
    parked: usize,
    /// The restores of those, each of which writes the end of its session when it lands.
    restores: Vec<Arc<Flight>>,
}

impl<I: SessionManager> ManagerInner<I> {
    /// Closes the selected sessions, and removes the selected ones from the parking.
    fn close_selected(self: &Arc<Self>, select: &impl SessionSelector, reason: CloseReason) -> Selected<I::Transport> {
        let selects = |session: &Arc<Session<I::Transport>>| select.selects(&SessionInfo::of(&session.record));
        let close = |session: &Arc<Session<I::Transport>>| match reason.is_restorable() {
            true => self.close(session, reason),
            false => self.close_for_good(session, reason),
        };
        let restored = (!reason.is_restorable()).then(|| self.watch_restores());
        // All are selected before the first is closed: the selector may look at the manager, or panic.
        let selected: Vec<_> = self.sessions().into_iter().filter(selects).collect();
        let mut ended: Vec<_> = selected.into_iter().filter(close).collect();
        let mut restores = Vec::new();
        let parked = if reason.is_restorable() {
            0
        } else {
            let selects_parked = |id: &SessionId, parked: &Parked| {
                select.selects(&SessionInfo::of(&parked.record(SessionId::clone(id), &self.signals)))
            };
            self.parking.take_all(reason, |id, parked| {
                let selected = selects_parked(id, parked);
                if selected {
                    restores.extend(self.restores.bar(id, reason));
                }
                selected
            })
        };
        // A session that was parked when the live ones were ended may have been restored before the parked ones were
        // removed.
        let restored = restored.map(RestoreWatch::end).unwrap_or_default();
        ended.extend(restored.into_iter().filter(|session| selects(session) && close(session)));
        Selected { ended, parked, restores }
    }

    /// Ends a session with nothing in flight. `Some(false)` if it is busy, `None` if it is closing.
    pub(super) fn close_if_idle(
        self: &Arc<Self>,
        session: &Arc<Session<I::Transport>>,
        reason: CloseReason,
    ) -> Option<bool> {
        loop {
            let seen = session.record.entry.state.read();
            if seen.phase() == Phase::Closing {
                return None;
            }
            // What comes next may be for another server, which answers it before this one has given its answer out.
            let now = Instant::now();
            let is_untaken = || session.record.entry.untaken.keep_until(self.max_busy(), now).is_some();
            if seen.active() > 0 || reason == CloseReason::Moved && is_untaken() {
                return Some(false);
            }
            if self.close_if(session, seen, reason) {
                return Some(true);
            }
        }
    }

    /// Waits until the directory has written all, within a deadline.
    async fn flush_directory(&self, deadline: Instant) {
        let Some(durable) = &self.durable else { return };
        let left = durable.directory.flush(deadline.max(Instant::now() + DIRECTORY_WAIT)).await;
        if left > 0 {
            tracing::warn!(left, "sessions are not in the directory as they are");
        }
    }

    async fn wait_until_gone(ended: &[Arc<Session<I::Transport>>], deadline: Instant) {
        for session in ended {
            // Sessions that are not gone by then count as stuck.
            timeout_at(deadline, session.until(|session| session.has(Flag::Left))).await.ok();
        }
    }
}
