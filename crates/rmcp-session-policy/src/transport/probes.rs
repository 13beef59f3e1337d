//! Probes of listening streams: a `ping` for each stream now and then, and the end of a stream of which the client does not
//! answer.
//!
//! Decision 42 says why. Streams are in two queues, each in the order of its moments because each time is the same for all
//! streams: one of streams that are probed next, one of probes that wait for their answers.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rmcp::model::{PingRequest, RequestId, ServerJsonRpcMessage, ServerRequest};
use rmcp::transport::streamable_http_server::session::{ServerSseMessage, SessionId};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::listener::Listener;
use super::probe_id::{ProbeIds, ProbeNumber};
use super::seal::SealKey;
use crate::session::SessionOrigin;

/// How many streams are probed or ended in one turn.
const AT_ONCE: usize = 64;
/// The pause between two turns, when there is more to do: 6,400 streams a second.
const PAUSE: Duration = Duration::from_millis(10);
/// The queue of streams is tidied for the first time when it is this long.
const SPARE: usize = 64;

/// The setting `probe_listeners`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProbeTimes {
    /// How long after its opening, and after each answer, a stream is probed.
    pub(crate) every: Duration,
    /// How long the client has for its answer. At most `every`.
    pub(crate) answer_within: Duration,
}

/// The probes of all listening streams of a manager, of live sessions and of parked ones.
///
/// A stream is in one of the two queues from its opening until its client hangs up, or does not answer. Cost: O(1) for each
/// opening, probe and answer, amortized, and about a hundred bytes for each stream.
pub(crate) struct Probes {
    times: ProbeTimes,
    list: Mutex<List>,
    /// Notified when there is a first stream to probe. It wakes the lifecycle task.
    sooner: Arc<Notify>,
    /// How many streams were ended.
    ended: AtomicU64,
}

/// What the lock guards. No other lock is taken under it.
struct List {
    ids: ProbeIds,
    /// When streams are probed, earliest first. Those that ended stay until they are due, or the queue is tidied.
    due: VecDeque<(Instant, Probed)>,
    tidy_at: usize,
    /// Until when answers may come, earliest first. Those that came stay until then.
    until: VecDeque<(Instant, ProbeNumber)>,
    /// The probes that are not answered.
    open: HashMap<ProbeNumber, Probed>,
}

/// A listening stream, and its session.
pub(super) struct Probed {
    /// Weak, because the client's end owns it.
    pub(super) listener: Weak<Listener>,
    pub(super) id: SessionId,
    pub(super) origin: SessionOrigin,
}

impl List {
    /// Appends a stream that is probed at this moment. Returns whether it is the only one.
    fn push(&mut self, at: Instant, probed: Probed) -> bool {
        if self.due.len() >= self.tidy_at {
            self.due.retain(|(_, probed)| probed.listener.strong_count() > 0);
            self.tidy_at = SPARE.max(2 * self.due.len());
            self.due.shrink_to(self.tidy_at);
        }
        // Two threads may read the clock in one order and come here in the other.
        let at = self.due.back().map_or(at, |(last, _)| at.max(*last));
        self.due.push_back((at, probed));
        self.due.len() == 1
    }

    /// Takes the next stream that is to be probed, and makes its probe. `None` inside if its client has hung up.
    fn next_due(&mut self, now: Instant, until: Instant) -> Option<Option<(Arc<Listener>, RequestId)>> {
        let (_, probed) = pop_if(&mut self.due, now)?;
        let Some(listener) = probed.listener.upgrade() else { return Some(None) };
        let (number, id) = self.ids.next();
        self.until.push_back((until, number));
        self.open.insert(number, probed);
        Some(Some((listener, id)))
    }

    /// Takes the next probe of which the time is over. `None` inside if it was answered.
    fn next_overdue(&mut self, now: Instant) -> Option<Option<Probed>> {
        let (_, number) = pop_if(&mut self.until, now)?;
        Some(self.open.remove(&number))
    }

    /// When there is something to do.
    fn next(&self) -> Option<Instant> {
        let due = self.due.front().map(|(at, _)| *at);
        let until = self.until.front().map(|(until, _)| *until);
        due.into_iter().chain(until).min()
    }
}

impl Probes {
    /// `sooner` wakes the task that calls [`turn`](Self::turn).
    pub(crate) fn new(times: ProbeTimes, root: &SealKey, sooner: Arc<Notify>) -> Self {
        let list = List {
            ids: ProbeIds::new(root.of_probes()),
            due: VecDeque::new(),
            tidy_at: SPARE,
            until: VecDeque::new(),
            open: HashMap::new(),
        };
        Self { times, list: Mutex::new(list), sooner, ended: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many streams were ended because their clients did not answer.
    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Relaxed)
    }

    /// Probes a stream from now on, until its client hangs up or does not answer.
    pub(super) fn watch(&self, listener: &Arc<Listener>, id: &SessionId, origin: SessionOrigin) {
        let probed = Probed { listener: Arc::downgrade(listener), id: SessionId::clone(id), origin };
        self.probe_later(self.lock(), probed, Instant::now());
    }

    fn probe_later(&self, mut list: MutexGuard<'_, List>, probed: Probed, now: Instant) {
        let is_only = list.push(now + self.times.every, probed);
        drop(list);
        if is_only {
            self.sooner.notify_one();
        }
    }

    /// Takes the answer to a probe that a client sent within a session. Returns false if no probe of this manager has the id.
    ///
    /// An answer that comes late, or twice, or to the probe of another session has no effect.
    pub(crate) fn answered(&self, session: &str, id: &str, now: Instant) -> bool {
        let mut list = self.lock();
        let Some(number) = list.ids.read(id) else { return false };
        if list.open.get(&number).is_some_and(|probed| *probed.id == *session)
            && let Some(probed) = list.open.remove(&number)
            && probed.listener.strong_count() > 0
        {
            self.probe_later(list, probed, now);
        }
        true
    }

    /// Probes the streams that are due, and gives those to `end` of which the answer did not come. `end` returns whether the
    /// stream was open. Returns when there is more to do.
    pub(super) fn turn(&self, now: Instant, end: impl Fn(Probed) -> bool) -> Option<Instant> {
        for _ in 0..AT_ONCE {
            // Each statement takes the lock anew: streams are ended, and clients woken, when it is not held.
            let Some(overdue) = self.lock().next_overdue(now) else { break };
            if overdue.is_some_and(&end) {
                self.ended.fetch_add(1, Relaxed);
            }
        }
        for _ in 0..AT_ONCE {
            let Some(due) = self.lock().next_due(now, now + self.times.answer_within) else { break };
            if let Some((listener, id)) = due {
                drop(listener.probe(ping(id)));
            }
        }
        // What is due by now has to wait for the next turn.
        self.lock().next().map(|next| if next <= now { now + PAUSE } else { next })
    }
}

/// Takes the first of a queue if its moment has come.
fn pop_if<T>(queue: &mut VecDeque<(Instant, T)>, now: Instant) -> Option<(Instant, T)> {
    queue.front().is_some_and(|(at, _)| *at <= now).then(|| queue.pop_front()).flatten()
}

/// The message has no event id: it is stored nowhere, and a client that resumes its stream asks for what came before.
fn ping(id: RequestId) -> ServerSseMessage {
    ServerSseMessage::from_message(ServerJsonRpcMessage::request(
        ServerRequest::PingRequest(PingRequest::default()),
        id,
    ))
}
