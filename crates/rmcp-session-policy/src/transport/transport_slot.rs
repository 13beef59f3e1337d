//! A slot for the inner transport, from which the end of the session can take it.
//!
//! rmcp's service owns the wrapper, and may not look at it for a long time. A session is gone only when its inner
//! transport is dropped, so the close must be able to drop it from outside (decision 2).

use std::sync::PoisonError;

use crate::sync::{Mutex, MutexGuard};

/// Holds a transport. A task checks it out while it waits for the next message, and the end of the session can take it
/// for good.
///
/// The transport is in the slot, or checked out, or gone. Exactly one caller gets it last, and drops it: that of
/// [`take`](Self::take), or that of [`check_in`](Self::check_in) after a `take` that found the slot empty. That caller
/// raises `Dropped`.
#[derive(Debug)]
pub(crate) struct TransportSlot<T> {
    held: Mutex<Held<T>>,
}

#[derive(Debug)]
struct Held<T> {
    /// Boxed, because it is moved twice for each message.
    transport: Option<Box<T>>,
    /// Whether the transport was taken for good. Then a check-in does not put it back.
    hung_up: bool,
}

impl<T> TransportSlot<T> {
    pub(crate) fn new(transport: T) -> Self {
        Self { held: Mutex::new(Held { transport: Some(Box::new(transport)), hung_up: false }) }
    }

    fn lock(&self) -> MutexGuard<'_, Held<T>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the transport out for a while. `None` once it is gone, and while another task has it.
    pub(crate) fn check_out(&self) -> Option<Box<T>> {
        self.lock().transport.take()
    }

    /// Puts the transport back. Returns it, to be dropped, if the session has hung up meanwhile.
    pub(crate) fn check_in(&self, transport: Box<T>) -> Option<Box<T>> {
        let mut held = self.lock();
        if held.hung_up {
            return Some(transport);
        }
        held.transport = Some(transport);
        None
    }

    /// Takes the transport for good: now or, if it is checked out, at its check-in.
    ///
    /// Returns `None` if it is checked out or gone. The caller drops what it gets when no lock is held, since the drop
    /// runs code of the inner manager.
    pub(crate) fn take(&self) -> Option<Box<T>> {
        let mut held = self.lock();
        held.hung_up = true;
        held.transport.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_out_while_the_session_hangs_up_is_dropped_when_it_comes_back() {
        let cell = TransportSlot::new("transport");
        let lent = cell.check_out().expect("there");
        assert_eq!(cell.take(), None, "it is out");
        assert_eq!(cell.check_in(lent), Some(Box::new("transport")));
        assert_eq!(cell.check_out(), None);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering::SeqCst;

    use loom::{model, thread};

    use super::*;
    use crate::sync::{AtomicBool, AtomicU32};

    /// Records what became of a transport.
    #[derive(Default)]
    struct Fate {
        in_use: AtomicBool,
        drops: AtomicU32,
        /// The number of callers that were told that they removed it.
        told: AtomicU32,
    }

    struct Transport(Arc<Fate>);

    impl Drop for Transport {
        fn drop(&mut self) {
            assert!(!self.0.in_use.load(SeqCst), "never while lent");
            self.0.drops.fetch_add(1, SeqCst);
        }
    }

    #[derive(Clone)]
    struct Stage {
        slot: Arc<TransportSlot<Transport>>,
        fate: Arc<Fate>,
    }

    impl Stage {
        fn new() -> Self {
            let fate = Arc::new(Fate::default());
            Self { slot: Arc::new(TransportSlot::new(Transport(Arc::clone(&fate)))), fate }
        }

        fn beside(&self, act: impl FnOnce(&Self) + 'static) -> thread::JoinHandle<()> {
            let stage = self.clone();
            thread::spawn(move || act(&stage))
        }

        /// Acts as the service: checks it out and in, and drops it if the check-in returns it.
        fn use_it(&self) {
            let Some(transport) = self.slot.check_out() else { return };
            self.fate.in_use.store(true, SeqCst);
            self.fate.in_use.store(false, SeqCst);
            if let Some(late) = self.slot.check_in(transport) {
                drop(late);
                self.tell();
            }
        }

        /// Acts as the service when it closes.
        fn take(&self) {
            if self.slot.take().is_some() {
                self.tell();
            }
        }

        fn hang_up(&self) {
            if let Some(transport) = self.slot.take() {
                drop(transport);
                self.tell();
            }
        }

        fn tell(&self) {
            assert_eq!(self.fate.drops.load(SeqCst), 1);
            self.fate.told.fetch_add(1, SeqCst);
        }

        /// Asserts that the transport is dropped while the slot still exists, and that exactly one caller was told.
        fn assert_gone(&self) {
            assert_eq!((self.fate.drops.load(SeqCst), self.fate.told.load(SeqCst)), (1, 1));
            assert!(self.slot.check_out().is_none());
        }
    }

    #[test]
    fn a_transport_that_is_lent_and_hung_up_is_dropped_once_and_one_is_told() {
        model(|| {
            let stage = Stage::new();
            let service = stage.beside(|stage| {
                stage.use_it();
                stage.use_it();
            });
            stage.hang_up();
            service.join().unwrap();
            stage.assert_gone();
        });
    }

    #[test]
    fn so_it_is_by_two_who_hang_up() {
        model(|| {
            let stage = Stage::new();
            let others = [stage.beside(Stage::use_it), stage.beside(Stage::hang_up)];
            stage.hang_up();
            others.into_iter().for_each(|other| other.join().unwrap());
            stage.assert_gone();
        });
    }

    #[test]
    fn so_it_is_when_the_service_closes() {
        model(|| {
            let stage = Stage::new();
            let hang_up = stage.beside(Stage::hang_up);
            stage.use_it();
            stage.take();
            hang_up.join().unwrap();
            stage.assert_gone();
        });
    }
}
