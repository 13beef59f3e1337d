//! The listening streams of parked sessions: bounded, one a session.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rmcp::transport::streamable_http_server::session::SessionId;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::listener::{Listener, Listening, Rest};
use super::session::Session;
use super::stream::GovernedStream;

/// The streams that stay open while their sessions are parked, until the next incarnation or the end of the parking.
///
/// A stream is here from the moment its session is parked, or it is opened, until it is joined to an incarnation, its
/// client hangs up, or the parking ends. Being here is its slot.
pub(crate) struct HeldStreams<T> {
    most: usize,
    list: Mutex<List<T>>,
    /// Rung when there is an earlier deadline than the earliest so far.
    sooner: Arc<Notify>,
}

struct List<T> {
    streams: HashMap<SessionId, Held<T>>,
    /// Slots of streams that are about to be opened.
    reserved: usize,
    /// When each parking ends by itself, earliest first.
    deadlines: BTreeSet<(Instant, SessionId)>,
    /// Whether no stream is held any more.
    closed: bool,
}

struct Held<T> {
    listener: Weak<Listener<T>>,
    until: Option<Instant>,
}

impl<T> List<T> {
    fn has_room(&self, most: usize) -> bool {
        !self.closed && self.streams.len() + self.reserved < most
    }

    fn remove(&mut self, id: &SessionId) -> Option<Arc<Listener<T>>> {
        let Held { listener, until } = self.streams.remove(id)?;
        if let Some(until) = until {
            self.deadlines.remove(&(until, SessionId::clone(id)));
        }
        listener.upgrade()
    }

    fn is(&self, id: &SessionId, listener: &Arc<Listener<T>>) -> bool {
        self.streams.get(id).is_some_and(|held| std::ptr::eq(held.listener.as_ptr(), Arc::as_ptr(listener)))
    }
}

impl<T> HeldStreams<T> {
    pub(crate) fn new(most: usize, sooner: Arc<Notify>) -> Self {
        let list = List { streams: HashMap::new(), reserved: 0, deadlines: BTreeSet::new(), closed: false };
        Self { most, list: Mutex::new(list), sooner }
    }

    fn lock(&self) -> MutexGuard<'_, List<T>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().streams.len()
    }

    pub(crate) fn contains(&self, id: &SessionId) -> bool {
        self.lock().streams.contains_key(id)
    }

    /// Holds the newest of the streams of a session that is parked, if there is room for it. The others end.
    pub(crate) fn hold(&self, id: &SessionId, listeners: Vec<Arc<Listener<T>>>) {
        let mut is_held = false;
        for listener in listeners.into_iter().rev() {
            listener.sever();
            let rest = if is_held { None } else { self.insert(id, &listener) };
            is_held |= rest.is_some();
            drop(rest.unwrap_or_else(|| (listener.release(), None)));
        }
    }

    /// Puts a stream on the list, in place of the session's present one. `None` if there is no room, or the stream is over.
    fn insert(&self, id: &SessionId, listener: &Arc<Listener<T>>) -> Option<(Rest<T>, Option<Rest<T>>)> {
        let mut list = self.lock();
        if !list.streams.contains_key(id) && !list.has_room(self.most) {
            return None;
        }
        let rest = listener.hold()?;
        let older = list.remove(id).map(|older| older.release());
        list.streams.insert(SessionId::clone(id), Held { listener: Arc::downgrade(listener), until: None });
        Some((rest, older))
    }

    /// Ends the stream of a session whose parking has ended, or by which it cannot go on.
    pub(crate) fn end(&self, id: &SessionId) {
        let ended = self.lock().remove(id);
        drop(ended.map(|listener| listener.release()));
    }

    /// Ends all of them, and holds none from now on.
    pub(crate) fn close(&self) {
        let ended: Vec<_> = {
            let mut list = self.lock();
            list.closed = true;
            list.deadlines.clear();
            list.streams.drain().filter_map(|(_, held)| held.listener.upgrade()).collect()
        };
        ended.iter().for_each(|listener| drop(listener.release()));
    }

    /// Joins the stream of a session that comes back to its new incarnation. The slot is free from then on.
    pub(crate) fn join(&self, session: &Session<T>, stream: GovernedStream<T>) {
        let id = &session.record.id;
        let mut list = self.lock();
        // Noted in the session under this lock: should the session end meanwhile, its end holds the stream again or, having
        // found nothing to hold, has left it here.
        let listener = list.streams.get(id).and_then(|held| held.listener.upgrade());
        let joined = match listener {
            Some(listener) if session.listen(&listener) => {
                drop(list.remove(id));
                listener.join(stream)
            }
            _ => Err(stream),
        };
        drop(list);
        drop(joined);
    }

    /// Reserves the slot for the stream of a parked session, which may be the one of its present stream.
    pub(crate) fn reserve(self: &Arc<Self>, id: &SessionId) -> Option<Reserved<T>> {
        let mut list = self.lock();
        let takes_slot = !list.streams.contains_key(id);
        if takes_slot && !list.has_room(self.most) {
            return None;
        }
        list.reserved += usize::from(takes_slot);
        drop(list);
        Some(Reserved { held: Arc::clone(self), id: SessionId::clone(id), takes_slot })
    }

    /// Sets when the parking ends by itself.
    pub(crate) fn set_deadline(&self, id: &SessionId, until: Instant) {
        let mut list = self.lock();
        let List { streams, deadlines, .. } = &mut *list;
        let Some(held) = streams.get_mut(id) else { return };
        if let Some(before) = held.until.replace(until) {
            deadlines.remove(&(before, SessionId::clone(id)));
        }
        let sooner = deadlines.first().is_none_or(|(earliest, _)| until < *earliest);
        deadlines.insert((until, SessionId::clone(id)));
        drop(list);
        if sooner {
            self.sooner.notify_one();
        }
    }

    /// Gives a session whose parking may have ended by itself, or when the next one's ends.
    pub(crate) fn next_deadline(&self, now: Instant) -> Result<SessionId, Option<Instant>> {
        let mut list = self.lock();
        let List { streams, deadlines, .. } = &mut *list;
        match deadlines.first() {
            Some((until, _)) if now < *until => Err(Some(*until)),
            Some(_) => {
                let (_, id) = deadlines.pop_first().ok_or(None)?;
                if let Some(held) = streams.get_mut(&id) {
                    held.until = None;
                }
                Ok(id)
            }
            None => Err(None),
        }
    }

    /// Takes a stream off the list; false if it is not on it.
    pub(super) fn forget(&self, id: &SessionId, listener: &Arc<Listener<T>>) -> bool {
        let mut list = self.lock();
        let is_here = list.is(id, listener);
        let forgotten = if is_here { list.remove(id) } else { None };
        drop(list);
        drop(forgotten);
        is_here
    }
}

/// A slot for the stream of a parked session; its drop gives it back.
pub(crate) struct Reserved<T> {
    held: Arc<HeldStreams<T>>,
    id: SessionId,
    takes_slot: bool,
}

impl<T> Reserved<T> {
    pub(crate) fn is_of(&self, held: &Arc<HeldStreams<T>>, id: &SessionId) -> bool {
        Arc::ptr_eq(&self.held, held) && self.id == *id
    }

    /// Opens the stream, in place of the session's present one. `None` if that has gone meanwhile, and the stream of another
    /// session has its slot.
    pub(crate) fn open(mut self) -> Option<Listening<T>> {
        let listener = Listener::held();
        let rest = {
            let mut list = self.held.lock();
            list.reserved -= usize::from(std::mem::take(&mut self.takes_slot));
            drop(list);
            self.held.insert(&self.id, &listener)?
        };
        drop(rest);
        Some(Listening::new(listener, Arc::clone(&self.held), SessionId::clone(&self.id)))
    }
}

impl<T> Drop for Reserved<T> {
    fn drop(&mut self) {
        if self.takes_slot {
            self.held.lock().reserved -= 1;
        }
    }
}
