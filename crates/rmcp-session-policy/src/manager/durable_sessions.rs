//! What a manager does with a directory that outlives the process: it writes the life of its sessions, looks up and claims
//! those of others, and gives up its own.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rmcp::model::{ServerJsonRpcMessage, ServerResult};
use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use tokio::runtime::Handle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout, timeout_at};

use super::PolicySessionManager;
use super::due::end_due;
use super::durable::{Claimed, DIRECTORY_WAIT, Durable};
use super::final_end::FinalEndReason;
use super::look_queue::TooManyMisses;
use super::manager_inner::ManagerInner;
use super::parked::Parked;
use super::single_flight::Flight;
use crate::admission::{ClientKey, Rejection, RejectionClass, Retry};
use crate::context::ClientContext;
use crate::data::Values;
use crate::directory::{
    Body, BodyError, Change, Epoch, Found, FoundState, InDirectory, OwnerDigest, Ownership, SessionDigest,
    SessionDirectory, StoredSession, Usage,
};
use crate::error::PolicyError;
use crate::observe::CloseReason;
use crate::session::History;
use crate::time::SECOND;
use crate::timestamp::Timestamp;
use crate::transport::{Flag, Session};

/// How often a hand-over looks at all sessions at most.
const HAND_OVER_EVERY: Duration = Duration::from_millis(20);
/// How often usage is written.
const USED_EVERY: Duration = Duration::from_secs(5);

type Failed<I> = PolicyError<<I as SessionManager>::Error>;
type Here<I> = Arc<Session<<I as SessionManager>::Transport>>;

/// Says whether a server has given a session up. See [`PolicySessionManager::give_up`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GivenUp {
    /// The session is parked in the directory, or has ended, so that another server may claim it.
    Given,
    /// A request of the session is in flight or restores it, an answer of it is not taken (for five seconds at most), or its
    /// close takes longer than the close deadline.
    Busy,
    /// The session is neither live nor parked here.
    NotHere,
}

/// What a look-up in the directory found for a client.
pub(crate) enum LookedUp {
    /// The session is the client's, and live or parked here by now, or in the directory.
    Known(Option<Found>),
    /// The session does not exist, has ended, or belongs to another client.
    Unknown,
}

impl<I: SessionManager> PolicySessionManager<I> {
    /// Gives a session up, so that another server of the [directory](crate::directory) may claim it: closes it, unless it
    /// is busy, and parks it in the directory. Waits until that is written, for the close deadline at most.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use rmcp_session_policy::directory::SessionDigest;
    /// use rmcp_session_policy::testing::directory::MemoryDirectory;
    /// use rmcp_session_policy::{GivenUp, PolicySessionManager};
    ///
    /// let sessions = PolicySessionManager::local().directory(MemoryDirectory::new()).build()?;
    /// assert_eq!(sessions.give_up(&SessionDigest::of("of another server")).await, GivenUp::NotHere);
    /// # Ok(()) }
    /// # #[cfg(not(feature = "testing"))] fn main() {}
    /// ```
    pub async fn give_up(&self, session: &SessionDigest) -> GivenUp {
        let shared = &self.shared;
        let Some(durable) = &shared.durable else { return GivenUp::NotHere };
        let Some(id) = durable.id(session) else { return GivenUp::NotHere };
        let deadline = Instant::now() + shared.close_deadline();
        let Some(live) = shared.find(&id) else {
            // It is parked in the directory already.
            return match shared.parking.ownership(&id) {
                // A restore may have it, which is a request of it.
                Some(ownership) if !shared.parking.lose(&id, ownership) => GivenUp::Busy,
                Some(_) if durable.directory.written(session, deadline).await => GivenUp::Given,
                Some(_) => GivenUp::Busy,
                None => GivenUp::NotHere,
            };
        };
        if shared.close_if_idle(&live, CloseReason::Moved) == Some(false) {
            return GivenUp::Busy;
        }
        let left = live.until(|session| session.has(Flag::Left));
        if timeout_at(deadline, left).await.is_err() || !durable.directory.written(session, deadline).await {
            return GivenUp::Busy;
        }
        GivenUp::Given
    }
}

impl<I: SessionManager> PolicySessionManager<I> {
    /// Hands the sessions over to the other servers of the [directory](crate::directory), before this one stops: rejects
    /// newcomers, as [`refuse_newcomers`](Self::refuse_newcomers) does, and parks each session in the directory once it has
    /// nothing in flight. Requests that come meanwhile are served. Returns at once, and cannot be taken back. Without a
    /// directory it only rejects newcomers.
    ///
    /// Call it when the next server has started, and [`drain`](Self::drain) when the load balancer sends no more here. A
    /// look at all sessions each time that one becomes idle, fifty times a second at most.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use rmcp_session_policy::{PolicySessionManager, SECOND};
    ///
    /// let sessions = PolicySessionManager::local().build()?;
    /// sessions.hand_over();
    /// assert!(sessions.is_draining());
    /// sessions.drain(30 * SECOND).await;
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime if there is a directory.
    pub fn hand_over(&self) {
        self.refuse_newcomers();
        if let Some(durable) = &self.shared.durable {
            durable.directory.leave();
            self.shared.held.move_away(self.shared.expected_downtime());
        }
        if self.shared.durable.is_some() && !self.shared.signals.draining.swap(true, SeqCst) {
            drop(tokio::spawn(hand_over(Arc::downgrade(&self.shared))));
        }
    }
}

/// Parks each session in the directory once it is idle, until the manager is gone or drained.
async fn hand_over<I: SessionManager>(shared: Weak<ManagerInner<I>>) {
    let Some(signals) = shared.upgrade().map(|shared| Arc::clone(&shared.signals)) else { return };
    loop {
        let mut calm = std::pin::pin!(signals.calm.notified());
        calm.as_mut().enable();
        {
            let Some(shared) = shared.upgrade().filter(|shared| !shared.draining.load(SeqCst)) else { return };
            for session in shared.sessions() {
                if session.in_directory().is_some_and(InDirectory::is_ours) {
                    shared.close_if_idle(&session, CloseReason::Moved);
                }
            }
        }
        timeout(SECOND, calm).await.ok();
        sleep(HAND_OVER_EVERY).await;
    }
}

impl<I: SessionManager> ManagerInner<I> {
    /// Writes that a session was opened. rmcp has just answered its `initialize`.
    pub(super) fn open_in_directory(&self, session: &Here<I>, initialize_params: &Arc<[u8]>) {
        let Some(durable) = self.durable.as_ref().filter(|_| session.in_directory().is_none()) else { return };
        // Locked until the session is in the directory, so that no change of the data comes between.
        let data = session.lock_data();
        let values = data.as_deref().unwrap_or(Values::NONE);
        let Some(stored) = stored(session, initialize_params, false, values, Instant::now()) else { return };
        // The write comes first: what ends the session now finds either nothing to end, or a session that was opened.
        let ownership = durable.open(&session.record.id, stored);
        session.set_in_directory(InDirectory::new(ownership, false));
        drop(data);
        if session.has(Flag::Gone) {
            self.end_in_directory(session, None, None, false);
            durable.is_not_here(ownership);
        } else if session.has_ended_for_good() {
            self.end_for_good_in_directory(session);
        }
    }

    /// Writes that the handshake of a session is finished.
    pub(super) fn ready_in_directory(&self, session: &Session<I::Transport>) {
        if let Some(durable) = &self.durable
            && let Some(in_directory) = session.in_directory().filter(|session| session.is_ours())
            && in_directory.ready()
        {
            durable.write(in_directory.ownership, Change::Ready);
        }
    }

    /// Writes the end of an incarnation: that the session is parked, or has ended for good. Does so once.
    pub(super) fn end_in_directory(
        &self,
        session: &Session<I::Transport>,
        initialize_params: Option<&Arc<[u8]>>,
        data: Option<&Values>,
        stays: bool,
    ) {
        let (Some(durable), Some(in_directory)) = (&self.durable, session.in_directory()) else { return };
        if !in_directory.end() {
            return;
        }
        let change = if !stays {
            self.parking.final_ends().end(data)
        } else {
            let (values, now) = (data.unwrap_or(Values::NONE), Instant::now());
            let stored =
                initialize_params.and_then(|params| stored(session, params, in_directory.is_ready(), values, now));
            stored.map_or(Change::Released, Change::Parked)
        };
        durable.write(in_directory.ownership, change);
    }

    /// Writes that a session has ended for good. Does so once, at the moment at which that is decided: its close may take
    /// long, and the directory may have it as parked already.
    pub(super) fn end_for_good_in_directory(&self, session: &Session<I::Transport>) {
        if let (Some(durable), Some(in_directory)) = (&self.durable, session.in_directory())
            && in_directory.end_for_good()
        {
            durable.write(in_directory.ownership, self.end_of(session));
        }
    }

    /// What is to be written of the end of a session that may be parked already. It does not change its data any more.
    fn end_of(&self, session: &Session<I::Transport>) -> Change {
        let finals = self.parking.final_ends();
        if !finals.has_hook() {
            return Change::Dead;
        }
        let data = session.lock_data();
        // Its close has the data, and calls the hook.
        if session.has(Flag::DataTaken) { Change::Ending(None) } else { finals.end(data.as_deref()) }
    }

    /// Gives a session back that this release cannot serve.
    pub(super) fn release_unservable(&self, session: &Session<I::Transport>) {
        let (Some(durable), Some(in_directory)) = (&self.durable, session.in_directory()) else { return };
        durable.unservable.add(in_directory.ownership.digest);
        if in_directory.end() {
            durable.write(in_directory.ownership, Change::Released);
        }
    }

    /// Whether sessions are handed over to other servers of the directory.
    pub(super) fn hands_over(&self) -> bool {
        self.durable.is_some() && self.signals.draining.load(SeqCst)
    }

    /// Whether the answer to an `initialize`, or to its replay, is in the protocol version that the client speaks. It is not
    /// if another release of the server, which supports other versions, has answered the client. Without a directory it always
    /// is, and costs nothing but for metrics, which show the version.
    pub(super) fn speaks_the_same(&self, session: &Session<I::Transport>, answer: &ServerJsonRpcMessage) -> bool {
        let is_noted = self.durable.is_some();
        #[cfg(feature = "metrics")]
        let is_noted = is_noted || self.settings.metrics.is_some();
        let ServerJsonRpcMessage::Response(answer) = answer else { return true };
        if !is_noted {
            return true;
        }
        let ServerResult::InitializeResult(answer) = &answer.result else { return true };
        let version = answer.protocol_version.as_str();
        **session.speaks(version) == *version || self.durable.is_none()
    }

    /// Starts the tasks that watch the directory, with the first session. Two, since a panic of a backend ends a task.
    pub(super) fn watch_directory(self: &Arc<Self>) {
        if let Some(durable) = &self.durable {
            let (shared, directory) = (|| Arc::downgrade(self), || Arc::clone(&durable.directory));
            let has_hook = self.parking.final_ends().has_hook();
            let start = || {
                let watch = tokio::spawn(watch(shared(), directory())).abort_handle();
                let due = has_hook.then(|| tokio::spawn(end_due(shared(), directory())).abort_handle());
                (watch, due)
            };
            self.durable_tasks.get_or_init(start);
        }
    }

    /// Writes the usage of the sessions that were used since the last time.
    fn write_usage(&self) {
        let (Some(durable), Some(used)) = (&self.durable, &self.signals.used) else { return };
        // No more than there are now: what is used meanwhile is for the next time.
        for _ in 0..used.len() {
            let Some(session) = used.pop().and_then(|key| self.lock().session(key)) else { continue };
            session.record.entry.note_written();
            if let Some(in_directory) = session.in_directory().filter(|session| session.is_ours()) {
                in_directory.ready();
                let now = Instant::now();
                durable.write(in_directory.ownership, Change::Used(usage(&session.record.history(now), now)));
            }
        }
    }

    /// Waits until the end of a session that its client has deleted is written, for as long as an answer may wait.
    pub(super) async fn deletion_written(&self, session: &Session<I::Transport>) {
        if let (Some(durable), Some(in_directory)) = (&self.durable, session.in_directory()) {
            durable.end_written(&in_directory.ownership.digest).await;
        }
    }

    /// Closes a session that another server has claimed, without a write.
    fn lose(self: &Arc<Self>, digest: &SessionDigest, epoch: Epoch) {
        let ownership = Ownership { digest: *digest, epoch };
        let Some(id) = self.durable.as_ref().and_then(|durable| durable.id(digest)) else { return };
        self.parking.lose(&id, ownership);
        let Some(session) = self.find(&id) else { return };
        let is_lost = session.in_directory().is_some_and(|session| session.ownership == ownership && session.lose());
        if is_lost {
            self.close(&session, CloseReason::Moved);
        }
    }

    /// Looks for a session that is neither live nor parked here, or is another client's, for a client. The caller reports the
    /// error.
    ///
    /// What is another client's is looked up as what is unknown, so that the two are answered alike: with the same waits, the
    /// same misses, and the same error while the directory is away.
    pub(crate) async fn look_up(&self, id: &str, client: Option<&ClientContext>) -> Result<LookedUp, Failed<I>> {
        let Some(durable) = &self.durable else { return Ok(LookedUp::Unknown) };
        let (digest, key) = (SessionDigest::of(id), ClientKey::of_context(client));
        let _flight = loop {
            // Each time, so that requests for one unknown id do not wake each other again and again.
            durable.looks.may(&key).map_err(too_many_misses)?;
            match durable.flights.begin(&digest) {
                Ok(flight) => break flight,
                Err(other) => other.over().await,
            }
        };
        if self.is_here_for(id, client) {
            return Ok(LookedUp::Known(None));
        }
        let turn = durable.looks.turn(&key).await;
        let turn = turn.map_err(too_many_misses)?;
        let Ok(found) = durable.look(&digest).await else {
            turn.unanswered();
            return Err(PolicyError::Away);
        };
        let owner = client.and_then(OwnerDigest::of);
        let is_over_age = |age| self.max_lifetime().is_some_and(|lifetime| age >= lifetime);
        let is_here =
            |found: &Found| found.state != FoundState::Dead && found.owner == owner && !is_over_age(found.age);
        match found.filter(is_here) {
            Some(_) if durable.unservable.contains(&digest) => Ok(LookedUp::Unknown),
            Some(found) => {
                turn.hit();
                Ok(LookedUp::Known(Some(found)))
            }
            None => Ok(LookedUp::Unknown),
        }
    }

    /// Returns what to restore from what was claimed. `None` if it cannot be decoded, or is over age; then it is ended, or
    /// given back if a newer release can decode it.
    pub(super) fn decode(&self, claimed: Claimed, stored: &StoredSession) -> Option<(Claimed, Parked)> {
        if self.max_lifetime().is_some_and(|lifetime| stored.age >= lifetime) {
            self.end_claimed(claimed, CloseReason::Lifetime, None, Some(stored));
            return None;
        }
        match Body::decode(&stored.body) {
            Ok(body) => {
                let parked = Parked::stored(stored, body, claimed.ownership(), Instant::now());
                Some((claimed, parked))
            }
            Err(BodyError::Newer) => {
                tracing::warn!("a newer release has written a session to the directory; it is left there");
                let durable = self.durable.as_ref().zip(claimed.ownership());
                durable.into_iter().for_each(|(durable, ownership)| durable.unservable.add(ownership.digest));
                None
            }
            Err(BodyError::Damaged) => {
                tracing::warn!("a session in the directory is damaged, and is ended");
                claimed.end(Change::Dead);
                None
            }
        }
    }

    /// Ends a session that was claimed, and calls the hook with the data that was parked here, or stored.
    pub(super) fn end_claimed(
        &self,
        claimed: Claimed,
        reason: CloseReason,
        parked: Option<Parked>,
        stored: Option<&StoredSession>,
    ) {
        let finals = self.parking.final_ends();
        if !finals.has_hook() {
            return claimed.end(Change::Dead);
        }
        let decode = |stored: &StoredSession| {
            Some(Parked::stored(stored, Body::decode(&stored.body).ok()?, None, Instant::now()))
        };
        let Some(parked) = parked.or_else(|| stored.and_then(decode)) else { return claimed.end(Change::Dead) };
        let (context, data, ownership) =
            (parked.shared_context().cloned(), parked.data().cloned(), claimed.ownership());
        claimed.end(finals.end(data.as_deref()));
        finals.tell(FinalEndReason::Closed(reason), context, data, ownership);
    }

    /// Ends a session that its client has deleted once its restore is over, which takes longer than an answer may wait.
    fn end_after(self: &Arc<Self>, id: &SessionId, restore: Arc<Flight>) {
        let (shared, id) = (Arc::clone(self), SessionId::clone(id));
        let context = ClientContext::current().as_deref().cloned().unwrap_or_default();
        let end = context.scope(async move {
            restore.over().await;
            if let Ok(Some(session)) = shared.end_parked(&id, None).await {
                shared.close_for_good(&session, CloseReason::Client);
            }
        });
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn(end));
        }
    }

    /// Ends a session that a client deletes and that is not live here, in the parking and in the directory, and waits until
    /// that is written, for as long as an answer may wait. Returns the session if it is live by now.
    pub(super) async fn end_parked(
        self: &Arc<Self>,
        id: &SessionId,
        mut found: Option<Found>,
    ) -> Result<Option<Here<I>>, Failed<I>> {
        let Some(durable) = &self.durable else {
            self.parking.take(id, CloseReason::Client);
            return Ok(None);
        };
        let digest = SessionDigest::of(id);
        let until = Instant::now() + DIRECTORY_WAIT;
        let mut restoring = loop {
            match self.begin_restore(id) {
                Ok(restoring) => break restoring,
                Err(_) => {
                    let Some(restore) = self.restores.bar(id, CloseReason::Client) else { continue };
                    // It ends the session, if it has claimed it. If it is refused before that, the session is ended here.
                    self.parking.take(id, CloseReason::Client);
                    if timeout_at(until, restore.over()).await.is_err() {
                        durable.note_late();
                        self.end_after(id, restore);
                        return Ok(None);
                    }
                    found = None;
                }
            }
        };
        if let Some(session) = self.find(id) {
            restoring.done();
            return Ok(Some(session));
        }
        let parked = restoring.pin();
        // The drop of the right ends what is pinned, and what is claimed from here on, also if that comes late.
        let restore = self.restores.bar(id, CloseReason::Client);
        self.parking.take(id, CloseReason::Client);
        let epoch = match (&parked, found) {
            (Some(parked), _) => parked.ownership.map(|ownership| ownership.epoch),
            (None, Some(found)) => Some(found.epoch),
            (None, None) => self.look_for_end(durable, &digest).await?,
        };
        let ended = match epoch {
            Some(epoch) if restoring.wait_to_end().await => restoring.claim(Ownership { digest, epoch }).await,
            Some(_) => Err(self.at_capacity()),
            None => Ok(false),
        };
        restoring.done();
        match ended {
            // This server has parked it, so its end counts unless another one has claimed it meanwhile.
            Err(PolicyError::Away | PolicyError::ServerFull(_)) if parked.is_some() => {}
            Err(refused) => return Err(self.refuse_here(id, refused)),
            Ok(_) => {}
        }
        durable.end_written_after(restore, &digest).await;
        Ok(None)
    }

    /// Looks up the epoch of a session that is to be ended: it has just left this server, or no layer has looked for it.
    async fn look_for_end(&self, durable: &Durable, digest: &SessionDigest) -> Result<Option<Epoch>, Failed<I>> {
        if !ClientContext::is_in_scope() {
            return Ok(None);
        }
        let found = durable.look(digest).await.map_err(|_| PolicyError::Away)?;
        Ok(found.filter(|found| found.state != FoundState::Dead).map(|found| found.epoch))
    }
}

/// Watches the directory until the manager is gone.
async fn watch<I: SessionManager>(shared: Weak<ManagerInner<I>>, directory: Arc<dyn SessionDirectory>) {
    // Not anew after each loss, or a directory that reports many would keep the usage from being written.
    let mut usage = interval_at(Instant::now() + USED_EVERY, USED_EVERY);
    usage.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut lost = std::pin::pin!(directory.lost());
        let lost = loop {
            tokio::select! {
                lost = &mut lost => break lost,
                _ = usage.tick() => {
                    let Some(shared) = shared.upgrade() else { return };
                    shared.write_usage();
                }
            }
        };
        let Some(shared) = shared.upgrade() else { return };
        lost.iter().for_each(|(digest, epoch)| shared.lose(digest, *epoch));
        // A directory that reports without a wait must not keep this thread.
        tokio::task::yield_now().await;
    }
}

/// What the directory stores of a session. `None` if it is too large.
pub(super) fn stored<T>(
    session: &Session<T>,
    initialize_params: &Arc<[u8]>,
    ready: bool,
    values: &Values,
    now: Instant,
) -> Option<StoredSession> {
    let context = session.record.entry.context.clone();
    let owner = context.as_deref().and_then(OwnerDigest::of);
    let history = session.record.history(now);
    let (initialize_params, protocol_version) = (Arc::clone(initialize_params), session.protocol_version());
    let (seal_key, data) = (Some(session.seal_key().to_stored()), values.stored().cloned().collect());
    let body = Body { initialize_params, protocol_version, context, seal_key, data }.encode()?;
    let age = Timestamp::at(now).since(history.opened);
    Some(StoredSession::new(owner, age, usage(&history, now), body).with_ready(ready || history.uses > 0))
}

fn usage(history: &History, now: Instant) -> Usage {
    Usage::default()
        .with_idle(Timestamp::at(now).since(history.last_used))
        .with_uses(history.uses)
        .with_calls(history.calls, history.last_gap.duration())
}

fn too_many_misses<E: std::error::Error>(refused: TooManyMisses) -> PolicyError<E> {
    let rejection = Rejection::new("unknown_sessions").with_class(RejectionClass::Overload);
    PolicyError::Rejected(rejection.with_retry(Retry::After(refused.0)))
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::directory::StoredValue;
    use crate::testing::directory::MemoryDirectory;
    use crate::testing::inner::Scripted;

    /// Another server has claimed a session, which is deleted here before it is closed.
    #[tokio::test(start_paused = true)]
    async fn nothing_that_is_decided_here_of_a_lost_session_ends_it() {
        let (directory, told) = (MemoryDirectory::new(), Arc::new(AtomicUsize::new(0)));
        let hook = {
            let told = Arc::clone(&told);
            move |_| {
                told.fetch_add(1, SeqCst);
                async {}
            }
        };
        let builder = PolicySessionManager::builder(Scripted::new()).directory(directory.clone()).on_final_end(hook);
        let sessions = builder.build().unwrap();
        let value = StoredValue { name: "count".into(), version: 1, bytes: b"1".to_vec().into() };
        let mut ended = Vec::new();
        for is_lost in [true, false] {
            let (id, transport) = sessions.create_session().await.unwrap();
            let session = sessions.shared.find(&id).unwrap();
            sessions.shared.open_in_directory(&session, &b"{}".to_vec().into());
            *session.lock_data() = Some(Arc::new(Values::of_stored([value.clone()])));
            let digest = SessionDigest::of(&id);
            if is_lost {
                sessions.shared.lose(&digest, Epoch::FIRST);
            }
            sessions.shared.close_for_good(&session, CloseReason::Client);
            drop(transport);
            session.until(|session| session.has(Flag::Left)).await;
            tokio::task::yield_now().await;
            let found = directory.look(&digest).await.unwrap().unwrap();
            ended.push((told.load(SeqCst), found.state));
        }
        assert_eq!(ended, [(0, FoundState::Live), (1, FoundState::Dead)]);
    }

    /// A DELETE finds a session whose last steps are done by the time at which it says that the session must not come back.
    #[tokio::test(start_paused = true)]
    async fn a_session_that_is_deleted_just_when_it_was_parked_leaves_the_parking() {
        let sessions = PolicySessionManager::builder(Scripted::new()).build().unwrap();
        let (id, transport) = sessions.create_session().await.unwrap();
        let shared = &sessions.shared;
        let session = shared.find(&id).unwrap();
        shared.close(&session, CloseReason::Evicted);
        drop(transport);
        session.until(|session| session.has(Flag::Left)).await;
        let parked = Parked::of(&session.record, b"{}".to_vec().into(), None, false, Instant::now());
        drop(shared.parking.park(SessionId::clone(&id), parked, 0, Instant::now()));
        assert_eq!(sessions.stats().parked, 1);
        assert!(!shared.close_for_good(&session, CloseReason::Client), "its close had begun");
        assert_eq!(sessions.stats().parked, 0);
    }
}
