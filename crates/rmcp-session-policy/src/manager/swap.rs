//! [`Swap`]: the exchange of the eviction policy, up to the moment at which the new one takes over.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rmcp::transport::streamable_http_server::session::SessionManager;
use tokio::task::yield_now;

use super::manager_inner::{ManagerInner, ManagerState};
use crate::eviction::EvictionPolicy;

/// How many sessions the new policy meets in one hold of the manager's lock.
const AT_ONCE: usize = 1_000;

/// A policy that has met the sessions and may take over. Its drop leaves the old one in force.
pub(super) struct Swap<'a, I: SessionManager> {
    shared: &'a Arc<ManagerInner<I>>,
    finished: bool,
}

impl<'a, I: SessionManager> Swap<'a, I> {
    /// Has a policy meet all sessions, oldest first. Other tasks run in between. `None` meets none.
    pub(super) async fn meet(shared: &'a Arc<ManagerInner<I>>, policy: Option<Box<dyn EvictionPolicy>>) -> Self {
        let swap = Self { shared, finished: false };
        let Some(policy) = policy else { return swap };
        {
            let mut core = shared.lock();
            core.registry.begin_swap(policy);
            shared.tracks_access.store(core.registry.tracks_access(), Relaxed);
        }
        // Sessions that come from here on are met last, and those that end before they are met are not met.
        let (mut keys, mut from) = (Vec::new(), Some(0));
        while let Some(index) = from {
            let (some, next) = shared.lock().registry.keys(index, AT_ONCE);
            keys.extend(some);
            from = next;
            yield_now().await;
        }
        keys.sort_unstable_by_key(|key| key.generation());
        for some in keys.chunks(AT_ONCE) {
            shared.lock().registry.meet(some);
            yield_now().await;
        }
        while shared.lock().registry.meet_newcomers(AT_ONCE) {
            yield_now().await;
        }
        swap
    }

    /// Lets the policy take over. Returns the old one, to be dropped when the lock is not held.
    pub(super) fn finish(mut self, core: &mut ManagerState<I::Transport>) -> Option<Box<dyn EvictionPolicy>> {
        self.finished = true;
        let old = core.registry.finish_swap();
        self.shared.tracks_access.store(core.registry.tracks_access(), Relaxed);
        old
    }
}

impl<I: SessionManager> Drop for Swap<'_, I> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let given_up = {
            let mut core = self.shared.lock();
            let given_up = core.registry.give_up_swap();
            self.shared.tracks_access.store(core.registry.tracks_access(), Relaxed);
            given_up
        };
        drop(given_up);
    }
}
