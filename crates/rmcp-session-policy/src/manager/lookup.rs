//! The way from an id to a session that is held for the request of the current scope.

use std::sync::Arc;
use std::time::Duration;

use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use tokio::time::{Instant, timeout, timeout_at};

use super::durable_sessions::LookedUp;
use super::manager_inner::{ManagerInner, not_found};
use super::restore_right::PendingRestore;
use crate::context::ClientContext;
use crate::error::PolicyError;
use crate::scope::{Outcome, clear_held, hold_in_scope, record_outcome, take_found, take_held};
use crate::session::{Activity, ActivityKind, Record};
use crate::transport::{Flag, Session};

/// How long a restored session waits for the begin of its replay.
const REPLAY_BEGINS: Duration = Duration::from_millis(100);

type Failed<I> = PolicyError<<I as SessionManager>::Error>;

/// The owner of a session, compared with the client that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The session is neither live nor parked.
    Unknown,
    /// The session belongs to another client.
    Other,
    /// The session belongs to the client that asks.
    Same(SessionId),
}

fn owner_of(context: Option<&ClientContext>) -> Option<(Option<&str>, Option<&str>)> {
    context.and_then(ClientContext::owner)
}

/// What has become of a session for which a request waited.
enum Settled {
    /// It was live or parked here. Whether it takes the request.
    Here(bool),
    /// It is neither live nor parked here.
    Unknown,
}

/// A session that takes requests, and the hold that `has_session` began for this request.
pub(super) struct Entered<T> {
    pub(super) session: Arc<Session<T>>,
    pub(super) held: Option<Activity<Session<T>>>,
}

impl<I: SessionManager> ManagerInner<I> {
    /// Finds a live session, which may be closing.
    pub(super) fn find(&self, id: &str) -> Option<Arc<Session<I::Transport>>> {
        self.live.find(id)
    }

    /// Finds a session that takes requests.
    pub(super) fn find_live(&self, id: &str) -> Result<Arc<Session<I::Transport>>, PolicyError<I::Error>> {
        self.find(id).filter(|session| !session.is_closing()).ok_or_else(not_found)
    }

    /// Compares the owner of a session with the client that asks and the service that it asks. Allocates only if the
    /// session is parked.
    pub(crate) fn owner(&self, id: &str, asking: Option<&ClientContext>) -> Owner {
        let is_same = |opened: Option<&ClientContext>| owner_of(opened) == owner_of(asking);
        // The session may be parked or restored between the two checks, so both are repeated once.
        for _ in 0..2 {
            let live = self.live.look(id, |session| {
                is_same(session.record.entry.context.as_deref()).then(|| SessionId::clone(&session.record.id))
            });
            let parked = || self.parking.look(id, |context| is_same(context).then(|| id.into()));
            if let Some(owned) = live.or_else(parked) {
                return owned.map_or(Owner::Other, Owner::Same);
            }
        }
        Owner::Unknown
    }

    /// Whether a session is live or parked here, and belongs to a client.
    pub(super) fn is_here_for(&self, id: &str, client: Option<&ClientContext>) -> bool {
        matches!(self.owner(id, client), Owner::Same(_))
    }

    /// Finds the session of a request. The scope has it if rmcp asked for the session in this scope.
    pub(super) fn enter(&self, id: &str) -> Result<Entered<I::Transport>, PolicyError<I::Error>> {
        let held = take_held::<Activity<Session<I::Transport>>>();
        let is_this = |record: &Record| *record.id == *id && record.entry.is_of(&self.signals);
        match held.filter(|held| is_this(&held.session().record) && !held.session().is_closing()) {
            Some(held) => Ok(Entered { session: Arc::clone(held.session()), held: Some(held) }),
            None => Ok(Entered { session: self.find_live(id)?, held: None }),
        }
    }

    /// Whether the session exists and takes requests. Waits, at most for the close deadline, while the session is
    /// closing or being restored. Within a scope, the restore of a parked session is admitted or rejected here.
    pub(super) async fn find_and_hold(self: &Arc<Self>, id: &SessionId) -> Result<bool, Failed<I>> {
        clear_held();
        if self.live.look(id, takes_requests) == Some(true) {
            return Ok(true);
        }
        // Boxed, because otherwise the future of each request in rmcp would have its size.
        let answer = Box::pin(self.settle_or_find(id)).await;
        if matches!(answer, Ok(false)) {
            record_outcome(Outcome::Absent);
        }
        answer
    }

    /// Waits until a session is settled here, and looks for it in the directory if it is not here.
    async fn settle_or_find(self: &Arc<Self>, id: &SessionId) -> Result<bool, Failed<I>> {
        let mut found = take_found();
        loop {
            match self.wait_until_settled(id).await? {
                Settled::Here(is_here) => return Ok(is_here),
                Settled::Unknown if self.durable.is_none() || !ClientContext::is_in_scope() => return Ok(false),
                Settled::Unknown => {}
            }
            let found = match found.take() {
                Some(found) => found,
                None => match self.look_up_here(id).await? {
                    LookedUp::Known(Some(found)) => found,
                    LookedUp::Known(None) => continue,
                    LookedUp::Unknown => return Ok(false),
                },
            };
            match self.begin_restore(id) {
                // It may have come between the two.
                Ok(restoring) if self.live.contains(id) || self.parking.contains(id) => restoring.done(),
                Ok(restoring) => return self.admit_found(id, restoring, found).await,
                Err(other) => self.wait_for(id, &other, self.settled_by()).await?,
            }
        }
    }

    /// Looks for a session in the directory, for the client of the current scope, and reports an error.
    async fn look_up_here(&self, id: &SessionId) -> Result<LookedUp, Failed<I>> {
        let client = ClientContext::current();
        let looked = self.look_up(id, client.as_deref()).await;
        looked.map_err(|error| self.refuse_here(id, error))
    }

    /// Waits for a close, restore or replay in progress, and decides whether the session is restored.
    async fn wait_until_settled(self: &Arc<Self>, id: &SessionId) -> Result<Settled, Failed<I>> {
        let deadline = self.settled_by();
        loop {
            let session = self.find(id);
            let goes_on = match session {
                Some(session) if takes_requests(&session) => return Ok(Settled::Here(true)),
                Some(session) if session.is_closing() => {
                    let left = session.until(|session| session.has(Flag::Left));
                    timeout(self.close_deadline(), left).await.is_ok()
                }
                Some(session) => match self.replayed(&session, deadline).await {
                    Some(answer) => return Ok(Settled::Here(answer)),
                    None => true,
                },
                None => match self.reserve_restore(id) {
                    // Without a directory the session is parked meanwhile, so the layer tells its client to come back.
                    Err(other) if self.durable.is_none() => timeout_at(deadline, other.landed()).await.is_ok(),
                    Err(other) => self.wait_for(id, &other, deadline).await.map(|()| true)?,
                    // Another request may have restored it just before this one took the right.
                    Ok(reserved) if self.find(id).is_some() => {
                        reserved.into_iter().for_each(PendingRestore::done);
                        true
                    }
                    Ok(Some(restoring)) => return self.admit_reserved(id, restoring).await.map(Settled::Here),
                    Ok(None) => return Ok(Settled::Unknown),
                },
            };
            if !goes_on {
                return Ok(Settled::Here(false));
            }
        }
    }

    /// Waits until the handshake of a restored session was replayed. `None` if the caller has to check again.
    async fn replayed(&self, session: &Arc<Session<I::Transport>>, deadline: Instant) -> Option<bool> {
        // rmcp replays the handshake at once. A caller that restores by hand and replays nothing is not kept waiting.
        let begins = deadline.min(Instant::now() + REPLAY_BEGINS);
        let begun = session.until(|session| session.has(Flag::Initializing) || !session.is_replaying());
        if timeout_at(begins, begun).await.is_err() {
            return try_hold(session).then_some(true);
        }
        let replayed = session.until(|session| session.is_closing() || !session.is_replaying());
        timeout_at(deadline, replayed).await.is_err().then(|| try_hold(session))
    }
}

/// Whether a session takes requests. A restored session does once its handshake was replayed.
fn takes_requests<T: Send + 'static>(session: &Arc<Session<T>>) -> bool {
    !session.is_replaying() && try_hold(session)
}

/// Whether a session takes requests. Within a scope, the same step begins a hold, so that the session is not evicted
/// before the request comes.
fn try_hold<T: Send + 'static>(session: &Arc<Session<T>>) -> bool {
    if !ClientContext::is_in_scope() {
        return !session.is_closing();
    }
    let lease = Activity::begin(session, ActivityKind::Hold, Instant::now());
    let held = lease.is_some();
    hold_in_scope(|| lease);
    held
}
