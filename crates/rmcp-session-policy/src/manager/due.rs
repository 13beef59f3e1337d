//! The final ends of sessions of the directory that no request asks for: those that are over age or over their lifetime and
//! that no server has, and those whose end a server has left unfinished.

use std::sync::{Arc, Weak};
use std::time::Duration;

use rmcp::transport::streamable_http_server::session::SessionManager;
use tokio::time::{Instant, sleep};

use super::durable::Durable;
use super::final_end::FinalEndReason;
use super::manager_inner::ManagerInner;
use super::parked::Parked;
use crate::directory::{Body, BodyError, Change, Due, Ownership, SessionDirectory};
use crate::observe::CloseReason;
use crate::time::SECOND;

/// How often the directory is asked.
const DUE_EVERY: Duration = Duration::from_secs(30);

/// Ends what is due, until the manager is gone. A second passes between two lots, so that not all hooks run at once.
pub(super) async fn end_due<I: SessionManager>(shared: Weak<ManagerInner<I>>, directory: Arc<dyn SessionDirectory>) {
    loop {
        let Some(lifetime) = shared.upgrade().map(|shared| shared.max_lifetime()) else { return };
        let due = directory.take_due(lifetime).await.unwrap_or_default();
        let wait = if due.is_empty() { DUE_EVERY } else { SECOND };
        // Without the manager they stay ending, and are due again once this server is gone.
        let Some(shared) = shared.upgrade() else { return };
        due.into_iter().for_each(|due| shared.end_due(due));
        drop(shared);
        sleep(wait).await;
    }
}

impl<I: SessionManager> ManagerInner<I> {
    /// Calls the hook for a session that is due, with the data that is parked here, or stored.
    fn end_due(&self, due: Due) {
        let Some(durable) = &self.durable else { return };
        let ownership = Ownership { digest: due.id, epoch: due.epoch };
        let is_over = self.max_lifetime().is_some_and(|lifetime| due.session.age >= lifetime);
        let reason = match (due.was_ending, is_over) {
            (true, _) => FinalEndReason::Unfinished,
            (false, true) => FinalEndReason::Closed(CloseReason::Lifetime),
            (false, false) => FinalEndReason::Forgotten,
        };
        let stored = || {
            let body = Body::decode(&due.session.body)?;
            Ok(Parked::stored(&due.session, body, None, Instant::now()))
        };
        let parked = match self.lose_due(durable, &due).map_or_else(stored, Ok) {
            Ok(parked) => parked,
            // A later release, which can read it, gets it once this server is gone.
            Err(BodyError::Newer) => return,
            Err(BodyError::Damaged) => {
                durable.write(ownership, Change::Dead);
                return;
            }
        };
        let (context, data) = (parked.shared_context().cloned(), parked.data().cloned());
        self.parking.final_ends().tell(reason, context, data, Some(ownership));
    }

    /// Takes a session out of the parking, if it is parked here and no restore has it.
    fn lose_due(&self, durable: &Durable, due: &Due) -> Option<Parked> {
        let id = durable.id(&due.id)?;
        let parked = self.parking.get(&id, Instant::now())?;
        // Another server may have had it since.
        let is_latest = parked.ownership.is_some_and(|ownership| ownership.epoch.next() == due.epoch);
        let lost = parked.ownership.is_some_and(|ownership| self.parking.lose(&id, ownership));
        (is_latest && lost).then_some(parked)
    }
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::PolicySessionManager;
    use crate::directory::{Epoch, FoundState, SessionDigest, StoredBody, StoredSession, StoredValue, Usage};
    use crate::testing::directory::MemoryDirectory;
    use crate::testing::inner::Scripted;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn body(with_data: bool) -> StoredBody {
        let value = || StoredValue { name: "count".into(), version: 1, bytes: b"1".to_vec().into() };
        let data = with_data.then(value).into_iter().collect();
        let initialize_params = b"{}".to_vec().into();
        let body = Body { initialize_params, protocol_version: None, context: None, data, seal_key: None };
        body.encode().unwrap()
    }

    /// Sessions that another server has parked: one with data, one without, and one that cannot be read.
    #[tokio::test(start_paused = true)]
    async fn what_gets_past_its_lifetime_is_ended_within_half_a_minute_and_told_once_if_it_has_data() {
        let directory = MemoryDirectory::new();
        let other = directory.another_server();
        for (id, body) in [("data", body(true)), ("none", body(false)), ("damaged", StoredBody::from_bytes([1]))] {
            let stored = StoredSession::new(None, Duration::ZERO, Usage::default(), body);
            other.write(&SessionDigest::of(id), Epoch::FIRST, Change::Parked(stored));
        }
        let (told, mut ends) = unbounded_channel();
        let builder = PolicySessionManager::builder(Scripted::new()).directory(directory.clone()).max_lifetime(HOUR);
        let hook = move |end: crate::FinalEnd| {
            told.send(end.reason()).unwrap();
            async {}
        };
        let sessions = builder.on_final_end(hook).build().unwrap();
        let (_id, _transport) = sessions.create_session().await.unwrap();
        sleep(HOUR - SECOND).await;
        assert_eq!((directory.len(), ends.try_recv().ok()), (3, None));
        sleep(DUE_EVERY + SECOND).await;
        assert_eq!(ends.try_recv().ok(), Some(FinalEndReason::Closed(CloseReason::Lifetime)));
        assert_eq!((directory.len(), ends.try_recv().ok()), (0, None));
        let found = other.look(&SessionDigest::of("data")).await.unwrap();
        assert_eq!(found.map(|found| found.state), Some(FoundState::Dead));
    }

    /// Parked here with one value, then claimed and parked with another one by another server, which this one has not heard of.
    #[tokio::test(start_paused = true)]
    async fn the_hook_gets_what_was_stored_last() {
        let (told, mut counts) = unbounded_channel();
        let hook = move |end: crate::FinalEnd| {
            told.send(end.data::<u64>().unwrap().map(|count| *count)).unwrap();
            async {}
        };
        let builder = PolicySessionManager::builder(Scripted::new()).directory(MemoryDirectory::new());
        let sessions = builder.session_data::<u64>("count", 1).on_final_end(hook).build().unwrap();
        let shared = &sessions.shared;
        let stored = StoredSession::new(None, Duration::ZERO, Usage::default(), body(true));
        let other = Body { data: Vec::new(), ..Body::decode(&stored.body).unwrap() };
        let digest = SessionDigest::of("parked");
        for (epoch, expected) in [(Epoch::FIRST.next(), None), (Epoch::FIRST.next().next(), Some(1))] {
            let ownership = Ownership { digest, epoch: Epoch::FIRST };
            // What is parked here has no value, and what is stored has.
            let parked = Parked::stored(&stored, other.clone(), Some(ownership), Instant::now());
            shared.durable.as_ref().unwrap().is_here(ownership, &"parked".into());
            drop(shared.parking.park("parked".into(), parked, 0, Instant::now()));
            shared.end_due(Due::new(digest, epoch, stored.clone()));
            assert_eq!(sessions.stats().parked, 0);
            sleep(SECOND).await;
            assert_eq!(counts.try_recv().ok().flatten(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_parked_here_and_due_leaves_the_parking() {
        let directory = MemoryDirectory::new();
        let builder = PolicySessionManager::builder(Scripted::new()).directory(directory.clone()).max_lifetime(HOUR);
        let sessions = builder.on_final_end(|_| async {}).build().unwrap();
        let digest = SessionDigest::of("parked");
        let ownership = Ownership { digest, epoch: Epoch::FIRST };
        let stored = StoredSession::new(None, Duration::ZERO, Usage::default(), body(true));
        let shared = &sessions.shared;
        let parked = Parked::stored(&stored, Body::decode(&stored.body).unwrap(), Some(ownership), Instant::now());
        directory.write(&digest, Epoch::FIRST, Change::Parked(stored));
        shared.durable.as_ref().unwrap().is_here(ownership, &"parked".into());
        drop(shared.parking.park("parked".into(), parked, 0, Instant::now()));
        assert_eq!(sessions.stats().parked, 1);
        sleep(HOUR).await;
        let due = directory.take_due(Some(HOUR)).await.unwrap();
        due.into_iter().for_each(|due| shared.end_due(due));
        assert_eq!(sessions.stats().parked, 0);
        assert!(shared.durable.as_ref().unwrap().id(&digest).is_none());
        sleep(SECOND).await;
        assert!(directory.is_empty());
    }
}
