//! The directory that outlives the process, as one manager uses it: what it writes, claims and looks up.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use dashmap::DashMap;
use foldhash::fast::RandomState;
use rmcp::transport::streamable_http_server::session::SessionId;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::goes_on::GoesOn;
use super::look_queue::LookQueue;
use super::single_flight::SingleFlight;
pub(super) use crate::directory::DIRECTORY_WAIT;
use crate::directory::{Away, Change, Claim, Epoch, Found, Ownership, SessionDigest, SessionDirectory, StoredSession};

/// How long a request waits until one more session may be restored.
const RESTORE_WAIT: Duration = Duration::from_secs(1);
/// How many sessions are restored at a time, unless there are fewer places: each restore waits for one, and only for a
/// second, so those that come back all at once must not all wait for a place.
const RESTORES: usize = 256;

/// The directory, and what this server has of it.
pub(super) struct Durable {
    pub(super) directory: Arc<dyn SessionDirectory>,
    /// The sessions of the directory that are live or parked here, and the epochs under which they are.
    ids: DashMap<SessionDigest, (SessionId, Epoch), RandomState>,
    pub(super) looks: Arc<LookQueue>,
    /// The look-ups under way, of which there is one for each digest.
    pub(super) flights: Arc<SingleFlight<SessionDigest>>,
    restores: Arc<Semaphore>,
    /// Whether the latest answer was that it is away.
    pub(super) is_away: AtomicBool,
    /// Answers that left before what they acknowledge was durable.
    pub(super) late: AtomicU64,
}

/// A session that was claimed and is not restored yet. Its drop gives the session back.
pub(super) struct Claimed {
    durable: Arc<Durable>,
    /// Taken once the session has another guard.
    ownership: Option<Ownership>,
}

/// The answer to a claim, as in [`Claim`].
pub(super) enum Answer {
    Won(Claimed, StoredSession),
    Elsewhere,
    Gone,
}

impl Durable {
    pub(super) fn new(directory: Arc<dyn SessionDirectory>, places: usize) -> Self {
        Self {
            directory,
            ids: DashMap::default(),
            looks: Arc::default(),
            flights: Arc::default(),
            restores: Arc::new(Semaphore::new(RESTORES.min(places))),
            is_away: AtomicBool::new(false),
            late: AtomicU64::new(0),
        }
    }

    /// Waits until one more session may be restored, for as long as a restore waits for a place. `None` if none may.
    pub(super) async fn may_restore(&self) -> Option<OwnedSemaphorePermit> {
        timeout(RESTORE_WAIT, Arc::clone(&self.restores).acquire_owned()).await.ok()?.ok()
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

    /// Waits until all that was written is durable, until a deadline or for as long as an answer may wait. What is not is
    /// counted as late.
    pub(super) async fn all_written(&self, deadline: Instant) {
        let left = self.directory.flush(deadline.max(Instant::now() + DIRECTORY_WAIT)).await;
        self.late.fetch_add(left as u64, Relaxed);
    }

    /// Counts an answer that left before what it acknowledges was durable.
    pub(super) fn note_late(&self) {
        self.late.fetch_add(1, Relaxed);
    }

    /// Waits until the end of a session is written. If that takes longer than an answer may wait, it is counted as late.
    pub(super) async fn end_written(&self, digest: &SessionDigest) {
        if !self.directory.written(digest, Instant::now() + DIRECTORY_WAIT).await {
            self.note_late();
        }
    }

    /// Looks a session up.
    pub(super) async fn look(&self, digest: &SessionDigest) -> Result<Option<Found>, Away> {
        let looked = timeout(DIRECTORY_WAIT, self.directory.look(digest)).await;
        self.note(looked.unwrap_or_else(|_| Err(Away::because("a look-up took too long"))))
    }

    /// Claims a session.
    ///
    /// If the request is dropped, or has waited long enough, the claim goes on on a task of its own, and what it wins is
    /// given back by its guard. The permit goes with it, so that there are not more of such tasks.
    pub(super) async fn claim(
        self: &Arc<Self>,
        digest: SessionDigest,
        seen: Found,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(Answer, Option<OwnedSemaphorePermit>), Away> {
        let durable = Arc::clone(self);
        let claim = async move {
            let answer = match durable.directory.claim(&digest, &seen).await? {
                Claim::Yours(epoch, session) => {
                    let ownership = Some(Ownership { digest, epoch });
                    Answer::Won(Claimed { durable, ownership }, session)
                }
                Claim::Elsewhere(_) => Answer::Elsewhere,
                Claim::Gone => Answer::Gone,
            };
            Ok((answer, permit))
        };
        let claim = timeout(DIRECTORY_WAIT, GoesOn::new(claim, || Handle::try_current().ok()));
        self.note(claim.await.unwrap_or_else(|_| Err(Away::because("a claim took too long"))))
    }

    /// Logs once that the directory is away, and once that it is back.
    fn note<T>(&self, answer: Result<T, Away>) -> Result<T, Away> {
        match &answer {
            Err(away) if !self.is_away.swap(true, Relaxed) => {
                let why = std::error::Error::source(away).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(why, "the session directory is away");
            }
            Ok(_) if self.is_away.load(Relaxed) && self.is_away.swap(false, Relaxed) => {
                tracing::info!("the session directory is back");
            }
            _ => {}
        }
        answer
    }
}

impl Claimed {
    /// Under what this server has the session.
    pub(super) const fn ownership(&self) -> Option<Ownership> {
        self.ownership
    }

    /// Hands the session over to its next incarnation, which writes from now on.
    pub(super) fn keep(mut self) -> Option<Ownership> {
        self.ownership.take()
    }

    /// Ends the session for good.
    pub(super) fn end(mut self) {
        if let Some(ownership) = self.ownership.take() {
            self.durable.write(ownership, Change::Dead);
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
