//! The directory that outlives the process, as one manager uses it: what it writes, claims and looks up.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use dashmap::DashMap;
use foldhash::fast::RandomState;
use rmcp::transport::streamable_http_server::session::SessionId;
use tokio::time::{Instant, timeout, timeout_at};

use super::availability::Availability;
use super::in_turn::{InTurn, Permit};
use super::look_queue::LookQueue;
use super::single_flight::{Flight, SingleFlight};
use super::unservable::Unservable;
use crate::admission::ClientKey;
pub(super) use crate::directory::DIRECTORY_WAIT;
use crate::directory::{Away, Change, Epoch, Found, Ownership, SessionDigest, SessionDirectory, StoredSession};
use crate::time::MINUTE;

/// How long a request waits until one more session may be restored, and for the place of that session. When all clients come
/// back after a restart, each waits for the restores before its own; a client waits about a minute for an answer.
pub(super) const RESTORE_WAIT: Duration = MINUTE;
/// How many sessions are restored at a time, unless there are fewer places: those that come back all at once must not all
/// wait for a place.
const RESTORES: usize = 256;
/// How long the directory may be away until what waits for a restore gives up.
const AWAY_WAIT: Duration = Duration::from_secs(1);

/// The directory, and what this server has of it.
pub(super) struct Durable {
    pub(super) directory: Arc<dyn SessionDirectory>,
    /// The sessions of the directory that are live or parked here, and the epochs under which they are.
    ids: DashMap<SessionDigest, (SessionId, Epoch), RandomState>,
    pub(super) looks: Arc<LookQueue>,
    /// The look-ups under way, of which there is one for each digest.
    pub(super) flights: Arc<SingleFlight<SessionDigest>>,
    /// The right to restore one more session, for clients in turn.
    restores: Arc<InTurn>,
    /// The right to end one more session that is not live here.
    ends: Arc<InTurn>,
    /// Whether it answers.
    pub(super) availability: Availability,
    /// Sessions that only another release can serve.
    pub(super) unservable: Unservable,
    /// Answers that left before what they acknowledge was durable.
    pub(super) late: AtomicU64,
}

/// A session that was claimed and is not restored yet. Its drop gives the session back.
pub(super) struct Claimed {
    durable: Arc<Durable>,
    /// Taken once the session has another guard.
    ownership: Option<Ownership>,
}

impl Durable {
    pub(super) fn new(directory: Arc<dyn SessionDirectory>, places: usize) -> Self {
        Self {
            directory,
            ids: DashMap::default(),
            looks: Arc::default(),
            flights: Arc::default(),
            restores: Arc::new(InTurn::new(RESTORES.min(places))),
            ends: Arc::new(InTurn::new(RESTORES)),
            availability: Availability::default(),
            unservable: Unservable::default(),
            late: AtomicU64::new(0),
        }
    }

    /// Follows the capacity.
    pub(super) fn set_places(&self, places: usize) {
        self.restores.resize(RESTORES.min(places));
    }

    /// Waits until this client may restore one more session. `None` if it took too long, or the directory is away meanwhile
    /// for longer than a slow answer takes: restores that wait for it then keep their permits.
    pub(super) async fn may_restore(&self, client: &ClientKey) -> Option<Permit> {
        let deadline = Instant::now() + RESTORE_WAIT;
        let mut permit = pin!(self.restores.permit(client));
        loop {
            tokio::select! {
                biased;
                permit = &mut permit => return permit,
                is_away = timeout_at(deadline, self.availability.until(true)) => is_away.ok()?,
            }
            tokio::select! {
                biased;
                permit = &mut permit => return permit,
                is_back = timeout(AWAY_WAIT, self.availability.until(false)) => is_back.ok()?,
            }
        }
    }

    /// Waits until this client may end one more session that is not live here. `None` if that takes longer than an answer of
    /// the directory. Such ends do not wait for restores.
    pub(super) async fn may_end(&self, client: &ClientKey) -> Option<Permit> {
        timeout(DIRECTORY_WAIT, self.ends.permit(client)).await.ok()?
    }

    /// Records that a session of the directory is here.
    pub(super) fn is_here(&self, ownership: Ownership, id: &SessionId) {
        self.ids.insert(ownership.digest, (SessionId::clone(id), ownership.epoch));
    }

    /// Records that it is here no more, unless it has come back under another epoch.
    pub(super) fn is_not_here(&self, ownership: Ownership) {
        self.ids.remove_if(&ownership.digest, |_, (_, epoch)| *epoch == ownership.epoch);
    }

    /// The id of a session that is live or parked here.
    pub(super) fn id(&self, digest: &SessionDigest) -> Option<SessionId> {
        self.ids.get(digest).map(|here| SessionId::clone(&here.0))
    }

    /// Writes that a session was opened here.
    pub(super) fn open(&self, id: &SessionId, session: StoredSession) -> Ownership {
        let ownership = Ownership { digest: SessionDigest::of(id), epoch: Epoch::FIRST };
        self.is_here(ownership, id);
        self.write(ownership, Change::Opened(session));
        ownership
    }

    pub(super) fn write(&self, ownership: Ownership, change: Change) {
        self.directory.write(&ownership.digest, ownership.epoch, change);
    }

    /// Waits until all that was written is durable, and what these restores write when they land, until a deadline or for as
    /// long as an answer may wait. What is not is counted as late.
    pub(super) async fn all_written(&self, restores: &[Arc<Flight>], deadline: Instant) {
        let deadline = deadline.max(Instant::now() + DIRECTORY_WAIT);
        let mut left = 0;
        for restore in restores {
            // Also if its claim is late: an operator waits as long as it takes.
            left += usize::from(timeout_at(deadline, restore.over()).await.is_err());
        }
        left += self.directory.flush(deadline).await;
        self.late.fetch_add(left as u64, Relaxed);
    }

    /// Counts an answer that left before what it acknowledges was durable.
    pub(super) fn note_late(&self) {
        self.late.fetch_add(1, Relaxed);
    }

    /// Waits until the end of a session is written. If that takes longer than an answer may wait, it is counted as late.
    pub(super) async fn end_written(&self, digest: &SessionDigest) {
        self.end_written_after(None, digest).await;
    }

    /// The same for an end that a restore writes when it lands.
    pub(super) async fn end_written_after(&self, restore: Option<Arc<Flight>>, digest: &SessionDigest) {
        let until = Instant::now() + DIRECTORY_WAIT;
        let has_landed = match restore {
            Some(restore) => timeout_at(until, restore.landed()).await.unwrap_or(false),
            None => true,
        };
        if !has_landed || !self.directory.written(digest, until).await {
            self.note_late();
        }
    }

    /// Looks a session up.
    pub(super) async fn look(&self, digest: &SessionDigest) -> Result<Option<Found>, Away> {
        let looked = timeout(DIRECTORY_WAIT, self.directory.look(digest)).await;
        self.note(looked.unwrap_or_else(|_| Err(Away::because("a look-up took too long"))))
    }

    /// Notes whether the directory answers.
    pub(super) fn note<T>(&self, answer: Result<T, Away>) -> Result<T, Away> {
        self.availability.note(answer.as_ref().err());
        answer
    }
}

impl Claimed {
    pub(super) const fn new(durable: Arc<Durable>, ownership: Ownership) -> Self {
        Self { durable, ownership: Some(ownership) }
    }

    /// Under what this server has the session.
    pub(super) const fn ownership(&self) -> Option<Ownership> {
        self.ownership
    }

    /// Hands the session over to its next incarnation, which writes from now on.
    pub(super) fn keep(mut self) -> Option<Ownership> {
        self.ownership.take()
    }

    /// Ends the session for good, by a change that [`FinalEnds`](super::final_ends::FinalEnds) chooses.
    pub(super) fn end(mut self, change: Change) {
        if let Some(ownership) = self.ownership.take() {
            self.durable.write(ownership, change);
        }
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if let Some(ownership) = self.ownership.take() {
            self.durable.write(ownership, Change::Released);
        }
    }
}

impl fmt::Debug for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durable").field("directory", &self.directory).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests {
    use super::*;
    use crate::testing::directory::MemoryDirectory;

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_a_restore_gives_up_soon_after_the_directory_has_gone_away() {
        let durable = Durable::new(Arc::new(MemoryDirectory::new()), 1);
        let key = ClientKey::of_context(None);
        let held = durable.may_restore(&key).await.expect("is free");
        let start = Instant::now();
        let away = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            durable.note::<()>(Err(Away::new())).unwrap_err();
        };
        let (permit, ()) = tokio::join!(durable.may_restore(&key), away);
        assert!(permit.is_none());
        assert_eq!(start.elapsed(), Duration::from_secs(1) + AWAY_WAIT);
        assert!(durable.may_restore(&key).await.is_none());
        assert_eq!(start.elapsed(), Duration::from_secs(1) + 2 * AWAY_WAIT);
        drop(held);
        assert!(durable.may_restore(&key).await.is_some(), "a permit that is free is given all the same");
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_a_restore_waits_on_if_the_directory_was_only_slow_for_a_moment() {
        let durable = Durable::new(Arc::new(MemoryDirectory::new()), 1);
        let key = ClientKey::of_context(None);
        let held = durable.may_restore(&key).await.expect("is free");
        let start = Instant::now();
        let slow = async {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                durable.note::<()>(Err(Away::new())).unwrap_err();
                tokio::time::sleep(AWAY_WAIT - Duration::from_millis(1)).await;
                durable.note(Ok(())).unwrap();
            }
            drop(held);
        };
        let (permit, ()) = tokio::join!(durable.may_restore(&key), slow);
        assert!(permit.is_some());
        assert!(start.elapsed() > 39 * Duration::from_secs(1));
        assert!(durable.may_restore(&key).await.is_none(), "at most a minute");
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_does_not_wait_for_restores() {
        let durable = Durable::new(Arc::new(MemoryDirectory::new()), 1);
        let key = ClientKey::of_context(None);
        let _restore = durable.may_restore(&key).await.expect("is free");
        let start = Instant::now();
        let mut ends = Vec::new();
        for _ in 0..RESTORES {
            ends.push(durable.may_end(&key).await.expect("is free"));
        }
        assert!(start.elapsed().is_zero());
        assert!(durable.may_end(&key).await.is_none());
        assert_eq!(start.elapsed(), DIRECTORY_WAIT);
    }

    #[test]
    fn a_session_that_came_back_is_here_though_its_parked_copy_leaves_after_that() {
        let durable = Durable::new(Arc::new(MemoryDirectory::new()), 10);
        let (digest, id) = (SessionDigest::of("one"), SessionId::from("one"));
        let parked = Ownership { digest, epoch: Epoch::FIRST };
        let live = Ownership { digest, epoch: Epoch::FIRST.next() };
        durable.is_here(parked, &id);
        durable.is_here(live, &id);
        durable.is_not_here(parked);
        assert_eq!(durable.id(&digest), Some(id));
        durable.is_not_here(live);
        assert_eq!((durable.id(&digest), durable.ids.len()), (None, 0));
    }
}
