//! Looks at all sessions: a lot at a time, so that no arrival waits for the manager's lock longer than for one lot.

use std::sync::Arc;
use std::thread;

use rmcp::transport::streamable_http_server::session::SessionManager;

use super::manager_inner::{ManagerInner, ManagerState};
use crate::registry::LOT;
use crate::transport::Session;

/// Collects the sessions that are restored. Its drop ends that.
pub(super) struct RestoreWatch<'a, I: SessionManager> {
    shared: &'a ManagerInner<I>,
    index: usize,
}

impl<I: SessionManager> RestoreWatch<'_, I> {
    /// Ends the watch. Returns the sessions that were restored since it began.
    pub(super) fn end(self) -> Vec<Arc<Session<I::Transport>>> {
        std::mem::take(&mut self.shared.lock().restored_meanwhile[self.index])
    }
}

impl<I: SessionManager> Drop for RestoreWatch<'_, I> {
    fn drop(&mut self) {
        let watched = self.shared.lock().restored_meanwhile.try_remove(self.index);
        drop(watched);
    }
}

impl<I: SessionManager> ManagerInner<I> {
    /// Calls `look` with each session, and `end` after the last one, both under the lock. The lock is let go after each lot,
    /// and `end` is called in the hold of the last one.
    pub(super) fn look_at_all<R>(
        &self,
        mut look: impl FnMut(&Session<I::Transport>),
        end: impl FnOnce(&mut ManagerState<I::Transport>) -> R,
    ) -> R {
        let mut from = 0;
        loop {
            let mut core = self.lock();
            match core.registry.lot(from, |session| look(session)) {
                Some(next) => from = next,
                None => return end(&mut core),
            }
            drop(core);
            // Without it this thread is likely to have the lock again before one that waits for it is awake.
            thread::yield_now();
        }
    }

    /// All sessions that are there now, closing ones included, and some of those that come meanwhile.
    pub(super) fn sessions(&self) -> Vec<Arc<Session<I::Transport>>> {
        let (mut all, mut from) = (Vec::new(), Some(0));
        while let Some(at) = from {
            // Not under the lock.
            all.reserve(LOT);
            from = self.lock().registry.lot(at, |session| all.push(Arc::clone(session)));
            if from.is_some() {
                // As in `look_at_all`.
                thread::yield_now();
            }
        }
        all
    }

    /// Collects the sessions that are restored from now on.
    ///
    /// What has to come to each session that is live or parked begins this first. Then it comes to the live ones, which it may
    /// meet or not if they leave meanwhile, then to the parked ones, and at last to those which this has collected.
    pub(super) fn watch_restores(&self) -> RestoreWatch<'_, I> {
        RestoreWatch { shared: self, index: self.lock().restored_meanwhile.insert(Vec::new()) }
    }
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests {
    use std::sync::OnceLock;

    use futures_util::FutureExt;

    use super::*;
    use crate::eviction::{Fifo, SessionInfo};
    use crate::testing::inner::Scripted;
    use crate::{CloseReason, PolicySessionManager, SECOND};

    type Manager = PolicySessionManager<Scripted>;

    fn manager(most: usize) -> Arc<Manager> {
        Arc::new(
            PolicySessionManager::builder(Scripted::new()).max_sessions(most).eviction(Fifo::new()).build().unwrap(),
        )
    }

    /// Opens sessions. Each lives as long as what is returned of it.
    async fn open(sessions: &Manager, how_many: usize) -> Vec<impl Sized + use<>> {
        let mut all = Vec::new();
        for _ in 0..how_many {
            all.push(sessions.create_session().await.unwrap());
        }
        all
    }

    /// The most records that were looked at in one hold of the lock.
    fn longest_hold(sessions: &Manager) -> usize {
        sessions.shared.lock().registry.looked_at.take()[1]
    }

    #[tokio::test(start_paused = true)]
    async fn the_lock_is_held_for_a_thousand_records_at_most_whatever_looks_at_all() {
        let most = 5_000;
        let sessions = manager(most);
        let held = open(&sessions, most).await;
        assert_eq!(longest_hold(&sessions), 0, "a creation looks at none");
        let stats = sessions.stats();
        assert_eq!((stats.live, stats.opening, stats.reserved), (most, most, 0));
        assert_eq!(longest_hold(&sessions), LOT);
        assert_eq!(sessions.list().len(), most);
        assert_eq!(longest_hold(&sessions), LOT);
        let even = |session: &SessionInfo<'_>| session.key().index().is_multiple_of(2);
        assert_eq!(sessions.terminate(even, CloseReason::Revoked).await, most / 2);
        assert_eq!(longest_hold(&sessions), LOT);
        sessions.drain(SECOND).await;
        assert!((1..=LOT).contains(&longest_hold(&sessions)));
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_is_restored_while_the_live_ones_are_looked_at_is_terminated() {
        let sessions = manager(10);
        let _held = open(&sessions, 3).await;
        let restored = OnceLock::new();
        let select = |_: &SessionInfo<'_>| {
            restored.get_or_init(|| {
                let outcome = sessions.restore_session("of another process".into()).now_or_never();
                outcome.expect("at once").expect("there is room")
            });
            true
        };
        assert_eq!(sessions.terminate(select, CloseReason::Revoked).await, 4);
        let sessions = &sessions.shared;
        assert!(sessions.lock().restored_meanwhile.is_empty(), "nothing is collected any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_selector_that_panics_ends_the_watch() {
        let sessions = manager(10);
        let _held = open(&sessions, 1).await;
        let selects = |_: &SessionInfo<'_>| panic!("a bug in a selector");
        let terminating = std::panic::AssertUnwindSafe(sessions.terminate(selects, CloseReason::Revoked));
        assert!(terminating.catch_unwind().await.is_err());
        assert!(sessions.shared.lock().restored_meanwhile.is_empty());
    }
}
