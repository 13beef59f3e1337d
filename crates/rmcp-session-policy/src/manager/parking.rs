//! Sessions without a place that their next request restores.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hashlink::LinkedHashMap;
use rmcp::transport::streamable_http_server::session::{
    SessionId, SessionManager, SessionState, SessionStore, SessionStoreError,
};
use tokio::time::Instant;

use super::PolicySessionManager;
use super::shared::Shared;
use crate::context::ClientContext;
use crate::observe::CloseReason;
use crate::registry::Origin;
use crate::stamp::Stamp;
use crate::transport::{Flag, Session};

/// How much may be parked.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) entries: usize,
    pub(super) bytes: usize,
    pub(super) entry_bytes: usize,
    pub(super) age: Duration,
}

/// What is kept of a session without a place.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    /// What `initialize` said.
    pub(super) parcel: Arc<[u8]>,
    context: Option<Arc<ClientContext>>,
    opened: Stamp,
    last_used: Stamp,
    last_seen: Stamp,
    uses: u64,
    since: Instant,
    /// Tells this parking from another one of the same id.
    serial: u64,
}

impl Parked {
    /// Where a new incarnation comes from.
    pub(super) fn origin(&self, id: SessionId) -> Origin {
        Origin {
            id,
            context: self.context.clone(),
            opened: self.opened,
            last_used: self.last_used,
            last_seen: self.last_seen,
            uses: self.uses,
            restored: true,
        }
    }

    pub(super) const fn opened(&self) -> Stamp {
        self.opened
    }
}

/// The parked sessions, and the ids that must not come back.
pub(super) struct Parking {
    limits: Limits,
    /// Whether rmcp was given our store. If it was given another one, only we know which ids are dead.
    ours: AtomicBool,
    lot: Mutex<Lot>,
}

#[derive(Default)]
struct Lot {
    /// Oldest first.
    parked: LinkedHashMap<SessionId, Parked>,
    bytes: usize,
    serial: u64,
    /// Ids that were ended for good, oldest first.
    dead: LinkedHashMap<SessionId, ()>,
}

impl Lot {
    fn remove(&mut self, id: &str) -> Option<Parked> {
        let parked = self.parked.remove(id)?;
        self.bytes -= parked.parcel.len();
        Some(parked)
    }

    /// Forgets what was parked too long ago.
    fn expire(&mut self, now: Instant, age: Duration) {
        while let Some((_, oldest)) = self.parked.front()
            && now.saturating_duration_since(oldest.since) >= age
            && let Some((_, gone)) = self.parked.pop_front()
        {
            self.bytes -= gone.parcel.len();
        }
    }
}

impl Parking {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, ours: AtomicBool::new(false), lot: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Lot> {
        self.lot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Parks a session that has ended; false if there is nothing to restore it from.
    pub(super) fn park<T>(&self, session: &Session<T>, now: Instant) -> bool {
        let Some(parcel) = session.take_parcel() else { return false };
        if self.limits.entries == 0 {
            return false;
        }
        let record = &session.record;
        let mut lot = self.lock();
        lot.serial += 1;
        let parked = Parked {
            serial: lot.serial,
            context: record.context.clone(),
            opened: record.opened,
            last_used: record.last_used(),
            last_seen: record.last_seen(),
            uses: record.uses(),
            since: now,
            parcel,
        };
        lot.expire(now, self.limits.age);
        lot.bytes += parked.parcel.len();
        if let Some(before) = lot.parked.insert(SessionId::clone(&record.id), parked) {
            lot.bytes -= before.parcel.len();
        }
        while lot.parked.len() > self.limits.entries || lot.bytes > self.limits.bytes {
            let Some((_, gone)) = lot.parked.pop_front() else { break };
            lot.bytes -= gone.parcel.len();
        }
        true
    }

    /// Remembers an id that was ended for good, where a store that is not ours might bring it back.
    pub(super) fn bury<T>(&self, session: &Session<T>) {
        let for_good = session.has(Flag::Barred)
            || matches!(session.end(), Some((CloseReason::Client | CloseReason::Lifetime | CloseReason::Revoked, _)));
        if for_good && self.limits.entries > 0 && !self.ours.load(Relaxed) {
            let mut lot = self.lock();
            lot.dead.insert(SessionId::clone(&session.record.id), ());
            while lot.dead.len() > self.limits.entries {
                lot.dead.pop_front();
            }
        }
    }

    /// Whether an id that is not parked must not come back. If the store is ours, what is not parked was ended, or
    /// forgotten, since rmcp loaded it.
    pub(super) fn is_dead(&self, id: &str) -> bool {
        self.ours.load(Relaxed) || self.lock().dead.contains_key(id)
    }

    pub(super) fn get(&self, id: &str, now: Instant) -> Option<Parked> {
        let mut lot = self.lock();
        lot.expire(now, self.limits.age);
        lot.parked.get(id).cloned()
    }

    /// Looks at who opened a parked session.
    #[cfg(feature = "http")]
    pub(super) fn look<R>(&self, id: &str, look: impl FnOnce(Option<&ClientContext>) -> R) -> Option<R> {
        self.lock().parked.get(id).map(|parked| look(parked.context.as_deref()))
    }

    /// Notes that a session was heard of, so that its age counts from now; false if it is not parked.
    #[cfg(feature = "http")]
    pub(super) fn touch(&self, id: &str, now: Instant) -> bool {
        let mut lot = self.lock();
        let Some(parked) = lot.parked.to_back(id) else { return false };
        parked.since = now;
        parked.last_seen = Stamp::at(now).max(parked.last_seen);
        true
    }

    /// Takes a session out that must not come back.
    pub(super) fn take(&self, id: &str) -> Option<Parked> {
        self.lock().remove(id)
    }

    /// Takes a session out that has a place again, unless it was taken out, or out and in again, meanwhile.
    pub(super) fn take_this(&self, id: &str, this: &Parked) {
        let mut lot = self.lock();
        if lot.parked.get(id).is_some_and(|parked| parked.serial == this.serial) {
            drop(lot.remove(id));
        }
    }

    /// Takes out every parked session for which `predicate` holds, asked outside the lock; tells how many.
    pub(super) fn take_all(&self, predicate: impl Fn(&SessionId, &Parked) -> bool) -> usize {
        let all: Vec<_> =
            self.lock().parked.iter().map(|(id, parked)| (SessionId::clone(id), parked.clone())).collect();
        all.iter().filter(|(id, parked)| predicate(id, parked) && self.take(id).is_some()).count()
    }

    /// How many are parked, and what they hold in bytes.
    pub(super) fn size(&self, now: Instant) -> (usize, usize) {
        let mut lot = self.lock();
        lot.expire(now, self.limits.age);
        (lot.parked.len(), lot.bytes)
    }
}

/// The parking, as rmcp sees it.
struct ParkingStore<I: SessionManager>(Arc<Shared<I>>);

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
        self.shared.parking.ours.store(true, Relaxed);
        Arc::new(ParkingStore(Arc::clone(&self.shared)))
    }
}

#[async_trait]
impl<I: SessionManager> SessionStore for ParkingStore<I> {
    async fn load(&self, id: &str) -> Result<Option<SessionState>, SessionStoreError> {
        match self.0.parking.get(id, Instant::now()).or_else(|| self.0.coming_back(id)) {
            Some(parked) => Ok(Some(SessionState::new(serde_json::from_slice(&parked.parcel)?))),
            None => Ok(None),
        }
    }

    /// Called after every `initialize`, while the session lives: only its end parks it.
    async fn store(&self, id: &str, state: &SessionState) -> Result<(), SessionStoreError> {
        let limits = &self.0.parking.limits;
        let Some(session) = self.0.find(id).filter(|session| !session.is_closing()) else { return Ok(()) };
        if limits.entries == 0 {
            return Ok(());
        }
        let parcel = serde_json::to_vec(&state.initialize_params)?;
        // One that would not fit at all would push all others out first.
        if parcel.len() > limits.entry_bytes.min(limits.bytes) {
            tracing::debug!(session = %session.record.fingerprint(), bytes = parcel.len(), "too large to park");
            return Ok(());
        }
        session.set_parcel(parcel.into());
        Ok(())
    }

    /// Called when a client deletes its session, and only then.
    async fn delete(&self, id: &str) -> Result<(), SessionStoreError> {
        // First, so that a restore that passes what follows sees it.
        self.0.bar_restore(id);
        if let Some(session) = self.0.find(id) {
            if self.0.close(&session, CloseReason::Client) {
                self.0.start_end(session);
            } else {
                session.raise(Flag::Barred);
            }
        }
        drop(self.0.parking.take(id));
        Ok(())
    }
}
