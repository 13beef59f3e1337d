//! Probes of listening streams: a `ping` for each stream now and then, and the end of a stream of which the client does not
//! answer.
//!
//! Decision 42 says why. Streams are in two queues, each in the order of its moments because each time is the same for all
//! streams: one of streams that are probed next, one of probes that wait for their answers.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
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
/// If a turn comes later than this, the server was held up, and so were answers. While probes are open there is a turn each
/// time that this has passed, so that a stop of the server shows whenever it comes.
const LATE: Duration = Duration::from_secs(1);
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
    ids: ProbeIds,
    list: Mutex<List>,
    /// Notified when there is a first stream to probe. It wakes the lifecycle task.
    sooner: Arc<Notify>,
    /// How many streams were ended.
    ended: AtomicU64,
}

/// What the lock guards. No other lock is taken under it.
struct List {
    /// When streams are probed, earliest first. Those that ended stay until they are due, or the queue is tidied.
    due: VecDeque<(Instant, Probed)>,
    tidy_at: usize,
    /// Until when answers may come, earliest first. Those that came stay until then.
    until: VecDeque<(Instant, ProbeNumber)>,
    /// The probes that are not answered.
    open: HashMap<ProbeNumber, Probed>,
    /// When the next turn should come.
    expected: Option<Instant>,
    /// Probes of which the time is over before this moment get their time once more.
    excused: Option<Instant>,
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

    /// Takes the next stream that is to be probed.
    fn next_due(&mut self, now: Instant) -> Option<Probed> {
        pop_if(&mut self.due, now).map(|(_, probed)| probed)
    }

    /// Waits until then for the answer to a probe.
    fn open(&mut self, number: ProbeNumber, probed: Probed, until: Instant) {
        self.until.push_back((until, number));
        self.open.insert(number, probed);
    }

    /// Notes a turn. If it comes late, the probes that are open by now get their time once more: a server that was stopped or
    /// overloaded would otherwise end the streams of clients of which it has not read the answers yet.
    fn begin_turn(&mut self, now: Instant, answer_within: Duration) {
        if self.expected.is_some_and(|expected| now > expected + LATE) {
            self.excused = Some(now + answer_within);
        }
    }

    /// Takes the next probe of which the time is over. `None` inside if it was answered, or gets its time once more.
    fn next_overdue(&mut self, now: Instant, answer_within: Duration) -> Option<Option<Probed>> {
        let (until, number) = pop_if(&mut self.until, now)?;
        if self.excused.is_some_and(|excused| until < excused) && self.open.contains_key(&number) {
            self.until.push_back((now + answer_within, number));
            return Some(None);
        }
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
            due: VecDeque::new(),
            tidy_at: SPARE,
            until: VecDeque::new(),
            open: HashMap::new(),
            expected: None,
            excused: None,
        };
        let ids = ProbeIds::new(root.of_probes());
        Self { times, ids, list: Mutex::new(list), sooner, ended: AtomicU64::new(0) }
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
        let Some(number) = self.ids.read(id) else { return false };
        let mut list = self.lock();
        if list.open.get(&number).is_some_and(|probed| *probed.id == *session)
            && let Some(probed) = list.open.remove(&number)
            && probed.listener.strong_count() > 0
        {
            self.probe_later(list, probed, now);
        }
        true
    }

    /// Probes the streams that are due, and gives those to `end` of which the answer did not come. `end` returns whether the
    /// stream was open; a panic of it counts as if it was. Returns when there is more to do. While probes are open, that is
    /// [`LATE`] from now at the latest: the task wakes once a second to see whether the server was held up.
    pub(super) fn turn(&self, now: Instant, end: impl Fn(Probed) -> bool) -> Option<Instant> {
        let ProbeTimes { answer_within, .. } = self.times;
        self.lock().begin_turn(now, answer_within);
        for _ in 0..AT_ONCE {
            // Each statement takes the lock anew: streams are ended, and clients woken, when it is not held.
            let Some(overdue) = self.lock().next_overdue(now, answer_within) else { break };
            // A stream of the inner manager is dropped, and a panic of it would end the task of all deadlines.
            let ends = |probed| catch_unwind(AssertUnwindSafe(|| end(probed))).unwrap_or(true);
            if overdue.is_some_and(ends) {
                self.ended.fetch_add(1, Relaxed);
            }
        }
        for _ in 0..AT_ONCE {
            let Some(probed) = self.lock().next_due(now) else { break };
            let Some(listener) = probed.listener.upgrade() else { continue };
            let (number, id) = self.ids.next();
            // Before the client hears it, since its answer may come at once.
            self.lock().open(number, probed, now + answer_within);
            drop(listener.probe(ping(id)));
        }
        // What is due by now has to wait for the next turn.
        let mut list = self.lock();
        let next = list.next().map(|next| if next <= now { now + PAUSE } else { next });
        let heartbeat = (!list.open.is_empty()).then(|| now + LATE);
        list.expected = next.into_iter().chain(heartbeat).min();
        list.expected
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::time::SECOND;

    const EVERY: Duration = Duration::from_secs(60);
    const WITHIN: Duration = Duration::from_secs(10);

    fn probes() -> Probes {
        let root = SealKey::random().expect("random bytes");
        Probes::new(ProbeTimes { every: EVERY, answer_within: WITHIN }, &root, Arc::default())
    }

    fn watched(probes: &Probes, id: &str) -> Arc<Listener> {
        let listener = Listener::held();
        probes.watch(&listener, &id.into(), SessionOrigin::allocate());
        listener
    }

    /// How many probes are open, and how many streams wait for one.
    fn kept(probes: &Probes) -> (usize, usize) {
        let list = probes.lock();
        (list.open.len(), list.due.len())
    }

    /// The turns of a server that runs, each second from `after` on until `to`. None is to end a stream.
    fn run(probes: &Probes, after: Instant, to: Instant) {
        let (ended, mut now) = (probes.ended(), after + LATE);
        while now < to {
            assert!(probes.turn(now, |_| true) <= Some(now + LATE));
            assert_eq!(probes.ended(), ended, "not yet");
            now += LATE;
        }
    }

    fn probed(id: &str, listener: &Arc<Listener>) -> Probed {
        Probed { listener: Arc::downgrade(listener), id: id.into(), origin: SessionOrigin::allocate() }
    }

    /// The id of the probe that a client hears next.
    fn hear(listener: &Listener) -> Option<String> {
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(event)) = listener.poll_next(&mut cx) else { return None };
        assert_eq!((event.event_id, event.retry), (None, None));
        match event.message.as_deref() {
            Some(ServerJsonRpcMessage::Request(ping)) => Some(ping.id.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_turn_is_bounded_and_the_next_goes_on() {
        let (probes, start) = (probes(), Instant::now());
        let streams: Vec<_> = (0..2 * AT_ONCE + 1).map(|_| watched(&probes, "id")).collect();
        let none = |_: Probed| true;
        assert_eq!(probes.turn(start + EVERY - PAUSE, none), Some(start + EVERY));
        let mut now = start + EVERY;
        for left in [Some(PAUSE), Some(PAUSE), None] {
            assert_eq!(probes.turn(now, none), Some(now + left.unwrap_or(LATE)));
            now += left.unwrap_or_default();
        }
        assert!(streams.iter().all(|stream| hear(stream).is_some() && hear(stream).is_none()));
        assert_eq!(probes.ended(), 0, "none is overdue");
        // Ends are bounded too.
        let ended = Cell::new(0);
        let end = |_: Probed| {
            ended.set(ended.get() + 1);
            true
        };
        run(&probes, now, start + EVERY + WITHIN);
        let now = now + WITHIN;
        assert_eq!((probes.turn(now, end), ended.get(), probes.ended()), (Some(now + PAUSE), AT_ONCE, AT_ONCE as u64));
        assert_eq!((probes.turn(now, end), ended.get()), (Some(now + PAUSE), 2 * AT_ONCE));
        assert_eq!((probes.turn(now, end), ended.get()), (None, 2 * AT_ONCE + 1));
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_are_opened_and_closed_are_not_kept() {
        let probes = probes();
        let open: Vec<_> = (0..10).map(|_| watched(&probes, "id")).collect();
        for _ in 0..10_000 {
            drop(watched(&probes, "id"));
            assert!(probes.lock().due.len() <= SPARE + 2 * open.len());
        }
        let kept = probes.lock().due.iter().filter(|(_, probed)| probed.listener.strong_count() > 0).count();
        assert_eq!(kept, open.len());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_of_streams_that_ended_or_answered() {
        let (probes, now) = (probes(), Instant::now() + EVERY);
        let streams = ["a", "b", "c"].map(|id| watched(&probes, id));
        probes.turn(now, |_| false);
        let ids = streams.each_ref().map(|stream| hear(stream).expect("a probe"));
        assert!(!probes.answered("b", "another id", now));
        assert!(probes.answered("b", &ids[0], now), "known, but of another session");
        assert_eq!(probes.lock().open.len(), 3);
        assert!(probes.answered("a", &ids[0], now));
        drop(streams[1].hang_up());
        assert_eq!(kept(&probes), (2, 1));
        let ended = Cell::new(Vec::new());
        let end = |probed: Probed| {
            ended.set([ended.take(), vec![probed.id.to_string()]].concat());
            probed.listener.upgrade().is_some_and(|listener| listener.give_up().is_some())
        };
        run(&probes, now, now + WITHIN);
        assert_eq!(probes.turn(now + WITHIN, end), Some(now + EVERY));
        assert_eq!((ended.take(), probes.ended()), (vec!["b".to_owned(), "c".to_owned()], 1));
        assert!(probes.lock().until.is_empty());
        assert!(probes.answered("c", &ids[2], now), "late, and still known");
        assert_eq!(kept(&probes), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_turn_that_came_late_all_open_probes_get_their_time_once_more() {
        let (probes, now) = (probes(), Instant::now() + EVERY);
        let first = watched(&probes, "a");
        probes.turn(now - SECOND, |_| false);
        probes.turn(now, |_| false);
        let second = Listener::held();
        probes.lock().push(now + WITHIN - SECOND, probed("b", &second));
        run(&probes, now, now + WITHIN);
        assert!(hear(&first).is_some() && hear(&second).is_some());
        // The server was stopped.
        let now = now + WITHIN + LATE + SECOND;
        assert_eq!((probes.turn(now, |_| true), probes.ended()), (Some(now + LATE), 0));
        // Until after that of the second is over.
        run(&probes, now, now + WITHIN);
        let ended = Cell::new(0);
        let end = |_: Probed| {
            ended.set(ended.get() + 1);
            true
        };
        let next = probes.turn(now + WITHIN, end);
        assert_eq!((ended.get(), next), (1, Some(now + WITHIN + LATE)));
        let until = now + 2 * WITHIN - 3 * SECOND;
        run(&probes, now + WITHIN, until);
        assert_eq!((probes.turn(until, end), ended.get()), (None, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_that_ends_just_after_the_time_for_an_answer_excuses_the_probe_too() {
        let (probes, now) = (probes(), Instant::now() + EVERY);
        let stream = watched(&probes, "a");
        probes.turn(now - SECOND, |_| false);
        probes.turn(now, |_| false);
        assert!(hear(&stream).is_some());
        run(&probes, now, now + 2 * SECOND);
        // Stopped from the first second on.
        let now = now + WITHIN + Duration::from_millis(900);
        assert_eq!((probes.turn(now, |_| true), probes.ended()), (Some(now + LATE), 0));
        run(&probes, now, now + WITHIN);
        assert_eq!((probes.turn(now + WITHIN, |_| true), probes.ended()), (None, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_while_a_stream_is_ended_costs_the_others_nothing() {
        let (probes, now) = (probes(), Instant::now() + EVERY);
        let _streams = ["a", "b"].map(|id| watched(&probes, id));
        probes.turn(now - SECOND, |_| false);
        probes.turn(now, |_| false);
        run(&probes, now, now + WITHIN);
        let calls = Cell::new(0);
        let end = |_: Probed| {
            calls.set(calls.get() + 1);
            panic!("a stream of the inner manager")
        };
        assert_eq!(probes.turn(now + WITHIN, end), None);
        assert_eq!((calls.get(), probes.ended(), kept(&probes)), (2, 2, (0, 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_is_woken_for_the_first_stream_only() {
        use futures_util::FutureExt;
        let (probes, mut streams) = (probes(), Vec::new());
        let told = [(); 2].map(|()| {
            streams.push(watched(&probes, "id"));
            probes.sooner.notified().now_or_never().is_some()
        });
        assert_eq!(told, [true, false]);
    }
}
