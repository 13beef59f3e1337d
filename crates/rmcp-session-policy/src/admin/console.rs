//! [`Console`]: what the handlers of one router share.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};

use axum::http::StatusCode;
use rmcp::transport::streamable_http_server::session::SessionManager;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::access::Access;
use super::progress::Drain;
use super::refusal::Refusal;
use super::samples::{EVERY, Samples};
use crate::manager::PolicySessionManager;

/// How many lists of all sessions are made at one time. Each is a copy of what is known of every session.
const LISTS: usize = 2;

/// What the handlers of one router share.
pub(super) struct Console<I: SessionManager> {
    pub(super) sessions: PolicySessionManager<I>,
    pub(super) access: Access,
    /// Whether the page may end sessions and drain.
    pub(super) actions: bool,
    pub(super) samples: Samples,
    /// The drain that the page has begun.
    pub(super) drain: Mutex<Option<Drain>>,
    lists: Arc<Semaphore>,
    /// The task that takes the samples. It ends with the console.
    sampler: OnceLock<AbortHandle>,
}

impl<I: SessionManager> Console<I> {
    pub(super) fn new(sessions: PolicySessionManager<I>, access: Access, actions: bool) -> Self {
        Self {
            sessions,
            access,
            actions,
            samples: Samples::default(),
            drain: Mutex::default(),
            lists: Arc::new(Semaphore::new(LISTS)),
            sampler: OnceLock::new(),
        }
    }

    /// Starts to take samples, unless that has begun before, or there is no runtime yet.
    pub(super) fn start_sampling(self: &Arc<Self>) {
        if let Ok(runtime) = Handle::try_current() {
            self.sampler.get_or_init(|| {
                let console = Arc::downgrade(self);
                let sample = async move {
                    let mut ticks = interval(EVERY);
                    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                    loop {
                        ticks.tick().await;
                        let Some(console) = console.upgrade() else { break };
                        console.samples.add(&console.sessions.stats(), Instant::now());
                    }
                };
                runtime.spawn(sample).abort_handle()
            });
        }
    }

    /// Runs what looks at all sessions where it holds up no other request, a few at a time.
    pub(super) async fn look_at_all<R: Send + 'static>(
        self: &Arc<Self>,
        look: impl FnOnce(&PolicySessionManager<I>) -> R + Send + 'static,
    ) -> Result<R, Refusal> {
        let failed = || Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the look at the sessions failed");
        let permit = Arc::clone(&self.lists).acquire_owned().await.map_err(|_| failed())?;
        let sessions = self.sessions.share();
        let look = move || {
            // The look goes on if the operator hangs up, so it keeps its permit to its end.
            let _permit = permit;
            look(&sessions)
        };
        tokio::task::spawn_blocking(look).await.map_err(|_| failed())
    }

    pub(super) fn check_actions(&self) -> Result<(), Refusal> {
        match self.actions {
            true => Ok(()),
            false => Err(Refusal::forbidden("this page is read-only: its router was built without actions")),
        }
    }
}

impl<I: SessionManager> Drop for Console<I> {
    fn drop(&mut self) {
        if let Some(sampler) = self.sampler.get() {
            sampler.abort();
        }
    }
}

impl<I: SessionManager> fmt::Debug for Console<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("actions", &self.actions).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt;

    use super::super::access::Clients;
    use super::super::hosts::Hosts;
    use super::*;
    use crate::testing::inner::Scripted;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_look_whose_operator_has_hung_up_counts_until_it_is_done() {
        let sessions = PolicySessionManager::builder(Scripted::new()).build().expect("valid");
        let access = Access { hosts: Hosts::default(), clients: Clients::All };
        let console = Arc::new(Console::new(sessions, access, false));
        let (done, wait) = mpsc::channel::<()>();
        let (began, begins) = mpsc::channel();
        let mut look = Box::pin(console.look_at_all(move |_| {
            began.send(()).expect("the test waits");
            wait.recv().ok();
        }));
        assert!(look.as_mut().now_or_never().is_none(), "it is under way");
        begins.recv().expect("the look begins");
        drop(look);
        assert_eq!(console.lists.available_permits(), LISTS - 1);
        drop(done);
        let _all = console.lists.acquire_many(LISTS as u32).await.expect("open");
    }
}
