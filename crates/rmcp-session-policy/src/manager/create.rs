//! Creation of sessions: admission, the place, the inner manager, the registry.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::allowance::Allowance;
use super::asker::Asker;
use super::durable::Claimed;
use super::lifecycle;
use super::manager_inner::ManagerInner;
use super::parked::Parked;
use super::parking_state::Came;
use super::place_search::{Patience, Place};
use super::policies::{Admits, is_same};
use crate::admission::{Arrival, ArrivalKind, Permit, Rejection};
use crate::context::ClientContext;
use crate::directory::InDirectory;
use crate::error::PolicyError;
use crate::eviction::SessionInfo;
use crate::observe::{CloseReason, SessionEvent};
use crate::registry::ClientIds;
use crate::scope::{clear_held, hold_in_scope};
use crate::session::{Activity, ActivityKind, Origin};
use crate::timestamp::Timestamp;
use crate::transport::{Flag, PolicyTransport, Session, TransportEvents};

type Created<I> = (SessionId, PolicyTransport<<I as SessionManager>::Transport>);
type Failed<I> = PolicyError<<I as SessionManager>::Error>;

/// What a new incarnation starts with: where it comes from, and its entry in the parking.
pub(super) struct Luggage {
    pub(super) origin: Origin,
    pub(super) initialize_params: Option<Arc<[u8]>>,
    /// Its entry in the parking, if it is restored.
    pub(super) pin: Option<Parked>,
    /// The claim of it, if it is restored from a directory.
    pub(super) claimed: Option<Claimed>,
}

/// What a session needs before it exists. The drop of each part gives it back.
pub(super) struct Admitted {
    permit: Permit,
    allowance: Allowance,
    place: Place,
    /// The client that the session will belong to, by the limits of clients.
    clients: ClientIds,
    /// Of the limits of clients.
    version: u32,
    /// The policy that gave the permit.
    policy: Admits,
}

/// Asks the admission policy.
async fn ask(policy: &Admits, kind: ArrivalKind, context: Option<&ClientContext>) -> Result<Permit, Rejection> {
    let Some(policy) = policy else { return Ok(Permit::free()) };
    let arrival = Arrival::new(Instant::now(), kind);
    let arrival = match context {
        Some(context) => arrival.with_context(context),
        None => arrival,
    };
    policy.admit(&arrival).await
}

impl<I: SessionManager> ManagerInner<I> {
    /// Creates a session: admission first, then a place, then the inner manager. If a step fails or is dropped, the
    /// drops of the earlier results give back what they hold.
    pub(super) async fn create(self: &Arc<Self>) -> Result<Created<I>, Failed<I>> {
        clear_held();
        let context = ClientContext::current();
        let admitted = self.admit(ArrivalKind::Create, context.as_deref()).await?;
        let (id, transport) =
            self.inner.create_session().await.map_err(|error| self.failed(ArrivalKind::Create, None, error))?;
        let now = Instant::now();
        let opened = Timestamp::of(now);
        let origin = Origin::new(SessionId::clone(&id), context, opened);
        let luggage = Luggage { origin, initialize_params: None, pin: None, claimed: None };
        let (transport, _came) = self.register(luggage, transport, admitted, now)?;
        Ok((id, transport))
    }

    /// Admits a newcomer. Reports a rejection.
    async fn admit(
        self: &Arc<Self>,
        kind: ArrivalKind,
        context: Option<&ClientContext>,
    ) -> Result<Admitted, Failed<I>> {
        let asker = Asker { context, session: None };
        let admitted = self.try_admit(kind, asker, context, Patience::Turn).await?;
        admitted.ok_or_else(|| self.refuse(kind, asker, self.at_capacity()))
    }

    /// Asks the admission policy, and gets what a session needs: an allowance of its client, and a place. `owner`: the
    /// client that the session belongs to, which may have another address by now. `None` if there is no place; the caller
    /// reports that.
    pub(super) async fn try_admit(
        self: &Arc<Self>,
        kind: ArrivalKind,
        asker: Asker<'_>,
        owner: Option<&ClientContext>,
        patience: Patience,
    ) -> Result<Option<Admitted>, Failed<I>> {
        #[cfg(feature = "metrics")]
        let began = self.begin_measure();
        let admitted = self.ask_and_place(kind, asker, owner, patience).await;
        #[cfg(feature = "metrics")]
        if let Some(began) = began {
            let is_admitted = matches!(admitted, Ok(Some(_)));
            self.measure(|metrics| metrics.admission(kind, is_admitted, began.elapsed()));
        }
        admitted
    }

    /// The steps of [`try_admit`](Self::try_admit).
    async fn ask_and_place(
        self: &Arc<Self>,
        kind: ArrivalKind,
        asker: Asker<'_>,
        owner: Option<&ClientContext>,
        patience: Patience,
    ) -> Result<Option<Admitted>, Failed<I>> {
        if self.stops_taking(kind) {
            return Err(self.refuse(kind, asker, PolicyError::Draining));
        }
        let context = asker.context;
        let policy = self.admission();
        let asked = ask(&policy, kind, context).await;
        let permit = asked.map_err(|no| self.refuse(kind, asker, PolicyError::Rejected(no)))?;
        let limits = self.in_force.load_full();
        let clients = limits.clients.ids(owner);
        let allowance = match self.allow(clients.max, patience == Patience::OnlyFree).await {
            Ok(Some(allowance)) => allowance,
            Ok(None) => return Ok(None),
            Err(rejection) => {
                // The permit gives its quota back before the rejection is reported, here and below.
                drop(permit);
                return Err(self.refuse(kind, asker, PolicyError::Rejected(rejection)));
            }
        };
        let place = self.place(kind, context, clients.share, patience).await;
        if place.is_some() && self.stops_taking(kind) {
            // A drain has begun meanwhile.
            drop((place, permit));
            return Err(self.refuse(kind, asker, PolicyError::Draining));
        }
        Ok(place.map(|place| Admitted { permit, allowance, place, clients, version: limits.clients.version, policy }))
    }

    /// Puts a session that exists in the inner manager into the registry. Returns how it came out of the parking. It does
    /// not await, so it cannot be dropped halfway.
    pub(super) fn register(
        self: &Arc<Self>,
        luggage: Luggage,
        transport: I::Transport,
        admitted: Admitted,
        now: Instant,
    ) -> Result<(PolicyTransport<I::Transport>, Came), Failed<I>> {
        self.parking.final_ends().run_on(self.runtime.get_or_init(Handle::current));
        self.lifecycle.get_or_init(|| tokio::spawn(lifecycle::run(Arc::downgrade(self))).abort_handle());
        self.watch_directory();
        let Luggage { origin, initialize_params, pin, claimed } = luggage;
        let Admitted { permit, allowance, place, clients, version, policy } = admitted;
        let restored = origin.restored;
        let (session, newborn, came, gone, is_owned) = {
            let mut core = self.lock();
            if self.live.contains(&origin.id) {
                drop(core);
                return Err(self.refuse_registered(restored, &origin.id, PolicyError::DuplicateId));
            }
            let seal_key = self.lazy_seal_key(pin.as_ref());
            let session = core
                .registry
                .insert(origin, now, |record| Session::new(record, transport, initialize_params, seal_key));
            if let Some(version) = pin.as_ref().and_then(|pin| pin.protocol_version.as_deref()) {
                session.speaks(version);
            }
            if let Some(data) = pin.as_ref().and_then(Parked::data) {
                *session.lock_data() = Some(Arc::clone(data));
            }
            if let Some(ownership) = claimed.and_then(Claimed::keep) {
                session.set_in_directory(InDirectory::new(ownership, true));
                self.durable.iter().for_each(|durable| durable.is_here(ownership, &session.record.id));
            }
            let key = session.record.entry.key;
            let is_owned = version == self.in_force.load().clients.version;
            if is_owned {
                core.registry.owned_by(key, clients);
            }
            core.look_at(key, self.first_deadline(&session, now));
            self.live.insert(Arc::clone(&session));
            if restored {
                core.restored_meanwhile.iter_mut().for_each(|(_, watched)| watched.push(Arc::clone(&session)));
            }
            place.settle(&mut core);
            allowance.settle(&mut core);
            // Leaves the parking under the lock under which it enters the registry, so it is always in one of them, and
            // never counted in both.
            let places = core.places_without_session();
            let arrived = self.parking.arrive(&session.record.id, pin.as_ref(), places);
            // Begun under the lock, before another request can choose a victim: the session is not evicted until its
            // first request comes.
            let newborn = Activity::begin(&session, ActivityKind::Hold, now);
            if arrived.came != Came::ToStay {
                session.raise(Flag::NoRestore);
            }
            if arrived.came == Came::Lost {
                session.raise(Flag::EndTold);
            }
            (session, newborn, arrived.came, arrived.gone, is_owned)
        };
        drop(gone);
        if !is_owned {
            self.own(&[Arc::clone(&session)]);
        }
        let host: Arc<dyn TransportEvents<I::Transport>> = Arc::<Self>::clone(self);
        let transport = PolicyTransport::new(Arc::clone(&session), host);
        let info = SessionInfo::of(&session.record);
        #[cfg(feature = "metrics")]
        self.measure(|metrics| metrics.opened(restored));
        if restored {
            self.counters.restored.fetch_add(1, Relaxed);
            tracing::debug!(session = %info.fingerprint(), "session restored");
            self.observe(&SessionEvent::Restored { session: info });
        } else {
            self.counters.opened.fetch_add(1, Relaxed);
            tracing::debug!(session = %info.fingerprint(), "session opened");
            self.observe(&SessionEvent::Opened { session: info });
        }
        // `commit` runs code of the policy. If it panics, the drop of the transport ends the session.
        session.hold(permit.commit());
        if session.has(Flag::Left) {
            session.drop_lease();
        }
        if !is_same(&policy, &self.admission()) {
            // Another policy is in force by now, and may have missed the session.
            self.adopt(&session);
        }
        // A drain that began after the admission may have listed the sessions before this one was there. So the new
        // session checks for a drain itself.
        if self.draining.load(SeqCst) {
            self.close(&session, CloseReason::Drained);
            return Err(self.refuse_registered(restored, &session.record.id, PolicyError::Draining));
        }
        hold_in_scope(|| newborn);
        Ok((transport, came))
    }

    /// Rejects an arrival whose session exists in the inner manager already.
    fn refuse_registered(&self, restored: bool, id: &str, error: Failed<I>) -> Failed<I> {
        let kind = if restored { ArrivalKind::Restore } else { ArrivalKind::Create };
        self.refuse(kind, Asker { context: ClientContext::current().as_deref(), session: Some(id) }, error)
    }
}
