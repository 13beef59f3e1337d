//! What the registry and the policies know of one incarnation of a session.

use std::fmt;
#[cfg(feature = "metrics")]
use std::sync::atomic::AtomicU8;
use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rmcp::transport::streamable_http_server::session::SessionId;
use tokio::time::Instant;

use super::entry::Entry;
use super::fingerprint::Fingerprint;
use super::key::SessionKey;
use super::kind::ActivityKind;
use super::origin::{Gap, History, Origin};
use super::requests::{ActivityId, Requests};
use super::returns::{self, Return};
use super::signals::Signals;
use super::software::Software;
use super::state::Phase;
use super::stream::Stream;
use crate::lazy_notify::LazyNotify;
use crate::sync::{AtomicU32, AtomicU64, MutexGuard, UncheckedU32};
use crate::timestamp::Timestamp;

/// How long a half-open session is kept at least for the next step of its handshake, once `initialize` was answered.
///
/// Without it, an arrival could take the place of a session in the moment between the answer and the `initialized` of
/// its client.
const NEXT_STEP: Duration = Duration::from_millis(100);

/// An object that contains a record. The registry keeps such objects, so that a session is one object in memory.
pub(crate) trait Recorded {
    fn record(&self) -> &Record;
}

impl Recorded for Record {
    fn record(&self) -> &Record {
        self
    }
}

/// What the registry and the policies know of one incarnation of a session.
///
/// Every field that a request changes is atomic, or behind a lock of this session only.
///
/// The record lives as long as anything holds the session, so it may be read after the session is gone.
// `repr(C)` keeps this order, so that a look-up finds all it reads within one or two cache lines.
#[repr(C)]
pub(crate) struct Record {
    /// What a handle has too.
    pub(crate) entry: Entry,
    /// A credential. Logs and `Debug` show the [`Fingerprint`] in its place (L12).
    pub(crate) id: SessionId,
    /// Whether this is a later incarnation. It does not count against the share of half-open sessions.
    pub(crate) restored: bool,
    /// How often this process has restored it, at most 65,535. It takes the room between its neighbours.
    pub(crate) restores: u16,
    /// Which of the client software that the metrics know it is. The begin of its `initialize` sets it.
    #[cfg(feature = "metrics")]
    pub(crate) client: AtomicU8,
    /// Calls so far, in all incarnations. The parking forgets sessions without any first. It and `last_gap` are written
    /// only under the lock of the requests, so loom need not model them.
    calls: UncheckedU32,
    /// How long the session was idle before its latest call but the first, as a [`Gap`].
    last_gap: UncheckedU32,
    /// How many streams the client holds open by GET, the resumed streams of requests included.
    open_streams: AtomicU32,
    /// When the last stream was lost; zero if there was none.
    stream_lost: AtomicU64,
    /// When a ping or a listener was last seen. Together with `last_used` it gives the moment *last seen*.
    last_heard: AtomicU64,
    /// When `initialize` was answered; until then, when the incarnation began. The end of the handshake's activity sets
    /// it.
    answered: AtomicU64,
    /// Set by the `initialize` of the client, or by its replay.
    pub(crate) software: OnceLock<Software>,
    /// Notified at each step of the handshake and of the close. A task that waits for a step waits on this.
    pub(crate) progress: LazyNotify,
}

impl Record {
    /// Makes the record of an incarnation that begins now. Counts a new session in among the half-open ones.
    pub(crate) fn new(key: SessionKey, origin: Origin, created: Timestamp, signals: Arc<Signals>) -> Self {
        if !origin.restored {
            signals.opening.fetch_add(1, SeqCst);
        }
        Self {
            restored: origin.restored,
            restores: origin.restores,
            #[cfg(feature = "metrics")]
            client: AtomicU8::new(0),
            software: OnceLock::new(),
            last_heard: AtomicU64::new(origin.history.last_seen.0),
            answered: AtomicU64::new(created.0),
            open_streams: AtomicU32::new(0),
            calls: UncheckedU32::new(origin.history.calls),
            last_gap: UncheckedU32::new(origin.history.last_gap.0),
            stream_lost: AtomicU64::new(origin.history.stream_lost.map_or(0, |at| at.0)),
            progress: LazyNotify::default(),
            id: SessionId::clone(&origin.id),
            entry: Entry::new(key, origin, created, signals),
        }
    }

    /// A copy that shows the session as it is now, whatever happens to it later. It is no session: no registry has it.
    pub(crate) fn copy(&self) -> Self {
        Self {
            restored: self.restored,
            restores: self.restores,
            #[cfg(feature = "metrics")]
            client: AtomicU8::new(self.client.load(Relaxed)),
            software: self.software.clone(),
            last_heard: AtomicU64::new(self.last_heard.load(Relaxed)),
            answered: AtomicU64::new(self.answered.load(Relaxed)),
            open_streams: AtomicU32::new(self.open_streams.load(SeqCst)),
            calls: UncheckedU32::new(self.calls()),
            last_gap: UncheckedU32::new(self.last_gap().0),
            stream_lost: AtomicU64::new(self.stream_lost.load(SeqCst)),
            progress: LazyNotify::default(),
            id: SessionId::clone(&self.id),
            entry: self.entry.copy(),
        }
    }

    /// Reads what a policy reads of a session, so that it is in the cache afterwards: one number for each cache line of the
    /// record, and the first byte of the client's name.
    pub(crate) fn bring_into_cache(&self) -> u64 {
        let name = self.software.get().and_then(|software| software.name().bytes().next());
        self.entry.uses() ^ self.stream_lost.load(Relaxed) ^ u64::from(name.unwrap_or_default())
    }

    /// When anything last came from the client.
    pub(crate) fn last_seen(&self) -> Timestamp {
        self.entry.last_used().max(Timestamp(self.last_heard.load(Relaxed)))
    }

    /// Requests of its client, in all incarnations, that hosts do not make by themselves.
    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Relaxed)
    }

    /// How long the session was idle before its latest call. None before its second call.
    pub(crate) fn last_gap(&self) -> Gap {
        Gap(self.last_gap.load(Relaxed))
    }

    /// Whether its client listens.
    pub(crate) fn stream(&self) -> Stream {
        match (self.open_streams(), self.stream_lost.load(SeqCst)) {
            (0, 0) => Stream::Never,
            (0, lost) => Stream::Lost(Timestamp(lost).instant()),
            _ => Stream::Open,
        }
    }

    /// What the session did until now. A stream that is open is lost at `now`, because this incarnation ends.
    pub(crate) fn history(&self, now: Instant) -> History {
        let lost = match self.stream() {
            Stream::Never => None,
            Stream::Open => Some(Timestamp::at(now)),
            Stream::Lost(at) => Some(Timestamp::at(at)),
        };
        History {
            opened: self.entry.opened,
            last_used: self.entry.last_used(),
            last_seen: self.last_seen(),
            uses: self.entry.uses(),
            calls: self.calls(),
            last_gap: self.last_gap(),
            stream_lost: lost,
        }
    }

    pub(crate) fn open_streams(&self) -> usize {
        self.open_streams.load(SeqCst) as usize
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.id)
    }

    /// Moves the moment that an activity of this kind counts for, at its begin or at its end.
    ///
    /// | kind | moment |
    /// | --- | --- |
    /// | use, message, handshake, work | last used |
    /// | ping, listening stream | last heard |
    /// | replay, hold | none, because nothing came from the client |
    ///
    /// The guard shows that the caller holds the lock of the requests. Two writers would otherwise lose a moment.
    fn touch(&self, kind: ActivityKind, at: Timestamp, locked: &MutexGuard<'_, Requests>) {
        if kind.moves_last_used() {
            self.entry.touch(at, locked);
        } else if matches!(kind, ActivityKind::Ping | ActivityKind::Listen) {
            // A thread may read the time before another thread and take the lock after it.
            self.last_heard.store(self.last_heard.load(Relaxed).max(at.0), Relaxed);
        }
    }

    /// Begins an activity, unless the session is closing.
    ///
    /// The state word counts it first, so no claim succeeds from then on. The moments follow under the lock of the
    /// requests. A use or a ping finishes the handshake.
    pub(crate) fn begin(&self, kind: ActivityKind, now: Instant) -> Option<ActivityId> {
        self.entry.state.begin().then(|| self.note_begin(self.entry.lock_requests(), None, kind, Timestamp::of(now)))
    }

    /// Turns an activity into one that begins now, unless the session is closing.
    ///
    /// On `None` nothing has changed, and the activity is still in progress. The caller ends it.
    pub(crate) fn convert(
        &self,
        from: (ActivityKind, ActivityId),
        kind: ActivityKind,
        now: Instant,
    ) -> Option<ActivityId> {
        // Take the lock before the compare-and-swap. A claim that loaded the old word fails its compare-and-swap; a
        // claim that loads the new word waits for this lock and then reads the new start time. `begin` needs no such
        // order, because it changes the count of activities, which a conversion leaves unchanged.
        let requests = self.entry.lock_requests();
        self.entry.state.convert().then(|| self.note_begin(requests, Some(from), kind, Timestamp::of(now)))
    }

    /// Records the begin of an activity, which may replace another one.
    ///
    /// Counts a use, sets the mark, and finishes the handshake where the kind does so. Releases the lock before that,
    /// because to finish the handshake tells the manager.
    fn note_begin(
        &self,
        mut requests: MutexGuard<'_, Requests>,
        instead: Option<(ActivityKind, ActivityId)>,
        kind: ActivityKind,
        at: Timestamp,
    ) -> ActivityId {
        let first_call = kind.is_use() && self.note_use(kind, at, &requests);
        self.touch(kind, at, &requests);
        requests.working += u32::from(kind.moves_last_used());
        if let Some((from, activity)) = instead {
            requests.working -= u32::from(from.moves_last_used());
            requests.end(activity);
        }
        let activity = requests.begin(at);
        drop(requests);
        if kind.is_use() || kind == ActivityKind::Ping {
            self.ready();
        }
        if first_call {
            self.entry.reached_milestone();
        }
        activity
    }

    /// Counts a use, and tells of it if it ends an idle period that a policy wants to hear of. Returns whether it is the
    /// first call. Called before the use moves any moment.
    fn note_use(&self, kind: ActivityKind, at: Timestamp, locked: &MutexGuard<'_, Requests>) -> bool {
        let is_idle = locked.working == 0;
        let idle = if is_idle { at.since(self.entry.last_used()) } else { Duration::ZERO };
        if let Some(comings) = self.entry.signals.comings.get()
            && idle > returns::SHORTEST
        {
            let (calls, last_gap) = (self.calls(), self.last_gap());
            let returned = Return { key: self.entry.key, idle, calls, last_gap, stream: self.stream() };
            if comings.returned.push(returned).is_err() {
                comings.missed.fetch_add(1, Relaxed);
            }
        }
        self.entry.count_use(locked);
        if kind != ActivityKind::Call {
            return false;
        }
        let before = self.calls();
        if before > 0 {
            self.last_gap.store(Gap::of(idle).0, Relaxed);
        }
        self.calls.store(before.saturating_add(1), Relaxed);
        before == 0
    }

    /// Ends an activity, and tells those that wait for it.
    ///
    /// - The moments move before the count does, so a reader that finds no activity also finds the moment of the last
    ///   one.
    /// - If the session is watched, the registry looks at it again, and the arrivals that wait for a place are woken.
    /// - If the session is closing, the task that closes it is woken at each end.
    /// - If no activity is left, the arrivals look at a half-open session again, and a drain may close the session.
    pub(crate) fn end(&self, kind: ActivityKind, activity: ActivityId) {
        self.end_at(kind, activity, Instant::now());
    }

    /// Ends an activity at this moment. See [`end`](Self::end).
    pub(crate) fn end_at(&self, kind: ActivityKind, activity: ActivityId, now: Instant) {
        let at = Timestamp::of(now);
        if kind == ActivityKind::Handshake {
            self.answered.store(at.0, Relaxed);
        }
        let mut requests = self.entry.lock_requests();
        self.touch(kind, at, &requests);
        requests.working -= u32::from(kind.moves_last_used());
        requests.end(activity);
        drop(requests);
        let (reading, watched) = self.entry.state.end();
        if watched {
            self.entry.signals.changed.push(self.entry.key);
            self.entry.signals.evictable.notify_waiters();
        }
        // The end of a session does not wait for all activities, so it is notified of each end.
        if reading.phase() == Phase::Closing {
            self.progress.notify_waiters();
        }
        if reading.active() == 0 {
            if reading.phase() == Phase::Opening {
                self.entry.signals.evictable.notify_waiters();
            }
            if self.entry.signals.draining.load(SeqCst) {
                self.entry.signals.calm.notify_waiters();
            }
        }
    }

    /// When `initialize` was answered; before that, when the session was created.
    pub(crate) fn answered(&self) -> Timestamp {
        Timestamp(self.answered.load(Relaxed))
    }

    /// Until when a half-open session is kept for what its client says to the answer to its `initialize`. `None` as
    /// long as no `initialize` came: there is no answer that the client could react to.
    pub(crate) fn next_step_until(&self) -> Option<Instant> {
        self.software.get().map(|_| Timestamp(self.answered.load(Relaxed)).instant() + NEXT_STEP)
    }

    /// Finishes the handshake.
    ///
    /// Does so once. A closing session and a ready one do not change. The registry hears of it if it watches the
    /// session.
    pub(crate) fn ready(&self) {
        if self.entry.state.read().phase() == Phase::Opening && self.entry.state.ready() {
            self.left_opening();
            self.entry.has_changed();
        }
    }

    /// Counts the session out of the half-open ones.
    ///
    /// Called by the one caller that moved the state on: by `State::ready`, `State::close` or `State::close_if`. A
    /// restored session was not counted in.
    pub(crate) fn left_opening(&self) {
        if !self.restored {
            self.entry.signals.opening.fetch_sub(1, SeqCst);
            self.entry.signals.evictable.notify_waiters();
        }
    }

    /// Counts a stream in that the client opened by GET. It is no activity, so it does not protect the session by
    /// itself.
    pub(crate) fn stream_opened(&self) {
        self.open_streams.fetch_add(1, SeqCst);
        self.entry.has_changed();
        self.entry.reached_milestone();
    }

    /// Counts such a stream out. Until then the client listened, so the session is seen now.
    pub(crate) fn stream_closed(&self, now: Instant) {
        let at = Timestamp::of(now);
        self.touch(ActivityKind::Listen, at, &self.entry.lock_requests());
        // Before the count, so that whatever finds no stream finds the moment.
        self.stream_lost.fetch_max(at.0, SeqCst);
        self.open_streams.fetch_sub(1, SeqCst);
        self.entry.has_changed();
        self.entry.reached_milestone();
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("session", &self.fingerprint())
            .field("key", &self.entry.key)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;
    use crate::eviction::Lru;
    use crate::registry::test_registry::{TestRegistry, begin, call};
    use crate::registry::{Choice, Rules, test_registry};
    use crate::session::Activity;

    /// Acts as a request that ends after a session is judged busy and before it is watched.
    #[tokio::test(start_paused = true)]
    async fn a_request_that_ends_before_the_mark_is_seen_by_the_second_look() {
        let ending = Arc::new(Mutex::new(None::<Activity<Record>>));
        let taken = Arc::clone(&ending);
        // The predicate is called once the session is known to be ready. Its first call ends the request for which it
        // protects the session.
        let protect = Arc::new(move |_: &crate::eviction::SessionInfo<'_>| taken.lock().unwrap().take().is_some());
        let rules = Rules { protect: Some(protect), max_busy: Duration::ZERO, ..test_registry::lenient() };
        let mut stage = TestRegistry::with(Lru::new(), rules, usize::MAX);
        let one = stage.ready();
        *ending.lock().unwrap() = Some(call(&one));
        assert_eq!((stage.victim(), stage.registry.overruled), (Some(1), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_ends_after_the_mark_tells_of_itself() {
        let mut stage = TestRegistry::new(Lru::new());
        let one = stage.ready();
        let busy = call(&one);
        assert_eq!((stage.victim(), stage.signals.changed.len()), (None, 0));
        drop(busy);
        assert_eq!(stage.signals.changed.len(), 1);
        assert_eq!(stage.victim(), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_hosts_do_by_themselves_is_a_use_and_no_call() {
        let mut stage = TestRegistry::new(Lru::new());
        let one = stage.opening();
        for kind in [
            ActivityKind::Handshake,
            ActivityKind::Message,
            ActivityKind::Ping,
            ActivityKind::Listen,
            ActivityKind::Replay,
            ActivityKind::Hold,
        ] {
            drop(begin(&one, kind));
            assert_eq!((one.entry.uses(), one.calls()), (0, 0), "{kind:?}");
        }
        drop(begin(&one, ActivityKind::List));
        assert_eq!((one.entry.uses(), one.calls(), one.entry.is_marked()), (1, 0, true));
        assert_eq!(one.entry.state.read().phase(), Phase::Ready);
        drop(begin(&one, ActivityKind::Call));
        assert_eq!((one.entry.uses(), one.calls()), (2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_is_renewed_leaves_an_idle_session_behind() {
        let mut stage = TestRegistry::new(Lru::new());
        let one = stage.ready();
        drop(call(&one));
        let work = begin(&one, ActivityKind::Work).unwrap();
        let renewed = work.turn_into(ActivityKind::Work, Instant::now()).unwrap();
        tokio::time::advance(Duration::from_secs(5)).await;
        drop(call(&one));
        assert_eq!(one.last_gap().duration(), Some(Duration::ZERO), "at work");
        drop(renewed);
        tokio::time::advance(Duration::from_secs(5)).await;
        drop(call(&one));
        assert_eq!(one.last_gap().duration(), Some(Duration::from_secs(5)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_becomes_a_request_is_a_use_and_protects_from_then_on() {
        let rules = Rules { max_busy: Duration::from_secs(60), ..test_registry::lenient() };
        let mut stage = TestRegistry::with(Lru::new(), rules, usize::MAX);
        let one = stage.ready();
        let (first, second) = (begin(&one, ActivityKind::Hold).unwrap(), begin(&one, ActivityKind::Hold).unwrap());
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(one.entry.uses(), 0);
        let call = first.turn_into(ActivityKind::Call, Instant::now()).unwrap();
        assert_eq!((one.entry.uses(), one.entry.state.read().active()), (1, 2));
        assert!(one.entry.last_used() >= Timestamp::at(Instant::now()));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(stage.victim(), None, "the call is younger than a minute");
        drop(second);
        one.entry.state.close();
        assert!(call.turn_into(ActivityKind::Call, Instant::now()).is_none(), "nothing begins once the end has");
        assert_eq!(one.entry.state.read().active(), 0);
    }

    /// Clients call without a pause while victims are chosen. Then all stop, and every session must be found.
    #[test]
    fn no_end_of_a_request_is_lost() {
        const CLIENTS: usize = 4;
        for _ in 0..5 {
            let mut stage = TestRegistry::new(Lru::new());
            let crowd: Vec<_> = (0..8).map(|_| stage.ready()).collect();
            let stop = AtomicBool::new(false);
            let mut gone = 0;
            thread::scope(|scope| {
                for client in 0..CLIENTS {
                    let (crowd, stop) = (&crowd, &stop);
                    scope.spawn(move || {
                        for nth in client.. {
                            if stop.load(SeqCst) {
                                break;
                            }
                            drop(begin(&crowd[nth % crowd.len()], ActivityKind::Call));
                        }
                    });
                }
                let mut begun_too_late = false;
                for _ in 0..300 {
                    // Half of the sessions stay for the end of the test.
                    if gone < crowd.len() / 2
                        && let Choice::Victim(record, _) = stage.choose()
                    {
                        begun_too_late |= begin(&record, ActivityKind::Call).is_some();
                        stage.registry.remove(record.entry.key);
                        gone += 1;
                    }
                    thread::yield_now();
                }
                stop.store(true, SeqCst);
                assert!(!begun_too_late, "nothing begins once the end has");
            });
            let before = stage.registry.overruled;
            assert_eq!(stage.victims().len(), crowd.len() - gone);
            assert_eq!(stage.registry.overruled, before, "the policy finds each by itself");
            assert!(crowd.iter().all(|record| record.entry.state.read().active() == 0));
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Waker};

    use loom::{model, thread};
    use tokio::sync::futures::Notified;

    use super::*;
    use crate::eviction::Fifo;
    use crate::registry::test_registry::{TestRegistry, begin, call, lenient};
    use crate::registry::{Choice, Rules};
    use crate::session::Activity;
    use crate::sync::Notify;

    /// Creates a registry with one session, after its handshake.
    fn ready() -> (TestRegistry, Arc<Record>) {
        let mut stage = TestRegistry::new(Fifo::new());
        let record = stage.ready();
        (stage, record)
    }

    /// Runs `act` on a thread of its own.
    fn beside<T: 'static>(
        record: &Arc<Record>,
        act: impl FnOnce(&Arc<Record>) -> T + 'static,
    ) -> thread::JoinHandle<T> {
        let record = Arc::clone(record);
        thread::spawn(move || act(&record))
    }

    /// Whether `bell` has notified since `listening` was created.
    fn has_rung(bell: &Notify, listening: Pin<&mut Notified<'_>>) -> bool {
        // A step on the `Notify`, so that loom tries this before and after each notification.
        drop(bell.notified());
        listening.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Waits until `bell` has notified, or `ringer` has ended. Fails if it has not notified by then.
    fn wait(bell: &Notify, mut listening: Pin<&mut Notified<'_>>, ringer: &mut Option<thread::JoinHandle<()>>) {
        if !has_rung(bell, listening.as_mut()) {
            ringer.take().unwrap().join().unwrap();
            assert!(has_rung(bell, listening));
        }
    }

    #[test]
    fn either_a_victim_is_chosen_or_its_request_begins() {
        model(|| {
            let (mut stage, record) = ready();
            let request = beside(&record, |record| begin(record, ActivityKind::Call));
            let victim = stage.victim();
            let request = request.join().unwrap();
            assert_ne!(victim.is_some(), request.is_some());
            assert_eq!(record.entry.state.read().active(), usize::from(request.is_some()));
            drop(request);
            assert_ne!(victim.is_some(), stage.victim().is_some(), "suspended, and resumed");
            assert_eq!(stage.registry.overruled, 0);
        });
    }

    #[test]
    fn a_request_that_ends_beside_a_choice_is_seen_by_it_or_rings_for_another() {
        model(|| {
            let (mut stage, record) = ready();
            let busy = call(&record);
            let mut end = Some(thread::spawn(move || drop(busy)));
            let signals = Arc::clone(&stage.signals);
            let mut freed = pin!(signals.evictable.notified());
            freed.as_mut().enable();
            if stage.victim().is_none() {
                wait(&signals.evictable, freed, &mut end);
                assert_eq!(stage.victim(), Some(1));
            }
            end.into_iter().for_each(|end| end.join().unwrap());
            assert_eq!(stage.registry.overruled, 0);
        });
    }

    #[test]
    fn a_handshake_that_ends_beside_a_choice_is_seen_by_it_or_rings_for_another() {
        model(|| {
            let mut stage = TestRegistry::with(Fifo::new(), lenient(), 1);
            let record = stage.opening();
            let busy = begin(&record, ActivityKind::Handshake).unwrap();
            let mut end = Some(thread::spawn(move || drop(busy)));
            let signals = Arc::clone(&stage.signals);
            let mut handshake = pin!(signals.evictable.notified());
            handshake.as_mut().enable();
            let choice = stage.choose();
            if !matches!(choice, Choice::Victim(..)) {
                assert!(matches!(choice, Choice::Handshakes));
                wait(&signals.evictable, handshake, &mut end);
                assert_eq!(stage.victim(), Some(1));
            }
            end.into_iter().for_each(|end| end.join().unwrap());
            assert_eq!(signals.opening.load(SeqCst), 0);
        });
    }

    #[test]
    fn a_half_open_session_that_is_chosen_or_becomes_ready_is_counted_out_once() {
        model(|| {
            let mut stage = TestRegistry::with(Fifo::new(), lenient(), 1);
            let record = stage.opening();
            let mut ready = Some(beside(&record, |record| record.ready()));
            let signals = Arc::clone(&stage.signals);
            let mut handshake = pin!(signals.evictable.notified());
            handshake.as_mut().enable();
            if stage.victim().is_none() {
                // The session is no longer half-open, but counts as half-open for a moment.
                wait(&signals.evictable, handshake, &mut ready);
                assert_eq!(stage.victim(), Some(1));
            }
            ready.into_iter().for_each(|ready| ready.join().unwrap());
            assert_eq!(signals.opening.load(SeqCst), 0);
        });
    }

    #[test]
    fn a_half_open_session_that_is_closed_or_becomes_ready_is_counted_out_once() {
        model(|| {
            let mut stage = TestRegistry::new(Fifo::new());
            let record = stage.opening();
            let request = beside(&record, |record| begin(record, ActivityKind::Ping));
            let initialized = beside(&record, |record| record.ready());
            // As the manager does.
            if record.entry.state.close() == Some(Phase::Opening) {
                record.left_opening();
            }
            drop(request.join().unwrap());
            initialized.join().unwrap();
            assert_eq!(stage.signals.opening.load(SeqCst), 0);
        });
    }

    #[test]
    fn whoever_waits_for_the_last_end_of_a_closing_session_is_told() {
        model(|| {
            let (_stage, record) = ready();
            // Holds change no counts of the session, and so leave fewer interleavings.
            let old = begin(&record, ActivityKind::Hold);
            let old = thread::spawn(move || drop(old));
            let new = beside(&record, |record| drop(begin(record, ActivityKind::Hold)));
            record.entry.state.close();
            // As `Session::until` does.
            let mut step = pin!(record.progress.notified());
            step.as_mut().enable();
            let waits = record.entry.state.read().active() > 0;
            old.join().unwrap();
            new.join().unwrap();
            assert!(!waits || step.poll(&mut Context::from_waker(Waker::noop())).is_ready());
            assert_eq!(record.entry.state.read().active(), 0);
        });
    }

    #[test]
    fn a_lease_that_becomes_a_request_holds_its_session_all_the_while() {
        model(|| {
            let (mut stage, record) = ready();
            let lease = begin(&record, ActivityKind::Hold).unwrap();
            let request = thread::spawn(move || lease.turn_into(ActivityKind::Call, Instant::now()));
            assert_eq!(stage.victim(), None);
            drop(request.join().unwrap().unwrap());
            assert_eq!(stage.victim(), Some(1), "suspended, and resumed");
        });
    }

    #[test]
    fn whoever_drains_is_told_of_the_last_end() {
        model(|| {
            let (stage, record) = ready();
            let busy = call(&record);
            let end = thread::spawn(move || drop(busy));
            // As `drain` does.
            stage.signals.draining.store(true, SeqCst);
            let mut calm = pin!(stage.signals.calm.notified());
            calm.as_mut().enable();
            let waits = record.entry.state.read().active() > 0;
            end.join().unwrap();
            assert!(!waits || has_rung(&stage.signals.calm, calm));
        });
    }

    #[test]
    fn a_claim_of_a_session_with_an_old_request_overlooks_no_new_one() {
        model(|| {
            let rules = Rules { max_busy: Duration::ZERO, ..lenient() };
            let (mut stage, record) = ready();
            stage.registry.rules = rules;
            let hung = call(&record);
            let long_ago = Instant::now();
            let request = beside(&record, move |record| {
                Activity::begin(record, ActivityKind::Call, long_ago + Duration::from_secs(60))
            });
            let claimed = stage.registry.claim(record.entry.key, long_ago + Duration::from_secs(1)).is_ok();
            assert_ne!(claimed, request.join().unwrap().is_some());
            drop(hung);
        });
    }

    #[test]
    fn nor_does_it_overlook_an_old_lease_that_becomes_one() {
        model(|| {
            let (mut stage, record) = ready();
            stage.registry.rules = Rules { max_busy: Duration::ZERO, ..lenient() };
            let lease = begin(&record, ActivityKind::Hold).unwrap();
            let now = Instant::now() + Duration::from_secs(1);
            let request = thread::spawn(move || lease.turn_into(ActivityKind::Call, now + Duration::from_secs(60)));
            let claimed = stage.registry.claim(record.entry.key, now).is_ok();
            assert_ne!(claimed, request.join().unwrap().is_some());
        });
    }

    #[test]
    fn whoever_sees_that_a_request_has_ended_sees_when() {
        model(|| {
            let (_stage, record) = ready();
            let busy = call(&record);
            let end = thread::spawn(move || drop(busy));
            let seen =
                (record.entry.state.read().active() == 0).then(|| (record.entry.last_used(), record.last_seen()));
            end.join().unwrap();
            assert!(seen.is_none_or(|seen| seen == (record.entry.last_used(), record.last_seen())));
        });
    }

    #[test]
    fn whoever_sees_that_a_handshake_is_answered_sees_when() {
        model(|| {
            let mut stage = TestRegistry::new(Fifo::new());
            let record = stage.opening();
            record.software.set(Software::new("one", "1")).unwrap();
            let busy = begin(&record, ActivityKind::Handshake).unwrap();
            let end = thread::spawn(move || drop(busy));
            let seen = (record.entry.state.read().active() == 0).then(|| record.answered.load(Relaxed));
            end.join().unwrap();
            assert!(seen.is_none_or(|seen| seen == record.answered.load(Relaxed)));
        });
    }
}
