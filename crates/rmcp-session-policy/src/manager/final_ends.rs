//! Calls of the hook for the final ends of sessions with session data.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::final_end::{FinalEnd, FinalEndReason};
use crate::context::ClientContext;
use crate::data::{DataTypes, Values};
use crate::directory::{Change, Ownership, SessionDirectory};

/// What a user wants to be done at the final end of a session.
#[derive(Clone)]
pub(crate) struct Hook(Arc<dyn Fn(FinalEnd) -> BoxFuture<'static, ()> + Send + Sync>);

impl Hook {
    pub(super) fn new<F: Future<Output = ()> + Send + 'static>(
        hook: impl Fn(FinalEnd) -> F + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(move |end| Box::pin(hook(end))))
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook(..)")
    }
}

/// Runs the hook on a task of its own for each final end of a session with data.
pub(super) struct FinalEnds {
    /// Without one, the data is only dropped.
    hook: Option<Hook>,
    /// How long a call may take.
    deadline: Mutex<Duration>,
    types: Arc<DataTypes>,
    /// Keeps what the hook needs, until it has run.
    directory: Option<Arc<dyn SessionDirectory>>,
    /// The runtime for ends outside any runtime.
    runtime: OnceLock<Handle>,
    running: Arc<Running>,
}

/// The calls under way.
#[derive(Default)]
struct Running {
    count: AtomicUsize,
    /// Notified when none is left.
    none: Notify,
}

/// One call. Its drop is the end of the call, however that comes.
struct Call(Arc<Running>);

impl FinalEnds {
    pub(super) fn new(
        hook: Option<Hook>,
        deadline: Duration,
        types: Arc<DataTypes>,
        directory: Option<Arc<dyn SessionDirectory>>,
    ) -> Self {
        Self {
            hook,
            deadline: Mutex::new(deadline),
            types,
            directory,
            runtime: OnceLock::new(),
            running: Arc::default(),
        }
    }

    fn deadline(&self) -> MutexGuard<'_, Duration> {
        self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how long a hook may take that begins from now on.
    pub(super) fn set_deadline(&self, deadline: Duration) {
        *self.deadline() = deadline;
    }

    pub(super) const fn has_hook(&self) -> bool {
        self.hook.is_some()
    }

    /// Notes the runtime of the manager.
    pub(super) fn run_on(&self, runtime: &Handle) {
        self.runtime.get_or_init(|| Handle::clone(runtime));
    }

    /// What is to be written of the end of a session with these values: with a hook that needs what is stored of it, it ends
    /// when that has run.
    pub(super) fn end(&self, values: Option<&Values>) -> Change {
        let needs = self.has_hook() && values.is_some_and(|values| values.stored().next().is_some());
        if needs { Change::Ending(None) } else { Change::Dead }
    }

    /// Calls the hook, if the session has data. The data may be dropped here, so the caller must hold no lock. Afterwards
    /// nothing is to be done for the session, which is written to the directory in which this server has it. If the process
    /// ends before that, the next one calls the hook.
    pub(super) fn tell(
        &self,
        reason: FinalEndReason,
        context: Option<Arc<ClientContext>>,
        values: Option<Arc<Values>>,
        ownership: Option<Ownership>,
    ) {
        let Some(hook) = &self.hook else { return };
        let directory = self.directory.clone().zip(ownership);
        let done = move || {
            if let Some((directory, ownership)) = directory {
                directory.write(&ownership.digest, ownership.epoch, Change::Dead);
            }
        };
        let Some(values) = values.filter(|values| !values.is_empty()) else { return done() };
        let Some(runtime) = Handle::try_current().ok().or_else(|| self.runtime.get().cloned()) else { return };
        let end = FinalEnd { reason, context, values, types: Arc::clone(&self.types) };
        let (hook, deadline, call) = (hook.clone(), *self.deadline(), Call::begin(&self.running));
        drop(runtime.spawn(async move {
            let _call = call;
            // An async block, so that a panic before the first await is caught too.
            let run = AssertUnwindSafe(async { (hook.0)(end).await }).catch_unwind();
            match timeout(deadline, run).await {
                Ok(Ok(())) => {}
                Ok(Err(_panic)) => tracing::warn!("the hook for final ends panicked"),
                Err(_) => tracing::warn!(?deadline, "the hook for final ends took too long, and was dropped"),
            }
            done();
        }));
    }

    /// Waits until no call is under way, at most until a deadline.
    pub(super) async fn done(&self, deadline: Instant) {
        loop {
            let mut none = std::pin::pin!(self.running.none.notified());
            none.as_mut().enable();
            if self.running.count.load(SeqCst) == 0 || timeout_at(deadline, none).await.is_err() {
                return;
            }
        }
    }
}

impl Call {
    fn begin(running: &Arc<Running>) -> Self {
        running.count.fetch_add(1, SeqCst);
        Self(Arc::clone(running))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, SeqCst) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

impl fmt::Debug for FinalEnds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FinalEnds")
            .field("has_hook", &self.has_hook())
            .field("deadline", &*self.deadline())
            .finish_non_exhaustive()
    }
}
