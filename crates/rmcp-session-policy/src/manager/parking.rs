//! The parking: sessions without a place, which their next request restores.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashlink::LinkedHashMap;
use rmcp::transport::streamable_http_server::session::SessionId;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ended_for_good::{Ends, Gone};
use super::final_ends::FinalEnds;
use super::parked::Parked;
use super::parking_state::{Came, Limits, ParkingState};
use crate::context::ClientContext;
use crate::data::Values;
use crate::directory::Ownership;
use crate::observe::CloseReason;
use crate::session::SessionOrigin;
use crate::transport::{Flag, Session};

/// The parked sessions, and the ids that must not be restored.
pub(super) struct Parking {
    /// Whether rmcp uses our store. If it uses another one, only the manager knows which ids have ended for good.
    ours: AtomicBool,
    state: Mutex<Lot>,
    /// Ids that were ended for good, oldest first.
    tombstones: Mutex<LinkedHashMap<SessionId, ()>>,
    ends: Ends,
    /// Notified when there is something to expire.
    sooner: Arc<Notify>,
}

/// What the lock guards.
struct Lot {
    limits: Limits,
    state: ParkingState,
}

/// How many sessions are forgotten in one hold of the lock when the limits are lowered.
const AT_ONCE: usize = 1_000;

/// The result of an arrival: how the session came into its place, and the sessions that leave the parking for it.
pub(super) struct Arrived<'a> {
    pub(super) came: Came,
    pub(super) gone: Gone<'a>,
}

impl Parking {
    pub(super) fn new(limits: Limits, ends: Ends, sooner: Arc<Notify>) -> Self {
        Self {
            ours: AtomicBool::new(false),
            state: Mutex::new(Lot { limits, state: ParkingState::default() }),
            tombstones: Mutex::default(),
            ends,
            sooner,
        }
    }

    /// Records that rmcp uses this store.
    pub(super) fn is_used(&self) {
        self.ours.store(true, Relaxed);
    }

    /// Runs `change` on the state under its lock. Returns its result, and the sessions that have left the parking for
    /// good.
    fn change<R>(&self, change: impl FnOnce(&mut ParkingState, &Limits, &mut Vec<Parked>) -> R) -> (R, Gone<'_>) {
        let mut gone = Gone { ends: &self.ends, sessions: Vec::new() };
        let mut lot = self.lock();
        let Lot { limits, state } = &mut *lot;
        let had_oldest = state.oldest().is_some();
        let changed = change(state, limits, &mut gone.sessions);
        if !had_oldest && state.oldest().is_some() {
            self.sooner.notify_one();
        }
        drop(lot);
        (changed, gone)
    }

    fn lock(&self) -> MutexGuard<'_, Lot> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_at<R>(&self, look: impl FnOnce(&ParkingState) -> R) -> R {
        look(&self.lock().state)
    }

    /// The limits in force.
    pub(super) fn limits(&self) -> Limits {
        self.lock().limits
    }

    /// Forgets what is beyond other limits, 1,000 sessions at most, and puts them in force if nothing more is. Returns
    /// whether it did, and the sessions that have left the parking. `places` is the number of places without a session now.
    pub(super) fn set_limits(&self, limits: Limits, places: usize, now: Instant) -> (bool, Gone<'_>) {
        let mut gone = Gone { ends: &self.ends, sessions: Vec::new() };
        let mut lot = self.lock();
        let fits = lot.state.fit(&limits, now, places, AT_ONCE, &mut gone.sessions);
        if fits {
            lot.limits = limits;
        }
        drop(lot);
        if fits {
            // Without a parking, no id is remembered.
            let ended = (limits.entries == 0).then(|| std::mem::take(&mut *self.lock_tombstones()));
            drop(ended);
            // The next age may be due sooner.
            self.sooner.notify_one();
        }
        (fits, gone)
    }

    fn lock_tombstones(&self) -> MutexGuard<'_, LinkedHashMap<SessionId, ()>> {
        self.tombstones.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The parked sessions and when they were opened, as `f` says of each. It runs under the lock.
    pub(super) fn map<R>(&self, f: impl FnMut((&SessionId, &Parked)) -> Option<R>) -> Vec<R> {
        self.look_at(|state| state.iter().filter_map(f).collect())
    }

    /// Returns what to park of an ended session. `None` if the parking is off.
    pub(super) fn keep<T>(
        &self,
        session: &Session<T>,
        initialize_params: Arc<[u8]>,
        data: Option<Arc<Values>>,
        now: Instant,
    ) -> Option<Parked> {
        let is_back = session.record.restored && !session.has(Flag::Replayed);
        (self.limits().entries > 0).then(|| {
            let mut parked = Parked::of(&session.record, initialize_params, data, is_back, now);
            parked.protocol_version = session.protocol_version();
            parked.ownership = session.in_directory().map(|session| session.ownership);
            parked.seal_key = session.given_seal_key().cloned().map(Box::new);
            parked
        })
    }

    /// Parks a session that has left its place. `places` is the number of places without a session now. If there is no
    /// room, the parking first forgets sessions that were never called, this one included, and then the oldest.
    pub(super) fn park(&self, id: SessionId, parked: Parked, places: usize, now: Instant) -> Gone<'_> {
        let park = |state: &mut ParkingState, limits: &Limits, gone: &mut Vec<Parked>| {
            state.expire(now, limits.age, gone);
            state.park(id, parked, limits, places, gone);
        };
        self.change(park).1
    }

    /// Records that a session has come into a place; a restored one was pinned. `places` is the number of places
    /// without a session now.
    pub(super) fn arrive(&self, id: &str, pin: Option<&Parked>, places: usize) -> Arrived<'_> {
        let (came, gone) = self.change(|state, limits, gone| state.arrive(id, pin, limits, places, gone));
        Arrived { came, gone }
    }

    /// Keeps the room of a session that is being restored, until it [arrives](Self::arrive) or is
    /// [unpinned](Self::unpin).
    pub(super) fn pin(&self, id: &str) -> Option<Parked> {
        self.change(|state, _, _| state.pin(id)).0
    }

    /// Ends the pin of a session after its restore. If the session did not arrive, it is parked as before. `places` is
    /// the number of places without a session now.
    pub(super) fn unpin(&self, id: &SessionId, pin: &Parked, places: usize) -> Gone<'_> {
        let now = Instant::now();
        self.change(|state, limits, gone| state.unpin(id, pin, now, limits, places, gone)).1
    }

    /// Takes in a session that was claimed from the directory, pinned for its restore. `places` is the number of places
    /// without a session now, the one of the restore included.
    pub(super) fn claimed(&self, id: &SessionId, parked: Parked, places: usize) -> (Parked, Gone<'_>) {
        let id = SessionId::clone(id);
        self.change(|state, limits, gone| state.claimed(id, parked, limits, places, gone))
    }

    /// Sets under what this server has a pinned session in the directory. Returns false if that has left the parking.
    pub(super) fn set_ownership(&self, id: &str, pin: &Parked, ownership: Ownership) -> bool {
        self.change(|state, _, _| state.set_ownership(id, pin, ownership)).0
    }

    /// Removes a session that another server has claimed, or may claim, unless a restore has it. Returns whether it did.
    pub(super) fn lose(&self, id: &str, ownership: Ownership) -> bool {
        self.change(|state, _, gone| state.lose(id, ownership, gone)).0
    }

    /// Removes a pinned session that another server has claimed.
    pub(super) fn lose_pinned(&self, id: &str, pin: &Parked) -> Gone<'_> {
        self.change(|state, _, gone| state.lose_pinned(id, pin, gone)).1
    }

    /// Under what this server has a parked session in the directory. `None` if it is not parked, or in no directory.
    pub(super) fn ownership(&self, id: &str) -> Option<Ownership> {
        self.look_at(|state| state.get(id).and_then(|parked| parked.ownership))
    }

    /// Remembers an id that ended for good, if another store might restore it.
    pub(super) fn remember_ended<T>(&self, session: &Session<T>) {
        if session.has_ended_for_good() && !self.ours.load(Relaxed) {
            let mut tombstones = self.lock_tombstones();
            // Read under the lock of the tombstones: other limits are in force before they are trimmed.
            let most = self.limits().entries;
            if most > 0 {
                tombstones.insert(SessionId::clone(&session.record.id), ());
            }
            while tombstones.len() > most {
                tombstones.pop_front();
            }
        }
    }

    /// Whether an id that is not parked must not be restored. With our store, an id that is not parked has ended, or
    /// was forgotten, since rmcp loaded it.
    pub(super) fn is_ended_for_good(&self, id: &str) -> bool {
        self.ours.load(Relaxed) || self.lock_tombstones().contains_key(id)
    }

    pub(super) fn get(&self, id: &str, now: Instant) -> Option<Parked> {
        self.expire(now);
        self.look_at(|state| state.get(id).cloned())
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.look_at(|state| state.get(id).is_some())
    }

    /// Reads the context of the client that opened a parked session.
    pub(super) fn look<R>(&self, id: &str, look: impl FnOnce(Option<&ClientContext>) -> R) -> Option<R> {
        self.look_at(|state| state.get(id).map(|parked| look(parked.context())))
    }

    /// Records a message from the client of a parked session: the age of the session counts from now. This is no use of
    /// the session. Returns false if it is not parked.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "called by the HTTP layer"))]
    pub(super) fn touch(&self, id: &str, now: Instant) -> bool {
        let touch = |state: &mut ParkingState, limits: &Limits, gone: &mut Vec<Parked>| {
            state.expire(now, limits.age, gone);
            state.touch(id, now, limits, gone)
        };
        self.change(touch).0
    }

    /// Removes a session that must not be restored, here or at another server. Returns true for the one caller that did. A
    /// session that is being restored is ended after its restore.
    pub(super) fn take(&self, id: &str, reason: CloseReason) -> bool {
        let (taken, gone) = self.change(|state, _, gone| state.take(id, reason, gone));
        gone.end_in_directory();
        taken
    }

    /// Removes every parked session for which `predicate`, called outside the lock, holds. Returns how many.
    pub(super) fn take_all(
        &self,
        reason: CloseReason,
        mut predicate: impl FnMut(&SessionId, &Parked) -> bool,
    ) -> usize {
        self.all().iter().filter(|(id, parked)| predicate(id, parked) && self.take(id, reason)).count()
    }

    /// A copy of all that are parked or being restored, with their ids.
    pub(super) fn all(&self) -> Vec<(SessionId, Parked)> {
        let copy = |(id, parked): (&SessionId, &Parked)| (SessionId::clone(id), parked.clone());
        self.look_at(|state| state.iter().map(copy).collect())
    }

    /// How many are parked, and what they hold in bytes.
    pub(super) fn size(&self, now: Instant) -> (usize, usize) {
        self.expire(now);
        self.look_at(ParkingState::size)
    }

    /// Forgets the sessions that were parked too long ago.
    pub(super) fn expire(&self, now: Instant) {
        drop(self.change(|state, limits, gone| state.expire(now, limits.age, gone)));
    }

    /// When the next parked session will be too old.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let lot = self.lock();
        lot.state.oldest().map(|since| since + lot.limits.age)
    }

    /// Tells the policies that a session which was not parked has ended for good.
    pub(super) fn tell_end(&self, session: SessionOrigin) {
        self.ends.tell(session);
    }

    /// The hook for final ends.
    pub(super) const fn final_ends(&self) -> &FinalEnds {
        &self.ends.finals
    }
}

#[cfg(test)]
mod tests {
    use crate::PolicySessionManager;

    #[tokio::test(start_paused = true)]
    async fn once_the_parking_is_off_no_id_is_remembered() {
        let sessions = PolicySessionManager::local().build().unwrap();
        let parking = &sessions.shared.parking;
        parking.lock_tombstones().insert("1".into(), ());
        sessions.reconfigure(|settings| settings.max_parked(9).max_parked_streams(0)).await.unwrap();
        assert!(parking.is_ended_for_good("1"));
        sessions.reconfigure(|settings| settings.max_parked(0)).await.unwrap();
        assert!(!parking.is_ended_for_good("1"));
    }
}
