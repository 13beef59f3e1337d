//! [`Unservable`]: the sessions of the directory that only another release of the server can serve.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hashlink::LinkedHashMap;

use crate::directory::SessionDigest;

/// How many are remembered.
const MOST: usize = 10_000;

/// The sessions that this server found it cannot serve, the last 10,000 of them. They are given back to the directory, and
/// not claimed again: each try would cost a place, and end as the first.
///
/// Which they are does not change: neither does the release of this process, nor what a client was told in the answer to
/// its `initialize`.
#[derive(Default)]
pub(super) struct Unservable(Mutex<LinkedHashMap<SessionDigest, ()>>);

impl Unservable {
    fn lock(&self) -> MutexGuard<'_, LinkedHashMap<SessionDigest, ()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, session: SessionDigest) {
        let mut sessions = self.lock();
        sessions.insert(session, ());
        if sessions.len() > MOST {
            sessions.pop_front();
        }
    }

    pub(super) fn contains(&self, session: &SessionDigest) -> bool {
        self.lock().contains_key(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_remembered() {
        let sessions = Unservable::default();
        let digest = |number: usize| SessionDigest::of(&number.to_string());
        (0..MOST + 3).for_each(|number| sessions.add(digest(number)));
        assert!(!sessions.contains(&digest(2)) && sessions.contains(&digest(3)));
        assert_eq!(sessions.lock().len(), MOST);
    }
}
