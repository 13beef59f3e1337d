//! The listening streams of parked sessions: at most one per session, and a bounded number of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rmcp::transport::streamable_http_server::session::SessionId;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::listener::{IncarnationStream, Listener, Rest};
use super::session::Session;
use crate::session::SessionOrigin;

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
pub(crate) struct HeldStreams {
    most: usize,
    /// The limit of live sessions, which is also the limit of streams in transit.
    places: usize,
    list: Mutex<List>,
    /// Notified when the earliest deadline becomes earlier.
    sooner: Arc<Notify>,
}

struct List {
    streams: HashMap<SessionOrigin, Held>,
    /// How many of the streams are in transit.
    in_transit: usize,
    /// Sessions that are being restored, with a slot for their stream.
    coming_back: BTreeSet<SessionOrigin>,
    /// Sessions that were never called, with a slot for their stream.
    uncalled: BTreeSet<SessionOrigin>,
    /// The number of slots reserved for streams that are about to be opened.
    reserved: usize,
    /// The sessions with a lifetime, by the end of it, earliest first.
    deadlines: BTreeMap<(Instant, SessionOrigin), SessionId>,
    /// Whether the list is closed and holds no stream any more.
    closed: bool,
}

struct Held {
    listener: Weak<Listener>,
    until: Option<Instant>,
    called: bool,
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
    fn has_room(&self, most: usize) -> bool {
        !self.closed && self.len() + self.reserved < most
    }

    fn len(&self) -> usize {
        self.streams.len() - self.in_transit
    }

    /// Takes the slot of a session that is being restored.
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
    fn end_uncalled(&mut self) -> Option<Rest> {
        let session = self.uncalled.pop_first()?;
        self.remove(session).map(|listener| listener.release())
    }

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

    fn has(&self, session: SessionOrigin, listener: &Arc<Listener>) -> bool {
        self.streams.get(&session).is_some_and(|held| ptr::eq(held.listener.as_ptr(), Arc::as_ptr(listener)))
    }
}

impl HeldStreams {
    pub(crate) fn new(most: usize, places: usize, sooner: Arc<Notify>) -> Self {
        let list = List {
            streams: HashMap::new(),
            in_transit: 0,
            coming_back: BTreeSet::new(),
            uncalled: BTreeSet::new(),
            reserved: 0,
            deadlines: BTreeMap::new(),
            closed: false,
        };
        Self { most, places, list: Mutex::new(list), sooner }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many slots are taken.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(crate) fn has(&self, session: SessionOrigin) -> bool {
        self.lock().streams.contains_key(&session)
    }

    /// Holds the newest stream of a session that is being parked, if there is room. The others end.
    pub(crate) fn hold(&self, session: &ParkedSession, listeners: Vec<Arc<Listener>>) {
        let mut is_held = false;
        for listener in listeners.into_iter().rev() {
            listener.sever();
            let rest = if is_held { None } else { self.insert(session, &listener, self.places) };
            is_held |= rest.is_some();
            drop(rest.unwrap_or_else(|| (listener.release(), None)));
        }
    }

    /// Puts a stream on the list, in place of the session's present one. `None` if there is no room, or the stream has
    /// ended.
    pub(super) fn insert(
        &self,
        session: &ParkedSession,
        listener: &Arc<Listener>,
        places: usize,
    ) -> Option<(Rest, Option<Rest>)> {
        let ParkedSession { id, origin, until, called } = session;
        // Dropped after the lock.
        let mut _ended = None;
        let mut list = self.lock();
        let has_slot = list.streams.get(origin).is_some_and(|held| !held.in_transit);
        if !has_slot && !list.has_room(self.most) {
            list.make_room(places);
            if *called && !list.has_room(self.most) {
                _ended = list.end_uncalled();
            }
            if !list.has_room(self.most) {
                return None;
            }
        }
        let rest = listener.hold()?;
        let older = list.remove(*origin).map(|older| older.release());
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
    pub(crate) fn end(&self, session: SessionOrigin) {
        let ended = self.lock().remove(session);
        drop(ended.map(|listener| listener.release()));
    }

    /// Ends all streams, and holds none from now on.
    pub(crate) fn close(&self) {
        let ended: Vec<_> = {
            let mut list = self.lock();
            list.closed = true;
            list.deadlines.clear();
            list.coming_back.clear();
            list.uncalled.clear();
            list.in_transit = 0;
            list.streams.drain().filter_map(|(_, held)| held.listener.upgrade()).collect()
        };
        ended.iter().for_each(|listener| drop(listener.release()));
    }

    /// Records that a session with a stream is being restored.
    pub(crate) fn comes_back(&self, session: SessionOrigin) {
        let mut list = self.lock();
        if list.streams.get(&session).is_some_and(|held| !held.in_transit) {
            list.coming_back.insert(session);
        }
    }

    /// Records that a session stays parked. If its stream is in transit and there is no room for it, the stream ends.
    pub(crate) fn stays(&self, session: SessionOrigin) {
        // Dropped after the lock.
        let mut _uncalled = None;
        let mut list = self.lock();
        list.coming_back.remove(&session);
        let Some(Held { called, in_transit: true, .. }) = list.streams.get(&session) else { return };
        if *called && !list.has_room(self.most) {
            _uncalled = list.end_uncalled();
        }
        let has_room = list.has_room(self.most);
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
        drop(list);
        drop(ended.map(|listener| listener.release()));
    }

    /// Joins the stream of a restored session to its new incarnation, and frees its slot.
    pub(super) fn join<T>(&self, session: &Session<T>, stream: Box<dyn IncarnationStream>) {
        let origin = session.record.serial;
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
    pub(super) fn take_slot(&self, session: &ParkedSession) -> Option<bool> {
        // Dropped after the lock.
        let mut _ended = None;
        let mut list = self.lock();
        let takes_slot = list.streams.get(&session.origin).is_none_or(|held| held.in_transit);
        if takes_slot && session.called && !list.has_room(self.most) {
            _ended = list.end_uncalled();
        }
        if takes_slot && !list.has_room(self.most) {
            return None;
        }
        list.reserved += usize::from(takes_slot);
        drop(list);
        Some(takes_slot)
    }

    /// Gives such a slot back.
    pub(super) fn give_slot_back(&self) {
        self.lock().reserved -= 1;
    }

    /// Takes a session that is past its lifetime, or returns when the next lifetime ends.
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

    /// Removes a stream from the list. Returns false if it is not in the list.
    pub(super) fn remove(&self, session: SessionOrigin, listener: &Arc<Listener>) -> bool {
        let mut list = self.lock();
        let is_here = list.has(session, listener);
        let removed = if is_here { list.remove(session) } else { None };
        drop(list);
        drop(removed);
        is_here
    }
}
