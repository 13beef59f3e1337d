//! The listening streams of parked sessions: at most one per session, and a bounded number of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rmcp::transport::streamable_http_server::session::{ServerSseMessage, SessionId};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::listener::{IncarnationStream, Listener, Rest};
use super::probes::{Probed, Probes};
use super::session::Session;
use crate::session::{Fingerprint, SessionOrigin};

/// How many streams are ended in one hold of the lock when the limit is lowered.
const AT_ONCE: usize = 1_000;

/// The list of streams that stay open while their sessions are parked, until the next incarnation or the end of the
/// parking.
///
/// A stream is in the list from the moment at which its session is parked, or the stream is opened, until it is joined
/// to an incarnation, its client hangs up, or the parking ends. Each stream in the list has a slot, with one exception.
/// If a session is parked and no slot is free, the stream of a session that is being restored passes its slot to the
/// parked one. It is then *in transit*, because its session is about to get a place. So as many clients as there are
/// places and slots together keep their streams.
///
/// If there are more, the oldest session that never called loses its slot to one that has called. So sessions that only
/// listen cannot take the streams of the others.
///
/// The list has the listeners weakly, so the hang-up of a client leaves nothing behind. Its lock is the one under which
/// a listener goes from the list to a session or back. Under it the locks of a listener and of a session's belongings
/// may be taken. What ends or wakes a stream ([`Rest`]) is dropped after it.
pub(crate) struct HeldStreams {
    list: Mutex<List>,
    /// The probes of all listening streams, of live sessions too. `None` if they are off.
    probes: Option<Probes>,
    /// Notified when the earliest deadline becomes earlier. It wakes the lifecycle task.
    sooner: Arc<Notify>,
}

/// The streams that a list has ended, of which the clients have not read the end.
#[derive(Debug)]
pub(crate) struct Unread(mpsc::Receiver<Infallible>);

impl Unread {
    /// Waits until each client has read the end, or has hung up.
    pub(crate) async fn read(mut self) {
        self.0.recv().await;
    }
}

/// What the lock guards.
struct List {
    /// How many slots there are: the setting `max_parked_streams`.
    most: usize,
    /// The limit of live sessions, which is also the limit of streams in transit.
    places: usize,
    /// The streams by their session, in transit or not.
    streams: HashMap<SessionOrigin, Held>,
    /// How many of the streams are in transit.
    in_transit: usize,
    /// Sessions that are being restored, with a slot for their stream. The oldest passes its slot on first.
    coming_back: BTreeSet<SessionOrigin>,
    /// Sessions that were never called, with a slot for their stream. The oldest loses its slot first.
    uncalled: BTreeSet<SessionOrigin>,
    /// The number of slots reserved for streams that are about to be opened.
    reserved: usize,
    /// The sessions with a lifetime, by the end of it, earliest first.
    deadlines: BTreeMap<(Instant, SessionOrigin), SessionId>,
    /// How long clients should wait before they reconnect, once a drain has begun. From then on the list takes the stream of
    /// each session that is parked, so there are as many as sessions, and no new ones.
    ending: Option<Duration>,
    /// The same, of sessions that go to other servers before the drain.
    moving: Option<Duration>,
    /// Whether the list is closed and holds no stream any more. A drain closes it, and so does the end of the manager.
    closed: bool,
}

/// A stream in the list.
struct Held {
    /// Weak, because the client's end owns it.
    listener: Weak<Listener>,
    /// When the lifetime of its session ends. `None` without a lifetime, and once it has been taken as overdue.
    until: Option<Instant>,
    /// Whether its client has called: then it may take a slot from one that has not.
    called: bool,
    /// Whether it is without a slot, because its session is about to get a place.
    in_transit: bool,
}

/// What the list has to know of a parked session.
#[derive(Clone)]
pub(crate) struct ParkedSession {
    pub(crate) id: SessionId,
    pub(crate) origin: SessionOrigin,
    /// When its lifetime ends.
    pub(crate) until: Option<Instant>,
    /// Whether its client has called.
    pub(crate) called: bool,
}

impl List {
    /// Whether a slot is free that is not reserved.
    fn has_room(&self) -> bool {
        !self.closed && self.ending.is_none() && self.len() + self.reserved < self.most
    }

    /// What clients hear before the end of a stream.
    fn last_word(&self) -> Option<ServerSseMessage> {
        self.ending.or(self.moving).map(ServerSseMessage::retry)
    }

    /// How many streams have a slot.
    fn len(&self) -> usize {
        self.streams.len() - self.in_transit
    }

    /// Takes the slot of a session that is being restored.
    ///
    /// Its stream is in transit from then on. Does nothing if there is no such session, or `places` streams are in
    /// transit already.
    fn make_room(&mut self, places: usize) {
        if self.in_transit < places
            && let Some(session) = self.coming_back.pop_first()
            && let Some(held) = self.streams.get_mut(&session)
        {
            held.in_transit = true;
            self.in_transit += 1;
            self.uncalled.remove(&session);
        }
    }

    /// Takes the slot of the oldest session that never called, and ends its stream.
    ///
    /// `None` if there is no such session. The caller drops what is returned after the lock, and then the client reads
    /// the end.
    fn end_uncalled(&mut self) -> Option<Rest> {
        let session = self.uncalled.pop_first()?;
        let last = self.last_word();
        self.remove(session).map(|listener| listener.release(last))
    }

    /// The sessions that lose their slots first if there are fewer slots, [`AT_ONCE`] at most.
    fn beyond(&self, most: usize) -> Vec<SessionOrigin> {
        let surplus = self.len().saturating_sub(most).min(AT_ONCE);
        let mut beyond: Vec<_> = self.uncalled.iter().take(surplus).copied().collect();
        if beyond.len() < surplus {
            let has_called = |(_, held): &(&SessionOrigin, &Held)| held.called && !held.in_transit;
            let mut called: Vec<_> = self.streams.iter().filter(has_called).map(|(session, _)| *session).collect();
            called.sort_unstable();
            beyond.extend(called.into_iter().take(surplus - beyond.len()));
        }
        beyond
    }

    /// Takes a stream out of the list and all that the list notes of it. Returns its listener, unless the client has
    /// hung up.
    fn remove(&mut self, session: SessionOrigin) -> Option<Arc<Listener>> {
        let Held { listener, until, in_transit, called: _ } = self.streams.remove(&session)?;
        self.in_transit -= usize::from(in_transit);
        self.coming_back.remove(&session);
        self.uncalled.remove(&session);
        if let Some(until) = until {
            self.deadlines.remove(&(until, session));
        }
        listener.upgrade()
    }

    /// Whether the session's stream in the list is this one.
    fn has(&self, session: SessionOrigin, listener: &Arc<Listener>) -> bool {
        self.streams.get(&session).is_some_and(|held| ptr::eq(held.listener.as_ptr(), Arc::as_ptr(listener)))
    }
}

impl HeldStreams {
    pub(crate) fn new(most: usize, places: usize, sooner: Arc<Notify>) -> Self {
        let list = List {
            most,
            places,
            streams: HashMap::new(),
            in_transit: 0,
            coming_back: BTreeSet::new(),
            uncalled: BTreeSet::new(),
            reserved: 0,
            deadlines: BTreeMap::new(),
            ending: None,
            moving: None,
            closed: false,
        };
        Self { list: Mutex::new(list), probes: None, sooner }
    }

    /// Sets the probes of the streams.
    pub(crate) fn with_probes(self, probes: Option<Probes>) -> Self {
        Self { probes, ..self }
    }

    /// The probes of the streams. `None` if they are off.
    pub(crate) const fn probes(&self) -> Option<&Probes> {
        self.probes.as_ref()
    }

    /// Probes a stream from now on, if probes are on.
    pub(super) fn watch(&self, listener: &Arc<Listener>, id: &SessionId, origin: SessionOrigin) {
        if let Some(probes) = &self.probes {
            probes.watch(listener, id, origin);
        }
    }

    /// Probes the streams that are due, and ends those of clients that did not answer. Returns when there is more to do.
    pub(crate) fn probe(&self, now: Instant) -> Option<Instant> {
        self.probes.as_ref()?.turn(now, |probed| self.give_up(&probed))
    }

    /// Ends the stream of a client that did not answer, as if the client had hung up. Returns false if it is over already.
    fn give_up(&self, probed: &Probed) -> bool {
        let Some(listener) = probed.listener.upgrade() else { return false };
        let Some((was_held, rest)) = listener.give_up() else { return false };
        if was_held {
            self.remove(probed.origin, &listener);
        }
        tracing::debug!(session = %Fingerprint::of(&probed.id), "a client did not answer on its listening stream, which ends");
        // Last, because it runs code of the inner manager, which may panic.
        drop(rest);
        true
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the number of slots and that of live sessions. Returns whether no more slots are taken than there are; if not,
    /// this has ended [`AT_ONCE`] streams: those of clients that never called first, and then the oldest.
    pub(crate) fn set_limits(&self, most: usize, places: usize) -> bool {
        let mut list = self.lock();
        (list.most, list.places) = (most, places);
        if list.closed || list.ending.is_some() {
            return true;
        }
        let (last, beyond) = (list.last_word(), list.beyond(most));
        let fits = beyond.len() < AT_ONCE || list.len() - beyond.len() <= most;
        let ended: Vec<_> = beyond.into_iter().filter_map(|session| list.remove(session)).collect();
        drop(list);
        ended.into_iter().for_each(|listener| drop(listener.release(last.clone())));
        fits
    }

    /// Changes when the lifetime of a session ends. It has an effect if the session has a stream here.
    pub(crate) fn set_until(&self, session: SessionOrigin, id: &SessionId, until: Option<Instant>) {
        let mut list = self.lock();
        let List { streams, deadlines, .. } = &mut *list;
        let Some(held) = streams.get_mut(&session) else { return };
        if let Some(before) = std::mem::replace(&mut held.until, until) {
            deadlines.remove(&(before, session));
        }
        if let Some(until) = until {
            deadlines.insert((until, session), SessionId::clone(id));
            self.sooner.notify_one();
        }
    }

    /// How many slots are taken by streams. Reserved slots do not count.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether a slot is free now.
    pub(crate) fn has_room(&self) -> bool {
        self.lock().has_room()
    }

    /// Whether the session has a stream in the list. Its client may have hung up just now.
    pub(crate) fn has(&self, session: SessionOrigin) -> bool {
        self.lock().streams.contains_key(&session)
    }

    /// Holds the newest stream of a session that is being parked, if there is room. The others end.
    ///
    /// `listeners` are the open ones, the newest last. The manager calls this before the session is parked, so that the
    /// end of the parking finds the stream.
    pub(crate) fn hold(&self, session: &ParkedSession, listeners: Vec<Arc<Listener>>) {
        let mut is_held = false;
        for listener in listeners.into_iter().rev() {
            listener.sever();
            let rest = if is_held { None } else { self.insert(session, &listener, true) };
            is_held |= rest.is_some();
            drop(rest.unwrap_or_else(|| (listener.release(self.lock().last_word()), None)));
        }
    }

    /// Puts a stream on the list, in place of the session's present one. `None` if there is no room, or the stream has
    /// ended.
    ///
    /// `passes_on`: whether a stream that is about to leave the list may pass its slot on to it.
    ///
    /// Returns what wakes the stream, and what ends the present one. The caller drops both, when no lock is held.
    pub(super) fn insert(
        &self,
        session: &ParkedSession,
        listener: &Arc<Listener>,
        passes_on: bool,
    ) -> Option<(Rest, Option<Rest>)> {
        let ParkedSession { id, origin, until, called } = session;
        // Dropped after the lock.
        let mut _ended = None;
        let mut list = self.lock();
        // Its slot would be taken from another session for nothing.
        if listener.is_over() || list.closed {
            return None;
        }
        let has_slot = list.ending.is_some() || list.streams.get(origin).is_some_and(|held| !held.in_transit);
        if !has_slot && !list.has_room() {
            let places = list.places;
            list.make_room(if passes_on { places } else { 0 });
            if *called && !list.has_room() {
                _ended = list.end_uncalled();
            }
            if !list.has_room() {
                return None;
            }
        }
        let rest = listener.hold()?;
        let last = list.last_word();
        let older = list.remove(*origin).map(|older| older.release(last));
        let held = Held { listener: Arc::downgrade(listener), until: *until, called: *called, in_transit: false };
        list.streams.insert(*origin, held);
        if !called {
            list.uncalled.insert(*origin);
        }
        if let Some(until) = *until {
            let is_sooner = list.deadlines.first_key_value().is_none_or(|((earliest, _), _)| until < *earliest);
            list.deadlines.insert((until, *origin), SessionId::clone(id));
            if is_sooner {
                self.sooner.notify_one();
            }
        }
        Some((rest, older))
    }

    /// Ends the stream of a session that has ended for good, or a stream that cannot continue.
    ///
    /// Each way out of the parking comes here. A session without a stream in the list costs one look-up.
    pub(crate) fn end(&self, session: SessionOrigin) {
        let (ended, last) = {
            let mut list = self.lock();
            (list.remove(session), list.last_word())
        };
        drop(ended.map(|listener| listener.release(last)));
    }

    /// Ends the streams of a session that is not parked.
    ///
    /// Those that are open end when the inner manager ends them, and held ones at once.
    pub(crate) fn end_all(&self, listeners: &[Arc<Listener>]) {
        let last = self.lock().last_word();
        listeners.iter().for_each(|listener| drop(listener.release(last.clone())));
    }

    /// Tells the clients of all streams that end from now on when to reconnect.
    pub(crate) fn move_away(&self, reconnect_after: Duration) {
        self.lock().moving = Some(reconnect_after);
    }

    /// Begins a drain: reserves no slot any more, but holds the stream of each session that is parked from now on, until
    /// the list is [closed](Self::close). The clients of all streams that end from now on are told when to reconnect.
    pub(crate) fn end_last(&self, reconnect_after: Duration) {
        self.lock().ending = Some(reconnect_after);
    }

    /// Ends all streams, and holds none from now on. Returns what tells when the clients have read the end.
    ///
    /// Reserved slots are still given back later.
    pub(crate) fn close(&self) -> Unread {
        let last;
        let ended: Vec<_> = {
            let mut list = self.lock();
            last = list.last_word();
            list.closed = true;
            list.deadlines.clear();
            list.coming_back.clear();
            list.uncalled.clear();
            list.in_transit = 0;
            list.streams.drain().filter_map(|(_, held)| held.listener.upgrade()).collect()
        };
        // One message is never sent: the receiver hears when all senders are dropped.
        let (sender, receiver) = mpsc::channel(1);
        for listener in &ended {
            listener.note_unread(&sender);
            drop(listener.release(last.clone()));
        }
        Unread(receiver)
    }

    /// Records that a session with a stream is being restored.
    ///
    /// Called when its restore pins it. From then on its stream may pass its slot on to that of a victim.
    pub(crate) fn comes_back(&self, session: SessionOrigin) {
        let mut list = self.lock();
        if list.streams.get(&session).is_some_and(|held| !held.in_transit) {
            list.coming_back.insert(session);
        }
    }

    /// Records that a session stays parked. If its stream is in transit and there is no room for it, the stream ends.
    ///
    /// Called when its restore is given up, or its new incarnation has ended before the join. A stream of a session
    /// that has called may take a slot from one that has not.
    pub(crate) fn stays(&self, session: SessionOrigin) {
        // Dropped after the lock.
        let mut _uncalled = None;
        let mut list = self.lock();
        list.coming_back.remove(&session);
        let Some(Held { called, in_transit: true, .. }) = list.streams.get(&session) else { return };
        if *called && !list.has_room() {
            _uncalled = list.end_uncalled();
        }
        let has_room = list.ending.is_some() || list.has_room();
        let List { streams, in_transit, uncalled, .. } = &mut *list;
        let Some(held) = streams.get_mut(&session) else { return };
        let ended = if has_room {
            held.in_transit = false;
            *in_transit -= 1;
            if !held.called {
                uncalled.insert(session);
            }
            None
        } else {
            list.remove(session)
        };
        let last = list.last_word();
        drop(list);
        drop(ended.map(|listener| listener.release(last)));
    }

    /// Joins the stream of a restored session to its new incarnation, and frees its slot.
    ///
    /// Called before the handler hears that it is initialized, so the client misses nothing that the handler says. If
    /// there is no stream in the list, or the incarnation has ended, the new stream is dropped.
    pub(super) fn join<T>(&self, session: &Session<T>, stream: Box<dyn IncarnationStream>) {
        let origin = session.record.entry.serial;
        let mut list = self.lock();
        let listener = list.streams.get(&origin).and_then(|held| held.listener.upgrade());
        let joined = match &listener {
            // The session records the listener under this lock. If the session ends meanwhile, its end either finds the
            // listener and holds it again after the join, or came before and left the stream in this list.
            Some(listener) if session.listen(listener) => {
                drop(list.remove(origin));
                listener.join(stream)
            }
            _ => Err(stream),
        };
        drop(list);
        drop((joined, listener));
    }

    /// Takes a slot for the stream of a parked session, unless its present stream has one. `None` if there is no room.
    ///
    /// Otherwise returns whether the caller holds a slot of its own now, and has to give it back.
    pub(super) fn take_slot(&self, session: &ParkedSession) -> Option<bool> {
        // Dropped after the lock.
        let mut _ended = None;
        let mut list = self.lock();
        let takes_slot = list.streams.get(&session.origin).is_none_or(|held| held.in_transit);
        if takes_slot && session.called && !list.has_room() {
            _ended = list.end_uncalled();
        }
        if takes_slot && !list.has_room() {
            return None;
        }
        list.reserved += usize::from(takes_slot);
        drop(list);
        Some(takes_slot)
    }

    /// Gives a slot back that [`take_slot`](Self::take_slot) reserved.
    pub(super) fn give_slot_back(&self) {
        self.lock().reserved -= 1;
    }

    /// Takes a session that is past its lifetime, or returns when the next lifetime ends.
    ///
    /// Each deadline is returned once. The stream stays in the list: the caller ends the parking of the session, and
    /// with it the stream.
    ///
    /// # Errors
    ///
    /// `Err(Some(at))` if none is over its lifetime before that moment, and `Err(None)` if no session in the list has
    /// one.
    pub(crate) fn next_overdue(&self, now: Instant) -> Result<SessionId, Option<Instant>> {
        let mut list = self.lock();
        let List { streams, deadlines, .. } = &mut *list;
        let Some(earliest) = deadlines.first_entry() else { return Err(None) };
        let (until, origin) = *earliest.key();
        if now < until {
            return Err(Some(until));
        }
        if let Some(held) = streams.get_mut(&origin) {
            held.until = None;
        }
        Ok(earliest.remove())
    }

    /// Removes a stream from the list, but does not end it. Returns false if it is not in the list: it was joined, is
    /// over, or another stream has replaced it.
    pub(super) fn remove(&self, session: SessionOrigin, listener: &Arc<Listener>) -> bool {
        let mut list = self.lock();
        let is_here = list.has(session, listener);
        let removed = if is_here { list.remove(session) } else { None };
        drop(list);
        drop(removed);
        is_here
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parked(called: bool) -> ParkedSession {
        ParkedSession { id: "id".into(), origin: SessionOrigin::allocate(), until: None, called }
    }

    /// Makes a list with one slot, and holds a stream of a session in it.
    fn full(places: usize, session: &ParkedSession) -> (HeldStreams, Arc<Listener>) {
        let held = HeldStreams::new(1, places, Arc::default());
        let listener = Listener::held();
        held.hold(session, vec![Arc::clone(&listener)]);
        assert_eq!((held.len(), listener.is_over()), (1, false));
        (held, listener)
    }

    fn over() -> Arc<Listener> {
        let listener = Listener::held();
        drop(listener.hang_up());
        listener
    }

    #[test]
    fn a_stream_that_is_over_takes_no_slot_from_a_session_that_never_called() {
        let (uncalled, caller) = (parked(false), parked(true));
        let (held, listener) = full(0, &uncalled);
        held.hold(&caller, vec![over()]);
        assert_eq!((held.len(), listener.is_over(), held.has(caller.origin)), (1, false, false));
        held.hold(&caller, vec![Listener::held()]);
        assert_eq!(
            (held.len(), listener.is_over(), held.has(caller.origin)),
            (1, true, true),
            "a stream that is open does"
        );
    }

    #[test]
    fn the_end_of_a_drain_is_read_once_each_client_has_heard_the_last_word() {
        use std::task::{Context, Poll, Waker};

        let (held, listener) = full(0, &parked(true));
        let another = Listener::held();
        held.end_last(Duration::from_secs(7));
        held.hold(&parked(false), vec![over(), Arc::clone(&another)]);
        assert_eq!(held.len(), 2, "one slot more");
        assert!(!held.has_room());
        let mut cx = Context::from_waker(Waker::noop());
        let mut read = std::pin::pin!(held.close().read());
        for listener in [listener, another] {
            assert!(read.as_mut().poll(&mut cx).is_pending());
            let Poll::Ready(Some(last)) = listener.poll_next(&mut cx) else { panic!("nothing is heard") };
            assert!(last.message.is_none() && last.event_id.is_none());
            assert_eq!(last.retry, Some(Duration::from_secs(7)));
            assert!(read.as_mut().poll(&mut cx).is_pending());
            assert!(matches!(listener.poll_next(&mut cx), Poll::Ready(None)));
        }
        assert!(read.as_mut().poll(&mut cx).is_ready());
        let late = Listener::held();
        held.hold(&parked(true), vec![Arc::clone(&late)]);
        assert!(matches!(late.poll_next(&mut cx), Poll::Ready(Some(_))), "told as well");
        assert!(matches!(late.poll_next(&mut cx), Poll::Ready(None)));
        assert_eq!(held.len(), 0);
    }

    #[test]
    fn a_stream_that_is_over_takes_no_slot_from_a_session_that_is_being_restored() {
        let (restored, victim) = (parked(true), parked(true));
        let (held, listener) = full(1, &restored);
        held.comes_back(restored.origin);
        held.hold(&victim, vec![over()]);
        assert_eq!((held.len(), held.lock().in_transit), (1, 0));
        held.hold(&victim, vec![Listener::held()]);
        assert_eq!(
            (held.len(), held.lock().in_transit, listener.is_over()),
            (1, 1, false),
            "a stream that is open does"
        );
    }

    #[test]
    fn a_lower_limit_ends_the_streams_of_clients_that_never_called_first_and_1000_at_a_time() {
        let held = HeldStreams::new(3_000, 0, Arc::default());
        let hold = |called| {
            let (session, listener) = (parked(called), Listener::held());
            held.hold(&session, vec![Arc::clone(&listener)]);
            listener
        };
        let callers: Vec<_> = (0..1_500).map(|_| hold(true)).collect();
        let others: Vec<_> = (0..1_500).map(|_| hold(false)).collect();
        assert!(!held.set_limits(1_000, 0), "there is more to do");
        assert_eq!(held.len(), 2_000);
        assert!(held.set_limits(1_000, 0));
        assert!(others.iter().all(|listener| listener.is_over()));
        assert!(callers[..500].iter().all(|listener| listener.is_over()), "and then the oldest");
        assert_eq!((held.len(), held.has_room()), (1_000, false));
        assert!(held.set_limits(1_001, 0) && held.has_room());
        assert!(!callers[500].is_over());
    }

    #[test]
    fn the_end_of_a_lifetime_moves() {
        let session = parked(true);
        let (held, _listener) = full(0, &session);
        let now = Instant::now();
        let at = |secs| now + Duration::from_secs(secs);
        for secs in [9, 3] {
            held.set_until(session.origin, &session.id, Some(at(secs)));
            assert_eq!(held.next_overdue(now), Err(Some(at(secs))));
        }
        held.set_until(session.origin, &session.id, None);
        assert_eq!(held.next_overdue(at(99)), Err(None));
        held.set_until(SessionOrigin::allocate(), &session.id, Some(at(1)));
        assert_eq!(held.next_overdue(at(99)), Err(None), "it holds no stream of that one");
    }
}
