//! The inner transport, where the end of the session can reach it.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Holds a transport that is lent out while somebody waits for its next message, and can be taken away for good.
#[derive(Debug)]
pub(crate) struct Cell<T> {
    held: Mutex<Held<T>>,
}

#[derive(Debug)]
struct Held<T> {
    transport: Option<T>,
    hung_up: bool,
}

/// Ends a transport from outside.
pub(crate) trait HangUp: Send + Sync {
    /// Drops the transport now, or, if it is lent out, when it comes back. Returns whether it is gone now.
    fn hang_up(&self) -> bool;
}

impl<T> Cell<T> {
    pub(crate) const fn new(transport: T) -> Self {
        Self { held: Mutex::new(Held { transport: Some(transport), hung_up: false }) }
    }

    fn lock(&self) -> MutexGuard<'_, Held<T>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the transport out for a while; `None` once it is gone.
    pub(crate) fn lend(&self) -> Option<T> {
        self.lock().transport.take()
    }

    /// Puts the transport back. Gives it back to be dropped if the session has hung up meanwhile.
    pub(crate) fn give_back(&self, transport: T) -> Option<T> {
        let mut held = self.lock();
        if held.hung_up {
            return Some(transport);
        }
        held.transport = Some(transport);
        None
    }

    /// Takes the transport away for good.
    pub(crate) fn take(&self) -> Option<T> {
        let mut held = self.lock();
        held.hung_up = true;
        held.transport.take()
    }
}

impl<T: Send> HangUp for Cell<T> {
    fn hang_up(&self) -> bool {
        self.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_out_while_the_session_hangs_up_is_dropped_when_it_comes_back() {
        let cell = Cell::new("transport");
        let lent = cell.lend().expect("there");
        assert!(!cell.hang_up(), "it is out");
        assert_eq!(cell.give_back(lent), Some("transport"));
        assert_eq!(cell.lend(), None);
    }
}
