//! [`Queued`]: an observer on a task of its own.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{Semaphore, oneshot};

use super::event::{SessionEvent, SessionObserver};
use super::owned_event::OwnedEvent;

/// Hands events to an observer on a task of its own, through a bounded queue, so that no request waits for the observer.
///
/// Events come in their order. A session in an event is shown as it was when the event happened. What comes while the queue is
/// full is [counted](Self::dropped) and not told. A clone hands to the same observer: keep one to read the count.
///
/// The task begins with the first event that comes on a tokio runtime, and belongs to that runtime; `new` needs none. It ends
/// when the last clone is gone and what is queued was told. A panic of the observer is caught, and logged once.
///
/// Cost of an event: a copy of what is known of the session (about 400 bytes) or of the client, and nothing of it if the queue
/// is full. Requests within a session cause no events.
///
/// ```
/// use std::sync::{Arc, Mutex};
///
/// use rmcp::transport::streamable_http_server::session::SessionManager;
/// use rmcp_session_policy::{PolicySessionManager, Queued, SessionEvent, SessionObserver};
///
/// /// Writes to a file or a service, which may take long.
/// #[derive(Clone, Debug, Default)]
/// struct Audit(Arc<Mutex<Vec<String>>>);
///
/// impl SessionObserver for Audit {
///     fn observe(&self, event: &SessionEvent<'_>) {
///         if let SessionEvent::Closed { session, reason, .. } = event {
///             self.0.lock().expect("no panic").push(format!("{} closed: {reason}", session.fingerprint()));
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let audit = Audit::default();
/// let queued = Queued::new(audit.clone(), 1_000);
/// let sessions = PolicySessionManager::local().observer(queued.clone()).build()?;
/// let (id, _transport) = sessions.create_session().await?;
/// sessions.close_session(&id).await?;
///
/// queued.told().await;
/// assert_eq!(audit.0.lock().expect("no panic").len(), 1);
/// assert_eq!(queued.dropped(), 0);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Queued {
    queue: Sender<Item>,
    shared: Arc<Shared>,
}

struct Shared {
    dropped: AtomicU64,
    /// Whether the task has begun, so that an event needs no lock to know.
    begun: AtomicBool,
    /// What the task takes when it begins.
    task: Mutex<Option<Task>>,
}

/// What is queued.
enum Item {
    Event(OwnedEvent),
    /// Asks to be told when all before it were told.
    Mark(oneshot::Sender<()>),
}

struct Task {
    observer: Box<dyn SessionObserver>,
    queue: Receiver<Item>,
}

impl Queued {
    /// Hands events to `observer` through a queue of `most` events; 0 counts as 1.
    #[must_use]
    pub fn new(observer: impl SessionObserver, most: usize) -> Self {
        let (sender, receiver) = channel(most.clamp(1, Semaphore::MAX_PERMITS));
        let task = Task { observer: Box::new(observer), queue: receiver };
        let shared = Shared { dropped: AtomicU64::new(0), begun: AtomicBool::new(false), task: Mutex::new(Some(task)) };
        Self { queue: sender, shared: Arc::new(shared) }
    }

    /// Returns how many events the observer was not told of: the queue was full, or the runtime of its task is gone.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Relaxed)
    }

    /// Waits until the observer was told of all events that are queued now, such as before the process ends. Returns at once
    /// if the runtime of its task is gone.
    pub async fn told(&self) {
        self.begin();
        let (mark, told) = oneshot::channel();
        if self.queue.send(Item::Mark(mark)).await.is_ok() {
            // An error says that the task is gone.
            told.await.ok();
        }
    }

    /// Begins the task, once, if there is a runtime.
    fn begin(&self) {
        if self.shared.begun.load(Relaxed) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let task = self.shared.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.shared.begun.store(true, Relaxed);
        if let Some(task) = task {
            drop(runtime.spawn(task.run()));
        }
    }
}

impl Task {
    async fn run(mut self) {
        let mut warned = false;
        while let Some(item) = self.queue.recv().await {
            match item {
                Item::Event(event) => {
                    let told = catch_unwind(AssertUnwindSafe(|| self.observer.observe(&event.event())));
                    if told.is_err() && !std::mem::replace(&mut warned, true) {
                        tracing::warn!("a queued session observer panicked (said once)");
                    }
                }
                // What asked may have gone.
                Item::Mark(mark) => drop(mark.send(())),
            }
        }
    }
}

impl SessionObserver for Queued {
    fn observe(&self, event: &SessionEvent<'_>) {
        self.begin();
        // A place first: an event that is dropped is not copied.
        match self.queue.try_reserve() {
            Ok(place) => place.send(Item::Event(OwnedEvent::of(event))),
            Err(_) => drop(self.shared.dropped.fetch_add(1, Relaxed)),
        }
    }
}

impl fmt::Debug for Queued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queued").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;
    use std::sync::mpsc;

    use super::super::RejectionReason;
    use super::*;
    use crate::admission::{ArrivalKind, Retry};
    use crate::context::ClientContext;

    /// Sends the names of the policies in the events.
    #[derive(Debug)]
    struct Names {
        heard: mpsc::Sender<String>,
        panics: bool,
    }

    impl SessionObserver for Names {
        fn observe(&self, event: &SessionEvent<'_>) {
            let SessionEvent::Rejected { policy, context, .. } = event else { return };
            let principal = context.and_then(ClientContext::principal).unwrap_or_default();
            self.heard.send(format!("{policy}{principal}")).unwrap();
            assert!(!self.panics, "as told");
        }
    }

    fn names(panics: bool, most: usize) -> (Queued, mpsc::Receiver<String>) {
        let (heard, hears) = mpsc::channel();
        (Queued::new(Names { heard, panics }, most), hears)
    }

    fn tell(queued: &Queued, policy: &str) {
        let context = Some(&ClientContext::new().with_principal("!"));
        let (kind, reason, retry) = (ArrivalKind::Create, RejectionReason::Quota, Retry::Unknown);
        queued.observe(&SessionEvent::Rejected { kind, reason, policy, retry, context });
    }

    #[tokio::test]
    async fn events_are_told_in_their_order_and_those_that_do_not_fit_are_counted() {
        let (queued, hears) = names(false, 3);
        for number in 0..10 {
            tell(&queued, &number.to_string());
        }
        assert_eq!(queued.dropped(), 7, "the task had no turn yet");
        assert!(hears.try_recv().is_err(), "it is told on a task of its own");
        queued.told().await;
        tell(&queued, "10");
        queued.told().await;
        assert_eq!(hears.try_iter().collect::<Vec<_>>(), ["0!", "1!", "2!", "10!"]);
        assert_eq!(queued.dropped(), 7);
        let (least, hears) = names(false, 0);
        tell(&least, "one");
        tell(&least, "two");
        least.told().await;
        assert_eq!((hears.try_iter().count(), least.dropped()), (1, 1));
        drop(names(false, usize::MAX));
    }

    #[test]
    fn what_comes_without_a_runtime_is_told_once_there_is_one() {
        let (queued, hears) = names(false, 10);
        tell(&queued, "before");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            tell(&queued, "within");
            queued.told().await;
        });
        assert_eq!(hears.try_iter().collect::<Vec<_>>(), ["before!", "within!"]);
        drop(runtime);
        tell(&queued, "after");
        assert_eq!(queued.dropped(), 1, "the task is gone with its runtime");
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(queued.told());
    }

    #[tokio::test]
    async fn a_panic_of_the_observer_costs_the_events_after_it_nothing() {
        let (queued, hears) = names(true, 10);
        tell(&queued, "one");
        tell(&queued, "two");
        queued.told().await;
        assert_eq!(hears.try_iter().collect::<Vec<_>>(), ["one!", "two!"]);
    }

    #[tokio::test]
    async fn the_task_tells_what_is_queued_and_ends_with_the_last_clone() {
        let (queued, hears) = names(false, 10);
        let clone = queued.clone();
        drop(queued);
        tell(&clone, "one");
        drop(clone);
        // The observer is dropped with its task, and with it the other end of this.
        let all = tokio::task::spawn_blocking(move || hears.iter().collect::<Vec<_>>()).await.unwrap();
        assert_eq!(all, ["one!"]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn events_of_many_threads_are_told_or_counted() {
        let (queued, hears) = names(false, 16);
        let counted = Arc::new(AtomicU64::new(0));
        let tellers = (0..4).map(|_| {
            let (queued, counted) = (queued.clone(), Arc::clone(&counted));
            tokio::spawn(async move {
                for _ in 0..1_000 {
                    tell(&queued, "x");
                    counted.fetch_add(1, SeqCst);
                    tokio::task::yield_now().await;
                }
            })
        });
        for teller in tellers.collect::<Vec<_>>() {
            teller.await.unwrap();
        }
        queued.told().await;
        assert_eq!(hears.try_iter().count() as u64 + queued.dropped(), counted.load(SeqCst));
    }
}
