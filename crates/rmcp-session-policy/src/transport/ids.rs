//! The ids of a session's requests in flight.
//!
//! An entry goes through these steps:
//! 1. [`Seat::take`] enters the id before the request is admitted, since the admission may take time. The entry has no
//!    guard.
//! 2. [`Seat::attach`] adds the guard once the request is admitted. The request is on its way through the inner
//!    manager.
//! 3. [`Ids::arrived`] sees it at the transport. From here on the service has it and will answer.
//! 4. The answer, a cancel or the close of the session takes the entry out. If the handler has panicked, another request
//!    may do so too: one with the same id, and one that finds the table full. A request that leaves by any of these but
//!    an answer or a close is [given up](InFlight::give_up): its id is free, so its stream must say nothing under it.
//!
//! A request that is refused or dropped in between leaves by the drop of its [`Seat`], or by [`Ids::forget`].

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use hashbrown::hash_map;
use rmcp::model::{
    ClientJsonRpcMessage, ClientRequest, ErrorCode, ErrorData, GetExtensions, JsonRpcRequest, RequestId,
    ServerJsonRpcMessage,
};
use tokio::time::Instant;

use super::event_id::EventSource;
use super::farewell::farewell;
use super::in_flight::{Carrier, InFlight, RequestOwner};
use super::request_kind::kind_of;
use super::service_id;
use crate::admission::Lease;
use crate::call_rejection::CallRejection;
use crate::observe::CloseReason;
use crate::session::Activity;

/// The most requests of one session that may be in flight at once.
pub(crate) const MAX_IN_FLIGHT: usize = 1_024;

/// The longest id of a request, in bytes.
///
/// Clients choose ids, and the table keeps a copy of each.
const MAX_ID_BYTES: usize = 256;

/// The capacity that the table keeps when no request is in flight.
const KEPT: usize = 16;

/// The ids of a session's requests in flight. A request enters before it is admitted and leaves at its answer, its
/// cancel, or the end of the session. An id is unique in the table, because of two requests with the same id the
/// service would answer only one.
///
/// One lock guards the table. Guards are dropped after it, because the last reference to a guard ends its request,
/// which runs code of a policy.
pub(crate) struct Ids<S: RequestOwner> {
    entries: Mutex<HashMap<RequestId, Entry<S>>>,
}

/// What the table has of one id.
struct Entry<S: RequestOwner> {
    /// Whether it is a `tools/call`, which decides the form of a farewell.
    is_call: bool,
    /// `None` until the request is admitted.
    guard: Option<Arc<InFlight<S>>>,
}

/// A request with a waiting client, taken out of the table for its farewell.
pub(super) struct Waiting<S: RequestOwner> {
    id: RequestId,
    is_call: bool,
    /// Keeps the session busy until the farewell is handed over.
    pub(super) guard: Arc<InFlight<S>>,
}

impl<S: RequestOwner> Waiting<S> {
    /// Makes the answer to the request, because its session ends.
    pub(super) fn farewell(&self, reason: CloseReason, rejection: CallRejection) -> ServerJsonRpcMessage {
        farewell(reason, self.id.clone(), self.is_call, rejection)
    }
}

/// What the id of an answer from the service refers to.
pub(super) enum Answered<S: RequestOwner> {
    /// A request with a waiting client. Its id is free now.
    Waiting(Arc<InFlight<S>>),
    /// An earlier request. The request that has the id now has not reached the service yet, so the answer must not go
    /// out under that id.
    Stale,
    /// A request that was cancelled or got a farewell, or no request at all.
    Unknown,
}

/// Why the id of a request is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdRefused {
    /// A request with the id is in flight: the service would answer one of the two only.
    InUse,
    /// The id has more than [`MAX_ID_BYTES`].
    TooLong,
    /// The id begins with the prefix that is reserved for the ids which rmcp's service sees.
    Reserved,
    /// The session has [`MAX_IN_FLIGHT`] requests in flight, and no handler of theirs has panicked.
    TooMany,
}

impl IdRefused {
    /// The JSON-RPC error for a fault of the client. `None` if the client only has to wait.
    pub(crate) fn error(self) -> Option<ErrorData> {
        let (text, reason) = match self {
            Self::InUse => ("a request with this id is in flight in this session", "id_in_use"),
            Self::TooLong => ("the id of the request is longer than 256 bytes", "id_too_long"),
            Self::Reserved => ("ids that begin with \"request-id:\" are reserved", "id_reserved"),
            Self::TooMany => return None,
        };
        Some(ErrorData::new(ErrorCode::INVALID_REQUEST, text, Some(serde_json::json!({ "reason": reason }))))
    }
}

/// Whether a request calls a tool.
pub(crate) const fn is_call(request: &ClientRequest) -> bool {
    matches!(request, ClientRequest::CallToolRequest(_))
}

impl<S: RequestOwner> Default for Ids<S> {
    fn default() -> Self {
        Self { entries: Mutex::new(HashMap::new()) }
    }
}

impl<S: RequestOwner> Ids<S> {
    /// Locks the table. A poisoned lock is used on, because no code of a user runs under it.
    fn lock(&self) -> MutexGuard<'_, HashMap<RequestId, Entry<S>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters an id without a guard.
    ///
    /// A request with a panicked handler gives its id up here: to a new request with the same id, and to any new
    /// request when the table is full.
    ///
    /// # Errors
    ///
    /// Fails if the id is too long, reserved or in use, or if the table is full.
    fn enter(&self, id: &RequestId, is_call: bool) -> Result<(), IdRefused> {
        if is_too_long(id) {
            return Err(IdRefused::TooLong);
        }
        if service_id::is_reserved(id) {
            return Err(IdRefused::Reserved);
        }
        let entry = Entry { is_call, guard: None };
        let mut entries = self.lock();
        if entries.len() >= MAX_IN_FLIGHT && !entries.contains_key(id) {
            // Entries that no answer will free.
            let gone: Vec<_> = entries.extract_if(|_, entry| entry.will_not_be_answered()).collect();
            drop(entries);
            if gone.is_empty() {
                return Err(IdRefused::TooMany);
            }
            gone.into_iter().for_each(|(_, entry)| entry.give_up());
            return self.enter(id, is_call);
        }
        match entries.entry(id.clone()) {
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(entry);
            }
            hash_map::Entry::Occupied(mut taken) if taken.get().will_not_be_answered() => {
                let gone = taken.insert(entry);
                drop(entries);
                gone.give_up();
            }
            hash_map::Entry::Occupied(_) => return Err(IdRefused::InUse),
        }
        Ok(())
    }

    /// Removes an id if `is_it` holds for its entry. The caller drops the entry outside the lock. A table that is empty
    /// again gives the memory of a burst back.
    fn take(&self, id: &RequestId, is_it: impl FnOnce(&Entry<S>) -> bool) -> Option<Entry<S>> {
        let mut entries = self.lock();
        let taken = match entries.entry_ref(id) {
            hash_map::EntryRef::Occupied(entry) if is_it(entry.get()) => entry.remove(),
            _ => return None,
        };
        if entries.is_empty() && entries.capacity() > 4 * KEPT {
            entries.shrink_to(KEPT);
        }
        Some(taken)
    }

    /// Frees the id of a request that never arrived at the transport. `guard` tells it from a later request with the
    /// same id.
    pub(super) fn forget(&self, id: &RequestId, guard: &Arc<InFlight<S>>) {
        let is_it = |entry: &Entry<S>| entry.guard.as_ref().is_some_and(|other| Arc::ptr_eq(other, guard));
        drop(self.take(id, is_it));
    }

    /// Frees the id of a request that its client has cancelled; its handler may still run. A request that waits for its
    /// admission cannot be cancelled.
    ///
    /// Returns the request, which still keeps the session busy. The caller has it watched until its handler is done.
    /// `None` if no such request is in flight.
    pub(crate) fn cancel(&self, id: &RequestId) -> Option<Arc<InFlight<S>>> {
        let guard = self.take(id, |entry| entry.guard.is_some())?.guard?;
        guard.linger();
        guard.give_up();
        Some(guard)
    }

    /// The same at the transport, where the id may belong to a later request already: a request that has not arrived
    /// stays in flight. The manager has freed the id before, unless the cancel came to the inner manager by another
    /// way.
    pub(super) fn cancel_served(&self, id: &RequestId) -> Option<Arc<InFlight<S>>> {
        let guard = self.take(id, Entry::is_served)?.guard?;
        guard.linger();
        guard.give_up();
        Some(guard)
    }

    /// Ends the requests with panicked handlers. Returns whether there were any. They keep their ids, because their
    /// clients still wait.
    ///
    /// Called when a policy refuses a request: the leases of the ended ones may admit it. Costs a look at each request
    /// in flight.
    pub(crate) fn end_panicked(&self) -> bool {
        let served: Vec<_> = {
            let entries = self.lock();
            entries.values().filter(|entry| entry.is_served()).filter_map(|entry| entry.guard.clone()).collect()
        };
        served.iter().filter(|guard| guard.end_if_panicked()).count() > 0
    }

    /// Frees the id of an answered request, if the service has the request. The result tells the caller whether the
    /// answer may go out.
    pub(super) fn answer(&self, id: &RequestId) -> Answered<S> {
        let mut stale = false;
        let taken = self.take(id, |entry| {
            stale = entry.guard.as_ref().is_some_and(|guard| guard.is_queued());
            entry.is_served()
        });
        match taken.and_then(|entry| entry.guard) {
            Some(guard) => Answered::Waiting(guard),
            None if stale => Answered::Stale,
            None => Answered::Unknown,
        }
    }

    /// How many requests wait for their answers.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().len()
    }

    /// Whether the client still waits for the answer on this stream. Costs a look at each request in flight.
    pub(crate) fn has(&self, stream: &EventSource) -> bool {
        self.lock().keys().any(|id| stream.is_of(id))
    }

    /// Removes and returns every request with a waiting client that the service has.
    ///
    /// Requests that are still on their way stay: the close takes them when they arrive. A request with a panicked
    /// handler is among those that are taken, because its client waits.
    pub(super) fn take_served(&self) -> Vec<Waiting<S>> {
        let mut entries = self.lock();
        let served = entries.extract_if(|_, entry| entry.is_served());
        served.filter_map(|(id, Entry { is_call, guard })| guard.map(|guard| Waiting { id, is_call, guard })).collect()
    }

    /// Frees every id, when the transport is gone. No answer can be sent any more.
    pub(super) fn clear(&self) {
        let entries = std::mem::take(&mut *self.lock());
        drop(entries);
    }
}

impl<S: RequestOwner> Entry<S> {
    /// Whether the service has the request, or had it when its handler panicked.
    fn is_served(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| !guard.is_queued())
    }

    /// Gives up the request of an entry that is out of the table. The caller holds no lock.
    fn give_up(self) {
        if let Some(guard) = self.guard {
            guard.give_up();
        }
    }

    /// Whether the handler panicked, so that the id may be given to another request.
    fn will_not_be_answered(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.has_panicked())
    }
}

fn is_too_long(id: &RequestId) -> bool {
    matches!(id, RequestId::String(id) if id.len() > MAX_ID_BYTES)
}

impl<S: RequestOwner + Send + Sync + 'static> Ids<S> {
    /// Records that a request has arrived at the transport of its session, and gives it the id that the service sees.
    ///
    /// The guard of the request is found in this order:
    /// 1. The entry of the id, if the extensions of the request carry its guard.
    /// 2. The guard in the extensions. The request was cancelled before it arrived, so the entry is gone or is that of
    ///    a later request.
    /// 3. The entry of the id. The inner manager has lost the extensions on the way. Nothing is recorded if that has no
    ///    guard yet.
    /// 4. None. A guard without a lease is made, and the request is in flight from here on. If the table is full, or
    ///    the id too long, the request is served without one.
    ///
    /// Runs under the lock of the ids.
    pub(super) fn arrived(&self, session: &Arc<S>, request: &mut JsonRpcRequest<ClientRequest>) {
        // An inner manager of this crate may have given it that id already.
        let id = service_id::original(&request.id).unwrap_or_else(|| request.id.clone());
        let shared = service_id::is_shared(&request.request).then(|| service_id::share(&mut request.id));
        let extensions = request.request.extensions();
        let mut entries = self.lock();
        let known = entries.get(&id);
        if let Some(guard) = known.and_then(|entry| entry.guard.as_ref())
            && Carrier::carries(extensions, guard)
        {
            return guard.serve(shared);
        }
        // The request was cancelled before it arrived, so a later request may have its id.
        if let Some(guard) = Carrier::of(extensions, &**session) {
            return guard.serve(shared);
        }
        // An inner manager that carries messages between processes loses the extensions. The request then counts from
        // here.
        match known {
            Some(Entry { guard: Some(guard), .. }) => guard.serve(shared),
            Some(_) => {}
            None if entries.len() < MAX_IN_FLIGHT && !is_too_long(&id) => {
                let kind = kind_of(&request.request);
                let activity = Activity::begin(session, kind, Instant::now());
                let guard = InFlight::bare(id.clone(), kind, activity);
                guard.serve(shared);
                let entry = Entry { is_call: is_call(&request.request), guard: Some(guard) };
                entries.insert(id, entry);
            }
            None => {}
        }
    }
}

/// The id of a request that is not admitted yet; its drop frees it. So a refusal or a dropped future leaves nothing
/// behind.
pub(crate) struct Seat<'a, S: RequestOwner> {
    ids: &'a Ids<S>,
    /// `None` once the request is admitted. From then on the drop of this frees nothing.
    id: Option<RequestId>,
}

impl<'a, S: RequestOwner> Seat<'a, S> {
    /// Enters the id of a request.
    ///
    /// # Errors
    ///
    /// Fails as [`IdRefused`] says. The caller answers the request with an error or a refusal.
    pub(crate) fn take(ids: &'a Ids<S>, id: &RequestId, is_call: bool) -> Result<Self, IdRefused> {
        ids.enter(id, is_call)?;
        Ok(Self { ids, id: Some(id.clone()) })
    }
}

impl<S: RequestOwner + Send + Sync + 'static> Seat<'_, S> {
    /// Puts the request in flight, until its extensions are dropped and its answer is handed over.
    ///
    /// `None` if the message is no request. Otherwise returns the guard, so that the caller can bound its lease by
    /// `max_busy`.
    pub(crate) fn attach(
        mut self,
        message: &mut ClientJsonRpcMessage,
        activity: Activity<S>,
        lease: Option<Lease>,
    ) -> Option<Arc<InFlight<S>>> {
        let ClientJsonRpcMessage::Request(request) = message else { return None };
        let id = self.id.take()?;
        let guard = Carrier::attach(request.request.extensions_mut(), id, activity, lease);
        if let Some(entry) = self.ids.lock().get_mut(&request.id) {
            entry.guard = Some(Arc::clone(&guard));
        }
        Some(guard)
    }
}

impl<S: RequestOwner> Drop for Seat<'_, S> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            drop(self.ids.take(&id, |entry| entry.guard.is_none()));
        }
    }
}

impl<S: RequestOwner> fmt::Debug for Seat<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").finish_non_exhaustive()
    }
}
