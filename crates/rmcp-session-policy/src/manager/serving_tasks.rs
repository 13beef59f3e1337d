//! The tasks that serve sessions, by which the late closes of rmcp's service are told from those of clients.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hashlink::LinkedHashMap;
use rmcp::transport::streamable_http_server::session::SessionId;
use tokio::task::{self, Id};

use crate::session::{Record, SessionKey};

/// How many serving tasks of ended sessions are remembered, in addition to `max_sessions`.
const LATE: usize = 1_000;

/// The incarnation that each task serves.
///
/// rmcp closes a session once more when its service has ended. That may be seconds after the end of the session, when
/// the id has another incarnation. rmcp does so on the task on which the service asked for its first message, so the
/// task identifies the incarnation that a close is for.
pub(super) struct ServingTasks {
    /// The incarnations by task and session id, oldest first.
    serving: Mutex<LinkedHashMap<(Id, SessionId), SessionKey>>,
    /// The limit of entries. A server other than rmcp's may never make the close that removes an entry.
    most: AtomicUsize,
}

impl ServingTasks {
    pub(super) fn new(max_sessions: usize) -> Self {
        Self { serving: Mutex::default(), most: AtomicUsize::new(Self::most(max_sessions)) }
    }

    const fn most(max_sessions: usize) -> usize {
        max_sessions.saturating_mul(2).saturating_add(LATE)
    }

    /// Follows the capacity. Entries beyond a lower limit go one by one, as others come.
    pub(super) fn set_max_sessions(&self, max_sessions: usize) {
        self.most.store(Self::most(max_sessions), Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, LinkedHashMap<(Id, SessionId), SessionKey>> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the current task serves a session.
    pub(super) fn expect(&self, record: &Record) {
        let Some(task) = task::try_id() else { return };
        let mut serving = self.lock();
        serving.insert((task, SessionId::clone(&record.id)), record.entry.key);
        let most = self.most.load(Relaxed);
        for _ in 0..2 {
            if serving.len() > most {
                serving.pop_front();
            }
        }
    }

    /// Removes and returns the incarnation of a session that the current task has served.
    pub(super) fn take(&self, id: &SessionId) -> Option<SessionKey> {
        self.lock().remove(&(task::try_id()?, SessionId::clone(id)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rmcp::transport::Transport;
    use rmcp::transport::streamable_http_server::session::SessionManager;
    use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;

    use super::LATE;
    use crate::PolicySessionManager;

    type Sessions = PolicySessionManager<LocalSessionManager>;

    /// Serves a session on a task of its own until `end` ends the task. Returns whether the task ended without a panic.
    async fn serve(sessions: &Arc<Sessions>, end: fn()) -> bool {
        let (id, mut transport) = sessions.create_session().await.unwrap();
        let closes = Arc::clone(sessions);
        let service = tokio::spawn(async move {
            assert!(futures_util::poll!(Box::pin(transport.receive())).is_pending());
            end();
            drop(transport);
            closes.close_session(&id).await.unwrap();
        });
        service.await.is_ok()
    }

    fn sessions() -> Arc<Sessions> {
        Arc::new(PolicySessionManager::local().max_sessions(1).build().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_of_services_that_are_over_whether_they_return_or_panic() {
        let sessions = sessions();
        let ends: [fn(); 2] = [|| {}, || panic!("the service does")];
        for (end, returns) in ends.into_iter().zip([true, false]) {
            assert_eq!(serve(&sessions, end).await, returns);
            assert_eq!(sessions.shared.serving_tasks.lock().len(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded_for_servers_that_never_close() {
        let sessions = sessions();
        let task = tokio::spawn({
            let sessions = Arc::clone(&sessions);
            async move {
                for _ in 0..LATE + 10 {
                    let (_id, mut transport) = sessions.create_session().await.unwrap();
                    assert!(futures_util::poll!(Box::pin(transport.receive())).is_pending());
                }
            }
        });
        task.await.unwrap();
        assert_eq!(sessions.shared.serving_tasks.lock().len(), LATE + 2);
    }
}
