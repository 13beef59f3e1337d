//! [`LazyNotify`]: a `Notify` that is allocated when a task first waits for it.

use std::sync::atomic::Ordering::SeqCst;

use tokio::sync::futures::Notified;

use crate::sync::{Lazy, Notify, fence};

/// Wakes the tasks that wait. The inner `Notify` is allocated at the first wait: each session has a `LazyNotify`, and
/// for most of them no task ever waits.
///
/// The notifier changes a state before it calls `notify_waiters`; the waiter reads that state after it has begun to
/// listen. The two fences ensure that either the notifier sees the allocated `Notify`, or the waiter sees the change.
#[derive(Debug, Default)]
pub(crate) struct LazyNotify(Lazy<Notify>);

impl LazyNotify {
    pub(crate) fn notify_waiters(&self) {
        fence(SeqCst);
        if let Some(bell) = self.0.get() {
            bell.notify_waiters();
        }
    }

    /// Returns a future that listens from the call of `enable` on.
    pub(crate) fn notified(&self) -> Notified<'_> {
        let bell = self.0.get_or_make();
        fence(SeqCst);
        bell.notified()
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::Ordering::Relaxed;
    use std::task::{Context, Waker};

    use loom::{model, thread};

    use super::*;
    use crate::sync::AtomicBool;

    #[test]
    fn either_the_change_is_seen_or_the_ring_is_heard() {
        model(|| {
            let shared = Arc::new((LazyNotify::default(), AtomicBool::default()));
            let other = Arc::clone(&shared);
            let ringer = thread::spawn(move || {
                other.1.store(true, Relaxed);
                other.0.notify_waiters();
            });
            let (bell, changed) = &*shared;
            let mut ring = pin!(bell.notified());
            ring.as_mut().enable();
            let seen = changed.load(Relaxed);
            ringer.join().unwrap();
            let heard = ring.poll(&mut Context::from_waker(Waker::noop())).is_ready();
            assert!(seen || heard);
        });
    }
}
