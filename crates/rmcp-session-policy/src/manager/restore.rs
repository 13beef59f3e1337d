//! The restore of parked sessions.

use std::sync::Arc;
use std::time::Duration;

use rmcp::transport::streamable_http_server::session::{RestoreOutcome, SessionId, SessionManager};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout_at};

use super::create::{Admitted, Luggage};
use super::durable::Claimed;
use super::manager_inner::ManagerInner;
use super::parking_state::{Came, Parked};
use super::single_flight::{Flight, FlightGuard};
use crate::admission::ArrivalKind;
use crate::context::ClientContext;
use crate::directory::{Change, Found, FoundState, Ownership, SessionDigest};
use crate::error::PolicyError;
use crate::observe::CloseReason;
use crate::scope::{detached, hold_in_scope, is_passive, take_held};
use crate::session::Origin;
use crate::timestamp::Timestamp;
use crate::transport::{Flag, PolicyTransport};

/// How long rmcp takes, at most, to forget a restore that failed.
const RMCP_FORGETS: Duration = Duration::from_millis(10);

/// The right to restore an id. One request has it at a time; its drop wakes the requests that wait for it.
struct Right<I: SessionManager> {
    shared: Arc<ManagerInner<I>>,
    /// The parked session, once it is pinned. Until the drop, the pin keeps its room in the parking.
    pin: Option<Parked>,
    /// What is claimed from the directory, until the session has it. The drop gives it back, after the pin has ended.
    claimed: Option<Claimed>,
    /// Whether the pinned session belongs to another server now.
    is_lost: bool,
    /// Dropped after the pin has ended.
    flight: FlightGuard<SessionId>,
    /// Counts the restore among those at a time, if it needs the directory.
    permit: Option<OwnedSemaphorePermit>,
}

impl<I: SessionManager> Drop for Right<I> {
    fn drop(&mut self) {
        let Some(pin) = &self.pin else { return };
        let id = self.flight.key();
        if self.is_lost {
            drop(self.shared.parking.lose_pinned(id, pin));
            return;
        }
        let gone = {
            // Under the lock, so that no session comes into a place that is counted as free.
            let core = self.shared.lock();
            let places = self.shared.settings.max_sessions.saturating_sub(core.registry.len());
            self.shared.parking.unpin(id, pin, places)
        };
        // The bar may have come between the claim and the pin, which then does not know of it.
        let ended = self.flight.barred().filter(|_| self.claimed.is_some());
        if let Some(reason) = ended {
            self.shared.parking.take(id, reason);
        }
        let is_barred = ended.is_some() || gone.has_barred(pin.serial());
        match (is_barred, self.claimed.take(), pin.ownership.zip(self.shared.durable.as_ref())) {
            (true, Some(claimed), _) => claimed.end(),
            (true, None, Some((ownership, durable))) => durable.write(ownership, Change::Dead),
            (_, claimed, _) => drop(claimed),
        }
        drop(gone);
        if self.shared.find(id).is_none() {
            self.shared.held.stays(pin.serial());
        }
    }
}

/// The restore of one request, which holds that right. If it ends without a session, the right passes on a little
/// later.
pub(super) struct PendingRestore<I: SessionManager> {
    right: Option<Right<I>>,
    /// What the session needs, once it has it.
    admitted: Option<Admitted>,
}

impl<I: SessionManager> PendingRestore<I> {
    fn is_of(&self, shared: &Arc<ManagerInner<I>>, id: &SessionId) -> bool {
        self.right.as_ref().is_some_and(|right| right.flight.key() == id && Arc::ptr_eq(&right.shared, shared))
    }

    /// Why the session has ended for good meanwhile. `None` if it has not.
    fn barred(&self) -> Option<CloseReason> {
        self.right.as_ref().and_then(|right| right.flight.barred())
    }

    /// Pins the session, if it is parked and may be restored. Returns what is parked.
    fn pin(&mut self) -> Option<Parked> {
        let right = self.right.as_mut()?;
        let id = right.flight.key();
        if right.pin.is_none() && !right.is_lost && right.shared.may_come_back(id) {
            right.pin = right.shared.parking.pin(id);
            right.pin.iter().for_each(|pin| right.shared.held.comes_back(pin.serial()));
        }
        right.pin.clone()
    }

    /// Waits until one more session may be restored, if this one is in the directory. Returns false if none may.
    async fn wait_for_permit(&mut self, parked: Option<&Parked>) -> bool {
        if let Some(right) = &mut self.right
            && parked.is_some_and(|parked| parked.ownership.is_some())
            && let Some(durable) = &right.shared.durable
        {
            right.permit = durable.may_restore().await;
            return right.permit.is_some();
        }
        true
    }

    /// Passes the right on at once. Called when the session is restored, or when rmcp knows nothing of this restore.
    pub(super) fn done(mut self) {
        self.right.take();
    }
}

impl<I: SessionManager> Drop for PendingRestore<I> {
    fn drop(&mut self) {
        // rmcp forgets a failed restore on a task of its own. Until then it answers 404 to every request for that id.
        if let Some(right) = self.right.take()
            && let Ok(runtime) = Handle::try_current()
        {
            drop(runtime.spawn(async move {
                sleep(RMCP_FORGETS).await;
                drop(right);
            }));
        }
    }
}

type Restored<I> = RestoreOutcome<PolicyTransport<<I as SessionManager>::Transport>>;
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

    /// Waits, at most for the close deadline, for the right to restore an id and for the end of its last incarnation.
    async fn right_to_restore(self: &Arc<Self>, id: &SessionId) -> Result<PendingRestore<I>, Failed<I>> {
        let deadline = Instant::now() + self.settings.close_deadline;
        let mut kept = take_held::<PendingRestore<I>>().filter(|restoring| restoring.is_of(self, id));
        loop {
            let restoring = match kept.take() {
                Some(restoring) => restoring,
                None => match self.begin_restore(id) {
                    Ok(restoring) => restoring,
                    Err(other) => {
                        if timeout_at(deadline, other.landed()).await.is_err() {
                            return Err(self.refuse_restore());
                        }
                        continue;
                    }
                },
            };
            let Some(session) = self.find(id).filter(|session| session.is_closing()) else { return Ok(restoring) };
            // A request that comes meanwhile finds the closing session, and waits as well.
            restoring.done();
            if timeout_at(deadline, session.until(|session| session.has(Flag::Left))).await.is_err() {
                return Err(self.refuse_restore());
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
            None => self.admit_restore(parked.as_ref()).await?,
        };
        let admitted = admitted.ok_or_else(|| self.refuse_restore())?;
        if !self.claim_pinned(restoring).await? {
            return Ok(RestoreOutcome::NotSupported);
        }
        let transport = match self.inner_restore(&id).await? {
            Some(transport) => transport,
            None => return Ok(RestoreOutcome::NotSupported),
        };
        let now = Instant::now();
        let claimed = restoring.right.as_mut().and_then(|right| right.claimed.take());
        let luggage = match parked {
            Some(parked) => {
                let initialize_params = Some(Arc::clone(&parked.initialize_params));
                Luggage { origin: parked.origin(id), initialize_params, pin: Some(parked), claimed }
            }
            None => {
                let origin = Origin::new(id, ClientContext::current(), Timestamp::of(now));
                Luggage { origin: Origin { restored: true, ..origin }, initialize_params: None, pin: None, claimed }
            }
        };
        // `register` takes the session out of the parking. If this future is dropped before, the session is still
        // parked.
        let (transport, came) = self.register(luggage, transport, admitted, now)?;
        // `NoRestore` does not tell: what revokes the session now may have raised it, and closes the session for a reason of
        // its own.
        let ended = restoring.barred().or_else(|| (came != Came::ToStay).then_some(CloseReason::Client));
        if let Some(reason) = ended {
            self.close(transport.session(), reason);
        }
        if transport.session().is_closing() {
            return Ok(RestoreOutcome::NotSupported);
        }
        Ok(RestoreOutcome::Restored(transport))
    }

    /// Whether a session is parked and may be restored.
    pub(super) fn may_come_back(&self, id: &SessionId) -> bool {
        let now = Instant::now();
        let Some(parked) = self.parking.get(id, now) else { return false };
        let over_age = |lifetime| now >= parked.opened().plus(lifetime);
        if self.settings.max_lifetime.is_some_and(over_age) {
            // Before it is taken: another request may be restoring it.
            self.restores.bar(id, CloseReason::Lifetime);
            self.parking.take(id, CloseReason::Lifetime);
            return false;
        }
        true
    }

    /// Asks the admission policy whether the client of this request may restore a session, and gets what the session
    /// needs. `None` if there is no place. The session counts as one of the client that opened it.
    async fn admit_restore(self: &Arc<Self>, parked: Option<&Parked>) -> Result<Option<Admitted>, Failed<I>> {
        let context = ClientContext::current();
        let owner = match parked {
            Some(parked) => parked.context(),
            None => context.as_deref(),
        };
        self.try_admit(ArrivalKind::Restore, context.as_deref(), owner, is_passive()).await
    }

    /// Rejects a restore that found no place, or waited too long.
    pub(super) fn refuse_restore(&self) -> Failed<I> {
        self.refuse(ArrivalKind::Restore, ClientContext::current().as_deref(), self.at_capacity())
    }

    /// Takes the right to restore an id, or returns the restore to wait for.
    fn begin_restore(self: &Arc<Self>, id: &SessionId) -> Result<PendingRestore<I>, Arc<Flight>> {
        let flight = self.restores.begin(id)?;
        let right = Right { flight, shared: Arc::clone(self), pin: None, claimed: None, is_lost: false, permit: None };
        Ok(PendingRestore { right: Some(right), admitted: None })
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
        if !restoring.wait_for_permit(parked.as_ref()).await {
            restoring.done();
            return Err(self.refuse_restore());
        }
        let admitted = match self.admit_restore(parked.as_ref()).await {
            Ok(Some(admitted)) => admitted,
            refused => {
                restoring.done();
                return match (refused?, parked) {
                    (None, Some(parked)) if self.reserve_stream(id, &parked) => Ok(true),
                    _ => Err(self.refuse_restore()),
                };
            }
        };
        restoring.admitted = Some(admitted);
        match self.claim_pinned(&mut restoring).await {
            Ok(true) => hold_in_scope(|| Some(restoring)),
            Ok(false) => restoring.done(),
            Err(refused) => {
                restoring.done();
                return Err(refused);
            }
        }
        Ok(false)
    }

    /// Restores a session that was found in the directory, as [`admit_reserved`](Self::admit_reserved) does one that is
    /// parked here: when the restore has its place, it claims the session, and the session is pinned here.
    pub(super) async fn admit_found(
        self: &Arc<Self>,
        id: &SessionId,
        mut restoring: PendingRestore<I>,
        found: Found,
    ) -> Result<bool, Failed<I>> {
        let Some(durable) = &self.durable else { return Ok(false) };
        if found.state == FoundState::Live {
            restoring.done();
            return Err(self.refuse(ArrivalKind::Restore, ClientContext::current().as_deref(), PolicyError::Elsewhere));
        }
        let permit = durable.may_restore().await;
        if permit.is_none() {
            restoring.done();
            return Err(self.refuse_restore());
        }
        let admitted = match self.admit_restore(None).await {
            Ok(Some(admitted)) => admitted,
            refused => {
                restoring.done();
                return Err(refused.err().unwrap_or_else(|| self.refuse_restore()));
            }
        };
        let ownership = Ownership { digest: SessionDigest::of(id), epoch: found.epoch };
        let claimed = match self.claim(durable, ownership, permit).await {
            Ok(claimed) => claimed,
            Err(refused) => {
                restoring.done();
                return Err(refused);
            }
        };
        let restored = claimed.and_then(|(claimed, stored, permit)| Some((self.decode(claimed, &stored)?, permit)));
        match restored.zip(restoring.right.as_mut()) {
            None => restoring.done(),
            Some((((claimed, _), _), right)) if right.flight.barred().is_some() => {
                claimed.end();
                restoring.done();
            }
            Some((((claimed, parked), permit), right)) => {
                claimed.ownership().iter().for_each(|ownership| durable.is_here(*ownership, id));
                right.pin = Some(self.pin_claimed(id, parked));
                (right.claimed, right.permit) = (Some(claimed), permit);
                restoring.admitted = Some(admitted);
                hold_in_scope(|| Some(restoring));
            }
        }
        Ok(false)
    }

    /// Puts a session that was claimed into the parking, pinned.
    fn pin_claimed(&self, id: &SessionId, parked: Parked) -> Parked {
        let (pin, gone) = {
            // Under the lock, so that no session comes into a place that is counted as free.
            let core = self.lock();
            let places = self.settings.max_sessions.saturating_sub(core.registry.len());
            self.parking.claimed(id, parked, places)
        };
        drop(gone);
        pin
    }

    /// Claims a session that is parked here and in the directory, once. Returns false if it has ended there.
    async fn claim_pinned(&self, restoring: &mut PendingRestore<I>) -> Result<bool, Failed<I>> {
        let Some(right) = restoring.right.as_mut().filter(|right| right.claimed.is_none()) else { return Ok(true) };
        let Some(pin) = &mut right.pin else { return Ok(true) };
        let (Some(durable), Some(ownership)) = (&self.durable, pin.ownership) else { return Ok(true) };
        match self.claim(durable, ownership, right.permit.take()).await {
            Ok(Some((claimed, _, permit))) => {
                pin.ownership = claimed.ownership();
                pin.ownership.iter().for_each(|ownership| durable.is_here(*ownership, right.flight.key()));
                self.parking.set_ownership(right.flight.key(), pin, pin.ownership);
                (right.claimed, right.permit) = (Some(claimed), permit);
                Ok(true)
            }
            Ok(None) => {
                right.is_lost = true;
                Ok(false)
            }
            Err(refused) => {
                right.is_lost = matches!(refused, PolicyError::Elsewhere);
                Err(refused)
            }
        }
    }

    /// Takes the right to restore a session that was found in the directory, or returns the restore to wait for.
    pub(super) fn reserve_found(self: &Arc<Self>, id: &SessionId) -> Result<PendingRestore<I>, Arc<Flight>> {
        self.begin_restore(id)
    }

    async fn inner_restore(&self, id: &SessionId) -> Result<Option<I::Transport>, Failed<I>> {
        let again = || self.inner.restore_session(SessionId::clone(id));
        let failed = |error| self.failed(ArrivalKind::Restore, error);
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
