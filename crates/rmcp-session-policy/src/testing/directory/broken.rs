//! Directories that break one law each, and the check that finds it.

use std::collections::HashMap;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::time::Instant;

use super::laws::session;
use super::{MemoryDirectory, keeps_its_bounds, keeps_the_laws};
use crate::directory::{
    Away, Change, Claim, Due, Epoch, Found, FoundState, SessionDigest, SessionDirectory, StoredBody, StoredSession,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    EveryClaimWins,
    TakesLiveSessions,
    KeepsItsOwn,
    WritesWhatIsStale,
    EndsAreReleases,
    LooksClaim,
    HidesOwnWrites,
    CallsWrittenWhatIsNot,
    FlushesNothing,
    NeverTellsOfLosses,
    StopsTheClock,
    CutsBodies,
    ServersLiveForEver,
    LosesUses,
    LosesData,
    EndingsGoOn,
    ForgetsEndings,
    TakesTwice,
}

/// A server of a directory with a fault.
#[derive(Debug)]
struct Broken {
    fault: Fault,
    inner: MemoryDirectory,
    /// All servers.
    all: Arc<Mutex<Vec<MemoryDirectory>>>,
    /// What was stored last.
    stored: Arc<Mutex<HashMap<SessionDigest, StoredSession>>>,
    /// What was due.
    due: Arc<Mutex<Vec<Due>>>,
    /// What waits for a flush, with the faults that write late.
    late: Mutex<Vec<(SessionDigest, Epoch, Change)>>,
}

impl Broken {
    fn write_late(&self) {
        for (id, epoch, change) in self.late.lock().unwrap().drain(..) {
            self.inner.write(&id, epoch, change);
        }
    }

    fn all(&self) -> Vec<MemoryDirectory> {
        self.all.lock().unwrap().clone()
    }

    fn now(&self, id: &SessionDigest) -> Option<Found> {
        self.inner.look(id).now_or_never().unwrap().unwrap()
    }

    /// The change as a directory with this fault takes it. `None` if it does not.
    fn take(&self, id: &SessionDigest, change: Change) -> Option<Change> {
        let cut = |session: StoredSession| StoredSession {
            body: StoredBody::from_bytes(&session.body.as_bytes()[..session.body.as_bytes().len().min(1_000)]),
            ..session
        };
        if let Change::Opened(session) | Change::Data(session) | Change::Parked(session) = &change {
            self.stored.lock().unwrap().insert(*id, session.clone());
        }
        match (self.fault, change) {
            (Fault::EndingsGoOn, Change::Ending(_)) => None,
            (Fault::EndsAreReleases, Change::Dead) => Some(Change::Released),
            (Fault::LosesUses, Change::Used(_)) | (Fault::LosesData, Change::Data(_)) => None,
            (Fault::CutsBodies, Change::Opened(session)) => Some(Change::Opened(cut(session))),
            (Fault::CutsBodies, Change::Data(session)) => Some(Change::Data(cut(session))),
            (Fault::CutsBodies, Change::Parked(session)) => Some(Change::Parked(cut(session))),
            (_, change) => Some(change),
        }
    }
}

#[async_trait]
impl SessionDirectory for Broken {
    async fn look(&self, id: &SessionDigest) -> Result<Option<Found>, Away> {
        if self.fault != Fault::HidesOwnWrites {
            self.write_late();
        }
        let found = self.inner.look(id).await?;
        if self.fault == Fault::LooksClaim
            && let Some(found) = &found
        {
            self.inner.claim(id, found).await?;
        }
        Ok(found)
    }

    async fn claim(&self, id: &SessionDigest, seen: &Found) -> Result<Claim, Away> {
        self.write_late();
        if self.fault == Fault::TakesLiveSessions {
            for server in self.all() {
                server.write(id, seen.epoch, Change::Released);
            }
        }
        if self.fault == Fault::KeepsItsOwn
            && let Some(found) = self.now(id).filter(|found| found.state == FoundState::Live)
        {
            return Ok(Claim::Elsewhere(found.server));
        }
        Ok(match self.inner.claim(id, seen).await? {
            Claim::Elsewhere(_) if self.fault == Fault::EveryClaimWins => {
                Claim::Yours(seen.epoch.next(), self.stored.lock().unwrap()[id].clone())
            }
            Claim::Yours(epoch, _) if self.fault == Fault::StopsTheClock => {
                Claim::Yours(epoch, self.stored.lock().unwrap()[id].clone())
            }
            claim => claim,
        })
    }

    fn write(&self, id: &SessionDigest, epoch: Epoch, change: Change) {
        let Some(change) = self.take(id, change) else { return };
        match self.fault {
            Fault::HidesOwnWrites | Fault::CallsWrittenWhatIsNot | Fault::FlushesNothing => {
                self.late.lock().unwrap().push((*id, epoch, change));
            }
            Fault::WritesWhatIsStale if !matches!(change, Change::Opened(_)) => {
                let epoch = self.now(id).map_or(epoch, |found| found.epoch);
                self.all().iter().for_each(|server| server.write(id, epoch, change.clone()));
            }
            _ => self.inner.write(id, epoch, change),
        }
    }

    async fn written(&self, id: &SessionDigest, until: Instant) -> bool {
        if self.fault != Fault::CallsWrittenWhatIsNot {
            self.write_late();
        }
        self.inner.written(id, until).await
    }

    async fn lost(&self) -> Vec<(SessionDigest, Epoch)> {
        if self.fault == Fault::NeverTellsOfLosses { pending().await } else { self.inner.lost().await }
    }

    async fn take_due(&self, lifetime: Option<Duration>) -> Result<Vec<Due>, Away> {
        self.write_late();
        if self.fault == Fault::ForgetsEndings {
            return Ok(Vec::new());
        }
        let mut due = self.inner.take_due(lifetime).await?;
        if self.fault == Fault::TakesTwice {
            let mut taken = self.due.lock().unwrap();
            taken.extend(due);
            due = taken.clone();
        }
        Ok(due)
    }

    async fn flush(&self, until: Instant) -> usize {
        if self.fault != Fault::FlushesNothing {
            self.write_late();
        }
        self.inner.flush(until).await
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        if self.fault != Fault::ServersLiveForEver {
            self.inner.crash();
        }
    }
}

/// What the check says of a directory with this fault. `None` if it finds nothing.
fn complaint(fault: Fault) -> Option<String> {
    let check = || {
        keeps_the_laws(async || {
            let (all, stored) = (Arc::new(Mutex::new(vec![MemoryDirectory::new()])), Arc::default());
            let due = Arc::default();
            async move || {
                let inner = all.lock().unwrap()[0].another_server();
                all.lock().unwrap().push(inner.clone());
                let (all, stored, due) = (Arc::clone(&all), Arc::clone(&stored), Arc::clone(&due));
                Broken { fault, inner, all, stored, due, late: Mutex::default() }
            }
        });
    };
    let panic = catch_unwind(AssertUnwindSafe(check)).err()?;
    panic.downcast::<String>().ok().map(|text| *text)
}

#[test]
fn each_fault_is_found_by_the_law_that_it_breaks() {
    assert_eq!(complaint(Fault::None), None);
    let laws = [
        (Fault::EveryClaimWins, "16 of 16 claims with one epoch were won"),
        (Fault::TakesLiveSessions, "a session that is live at another server was won"),
        (Fault::KeepsItsOwn, "a server cannot claim a session that is live at itself"),
        (Fault::WritesWhatIsStale, "a stale end took a session from the server that had claimed it"),
        (Fault::EndsAreReleases, "a session that has ended is still there"),
        (Fault::LooksClaim, "a look-up changed a session"),
        (Fault::HidesOwnWrites, "a session that was written is not there"),
        (Fault::CallsWrittenWhatIsNot, "a session that was written is not there"),
        (Fault::FlushesNothing, "a session that was written is not there"),
        (Fault::NeverTellsOfLosses, "a server is not told of the sessions that others have claimed"),
        (Fault::StopsTheClock, "the age does not go on"),
        (Fault::CutsBodies, "what is stored of a session does not come back as it was"),
        (Fault::ServersLiveForEver, "the session of a server that is gone cannot be claimed"),
        (Fault::LosesUses, "what was written is lost with its server"),
        (Fault::EndingsGoOn, "a session that is ending is still there"),
        (Fault::ForgetsEndings, "a session that a server has left ending is not due at the next one"),
        (Fault::TakesTwice, "a session was due twice"),
        (Fault::LosesData, "session data that was written is lost with its server"),
    ];
    for (fault, law) in laws {
        let complaint = complaint(fault).unwrap_or_default();
        assert!(complaint.contains(law), "{fault:?}: {complaint}");
    }
}

#[test]
fn a_directory_that_keeps_more_than_it_is_told_is_found() {
    let check = || keeps_its_bounds(20, async || MemoryDirectory::with_capacity(25));
    let panic = catch_unwind(check).unwrap_err();
    assert_eq!(*panic.downcast::<String>().unwrap(), "the session directory: it keeps 24 sessions of at most 20");
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_or_late_is_not_written() {
    let directory = MemoryDirectory::new();
    let other = directory.another_server();
    let soon = || Instant::now() + Duration::from_millis(10);
    let [late, lost, queued] = ["late", "lost", "queued"].map(SessionDigest::of);
    let open = |id: &SessionDigest| directory.write(id, Epoch::FIRST, Change::Opened(session(1)));
    directory.delay(Duration::from_millis(20));
    open(&late);
    assert!(!directory.written(&late, soon()).await);
    assert!(directory.written(&late, soon() + Duration::from_millis(1)).await);
    directory.delay(Duration::ZERO);
    directory.lose(true);
    open(&lost);
    directory.lose(false);
    assert!(!directory.written(&lost, soon()).await);
    assert_eq!(other.look(&lost).await.unwrap(), None);
    directory.be_away(true);
    open(&queued);
    assert!(other.look(&queued).await.is_err());
    assert_eq!(directory.flush(soon()).await, 2);
    directory.be_away(false);
    assert_eq!((directory.flush(soon()).await, directory.len()), (1, 2));
    assert_eq!(other.look(&queued).await.unwrap().map(|found| found.state), Some(FoundState::Live));
}

/// The order in which sessions are forgotten.
#[tokio::test]
async fn what_is_not_ready_is_forgotten_first_and_what_has_called_last() {
    let directory = MemoryDirectory::with_capacity(3);
    let [called, used, new, newer, newest] = ["called", "used", "new", "newer", "newest"].map(SessionDigest::of);
    let usage = |calls| crate::directory::Usage::default().with_calls(calls, None);
    for (id, calls) in [(&called, Some(1)), (&used, Some(0)), (&new, None), (&newer, None)] {
        directory.write(id, Epoch::FIRST, Change::Opened(session(1)));
        if let Some(calls) = calls {
            directory.write(id, Epoch::FIRST, Change::Used(usage(calls)));
        }
    }
    assert_eq!(directory.look(&new).await.unwrap(), None, "the oldest that is not ready");
    directory.write(&newer, Epoch::FIRST, Change::Used(usage(1)));
    directory.write(&newest, Epoch::FIRST, Change::Opened(session(1)));
    let is_kept = async |id| directory.look(id).await.unwrap().is_some();
    let kept = [is_kept(&called).await, is_kept(&used).await, is_kept(&newer).await, is_kept(&newest).await];
    assert_eq!(kept, [true, true, true, false], "a session that is not ready makes room for no other");
}
