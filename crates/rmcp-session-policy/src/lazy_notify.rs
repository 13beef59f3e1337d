//! Whom to wake at each step of an end.

use std::sync::atomic::Ordering::SeqCst;

use tokio::sync::futures::Notified;

use crate::sync::{Lazy, Notify, fence};

/// Wakes whoever waits for it to ring. It is made when somebody first waits: for most sessions nobody does, and each has one.
///
/// Who rings has changed something before, and who waits looks at it after having begun to listen. Of the two one sees the
/// other, hence the fences: either the ringer sees that somebody listens, or the listener sees the change.
#[derive(Debug, Default)]
pub(crate) struct LazyNotify(Lazy<Notify>);

impl LazyNotify {
    pub(crate) fn notify_waiters(&self) {
        fence(SeqCst);
        if let Some(bell) = self.0.get() {
            bell.notify_waiters();
        }
    }

    /// Listens from the call of `enable` on.
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
