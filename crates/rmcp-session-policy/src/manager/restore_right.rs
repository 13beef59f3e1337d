//! The right to restore a session that is not live here, or to end it: one task has it at a time, with what it holds of the
//! session until that is live, has ended, or is parked as before.

use std::sync::Arc;
use std::time::Duration;

use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

use super::create::Admitted;
use super::durable::{Claimed, DIRECTORY_WAIT, RESTORE_WAIT};
use super::goes_on::GoesOn;
use super::in_turn::Permit;
use super::manager_inner::ManagerInner;
use super::parked::Parked;
use super::place_search::Patience;
use super::single_flight::FlightGuard;
use crate::admission::ClientKey;
use crate::context::ClientContext;
use crate::directory::{Away, Claim, Found, Ownership, StoredSession};
use crate::error::PolicyError;
use crate::observe::CloseReason;

/// How long rmcp takes, at most, to forget a restore that failed.
const RMCP_FORGETS: Duration = Duration::from_millis(10);

type Failed<I> = PolicyError<<I as SessionManager>::Error>;

/// The right to restore or end an id. Its drop wakes the requests that wait for it.
///
/// A claim takes the right with it. So a claim whose answer comes late, when no request waits for it, still finds the
/// parked session and what was decided of it meanwhile; and there is one claim of a session at a time.
struct Right<I: SessionManager> {
    shared: Arc<ManagerInner<I>>,
    /// The parked session, once it is pinned. Until the drop, the pin keeps its room in the parking.
    pin: Option<Parked>,
    /// What is claimed from the directory, until the session has it. The drop gives it back, after the pin has ended.
    claimed: Option<Claimed>,
    /// What was stored of it, until that is pinned.
    stored: Option<StoredSession>,
    /// Whether the pinned session belongs to another server now.
    is_lost: bool,
    /// Dropped after the pin has ended.
    flight: FlightGuard<SessionId>,
    /// Counts the restore among those at a time, if it needs the directory.
    permit: Option<Permit>,
    /// Until when its request waits, if it needs the directory.
    until: Option<Instant>,
}

/// The right of one request. If it ends without a session, the right passes on a little later.
pub(super) struct PendingRestore<I: SessionManager> {
    /// `None` while a claim has it, and after a claim that is late.
    right: Option<Right<I>>,
    /// What the session needs, once it has it.
    pub(super) admitted: Option<Admitted>,
    /// When its request came.
    #[cfg(feature = "metrics")]
    pub(super) began: Instant,
}

impl<I: SessionManager> Right<I> {
    /// Takes the answer to a claim.
    fn answered(&mut self, ownership: Ownership, answer: Result<Claim, Away>) -> Result<Answer, Away> {
        self.flight.is_late_at(None);
        let (answer, stored) = match answer? {
            Claim::Yours(epoch, stored) => {
                self.won(Ownership { epoch, ..ownership });
                (Answer::Won, Some(stored))
            }
            Claim::Elsewhere(_) => (Answer::Elsewhere, None),
            Claim::Gone => (Answer::Gone, None),
        };
        self.is_lost = stored.is_none();
        self.stored = stored;
        Ok(answer)
    }

    /// Takes over what a claim has won. From here on the parked session is known under its new epoch.
    fn won(&mut self, ownership: Ownership) {
        let Some(durable) = &self.shared.durable else { return };
        self.claimed = Some(Claimed::new(Arc::clone(durable), ownership));
        let Some(pin) = &mut self.pin else { return };
        pin.ownership = Some(ownership);
        durable.is_here(ownership, self.flight.key());
        if !self.shared.parking.set_ownership(self.flight.key(), pin, ownership) {
            // The parking has forgotten it meanwhile.
            durable.is_not_here(ownership);
        }
    }

    /// Ends the pin: the session is parked as before, unless it has ended. Returns whether that was for good.
    fn unpin(&self, pin: &Parked, barred: Option<CloseReason>) -> bool {
        let id = self.flight.key();
        if let Some(reason) = barred {
            // The bar may have come before the pin, which then does not know of it.
            self.shared.parking.take(id, reason);
        }
        let gone = {
            // Under the lock, so that no session comes into a place that is counted as free.
            let core = self.shared.lock();
            let places = core.places_without_session();
            self.shared.parking.unpin(id, pin, places)
        };
        gone.has_barred(pin.serial())
    }

    /// Gives back what was claimed, or ends it. `pin` is what is not parked any more.
    fn give_back(&mut self, pin: Option<Parked>, barred: Option<CloseReason>) {
        let Some(claimed) = self.claimed.take() else { return };
        match barred {
            None => drop(claimed),
            Some(reason) => {
                self.shared.end_claimed(claimed, reason, pin, self.stored.as_ref());
            }
        }
    }
}

/// The answer to a claim, as in [`Claim`].
enum Answer {
    Won,
    Elsewhere,
    Gone,
}

impl<I: SessionManager> Drop for Right<I> {
    fn drop(&mut self) {
        let barred = self.flight.barred();
        let Some(pin) = self.pin.take() else {
            self.give_back(None, barred);
            return;
        };
        if self.is_lost {
            drop(self.shared.parking.lose_pinned(self.flight.key(), &pin));
            return;
        }
        let serial = pin.serial();
        let has_ended = self.unpin(&pin, barred);
        let end = || self.shared.parking.final_ends().end(pin.data().map(|data| &**data));
        match (self.claimed.take(), pin.ownership.zip(self.shared.durable.as_ref())) {
            // The end of the pin has told of the final end.
            (Some(claimed), _) if has_ended => claimed.end(end()),
            (None, Some((ownership, durable))) if has_ended => durable.write(ownership, end()),
            (claimed, _) => {
                self.claimed = claimed;
                self.give_back(Some(pin), barred);
            }
        }
        if self.shared.find(self.flight.key()).is_none() {
            self.shared.held.stays(serial);
        }
    }
}

impl<I: SessionManager> PendingRestore<I> {
    pub(super) fn new(shared: &Arc<ManagerInner<I>>, flight: FlightGuard<SessionId>) -> Self {
        let shared = Arc::clone(shared);
        let (claimed, stored, permit) = (None, None, None);
        let right = Right { flight, shared, pin: None, claimed, stored, is_lost: false, permit, until: None };
        Self {
            right: Some(right),
            admitted: None,
            #[cfg(feature = "metrics")]
            began: Instant::now(),
        }
    }

    pub(super) fn is_of(&self, shared: &Arc<ManagerInner<I>>, id: &SessionId) -> bool {
        self.right.as_ref().is_some_and(|right| right.flight.key() == id && Arc::ptr_eq(&right.shared, shared))
    }

    /// Why the session has ended for good meanwhile. `None` if it has not.
    pub(super) fn barred(&self) -> Option<CloseReason> {
        self.right.as_ref().and_then(|right| right.flight.barred())
    }

    /// Pins the session, if it is parked and may be restored. Returns what is parked.
    pub(super) fn pin(&mut self) -> Option<Parked> {
        let right = self.right.as_mut()?;
        let id = right.flight.key();
        if right.pin.is_none() && !right.is_lost && right.shared.may_come_back(id) {
            right.pin = right.shared.parking.pin(id);
            right.pin.iter().for_each(|pin| right.shared.held.comes_back(pin.serial()));
        }
        right.pin.clone()
    }

    /// Pins a session that was claimed. Returns false if it cannot be restored, or has ended meanwhile.
    pub(super) fn pin_claimed(&mut self) -> bool {
        let Some(right) = &mut self.right else { return false };
        let (shared, id) = (Arc::clone(&right.shared), SessionId::clone(right.flight.key()));
        let Some(durable) = &shared.durable else { return false };
        let Some((claimed, stored)) = right.claimed.take().zip(right.stored.take()) else { return false };
        let Some((claimed, parked)) = shared.decode(claimed, &stored) else { return false };
        claimed.ownership().iter().for_each(|ownership| durable.is_here(*ownership, &id));
        right.claimed = Some(claimed);
        let (pin, gone) = {
            // Under the lock, so that no session comes into a place that is counted as free.
            let core = shared.lock();
            let places = core.places_without_session();
            shared.parking.claimed(&id, parked, places)
        };
        drop(gone);
        right.pin = Some(pin);
        // Looked at after the pin: what bars the restore from here on finds the pin.
        right.flight.barred().is_none()
    }

    /// Waits until one more session may be restored, clients in turn. Returns false if none may.
    pub(super) async fn wait_for_permit(&mut self) -> bool {
        let Some(right) = &mut self.right else { return false };
        let Some(durable) = &right.shared.durable else { return true };
        right.until = Some(Instant::now() + RESTORE_WAIT);
        right.permit = durable.may_restore(&ClientKey::of_context(ClientContext::current().as_deref())).await;
        right.permit.is_some()
    }

    /// Waits until one more session may be ended. Returns false if none may within the time of an answer.
    pub(super) async fn wait_to_end(&mut self) -> bool {
        let Some(right) = &mut self.right else { return false };
        let Some(durable) = &right.shared.durable else { return true };
        right.permit = durable.may_end(&ClientKey::of_context(ClientContext::current().as_deref())).await;
        right.permit.is_some()
    }

    /// How long the request waits for a place, unless it takes only a free one. After a restart all clients come back at once,
    /// so the requests for sessions of a directory wait longer than others.
    pub(super) fn patience(&self) -> Patience {
        self.right.as_ref().and_then(|right| right.until).map_or(Patience::Turn, Patience::Until)
    }

    /// Under what the pinned session is to be claimed. `None` if it is in no directory, or claimed.
    pub(super) fn to_claim(&self) -> Option<Ownership> {
        let right = self.right.as_ref().filter(|right| right.claimed.is_none())?;
        right.pin.as_ref().and_then(|pin| pin.ownership)
    }

    /// Claims the session. Returns false if it has ended.
    ///
    /// If the request is dropped, or has waited long enough, the claim goes on on a task of its own with the right. What it
    /// wins then is given back, or ended if that was decided meanwhile. Its permit goes along, so that there are not more of
    /// such tasks.
    pub(super) async fn claim(&mut self, ownership: Ownership) -> Result<bool, Failed<I>> {
        let Some(mut right) = self.right.take() else { return Ok(false) };
        let Some(durable) = right.shared.durable.clone() else { return Ok(false) };
        right.flight.is_late_at(Some(Instant::now() + DIRECTORY_WAIT));
        let directory = Arc::clone(&durable.directory);
        let claim = async move {
            let answer = directory.claim(&ownership.digest, &Found::parked_here(ownership.epoch)).await;
            let answer = right.answered(ownership, answer);
            (right, answer)
        };
        let claimed = timeout(DIRECTORY_WAIT, GoesOn::new(claim, || Handle::try_current().ok())).await;
        let answer = match claimed {
            Ok((right, answer)) => {
                self.right = Some(right);
                answer
            }
            Err(_) => Err(Away::because("a claim took too long")),
        };
        match durable.note(answer) {
            Ok(Answer::Won) => Ok(true),
            Ok(Answer::Gone) => Ok(false),
            Ok(Answer::Elsewhere) => Err(PolicyError::Elsewhere),
            Err(_) => Err(PolicyError::Away),
        }
    }

    /// Hands over what was claimed, to the incarnation that is about to be.
    pub(super) fn take_claimed(&mut self) -> Option<Claimed> {
        self.right.as_mut().and_then(|right| right.claimed.take())
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

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests {
    use super::*;
    use crate::PolicySessionManager;
    use crate::directory::{Body, Change, Epoch, FoundState, SessionDigest, SessionDirectory, Usage};
    use crate::testing::directory::MemoryDirectory;
    use crate::testing::inner::Scripted;

    const ID: &str = "one";

    /// A manager, with a session in its directory that another server has parked.
    fn with_a_session_in_the_directory() -> (PolicySessionManager<Scripted>, MemoryDirectory, SessionDigest) {
        let (directory, digest) = (MemoryDirectory::new(), SessionDigest::of(ID));
        let initialize_params = b"{}".to_vec().into();
        let body = Body { initialize_params, protocol_version: None, context: None, data: Vec::new(), seal_key: None };
        let stored = StoredSession::new(None, Duration::ZERO, Usage::default(), body.encode().unwrap());
        directory.another_server().write(&digest, Epoch::FIRST, Change::Parked(stored));
        let builder = PolicySessionManager::builder(Scripted::new()).directory(directory.clone());
        (builder.build().unwrap(), directory, digest)
    }

    async fn state(directory: &MemoryDirectory, digest: &SessionDigest) -> Option<FoundState> {
        directory.look(digest).await.unwrap().map(|found| found.state)
    }

    /// A request that asks for the session and goes no further; at the end of its scope the session is given back.
    async fn ask(sessions: &PolicySessionManager<Scripted>, and: impl FnOnce()) {
        let request = async {
            assert!(!sessions.has_session(&ID.into()).await.unwrap());
            and();
        };
        ClientContext::new().scope(request).await;
        sleep(2 * RMCP_FORGETS).await;
    }

    /// A DELETE bars the restore, and finds nothing parked to take; then what was claimed is pinned.
    #[tokio::test(start_paused = true)]
    async fn a_session_that_is_deleted_between_its_claim_and_its_pin_is_dead() {
        let (sessions, directory, digest) = with_a_session_in_the_directory();
        ask(&sessions, || assert!(sessions.shared.restores.bar(ID, CloseReason::Client).is_some())).await;
        assert_eq!(state(&directory, &digest).await, Some(FoundState::Dead));
        assert_eq!((sessions.stats().parked, sessions.stats().reserved), (0, 0));
        assert!(sessions.shared.durable.as_ref().unwrap().id(&digest).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_left_here_of_a_session_that_the_parking_forgets_while_it_is_claimed() {
        let (sessions, directory, digest) = with_a_session_in_the_directory();
        let shared = &sessions.shared;
        let is_here = || shared.durable.as_ref().unwrap().id(&digest).is_some();
        ask(&sessions, || {}).await;
        assert_eq!((sessions.stats().parked, is_here()), (1, true));
        directory.delay(Duration::from_millis(20));
        let forget = async {
            sleep(Duration::from_millis(10)).await;
            let pinned = shared.parking.get(ID, Instant::now()).unwrap();
            drop(shared.parking.lose_pinned(ID, &pinned));
        };
        tokio::join!(ask(&sessions, || {}), forget);
        sleep(Duration::from_millis(50)).await;
        assert_eq!(state(&directory, &digest).await, Some(FoundState::Parked));
        assert_eq!((sessions.stats().parked, is_here()), (0, false));
    }
}
