//! [`Shared`]: a policy that a test can look into while the registry has it.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use tokio::time::Instant;

use super::Prospects;
use crate::eviction::{Candidates, EvictionPolicy, IdlePeriod, SessionInfo};
use crate::registry::test_registry::TestRegistry;
use crate::session::{Origin, Record, SessionKey, SessionOrigin};

/// Passes everything on to the policy, and writes down what that names.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    policy: Arc<Mutex<Prospects>>,
    named: Arc<Mutex<Vec<u32>>>,
}

impl Shared {
    /// A registry with a policy that learned nothing, and the same policy.
    pub(super) fn stage() -> (TestRegistry, Self) {
        // The indexes of a new one take some time.
        static NEW: LazyLock<Prospects> = LazyLock::new(Prospects::new);
        let shared = Self { policy: Arc::new(Mutex::new(NEW.clone())), named: Arc::default() };
        (TestRegistry::new(shared.clone()), shared)
    }

    pub(super) fn policy(&self) -> MutexGuard<'_, Prospects> {
        self.policy.lock().unwrap()
    }

    /// The sessions that it named since this was asked last, by their arrival.
    pub(super) fn named(&self) -> Vec<u32> {
        std::mem::take(&mut *self.named.lock().unwrap())
    }
}

/// Restores a session that was removed. Its client has sent nothing yet.
pub(super) fn restore(stage: &mut TestRegistry, gone: &Record) -> Arc<Record> {
    let (now, id) = (Instant::now(), "a session".into());
    let history = gone.history(now);
    let origin = Origin { id, serial: gone.entry.serial, context: None, history, restored: true, restores: 1 };
    stage.registry.insert(origin, now, |record| record)
}

/// Closes a session, as its client does.
pub(super) fn close(stage: &mut TestRegistry, record: &Record) {
    if record.entry.state.close() == Some(crate::session::Phase::Opening) {
        record.left_opening();
    }
    stage.registry.remove(record.entry.key);
}

#[deny(clippy::missing_trait_methods)]
impl EvictionPolicy for Shared {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.policy().on_insert(session);
    }
    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        self.policy().on_remove(session);
    }
    fn on_suspend(&mut self, session: &SessionInfo<'_>) {
        self.policy().on_suspend(session);
    }
    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        self.policy().on_resume(session);
    }
    fn tracks_access(&self) -> bool {
        self.policy().tracks_access()
    }
    fn on_access(&mut self, session: &SessionInfo<'_>) {
        self.policy().on_access(session);
    }
    fn tracks_returns(&self) -> bool {
        self.policy().tracks_returns()
    }
    fn on_return(&mut self, session: &SessionInfo<'_>, idle: &IdlePeriod) {
        self.policy().on_return(session, idle);
    }
    fn on_forgotten(&mut self, session: SessionOrigin) {
        self.policy().on_forgotten(session);
    }
    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        let named = self.policy().victim(candidates);
        self.named.lock().unwrap().extend(named.map(SessionKey::generation));
        named
    }
    fn pick(&mut self, among: &[SessionInfo<'_>], now: Instant) -> Option<SessionKey> {
        self.policy().pick(among, now)
    }
    fn phrase(&self) -> &'static str {
        self.policy().phrase()
    }
    fn keep_resumptions(&mut self, share: f64) -> bool {
        self.policy().keep_resumptions(share)
    }
    fn worth_until(&mut self, session: &SessionInfo<'_>, now: Instant) -> Instant {
        self.policy().worth_until(session, now)
    }
    fn advantage(&self) -> Option<f64> {
        self.policy().advantage()
    }
}
