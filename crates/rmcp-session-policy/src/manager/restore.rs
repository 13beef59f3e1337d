//! How parked sessions come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use dashmap::Entry;
use rmcp::transport::streamable_http_server::session::{RestoreOutcome, SessionId, SessionManager};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use super::create::Luggage;
use super::shared::Shared;
use crate::admission::ArrivalKind;
use crate::context::{ClientContext, apart, keep_for_scope, let_go, take_kept};
use crate::error::PolicyError;
use crate::observe::CloseReason;
use crate::registry::{Kind, Origin};
use crate::transport::{Flag, Governed, Session};

/// How long a session that was just restored is given until its handshake is replayed.
const REPLAY_BEGINS: Duration = Duration::from_millis(100);

/// How long rmcp is given to forget a restore that failed.
const RMCP_FORGETS: Duration = Duration::from_millis(1);

/// A restore under way.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    done: Notify,
    /// Whether the session was deleted or revoked meanwhile.
    barred: AtomicBool,
}

/// The right to restore an id, which one has at a time; its drop lets the next one go on.
struct Right<I: SessionManager> {
    shared: Arc<Shared<I>>,
    id: SessionId,
    under_way: Arc<UnderWay>,
}

impl<I: SessionManager> Drop for Right<I> {
    fn drop(&mut self) {
        self.shared.restoring.remove(&self.id);
        self.under_way.done.notify_waiters();
        self.shared.restores.fetch_sub(1, SeqCst);
    }
}

/// One request's hold of that right. If it ends without a session, the next request goes on a little later.
struct Restoring<I: SessionManager>(Option<Right<I>>);

impl<I: SessionManager> Restoring<I> {
    fn is_of(&self, shared: &Arc<Shared<I>>, id: &SessionId) -> bool {
        self.0.as_ref().is_some_and(|right| right.id == *id && Arc::ptr_eq(&right.shared, shared))
    }

    /// Whether the session was deleted or revoked meanwhile.
    fn is_barred(&self) -> bool {
        self.0.as_ref().is_some_and(|right| right.under_way.barred.load(SeqCst))
    }

    /// The session is there: whoever waits for it goes on.
    fn done(mut self) {
        self.0.take();
    }
}

impl<I: SessionManager> Drop for Restoring<I> {
    fn drop(&mut self) {
        // rmcp forgets a restore that failed on a task of its own, and until then answers 404 to whoever asks for that id.
        if let Some(right) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            drop(runtime.spawn(async move {
                sleep(RMCP_FORGETS).await;
                drop(right);
            }));
        }
    }
}

type Restored<I> = RestoreOutcome<Governed<<I as SessionManager>::Transport>>;
type Failed<I> = PolicyError<<I as SessionManager>::Error>;

impl<I: SessionManager> Shared<I> {
    /// Restores a session. It obeys the laws of any newcomer; if it is refused, it stays parked.
    pub(super) async fn restore(self: &Arc<Self>, id: SessionId) -> Result<Restored<I>, Failed<I>> {
        let restoring = self.right_to_restore(&id).await?;
        let restored = match self.find(&id) {
            None => self.restore_by(&restoring, id).await,
            // It came back since rmcp asked. `AlreadyPresent` would be answered with 500.
            Some(_) => Ok(RestoreOutcome::NotSupported),
        };
        match &restored {
            Ok(RestoreOutcome::Restored(_)) => restoring.done(),
            // Nobody else tries until rmcp is done with this request.
            _ => keep_for_scope(|| Some(restoring)),
        }
        restored
    }

    /// Waits, bounded, for the right to restore an id, and for what is left of its last incarnation.
    async fn right_to_restore(self: &Arc<Self>, id: &SessionId) -> Result<Restoring<I>, Failed<I>> {
        let deadline = Instant::now() + self.settings.close_deadline;
        let mut kept = take_kept::<Restoring<I>>().filter(|restoring| restoring.is_of(self, id));
        loop {
            let restoring = match kept.take() {
                Some(restoring) => restoring,
                None => match self.begin_restore(id) {
                    Ok(restoring) => restoring,
                    Err(other) => {
                        if !self.wait_for_restore(id, &other, deadline).await {
                            return Err(self.refuse_restore());
                        }
                        continue;
                    }
                },
            };
            let Some(session) = self.find(id).filter(|session| session.is_closing()) else { return Ok(restoring) };
            // Whoever asks meanwhile finds the session, and waits as well.
            restoring.done();
            if timeout_at(deadline, session.until(|session| session.has(Flag::Left))).await.is_err() {
                return Err(self.refuse_restore());
            }
        }
    }

    async fn restore_by(self: &Arc<Self>, restoring: &Restoring<I>, id: SessionId) -> Result<Restored<I>, Failed<I>> {
        let now = Instant::now();
        let context = ClientContext::current();
        let parked = self.parking.get(&id, now);
        let dead = match &parked {
            Some(parked) => self.is_over_age(self.clock.instant(parked.opened()), now),
            None => self.parking.is_dead(&id),
        };
        if dead {
            drop(self.parking.take(&id));
            return Ok(RestoreOutcome::NotSupported);
        }
        let passive = context.as_ref().is_some_and(|context| context.is_passive());
        let (permit, place) = self.admit(ArrivalKind::Restore, context.as_deref(), passive).await?;
        let transport = match self.inner_restore(&id).await? {
            Some(transport) => transport,
            None => return Ok(RestoreOutcome::NotSupported),
        };
        let now = Instant::now();
        let luggage = match &parked {
            Some(parked) => {
                Luggage { origin: parked.origin(SessionId::clone(&id)), parcel: Some(Arc::clone(&parked.parcel)) }
            }
            None => {
                let opened = self.clock.stamp(now);
                let id = SessionId::clone(&id);
                let origin =
                    Origin { id, context, opened, last_used: opened, last_seen: opened, uses: 0, restored: true };
                Luggage { origin, parcel: None }
            }
        };
        let governed = self.register(luggage, transport, place, permit, now)?;
        // Taken out only now: had this future been dropped before, the session would still be parked, and at no moment is
        // the id neither live nor parked. If it is not there any more, it was deleted, which bars it, or others needed the
        // room, which is no reason to end it.
        if let Some(parked) = &parked {
            self.parking.take_this(&id, parked);
        }
        if restoring.is_barred() {
            // Deleted or revoked while it was being restored: it is ended the one way there is.
            if self.close(governed.session(), CloseReason::Client) {
                self.start_end(Arc::clone(governed.session()));
            }
            return Ok(RestoreOutcome::NotSupported);
        }
        Ok(RestoreOutcome::Restored(governed))
    }

    /// Turns a restore away that waited for too long.
    fn refuse_restore(&self) -> Failed<I> {
        self.refuse(ArrivalKind::Restore, ClientContext::current().as_deref(), self.at_capacity())
    }

    /// Keeps a session that is deleted or revoked from coming back by a restore that is under way.
    pub(super) fn bar_restore(&self, id: &str) {
        if let Some(under_way) = self.restoring.get(id) {
            under_way.barred.store(true, SeqCst);
        }
    }

    /// Takes the right to restore an id, or gives what to wait for.
    fn begin_restore(self: &Arc<Self>, id: &SessionId) -> Result<Restoring<I>, Arc<UnderWay>> {
        match self.restoring.entry(SessionId::clone(id)) {
            Entry::Occupied(other) => Err(Arc::clone(other.get())),
            Entry::Vacant(vacant) => {
                let under_way = Arc::<UnderWay>::default();
                vacant.insert(Arc::clone(&under_way));
                self.restores.fetch_add(1, SeqCst);
                Ok(Restoring(Some(Right { shared: Arc::clone(self), id: SessionId::clone(id), under_way })))
            }
        }
    }

    /// Takes the right to restore a parked session for the request that asks for it, until its scope ends: rmcp asks
    /// whether the session is there, and restores it in another call. Tells whether it did, or gives what to wait for if
    /// the session is being restored.
    fn reserve_restore(self: &Arc<Self>, id: &SessionId) -> Result<bool, Arc<UnderWay>> {
        if ClientContext::is_in_scope() && self.parking.get(id, Instant::now()).is_some() {
            let restoring = self.begin_restore(id)?;
            keep_for_scope(|| Some(restoring));
            return Ok(true);
        }
        match self.restores.load(SeqCst) {
            0 => Ok(false),
            _ => self.restoring.get(id).map_or(Ok(false), |other| Err(Arc::clone(other.value()))),
        }
    }

    async fn inner_restore(&self, id: &SessionId) -> Result<Option<I::Transport>, Failed<I>> {
        let again = || self.inner.restore_session(SessionId::clone(id));
        let failed = |error| self.failed(ArrivalKind::Restore, error);
        match again().await.map_err(failed)? {
            RestoreOutcome::Restored(transport) => return Ok(Some(transport)),
            RestoreOutcome::NotSupported => return Ok(None),
            _already_present => {}
        }
        // The inner manager has what nobody opened through this one. Such a session does not exist.
        apart(self.inner.close_session(id)).await.map_err(failed)?;
        match again().await.map_err(failed)? {
            RestoreOutcome::Restored(transport) => Ok(Some(transport)),
            _ => Ok(None),
        }
    }

    fn is_over_age(&self, opened: Instant, now: Instant) -> bool {
        self.settings.max_lifetime.is_some_and(|lifetime| now >= opened + lifetime)
    }

    /// Whether the session exists and takes requests. Waits, bounded, while the id is closing or being restored.
    pub(super) async fn has(self: &Arc<Self>, id: &SessionId) -> bool {
        let_go();
        let mut deadline = None;
        loop {
            let session = match self.directory.get(id) {
                Some(session) if !session.is_replaying() && holds(&session) => return true,
                Some(session) => Some(Arc::clone(session.value())),
                None => None,
            };
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.settings.close_deadline);
            let goes_on = match session {
                Some(session) if session.is_closing() => {
                    timeout_at(deadline, session.until(|session| session.has(Flag::Left))).await.is_ok()
                }
                Some(session) => match self.replayed(&session, deadline).await {
                    Some(answer) => return answer,
                    None => true,
                },
                None => match self.reserve_restore(id) {
                    // It may have come back just before the right to restore it was taken.
                    Ok(reserved) if self.find(id).is_some() => {
                        if reserved {
                            let_go();
                        }
                        true
                    }
                    Ok(_) => return false,
                    Err(other) => self.wait_for_restore(id, &other, deadline).await,
                },
            };
            if !goes_on {
                return false;
            }
        }
    }

    /// Waits until the handshake of a restored session was replayed. `None`: look again.
    async fn replayed(&self, session: &Session, deadline: Instant) -> Option<bool> {
        // rmcp replays the handshake at once. Whoever restores by hand, and replays nothing, is not kept.
        let begins = deadline.min(Instant::now() + REPLAY_BEGINS);
        let begun = session.until(|session| session.has(Flag::Initializing) || !session.is_replaying());
        if timeout_at(begins, begun).await.is_err() {
            return holds(session).then_some(true);
        }
        let replayed = session.until(|session| session.is_closing() || !session.is_replaying());
        timeout_at(deadline, replayed).await.is_err().then(|| holds(session))
    }

    /// Waits until a restore that is under way is done; false if it takes too long.
    async fn wait_for_restore(&self, id: &SessionId, restore: &Arc<UnderWay>, deadline: Instant) -> bool {
        let mut done = std::pin::pin!(restore.done.notified());
        done.as_mut().enable();
        let over = self.restoring.get(id).is_none_or(|now| !Arc::ptr_eq(now.value(), restore));
        over || timeout_at(deadline, done).await.is_ok()
    }
}

/// Whether a session takes requests. Within a scope this is one step with its lease: until the request comes, nobody takes
/// its session away from under it.
fn holds(session: &Session) -> bool {
    if !ClientContext::is_in_scope() {
        return !session.is_closing();
    }
    let lease = session.record.begin(Kind::Lease, Instant::now());
    let held = lease.is_some();
    keep_for_scope(|| lease);
    held
}
