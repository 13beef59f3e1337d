//! [`Queued`]: an observer on a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, io, thread};

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{Semaphore, oneshot};

use super::event::{SessionEvent, SessionObserver};
use super::owned_event::OwnedEvent;

/// Hands events to an observer on a thread of its own, through a bounded queue, so that no request waits for the observer, which
/// may block.
///
/// Events come in their order. A session in an event is shown as it was when the event happened. What comes while the queue is
/// full is [counted](Self::dropped) and not told. A clone hands to the same observer: keep one to read the count.
///
/// The thread begins with the first event and needs no runtime; an observer that needs one brings a handle of it. The thread ends
/// when the last clone is gone and what is queued was told. The end of the process does not wait for that: call
/// [`told`](Self::told) before. A panic of the observer is caught, and logged once. If no thread can be started, all events are
/// counted as dropped.
///
/// Cost of an event: a copy of what is known of the session (about 400 bytes) or of the client, and nothing of it if the queue
/// is full. The copy of a client that was rejected has the headers which the layer keeps of it (`keep_headers`), so the bytes of
/// the queue grow with those. Requests within a session cause no events.
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
    /// Whether the thread has begun, so that an event needs no lock to know.
    begun: AtomicBool,
    /// What the thread takes when it begins.
    teller: Mutex<Option<Teller>>,
}

/// What is queued.
enum Item {
    Event(OwnedEvent),
    /// Asks to be told when all before it were told.
    Mark(oneshot::Sender<()>),
}

/// What tells the observer.
struct Teller {
    observer: Box<dyn SessionObserver>,
    queue: Receiver<Item>,
}

impl Queued {
    /// Hands events to `observer` through a queue of `most` events; 0 counts as 1.
    #[must_use]
    pub fn new(observer: impl SessionObserver, most: usize) -> Self {
        let (sender, receiver) = channel(most.clamp(1, Semaphore::MAX_PERMITS));
        let teller = Teller { observer: Box::new(observer), queue: receiver };
        let shared =
            Shared { dropped: AtomicU64::new(0), begun: AtomicBool::new(false), teller: Mutex::new(Some(teller)) };
        Self { queue: sender, shared: Arc::new(shared) }
    }

    /// Returns how many events the observer was not told of: the queue was full, or there is no thread to tell it.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Relaxed)
    }

    /// Waits until the observer was told of all events that are queued now, such as before the process ends. Returns at once
    /// if none ever came, or there is no thread to tell them.
    pub async fn told(&self) {
        // Nothing is queued before.
        if !self.shared.begun.load(Acquire) {
            return;
        }
        let (mark, told) = oneshot::channel();
        if self.queue.send(Item::Mark(mark)).await.is_ok() {
            // An error says that the thread is gone.
            told.await.ok();
        }
    }

    /// Begins the thread, once, by what starts a thread that runs a function.
    fn begin(&self, start: impl FnOnce(Box<dyn FnOnce() + Send>) -> io::Result<()>) {
        if self.shared.begun.load(Acquire) {
            return;
        }
        let started = {
            // Held until the thread is there or not: nothing is queued for one that never comes.
            let mut teller = self.shared.teller.lock().unwrap_or_else(PoisonError::into_inner);
            // Without a thread the queue is closed, because its other end is dropped.
            let started = teller.take().map_or(Ok(()), |teller| start(Box::new(|| teller.run())));
            self.shared.begun.store(true, Release);
            started
        };
        if let Err(error) = started {
            tracing::warn!(%error, "no thread for a queued session observer: its events are dropped");
        }
    }
}

/// Starts the thread.
fn start(run: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    thread::Builder::new().name("session-observer".to_owned()).spawn(run).map(drop)
}

impl Teller {
    fn run(mut self) {
        let mut warned = false;
        while let Some(item) = self.queue.blocking_recv() {
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
        self.begin(start);
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

    /// Hears the first event, and then blocks at each until it is let go, or there is nothing that may let it go.
    #[derive(Debug)]
    struct Blocks {
        names: Names,
        go: Mutex<mpsc::Receiver<()>>,
    }

    impl SessionObserver for Blocks {
        fn observe(&self, event: &SessionEvent<'_>) {
            self.names.observe(event);
            self.go.lock().unwrap().recv().ok();
        }
    }

    /// An observer that blocks at its first event, what lets it go on for good, and what it hears.
    fn blocked(most: usize) -> (Queued, mpsc::Sender<()>, mpsc::Receiver<String>) {
        let ((heard, hears), (go, goes)) = (mpsc::channel(), mpsc::channel());
        let names = Names { heard, panics: false };
        let queued = Queued::new(Blocks { names, go: Mutex::new(goes) }, most);
        tell(&queued, "first");
        assert_eq!(hears.recv().unwrap(), "first!");
        (queued, go, hears)
    }

    #[tokio::test]
    async fn events_are_told_in_their_order_and_those_that_do_not_fit_are_counted() {
        let (queued, go, hears) = blocked(3);
        for number in 0..10 {
            tell(&queued, &number.to_string());
        }
        assert_eq!(queued.dropped(), 7);
        drop(go);
        queued.told().await;
        tell(&queued, "10");
        queued.told().await;
        assert_eq!(hears.try_iter().collect::<Vec<_>>(), ["0!", "1!", "2!", "10!"]);
        assert_eq!(queued.dropped(), 7);
        let (least, go, hears) = blocked(0);
        tell(&least, "one");
        tell(&least, "two");
        drop(go);
        least.told().await;
        assert_eq!((hears.try_iter().count(), least.dropped()), (1, 1));
        drop(names(false, usize::MAX));
    }

    #[tokio::test]
    async fn an_observer_that_blocks_holds_up_no_task_of_the_runtime() {
        let (queued, go, hears) = blocked(10);
        tell(&queued, "second");
        // The one thread of the runtime goes on to this, which lets the observer go.
        let other = tokio::spawn(async move { drop(go) });
        queued.told().await;
        other.await.unwrap();
        assert_eq!(hears.try_iter().collect::<Vec<_>>(), ["second!"]);
    }

    #[test]
    fn no_runtime_is_needed_and_the_end_of_one_ends_nothing() {
        let (queued, hears) = names(false, 10);
        tell(&queued, "before");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            tell(&queued, "within");
            queued.told().await;
        });
        drop(runtime);
        tell(&queued, "after");
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(queued.told());
        assert_eq!(hears.try_iter().collect::<Vec<_>>(), ["before!", "within!", "after!"]);
        assert_eq!(queued.dropped(), 0);
    }

    #[test]
    fn told_waits_for_nothing_if_no_event_came_or_no_thread_could_be_started() {
        use futures_util::FutureExt;
        let (queued, hears) = names(false, 10);
        queued.told().now_or_never().expect("at once");
        queued.begin(|_| Err(io::ErrorKind::WouldBlock.into()));
        queued.told().now_or_never().expect("at once");
        tell(&queued, "one");
        assert_eq!(queued.dropped(), 1);
        queued.told().now_or_never().expect("at once");
        assert!(hears.recv().is_err(), "the observer is gone");
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
    async fn the_thread_tells_what_is_queued_and_ends_with_the_last_clone() {
        let (queued, hears) = names(false, 10);
        let clone = queued.clone();
        drop(queued);
        tell(&clone, "one");
        drop(clone);
        // The observer is dropped with its thread, and with it the other end of this.
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
