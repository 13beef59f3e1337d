//! The state that all parts of a manager share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use slab::Slab;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::asker::Asker;
use super::deadlines::Deadlines;
use super::durable::Durable;
use super::ended_for_good::Ends;
use super::final_ends::FinalEnds;
use super::handlers::Handlers;
use super::idle_timeout::IdleTimeout;
use super::in_force::InForce;
use super::leases::Leases;
use super::live_sessions::LiveSessions;
use super::parking::Parking;
use super::place_queue::Places;
use super::policies::{Policies, PoliciesInForce};
use super::serving_tasks::ServingTasks;
use super::settings::Settings;
use super::single_flight::SingleFlight;
use crate::admission::{ArrivalKind, Retry};
use crate::call_rejection::CallRejection;
use crate::context::ClientContext;
use crate::error::{PolicyError, Rejected, ServerFull};
use crate::eviction::EvictionPolicy;
use crate::explain::History;
use crate::observe::{Counters, SessionEvent, SessionObserver};
use crate::registry::Registry;
use crate::scope::{Outcome, record_outcome};
use crate::session::Signals;
use crate::tracker::RequestTracker;
#[cfg(feature = "http")]
use crate::transport::Flag;
use crate::transport::{HeldStreams, Incarnations, Probes, SealKey, Session};

/// The state that creations and ends change, behind one lock. No request within a session takes the lock, and it is
/// never held across an await.
#[derive(Debug)]
pub(super) struct ManagerState<T> {
    pub(super) registry: Registry<Session<T>>,
    pub(super) places: Places,
    /// How many sessions are closing.
    pub(super) closing: usize,
    pub(super) deadlines: Deadlines,
    /// The sessions that are restored while something has to come to all sessions: one list for each of those. See
    /// [`watch_restores`](ManagerInner::watch_restores).
    pub(super) restored_meanwhile: Slab<Vec<Arc<Session<T>>>>,
    /// When the next sessions are evicted because there are more than the capacity.
    pub(super) next_lot: Option<Instant>,
}

/// A manager.
pub(crate) struct ManagerInner<I: SessionManager> {
    pub(super) inner: I,
    pub(super) settings: Settings,
    /// The settings that may change. A change stores others, under the manager's lock.
    pub(super) in_force: ArcSwap<InForce>,
    /// Held during a change of the settings, so that one follows another.
    pub(super) reconfiguring: tokio::sync::Mutex<()>,
    /// Whether rejected calls are answered with JSON-RPC errors: the one such setting that each request reads.
    pub(super) rejects_with_errors: AtomicBool,
    pub(super) core: Mutex<ManagerState<I::Transport>>,
    /// The leases of requests in flight.
    pub(super) leases: Leases<Session<I::Transport>>,
    /// Requests without a waiting client. Their handlers may still run.
    pub(super) handlers: Handlers<Session<I::Transport>>,
    /// Notified when the lifecycle task has to wake earlier than it planned.
    pub(super) sooner: Arc<Notify>,
    /// Every live session by its id.
    pub(super) live: LiveSessions<I::Transport>,
    /// The restores under way. One is barred if its session is deleted or revoked meanwhile.
    pub(super) restores: Arc<SingleFlight<SessionId>>,
    pub(super) parking: Parking,
    /// The listening streams of parked sessions.
    pub(super) held: Arc<HeldStreams>,
    pub(super) serving_tasks: ServingTasks,
    pub(super) incarnations: Incarnations,
    /// The key from which the keys of event ids are derived.
    pub(super) seal_root: Arc<SealKey>,
    /// Whether the eviction policy is told of each use.
    pub(super) tracks_access: AtomicBool,
    pub(super) policies: PoliciesInForce,
    pub(super) signals: Arc<Signals>,
    pub(super) counters: Counters,
    pub(super) draining: AtomicBool,
    /// Whether newcomers are refused, by a drain or before one.
    pub(super) refusing: AtomicBool,
    /// The requests of the HTTP layer that no session accounts for.
    pub(super) tracker: Arc<RequestTracker>,
    observer: Option<Arc<dyn SessionObserver>>,
    /// The last ends and rejections. `None` if none are kept.
    pub(super) history: Option<History>,
    /// The runtime that finishes ends which begin outside any runtime.
    pub(super) runtime: OnceLock<Handle>,
    pub(super) lifecycle: OnceLock<AbortHandle>,
    /// The directory that outlives the process.
    pub(super) durable: Option<Arc<Durable>>,
    /// The task that writes usage to it, and hears of the sessions that other servers have claimed.
    pub(super) durable_tasks: OnceLock<(AbortHandle, Option<AbortHandle>)>,
    #[cfg(feature = "http")]
    warned_of_no_sessions: AtomicBool,
}

impl<T> ManagerState<T> {
    /// How many places have no session now.
    pub(super) fn places_without_session(&self) -> usize {
        self.places.all().saturating_sub(self.registry.len())
    }
}

impl<I: SessionManager> ManagerInner<I> {
    /// Creates a manager. Fails only if the operating system has no random bytes.
    pub(super) fn new(
        inner: I,
        settings: Settings,
        in_force: InForce,
        policies: Policies,
        eviction: Option<Box<dyn EvictionPolicy>>,
        observer: Option<Arc<dyn SessionObserver>>,
    ) -> Result<Self, getrandom::Error> {
        let given = &in_force.given;
        let (most, max_busy) = (given.max_sessions, given.max_busy);
        let durable = settings.directory.clone();
        let durable = durable.map(|directory| Arc::new(Durable::new(directory, most)));
        let tracks_returns = eviction.as_ref().is_some_and(|policy| policy.tracks_returns());
        let types = Arc::clone(&settings.data_types);
        let (hook, deadline) = (settings.final_end.clone(), given.final_end_deadline);
        let finals = FinalEnds::new(hook, deadline, Arc::clone(&types), settings.directory.clone());
        let signals = Arc::new(Signals::new(tracks_returns, types, settings.directory.clone()));
        let tracks_access = eviction.as_ref().is_some_and(|policy| policy.tracks_access());
        let rules = given.rules(settings.busy_may_go);
        let mut registry = Registry::new(eviction, rules, in_force.max_opening, Arc::clone(&signals));
        registry.guard_surges(given.surge_guard);
        registry.share_places(in_force.clients.share.as_ref().map(|share| share.sessions), false);
        registry.limit_clients(in_force.clients.max.as_ref().map(|max| max.sessions), false);
        let serving_tasks = ServingTasks::new(most);
        let tracker = Arc::new(RequestTracker::new(Arc::clone(&signals)));
        let deadlines = Deadlines::default();
        let sooner = Arc::clone(&deadlines.sooner);
        let seal_root = Arc::new(SealKey::random()?);
        let probes = settings.listener_probes.map(|times| Probes::new(times, &seal_root, Arc::clone(&sooner)));
        let held = HeldStreams::new(in_force.max_parked_streams, most, Arc::clone(&sooner));
        let held = Arc::new(held.with_probes(probes));
        let (streams, told) = (Arc::clone(&held), Arc::clone(&signals));
        let leases = Leases::new(max_busy, Arc::clone(&sooner));
        let handlers = Handlers::new(max_busy, Arc::clone(&sooner));
        let policies: PoliciesInForce = Arc::new(ArcSwap::from_pointee(policies));
        let ends = Ends::new(
            Arc::clone(&policies),
            Box::new(move |session| {
                streams.end(session);
                told.forget(session);
            }),
            durable.clone(),
            finals,
        );
        let parking = Parking::new(given.limits, ends, Arc::clone(&deadlines.sooner));
        let history = History::new(settings.explanations);
        let places = Places::new(most);
        let core =
            ManagerState { registry, places, closing: 0, deadlines, restored_meanwhile: Slab::new(), next_lot: None };
        Ok(Self {
            inner,
            settings,
            rejects_with_errors: AtomicBool::new(given.call_rejection == CallRejection::Error),
            in_force: ArcSwap::from_pointee(in_force),
            reconfiguring: tokio::sync::Mutex::default(),
            core: Mutex::new(core),
            leases,
            handlers,
            sooner,
            live: LiveSessions::default(),
            restores: Arc::default(),
            parking,
            held,
            serving_tasks,
            incarnations: Incarnations::default(),
            seal_root,
            tracks_access: AtomicBool::new(tracks_access),
            policies,
            signals,
            counters: Counters::default(),
            draining: AtomicBool::new(false),
            refusing: AtomicBool::new(false),
            tracker,
            observer,
            history,
            runtime: OnceLock::new(),
            lifecycle: OnceLock::new(),
            durable,
            durable_tasks: OnceLock::new(),
            #[cfg(feature = "http")]
            warned_of_no_sessions: AtomicBool::new(false),
        })
    }

    /// Locks the state. Only policies can panic under the lock, and those panics are caught.
    pub(super) fn lock(&self) -> MutexGuard<'_, ManagerState<I::Transport>> {
        let core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        #[cfg(test)]
        core.registry.looked_at.set([0, core.registry.looked_at.get()[1]]);
        core
    }

    pub(super) fn observe(&self, event: &SessionEvent<'_>) {
        if let Some(observer) = &self.observer
            && catch_unwind(AssertUnwindSafe(|| observer.observe(event))).is_err()
        {
            tracing::warn!("the session observer panicked");
        }
    }

    /// Whether arrivals of that kind are refused because the server is about to stop.
    pub(crate) fn stops_taking(&self, kind: ArrivalKind) -> bool {
        let refuses = if kind == ArrivalKind::Create { &self.refusing } else { &self.draining };
        refuses.load(SeqCst)
    }

    /// Counts and reports a rejection.
    pub(crate) fn turn_away(&self, refusal: Rejected, asker: Asker<'_>) -> Rejected {
        let Rejected { kind, reason, retry, ref policy, .. } = refusal;
        self.counters.count_rejected(kind, reason);
        #[cfg(feature = "metrics")]
        self.measure(|metrics| metrics.rejected(kind, reason, policy));
        tracing::debug!(?kind, %reason, %policy, "rejected");
        self.explain_rejection(&refusal, asker);
        let context = asker.context;
        self.observe(&SessionEvent::Rejected { kind, reason, policy, retry, context });
        refusal
    }

    /// Counts and reports the rejection of an arrival after a failure of the inner manager. `session`: the id of the
    /// session that the arrival is for, if there is one.
    pub(super) fn failed(&self, kind: ArrivalKind, session: Option<&str>, error: I::Error) -> PolicyError<I::Error> {
        // Logged without the text of the error, which may contain the session id.
        tracing::warn!(?kind, "the inner session manager failed");
        self.refuse(kind, Asker { context: ClientContext::current().as_deref(), session }, PolicyError::Inner(error))
    }

    /// Rejects a newcomer: counts and reports the rejection, and records it for the layer, which answers the client.
    pub(super) fn refuse(
        &self,
        kind: ArrivalKind,
        asker: Asker<'_>,
        error: PolicyError<I::Error>,
    ) -> PolicyError<I::Error> {
        if let Some(refusal) = rejected(kind, &error) {
            record_outcome(Outcome::Rejected(Box::new(self.turn_away(refusal, asker))));
        }
        error
    }

    pub(super) fn at_capacity(&self) -> PolicyError<I::Error> {
        PolicyError::ServerFull(ServerFull { max_sessions: self.max_sessions(), retry: Retry::Unknown })
    }
}

/// The settings in force, one at a time: no reader keeps them over an await.
impl<I: SessionManager> ManagerInner<I> {
    /// How a rejected `tools/call` within a session is answered.
    pub(crate) fn call_rejection(&self) -> CallRejection {
        match self.rejects_with_errors.load(Relaxed) {
            true => CallRejection::Error,
            false => CallRejection::Result,
        }
    }

    /// How long a request is in flight at most.
    pub(crate) fn max_busy(&self) -> Duration {
        self.in_force.load().given.max_busy
    }

    pub(crate) fn max_sessions(&self) -> usize {
        self.in_force.load().given.max_sessions
    }

    pub(super) fn max_lifetime(&self) -> Option<Duration> {
        self.in_force.load().given.max_lifetime
    }

    pub(super) fn idle_timeout(&self) -> IdleTimeout {
        self.in_force.load().given.idle_timeout
    }

    pub(super) fn init_timeout(&self) -> Duration {
        self.in_force.load().given.init_timeout
    }

    pub(super) fn close_deadline(&self) -> Duration {
        self.in_force.load().given.close_deadline
    }

    pub(super) fn expected_downtime(&self) -> Duration {
        self.in_force.load().given.expected_downtime
    }
}

/// The methods that the HTTP layer calls.
#[cfg(feature = "http")]
impl<I: SessionManager> ManagerInner<I> {
    /// Records that the answer to the `initialize` of a session did not reach its client.
    pub(crate) fn note_unheard(&self, id: &str) {
        if let Some(session) = self.find(id) {
            session.raise(Flag::Unheard);
        }
    }

    /// Counts a POST as one without a session, or as one that names or opens a session.
    pub(crate) fn count_request(&self, is_sessionless: bool) {
        let counter = if is_sessionless { &self.counters.sessionless } else { &self.counters.requests };
        counter.fetch_add(1, Relaxed);
    }

    pub(crate) const fn tracker(&self) -> &Arc<RequestTracker> {
        &self.tracker
    }

    pub(crate) fn has_event_store(&self) -> bool {
        self.inner.event_store().is_some()
    }

    pub(crate) const fn has_directory(&self) -> bool {
        self.durable.is_some()
    }

    /// Records a message from the client of a parked session. Returns false if the session is not parked.
    pub(crate) fn touch_parked(&self, id: &str) -> bool {
        self.parking.touch(id, Instant::now())
    }

    /// Logs once that rmcp is set to keep no sessions, but the layer is not.
    pub(crate) fn warn_of_no_sessions(&self) {
        if !self.warned_of_no_sessions.swap(true, Relaxed) {
            tracing::warn!("rmcp serves requests without sessions: tell the layer by without_sessions() (said once)");
        }
    }
}

/// The rejection of an arrival that fails with this error. `None` if the session does not exist.
pub(crate) fn rejected<E: std::error::Error>(kind: ArrivalKind, error: &PolicyError<E>) -> Option<Rejected> {
    Some(match error {
        PolicyError::Rejected(rejection) => Rejected::by_policy(kind, rejection),
        PolicyError::ServerFull(full) => Rejected::at_capacity(kind, full),
        PolicyError::Draining => Rejected::draining(kind),
        PolicyError::Inner(_) | PolicyError::DuplicateId => Rejected::backend(kind),
        PolicyError::Away => Rejected::away(kind),
        PolicyError::Elsewhere => Rejected::elsewhere(kind),
        PolicyError::NotFound | PolicyError::UnknownEvent => return None,
    })
}

/// Records for the layer that the session does not exist (any more), and returns the error.
pub(super) fn not_found<E: std::error::Error>() -> PolicyError<E> {
    record_outcome(Outcome::NotFound);
    PolicyError::NotFound
}

impl<I: SessionManager> Drop for ManagerInner<I> {
    fn drop(&mut self) {
        drop(self.held.close());
        let (watch, due) = self.durable_tasks.get().map_or((None, None), |(watch, due)| (Some(watch), due.as_ref()));
        [self.lifecycle.get(), watch, due].into_iter().flatten().for_each(AbortHandle::abort);
    }
}
