//! The restore of parked sessions.

use std::sync::Arc;
use std::time::Duration;

use rmcp::transport::streamable_http_server::session::{RestoreOutcome, SessionId, SessionManager};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::asker::Asker;
use super::create::{Admitted, Luggage};
use super::durable::RESTORE_WAIT;
use super::manager_inner::ManagerInner;
use super::parked::Parked;
use super::parking_state::Came;
use super::place_search::Patience;
use super::restore_right::PendingRestore;
use super::single_flight::Flight;
use crate::admission::{ArrivalKind, ClientKey};
use crate::context::ClientContext;
use crate::directory::{Found, FoundState, Ownership, SessionDigest};
use crate::error::PolicyError;
use crate::observe::CloseReason;
use crate::scope::{detached, hold_in_scope, is_listening, is_passive, take_held};
use crate::session::Origin;
use crate::timestamp::Timestamp;
use crate::transport::{Flag, PolicyTransport};

type Restored<I> = RestoreOutcome<PolicyTransport<<I as SessionManager>::Transport>>;
/// How long a request waits at first, and at most, before it looks again whether another server has parked a session.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

type Failed<I> = PolicyError<<I as SessionManager>::Error>;

impl<I: SessionManager> ManagerInner<I> {
    /// Restores a session, under the same laws as a creation. After a rejection, the session stays parked.
    pub(super) async fn restore(self: &Arc<Self>, id: SessionId) -> Result<Restored<I>, Failed<I>> {
        let mut restoring = self.right_to_restore(&id).await?;
        let restored = match self.find(&id) {
            None => self.restore_by(&mut restoring, id).await,
            // Another request has restored it since rmcp asked. rmcp would answer `AlreadyPresent` with 500.
            Some(_) => Ok(RestoreOutcome::NotSupported),
        };
        match &restored {
            Ok(RestoreOutcome::Restored(_)) => restoring.done(),
            // No other request may try until rmcp is done with this one.
            _ => hold_in_scope(|| Some(restoring)),
        }
        restored
    }

    /// Until when a request waits for another one that restores its session, or closes it. With a directory the other one may
    /// wait for its turn.
    pub(super) fn settled_by(&self) -> Instant {
        let turn = if self.durable.is_some() { RESTORE_WAIT } else { Duration::ZERO };
        Instant::now() + turn + self.close_deadline()
    }

    /// Waits for the right to restore an id and for the end of its last incarnation.
    async fn right_to_restore(self: &Arc<Self>, id: &SessionId) -> Result<PendingRestore<I>, Failed<I>> {
        let deadline = self.settled_by();
        let mut kept = take_held::<PendingRestore<I>>().filter(|restoring| restoring.is_of(self, id));
        loop {
            let restoring = match kept.take() {
                Some(restoring) => restoring,
                None => match self.begin_restore(id) {
                    Ok(restoring) => restoring,
                    Err(other) => {
                        self.wait_for(id, &other, deadline).await?;
                        continue;
                    }
                },
            };
            let Some(session) = self.find(id).filter(|session| session.is_closing()) else { return Ok(restoring) };
            // A request that comes meanwhile finds the closing session, and waits as well.
            restoring.done();
            let closed = timeout(self.close_deadline(), session.until(|session| session.has(Flag::Left)));
            if closed.await.is_err() {
                return Err(self.refuse_restore(id));
            }
        }
    }

    async fn restore_by(
        self: &Arc<Self>,
        restoring: &mut PendingRestore<I>,
        id: SessionId,
    ) -> Result<Restored<I>, Failed<I>> {
        let parked = restoring.pin();
        if restoring.barred().is_some() || parked.is_none() && self.parking.is_ended_for_good(&id) {
            return Ok(RestoreOutcome::NotSupported);
        }
        let admitted = match restoring.admitted.take() {
            Some(admitted) => Some(admitted),
            None => self.admit_restore(&id, parked.as_ref(), restoring.patience()).await?,
        };
        let admitted = admitted.ok_or_else(|| self.refuse_restore(&id))?;
        if !self.claim_pinned(&id, restoring).await? {
            return Ok(RestoreOutcome::NotSupported);
        }
        let transport = match self.inner_restore(&id).await? {
            Some(transport) => transport,
            None => return Ok(RestoreOutcome::NotSupported),
        };
        let now = Instant::now();
        let claimed = restoring.take_claimed();
        let luggage = match parked {
            Some(parked) => {
                let initialize_params = Some(Arc::clone(&parked.initialize_params));
                Luggage { origin: parked.origin(id), initialize_params, pin: Some(parked), claimed }
            }
            None => {
                let origin = Origin::new(id, ClientContext::current(), Timestamp::of(now));
                Luggage {
                    origin: Origin { restored: true, restores: 1, ..origin },
                    initialize_params: None,
                    pin: None,
                    claimed,
                }
            }
        };
        // `register` takes the session out of the parking. If this future is dropped before, the session is still
        // parked.
        let (transport, came) = self.register(luggage, transport, admitted, now)?;
        // `NoRestore` does not tell: what revokes the session now may have raised it, and closes the session for a reason of
        // its own.
        let barred = restoring.barred().or_else(|| (came == Came::Barred).then_some(CloseReason::Client));
        if let Some(reason) = barred {
            self.close_for_good(transport.session(), reason);
        } else if came == Came::Lost {
            self.close(transport.session(), CloseReason::Client);
        }
        if transport.session().is_closing() {
            return Ok(RestoreOutcome::NotSupported);
        }
        #[cfg(feature = "metrics")]
        self.measure(|metrics| metrics.came_back(now.saturating_duration_since(restoring.began)));
        Ok(RestoreOutcome::Restored(transport))
    }

    /// Whether a session is parked and may be restored.
    pub(super) fn may_come_back(&self, id: &SessionId) -> bool {
        let now = Instant::now();
        let Some(parked) = self.parking.get(id, now) else { return false };
        let over_age = |lifetime| now >= parked.opened().plus(lifetime);
        if self.max_lifetime().is_some_and(over_age) {
            // Before it is taken: another request may be restoring it.
            self.restores.bar(id, CloseReason::Lifetime);
            self.parking.take(id, CloseReason::Lifetime);
            return false;
        }
        true
    }

    /// Asks the admission policy whether the client of this request may restore a session, and gets what the session
    /// needs. `None` if there is no place. The session counts as one of the client that opened it.
    async fn admit_restore(
        self: &Arc<Self>,
        id: &SessionId,
        parked: Option<&Parked>,
        patience: Patience,
    ) -> Result<Option<Admitted>, Failed<I>> {
        let context = ClientContext::current();
        if is_listening() && self.hands_over() {
            // A stream keeps no session busy: it would be parked again at once, and its client would come back with the
            // next stream.
            return Err(self.refuse_here(id, PolicyError::Draining));
        }
        let owner = match parked {
            Some(parked) => parked.context(),
            None => context.as_deref(),
        };
        let patience = if is_passive() { Patience::OnlyFree } else { patience };
        self.try_admit(ArrivalKind::Restore, Asker { context: context.as_deref(), session: Some(id) }, owner, patience)
            .await
    }

    /// Rejects a restore that found no place, or waited too long.
    pub(super) fn refuse_restore(&self, id: &str) -> Failed<I> {
        self.refuse_here(id, self.at_capacity())
    }

    /// Takes the right to restore an id, or returns the restore to wait for.
    pub(super) fn begin_restore(self: &Arc<Self>, id: &SessionId) -> Result<PendingRestore<I>, Arc<Flight>> {
        Ok(PendingRestore::new(self, self.restores.begin(id)?))
    }

    /// Waits for the restore of another request. Returns an error if that takes too long, or waits for a claim that is
    /// late: the session is there, so it is no 404, which clients take as final.
    pub(super) async fn wait_for(&self, id: &str, other: &Flight, deadline: Instant) -> Result<(), Failed<I>> {
        match timeout_at(deadline, other.landed()).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.refuse_here(id, PolicyError::Away)),
            Err(_) => Err(self.refuse_restore(id)),
        }
    }

    /// Rejects the restore of this session for the request of the current scope.
    pub(super) fn refuse_here(&self, id: &str, error: Failed<I>) -> Failed<I> {
        let context = ClientContext::current();
        self.refuse(ArrivalKind::Restore, Asker { context: context.as_deref(), session: Some(id) }, error)
    }

    /// Takes the right to restore a parked session for a request in a scope. The scope is needed because rmcp asks in
    /// one call whether the session exists, and restores it in another. Returns the restore to wait for if one is in
    /// progress.
    pub(super) fn reserve_restore(self: &Arc<Self>, id: &SessionId) -> Result<Option<PendingRestore<I>>, Arc<Flight>> {
        if ClientContext::is_in_scope() && self.may_come_back(id) {
            let mut restoring = self.begin_restore(id)?;
            // Checked again under the right: the session may have been restored meanwhile.
            if restoring.pin().is_none() {
                restoring.done();
                return Ok(None);
            }
            return Ok(Some(restoring));
        }
        self.restores.get(id).map_or(Ok(None), Err)
    }

    /// Keeps the right to restore a session, the permit and the place until rmcp restores the session or the scope
    /// ends. A rejection is returned here already, because rmcp answers the next requests with 404 after a restore that
    /// fails. Returns true for a GET that is held because its session stays parked.
    pub(super) async fn admit_reserved(
        self: &Arc<Self>,
        id: &SessionId,
        mut restoring: PendingRestore<I>,
    ) -> Result<bool, Failed<I>> {
        let parked = restoring.pin();
        if parked.as_ref().is_some_and(|parked| parked.ownership.is_some()) && !restoring.wait_for_permit().await {
            restoring.done();
            return Err(self.refuse_restore(id));
        }
        let admitted = match self.admit_restore(id, parked.as_ref(), restoring.patience()).await {
            Ok(Some(admitted)) => admitted,
            refused => {
                restoring.done();
                return match (refused?, parked) {
                    (None, Some(parked)) if self.reserve_stream(id, &parked) => Ok(true),
                    _ => Err(self.refuse_restore(id)),
                };
            }
        };
        restoring.admitted = Some(admitted);
        match self.claim_pinned(id, &mut restoring).await {
            Ok(true) => hold_in_scope(|| Some(restoring)),
            Ok(false) => restoring.done(),
            Err(refused) => {
                restoring.done();
                return Err(refused);
            }
        }
        Ok(false)
    }

    /// Waits until a session that another server has is parked, if that server is about to stop: for the close deadline at
    /// most. Its client waits meanwhile, and each look-up waits for its turn.
    async fn until_left(&self, id: &SessionId, mut found: Found) -> Result<Found, Failed<I>> {
        let deadline = Instant::now() + self.close_deadline();
        let (digest, client) = (SessionDigest::of(id), ClientKey::of_context(ClientContext::current().as_deref()));
        let mut pause = FIRST_PAUSE;
        while found.state == FoundState::Live {
            let Some(durable) = self.durable.as_ref().filter(|_| found.leaving && Instant::now() < deadline) else {
                return Err(PolicyError::Elsewhere);
            };
            sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
            let turn = durable.looks.turn(&client).await.map_err(|_| PolicyError::Elsewhere)?;
            let looked = durable.look(&digest).await;
            turn.hit();
            found = looked.map_err(|_| PolicyError::Away)?.ok_or(PolicyError::Elsewhere)?;
        }
        Ok(found)
    }

    /// Restores a session that was found in the directory, as [`admit_reserved`](Self::admit_reserved) does one that is
    /// parked here: when the restore has its place, it claims the session, and the session is pinned here.
    pub(super) async fn admit_found(
        self: &Arc<Self>,
        id: &SessionId,
        mut restoring: PendingRestore<I>,
        found: Found,
    ) -> Result<bool, Failed<I>> {
        let found = match self.until_left(id, found).await {
            Ok(found) => found,
            Err(refused) => {
                restoring.done();
                return Err(self.refuse_here(id, refused));
            }
        };
        if !restoring.wait_for_permit().await {
            restoring.done();
            return Err(self.refuse_restore(id));
        }
        let admitted = match self.admit_restore(id, None, restoring.patience()).await {
            // Without a place, a stream is held for a session that is parked here, so it is claimed all the same.
            Ok(None) if self.may_hold_streams() => None,
            Ok(Some(admitted)) => Some(admitted),
            refused => {
                restoring.done();
                return Err(refused.err().unwrap_or_else(|| self.refuse_restore(id)));
            }
        };
        let ownership = Ownership { digest: SessionDigest::of(id), epoch: found.epoch };
        let is_won = match restoring.claim(ownership).await {
            Ok(is_won) => is_won,
            Err(refused) => {
                restoring.done();
                return Err(self.refuse_here(id, refused));
            }
        };
        if !is_won || !restoring.pin_claimed() {
            restoring.done();
            return Ok(false);
        }
        if admitted.is_none() {
            // Given back and unpinned first: then it is known whether the parking has room for it.
            let parked = restoring.pin().filter(|_| restoring.barred().is_none());
            restoring.done();
            let holds = |parked: Parked| self.parking.contains(id) && self.reserve_stream(id, &parked);
            return if parked.is_some_and(holds) { Ok(true) } else { Err(self.refuse_restore(id)) };
        }
        restoring.admitted = admitted;
        hold_in_scope(|| Some(restoring));
        Ok(false)
    }

    /// Claims a session that is parked here and in the directory, once. Returns false if it has ended there.
    async fn claim_pinned(&self, id: &str, restoring: &mut PendingRestore<I>) -> Result<bool, Failed<I>> {
        let Some(ownership) = restoring.to_claim() else { return Ok(true) };
        restoring.claim(ownership).await.map_err(|refused| self.refuse_here(id, refused))
    }

    async fn inner_restore(&self, id: &SessionId) -> Result<Option<I::Transport>, Failed<I>> {
        let again = || self.inner.restore_session(SessionId::clone(id));
        let failed = |error| self.failed(ArrivalKind::Restore, Some(id), error);
        match again().await.map_err(failed)? {
            RestoreOutcome::Restored(transport) => return Ok(Some(transport)),
            RestoreOutcome::NotSupported => return Ok(None),
            _already_present => {}
        }
        // The inner manager has a session that was not opened through this one. For clients it does not exist.
        detached(self.inner.close_session(id)).await.map_err(failed)?;
        match again().await.map_err(failed)? {
            RestoreOutcome::Restored(transport) => Ok(Some(transport)),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests {
    use std::sync::{OnceLock, Weak};

    use super::*;
    use crate::PolicySessionManager;
    use crate::eviction::SessionInfo;
    use crate::observe::{SessionEvent, SessionObserver};
    use crate::testing::inner::Scripted;

    /// Does the first of the two steps of a revoke when a session was restored.
    #[derive(Clone, Debug, Default)]
    struct BeginsToRevoke(Arc<OnceLock<Weak<ManagerInner<Scripted>>>>);

    impl SessionObserver for BeginsToRevoke {
        fn observe(&self, event: &SessionEvent<'_>) {
            let SessionEvent::Restored { session } = event else { return };
            let shared = self.0.get().and_then(Weak::upgrade).unwrap();
            assert!(shared.lock().session(session.key()).unwrap().raise(Flag::NoRestore));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_revoke_keeps_its_reason_beside_a_restore_that_has_just_registered_the_session() {
        let revoke = BeginsToRevoke::default();
        let builder = PolicySessionManager::builder(Scripted::new()).observer(revoke.clone());
        let sessions = builder.build().unwrap();
        revoke.0.set(Arc::downgrade(&sessions.shared)).unwrap();
        let restored = sessions.restore_session("of another process".into()).await.unwrap();
        assert!(matches!(restored, RestoreOutcome::Restored(_)));
        assert_eq!(sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Revoked).await, 1);
        assert_eq!(sessions.stats().closed(CloseReason::Revoked), 1);
    }
}
