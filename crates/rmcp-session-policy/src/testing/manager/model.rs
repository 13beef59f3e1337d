//! The model: the settings of the manager under test, where each of its sessions should be, and which may be evicted.

use std::time::Duration;

use tokio::time::Instant;

use super::answer::{Answer, Told};
use crate::session::Fingerprint;

/// The capacity. It is small, so that a short history fills the server.
pub(super) const PLACES: usize = 3;
/// The most parked sessions, few enough that some are pushed out.
pub(super) const PARKED: usize = 4;
/// Half-open sessions that may hold places, by default.
const OPENING: usize = 1;
/// The idle timeout. Less than the hour of [`Event::Hour`](super::Event::Hour), which therefore parks every idle session.
pub(super) const IDLE: Duration = Duration::from_secs(30 * 60);
/// The timeout of handshakes. An hour is longer than that too.
pub(super) const INIT: Duration = Duration::from_secs(20 * 60);
/// The lifetime of a session. It ends at no full hour and at no full timeout, so that it rarely comes together with
/// another deadline.
pub(super) const LIFETIME: Duration = Duration::from_secs(5 * 60 * 60 + 123);
/// Between two events. More than any wait within the manager, and than a half-open session is kept from newcomers.
pub(super) const STEP: Duration = Duration::from_secs(2);
/// How long before the time of a session comes no event happens: an event may take as long, and could see the time come
/// or not.
const BEFORE: Duration = Duration::from_secs(3);
/// How late a timer may be.
const LATE: Duration = Duration::from_millis(10);

/// What an order of victims may go by. Moments are numbers of events: a later event has a higher number.
#[derive(Clone, Copy, Debug)]
pub struct Who {
    /// When this incarnation came. A restore counts as coming.
    pub came: usize,
    /// When the session was used last: opened, called, told that it is initialized, or told of a cancel.
    pub used: usize,
}

/// `None` if every session that may go may be the victim.
pub(super) type Order = Option<fn(&Who) -> usize>;

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Live and half-open.
    Opening,
    /// Live, with its handshake finished.
    Ready,
    /// Parked, by the parking with this number, counted from the beginning. The lowest number was parked longest.
    Parked(usize),
    /// Parked until this event, which may bring it back: it keeps its room.
    ComingBack,
    /// It is over and does not come back: its client is told that it was not found.
    Dead,
}

/// A session as the model has it.
#[derive(Debug)]
pub(super) struct Session {
    /// As the client got it. It stays the same through restores.
    pub(super) id: String,
    /// Where it should be now.
    pub(super) place: Place,
    /// When its first incarnation came. Its lifetime counts from here.
    opened: Instant,
    /// When this incarnation came.
    created: Instant,
    /// What an order of victims may go by.
    who: Who,
    /// When its client made its last request or notification. The idle timeout counts from here.
    seen: Instant,
    /// Whether its client made a request that hosts do not make by themselves.
    pub(super) called: bool,
    /// Its calls without an answer: their number, and the response unless the client hung up.
    pub(super) calls: Vec<(u64, Option<Answer>)>,
}

impl Session {
    /// Whether its lifetime has ended, counted over all incarnations.
    pub(super) fn is_over_age(&self) -> bool {
        Instant::now() >= self.opened + LIFETIME
    }

    /// Whether it holds a place.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.place, Place::Opening | Place::Ready)
    }
}

/// The model: what should be, and nothing else.
#[derive(Debug)]
pub(super) struct Model {
    /// How the victim is found.
    order: Order,
    /// Every session there ever was. None is removed, so numbers in events stay valid.
    pub(super) sessions: Vec<Session>,
    /// How many events there were, which is the time of [`Who`].
    pub(super) events: usize,
    /// How often a session was parked, which is the number of the last parking.
    parkings: usize,
}

impl Model {
    /// A server without sessions.
    pub(super) const fn new(order: Order) -> Self {
        Self { order, sessions: Vec::new(), events: 0, parkings: 0 }
    }

    /// Counts over all sessions, dead ones included.
    pub(super) fn count(&self, is: impl Fn(&Session) -> bool) -> usize {
        self.sessions.iter().filter(|session| is(session)).count()
    }

    /// Returns the place in the list of the session with the lowest number among those that pass.
    fn least(&self, is: impl Fn(&Session) -> bool, by: impl Fn(&Session) -> usize) -> Option<usize> {
        (0..self.sessions.len()).filter(|nth| is(&self.sessions[*nth])).min_by_key(|nth| by(&self.sessions[*nth]))
    }

    /// Makes room for one more, as the manager must have done: a session that is not `here` any more was the victim.
    ///
    /// Parks the victim. Returns false if the server is full and no session may go, so the arrival must have been
    /// rejected. While half-open sessions hold their share or more, the oldest of them is the victim, whatever the
    /// policy says. Returns an error if no session is gone though one might have been evicted.
    pub(super) fn make_room(&mut self, here: &[Fingerprint]) -> Result<bool, String> {
        if self.count(Session::is_live) < PLACES {
            return Ok(true);
        }
        let opening = |session: &Session| session.place == Place::Opening;
        let victim = if self.count(opening) >= OPENING {
            self.least(opening, |session| session.who.came)
        } else {
            let may_go = |session: &Session| session.place == Place::Ready && session.calls.is_empty();
            let is_gone = |session: &Session| !here.contains(&Fingerprint::of(&session.id));
            let gone = self.least(|session| may_go(session) && is_gone(session), |session| session.who.used);
            match self.order {
                Some(order) => self.least(may_go, |session| order(&session.who)),
                None if gone.is_none() => {
                    hold!(self.count(may_go) == 0, "no session had to go, though one might: {:?}", self.sessions);
                    None
                }
                None => gone,
            }
        };
        Ok(victim.map(|victim| self.park(victim)).is_some())
    }

    /// Parks a session; if that is one too many, the one parked longest is forgotten: of those that never called, if
    /// there are any.
    pub(super) fn park(&mut self, nth: usize) {
        self.parkings += 1;
        self.sessions[nth].place = Place::Parked(self.parkings);
        let parked = |session: &Session| matches!(session.place, Place::Parked(_));
        if self.count(parked) > PARKED {
            let by = |session: &Session| if let Place::Parked(parking) = session.place { parking } else { usize::MAX };
            let uncalled = |session: &Session| parked(session) && !session.called;
            if let Some(oldest) = self.least(uncalled, by).or_else(|| self.least(parked, by)) {
                self.sessions[oldest].place = Place::Dead;
            }
        }
    }

    /// Adds a session that was opened now.
    pub(super) fn open(&mut self, id: String, place: Place) {
        let now = Instant::now();
        let who = Who { came: self.events, used: self.events };
        self.sessions.push(Session {
            id,
            place,
            opened: now,
            created: now,
            seen: now,
            called: false,
            who,
            calls: Vec::new(),
        });
    }

    /// Notes that the client uses its session now.
    pub(super) fn touch(&mut self, nth: usize) {
        self.sessions[nth].who.used = self.events;
        self.sessions[nth].seen = Instant::now();
    }

    /// Sends a request to its session, which may be restored for it. Returns what the client is told.
    ///
    /// A restore needs room like a creation, and its victim is parked after the session has left the parking. `here`
    /// are the sessions that live after the event.
    pub(super) fn reach(&mut self, nth: usize, here: &[Fingerprint]) -> Result<Told, String> {
        let place = self.sessions[nth].place;
        match place {
            Place::Dead => return Ok(Told::NotFound),
            // It may stay among the parked until the next request for it.
            Place::Parked(_) if self.sessions[nth].is_over_age() => {
                self.sessions[nth].place = Place::Dead;
                return Ok(Told::NotFound);
            }
            Place::Parked(_) => {
                self.sessions[nth].place = Place::ComingBack;
                if !self.make_room(here)? {
                    self.park(nth);
                    return Ok(Told::Refused);
                }
                self.sessions[nth].place = Place::Ready;
                self.sessions[nth].created = Instant::now();
                self.sessions[nth].who.came = self.events;
            }
            Place::Opening | Place::Ready | Place::ComingBack => {}
        }
        self.touch(nth);
        Ok(Told::Answer)
    }

    /// When a session's time is over, and whether it is parked then. `None` for a session without a deadline: parked
    /// ones are looked at only when a request comes.
    fn due(session: &Session) -> Option<(Instant, bool)> {
        let lifetime = session.opened + LIFETIME;
        let other = match session.place {
            // Its client was answered, so it may come back.
            Place::Opening => (session.created + INIT, true),
            Place::Ready if session.calls.is_empty() => (session.seen + IDLE, true),
            Place::Ready => return Some((lifetime, false)),
            Place::Parked(_) | Place::ComingBack | Place::Dead => return None,
        };
        Some(if lifetime <= other.0 { (lifetime, false) } else { other })
    }

    /// Whether the time of a session comes soon, or came just now. No event happens then, since the order of the two
    /// would be left to chance.
    pub(super) fn is_someones_time(&self) -> bool {
        let now = Instant::now();
        let comes = |session: &Session| match session.place {
            Place::Dead => None,
            Place::Parked(_) => Some(session.opened + LIFETIME),
            _ => Self::due(session).map(|(at, _)| at),
        };
        self.sessions.iter().filter_map(comes).any(|at| at < now + BEFORE && now < at + LATE)
    }

    /// Time has passed: parks or ends the sessions whose time is over, the earliest first.
    pub(super) fn time_passes(&mut self) {
        let due = |session: &Session| Self::due(session).filter(|(at, _)| *at <= Instant::now());
        while let Some((_, nth)) =
            self.sessions.iter().enumerate().filter_map(|(nth, session)| Some((due(session)?.0, nth))).min()
        {
            match due(&self.sessions[nth]) {
                Some((_, true)) => self.park(nth),
                _ => self.sessions[nth].place = Place::Dead,
            }
        }
    }
}
