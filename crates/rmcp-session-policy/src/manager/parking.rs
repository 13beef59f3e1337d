//! Sessions without a place that their next request restores.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use hashlink::LinkedHashMap;
use rmcp::transport::streamable_http_server::session::{
    SessionId, SessionManager, SessionState, SessionStore, SessionStoreError,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::PolicySessionManager;
use super::ends::{Ends, Gone};
use super::manager_inner::ManagerInner;
use super::parking_state::{Came, Limits, Parked, ParkingState, entry_bytes};
#[cfg(feature = "http")]
use crate::context::ClientContext;
use crate::observe::CloseReason;
use crate::session::SessionOrigin;
use crate::transport::{Flag, Session};

/// The parked sessions, and the ids that must not come back.
pub(super) struct Parking {
    pub(super) limits: Limits,
    /// Whether rmcp was given our store. If it was given another one, only the manager knows which ids have ended for good.
    ours: AtomicBool,
    state: Mutex<ParkingState>,
    /// Ids that were ended for good, oldest first.
    tombstones: Mutex<LinkedHashMap<SessionId, ()>>,
    ends: Ends,
    /// Rung when there is something to expire.
    sooner: Arc<Notify>,
}

/// A session that has come into a place, as the parking sees it.
pub(super) struct Arrived<'a> {
    pub(super) came: Came,
    pub(super) gone: Gone<'a>,
}

impl Parking {
    pub(super) fn new(limits: Limits, ends: Ends, sooner: Arc<Notify>) -> Self {
        Self {
            limits,
            ours: AtomicBool::new(false),
            state: Mutex::default(),
            tombstones: Mutex::default(),
            ends,
            sooner,
        }
    }

    /// Does something with the state under its lock, and gives what has left it for good.
    fn change<R>(&self, change: impl FnOnce(&mut ParkingState, &mut Vec<Parked>) -> R) -> (R, Gone<'_>) {
        let mut gone = Gone { ends: &self.ends, sessions: Vec::new() };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let had_oldest = state.oldest().is_some();
        let changed = change(&mut state, &mut gone.sessions);
        if !had_oldest && state.oldest().is_some() {
            self.sooner.notify_one();
        }
        drop(state);
        (changed, gone)
    }

    fn look_at<R>(&self, look: impl FnOnce(&ParkingState) -> R) -> R {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What to park of a session that has ended; `None` if there is nothing to restore it from.
    pub(super) fn keep<T>(&self, session: &Session<T>, now: Instant) -> Option<Parked> {
        let initialize_params = session.take_initialize_params().filter(|_| self.limits.entries > 0)?;
        let is_back = session.record.restored && !session.has(Flag::Replayed);
        Some(Parked::of(&session.record, initialize_params, is_back, now))
    }

    /// Parks a session that has left its place, of which now so many are without a session. If there is no room, those go
    /// first whose clients never called, itself included, then the oldest.
    pub(super) fn park(&self, id: SessionId, parked: Parked, places: usize, now: Instant) -> Gone<'_> {
        let limits = &self.limits;
        let park = |state: &mut ParkingState, gone: &mut Vec<Parked>| {
            state.expire(now, limits.age, gone);
            state.park(id, parked, limits, places, gone);
        };
        self.change(park).1
    }

    /// Notes that a session, which was pinned if it is restored, has come into a place, of which now so many are without one.
    pub(super) fn arrive(&self, id: &str, pin: Option<&Parked>, places: usize) -> Arrived<'_> {
        let (came, gone) = self.change(|state, gone| state.arrive(id, pin, &self.limits, places, gone));
        Arrived { came, gone }
    }

    /// Keeps a session's room while it is being restored, until it [arrives](Self::arrive) or is [unpinned](Self::unpin).
    pub(super) fn pin(&self, id: &str) -> Option<Parked> {
        self.change(|state, _| state.pin(id)).0
    }

    /// The restore of a pinned session is over, while so many places are without a session. If it did not arrive, it is
    /// parked as before.
    pub(super) fn unpin(&self, id: &SessionId, pin: &Parked, places: usize) -> Gone<'_> {
        let now = Instant::now();
        self.change(|state, gone| state.unpin(id, pin, now, &self.limits, places, gone)).1
    }

    /// Remembers an id that was ended for good, where a store that is not ours might bring it back.
    pub(super) fn remember_ended<T>(&self, session: &Session<T>) {
        let for_good = session.has(Flag::NoRestore)
            || matches!(
                session.close_reason(),
                Some((CloseReason::Client | CloseReason::Lifetime | CloseReason::Revoked, _))
            );
        if for_good && self.limits.entries > 0 && !self.ours.load(Relaxed) {
            let mut tombstones = self.tombstones.lock().unwrap_or_else(PoisonError::into_inner);
            tombstones.insert(SessionId::clone(&session.record.id), ());
            while tombstones.len() > self.limits.entries {
                tombstones.pop_front();
            }
        }
    }

    /// Whether an id that is not parked must not come back. If the store is ours, what is not parked was ended, or
    /// forgotten, since rmcp loaded it.
    pub(super) fn is_ended_for_good(&self, id: &str) -> bool {
        self.ours.load(Relaxed) || self.tombstones.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }

    pub(super) fn get(&self, id: &str, now: Instant) -> Option<Parked> {
        self.expire(now);
        self.look_at(|state| state.get(id).cloned())
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.look_at(|state| state.get(id).is_some())
    }

    /// Looks at who opened a parked session.
    #[cfg(feature = "http")]
    pub(super) fn look<R>(&self, id: &str, look: impl FnOnce(Option<&ClientContext>) -> R) -> Option<R> {
        self.look_at(|state| state.get(id).map(|parked| look(parked.context())))
    }

    /// Notes that a parked session was heard of: its age counts from now. It is no use of the session. False if it is not
    /// parked.
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "called by the HTTP layer"))]
    pub(super) fn touch(&self, id: &str, now: Instant) -> bool {
        let limits = &self.limits;
        let touch = |state: &mut ParkingState, gone: &mut Vec<Parked>| {
            state.expire(now, limits.age, gone);
            state.touch(id, now, limits, gone)
        };
        self.change(touch).0
    }

    /// Takes a session out that must not come back; true for the one caller that did. One that is being restored is ended
    /// once it is.
    pub(super) fn take(&self, id: &str) -> bool {
        self.change(|state, gone| state.take(id, gone)).0
    }

    /// Takes out every parked session for which `predicate` holds, asked outside the lock; tells how many.
    pub(super) fn take_all(&self, predicate: impl Fn(&SessionId, &Parked) -> bool) -> usize {
        let copy = |(id, parked): (&SessionId, &Parked)| (SessionId::clone(id), parked.clone());
        let all: Vec<_> = self.look_at(|state| state.iter().map(copy).collect());
        all.iter().filter(|(id, parked)| predicate(id, parked) && self.take(id)).count()
    }

    /// How many are parked, and what they hold in bytes.
    pub(super) fn size(&self, now: Instant) -> (usize, usize) {
        self.expire(now);
        self.look_at(ParkingState::size)
    }

    /// Forgets what was parked too long ago.
    pub(super) fn expire(&self, now: Instant) {
        drop(self.change(|state, gone| state.expire(now, self.limits.age, gone)));
    }

    /// When the next one will have been parked for too long.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.look_at(ParkingState::oldest).map(|since| since + self.limits.age)
    }

    /// Tells the policies that a session has ended for good that was not parked.
    pub(super) fn tell_end(&self, session: SessionOrigin) {
        self.ends.tell(session);
    }
}

/// The parking, as rmcp sees it.
struct ParkingStore<I: SessionManager>(Arc<ManagerInner<I>>);

impl<I: SessionManager> PolicySessionManager<I> {
    /// The store to hand to rmcp as `StreamableHttpServerConfig::session_store`: with it, an evicted or idle session is
    /// parked and comes back with its next request, under the same id.
    ///
    /// A restored session has a **new handler**: what the old one remembered is gone. Servers that keep state in the
    /// handler keep it elsewhere, by principal for instance, or leave parking off.
    ///
    /// The bounds are the builder's `max_parked`, `max_parked_bytes`, `max_parked_entry_bytes` and `max_parked_age`.
    #[must_use]
    pub fn parking(&self) -> Arc<dyn SessionStore> {
        Arc::new(ParkingStore(Arc::clone(&self.shared)))
    }
}

#[async_trait]
impl<I: SessionManager> SessionStore for ParkingStore<I> {
    async fn load(&self, id: &str) -> Result<Option<SessionState>, SessionStoreError> {
        self.0.parking.ours.store(true, Relaxed);
        match self.0.parking.get(id, Instant::now()) {
            Some(parked) => Ok(Some(SessionState::new(serde_json::from_slice(&parked.initialize_params)?))),
            None => Ok(None),
        }
    }

    /// Called after every `initialize`, while the session lives: only its end parks it.
    async fn store(&self, id: &str, state: &SessionState) -> Result<(), SessionStoreError> {
        self.0.parking.ours.store(true, Relaxed);
        let limits = &self.0.parking.limits;
        let Some(session) = self.0.find(id).filter(|session| !session.is_closing()) else { return Ok(()) };
        if limits.entries == 0 {
            return Ok(());
        }
        let initialize_params = serde_json::to_vec(&state.initialize_params)?;
        // One that would not fit at all would push all others out first.
        let bytes = entry_bytes(id, initialize_params.len(), session.record.context.as_deref());
        if bytes > limits.entry_bytes.min(limits.bytes) {
            tracing::debug!(session = %session.record.fingerprint(), bytes, "too large to park");
            return Ok(());
        }
        session.set_initialize_params(initialize_params.into());
        Ok(())
    }

    /// Called when a client deletes its session, and only then.
    async fn delete(&self, id: &str) -> Result<(), SessionStoreError> {
        // First, so that a restore that passes what follows sees it.
        self.0.bar_restore(id);
        if let Some(session) = self.0.find(id) {
            if self.0.close(&session, CloseReason::Client) {
                self.0.spawn_close(session);
            } else {
                session.raise(Flag::NoRestore);
            }
        }
        self.0.parking.take(id);
        Ok(())
    }
}
