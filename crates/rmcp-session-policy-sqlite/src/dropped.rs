//! The sessions of which a change is not written and never will be: how many, and which ones as far as memory allows.

use std::collections::HashSet;

use hashlink::LinkedHashSet;
use rmcp_session_policy::directory::SessionDigest;

/// The most sessions that are remembered of each kind.
const REMEMBERED: usize = 65_536;

/// Sessions with a change that is not written. A later change that says all of a session makes up for it.
///
/// Once more sessions were added than are remembered, each session may be one of those, unless it is known that all of it
/// was said since. So an answer is never better than the truth, and it is exact for the sessions of which that is known.
/// Each operation is O(1).
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    /// At most [`REMEMBERED`].
    sessions: HashSet<SessionDigest>,
    /// How many changes were dropped of sessions that are not remembered.
    more: usize,
    /// Sessions of which all was said since there are more, the latest at the end. At most [`REMEMBERED`].
    restated: LinkedHashSet<SessionDigest>,
}

impl Dropped {
    /// A change of the session is not written.
    pub(crate) fn add(&mut self, id: SessionDigest) {
        self.restated.remove(&id);
        if self.sessions.len() < REMEMBERED {
            self.sessions.insert(id);
        } else if !self.sessions.contains(&id) {
            self.more += 1;
        }
    }

    /// A change says all of the session, whatever is missing before it.
    pub(crate) fn restate(&mut self, id: SessionDigest) {
        self.sessions.remove(&id);
        if self.more > 0 {
            self.restated.insert(id);
        }
        if self.restated.len() > REMEMBERED {
            self.restated.pop_front();
        }
    }

    /// A session begins: it is none of those that are not remembered.
    pub(crate) fn begin(&mut self, id: SessionDigest) {
        if !self.sessions.contains(&id) {
            self.restate(id);
        }
    }

    /// Whether a change of the session is not written, as far as is known.
    pub(crate) fn has(&self, id: &SessionDigest) -> bool {
        self.sessions.contains(id) || self.more > 0 && !self.restated.contains(id)
    }

    /// How many sessions there are. Those that are not remembered stay counted, each as often as a change of it was dropped.
    pub(crate) fn len(&self) -> usize {
        self.sessions.len() + self.more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> SessionDigest {
        SessionDigest::from_bytes((number as u128).to_be_bytes())
    }

    /// As many as are remembered, and these beyond them.
    fn full(beyond: &[usize]) -> Dropped {
        let mut dropped = Dropped::default();
        (0..REMEMBERED).for_each(|number| dropped.add(id(number)));
        beyond.iter().for_each(|number| dropped.add(id(*number)));
        dropped
    }

    #[test]
    fn what_is_said_again_is_written_also_of_sessions_that_are_not_remembered() {
        let (one, two, new) = (REMEMBERED, REMEMBERED + 1, REMEMBERED + 2);
        let mut dropped = full(&[]);
        dropped.add(id(0));
        assert_eq!(dropped.len(), REMEMBERED, "it is counted already");
        assert!(dropped.has(&id(0)) && !dropped.has(&id(one)));
        dropped = full(&[one, two]);
        assert_eq!(dropped.len(), REMEMBERED + 2);
        assert!([one, two, new].iter().all(|number| dropped.has(&id(*number))), "any may be one of those");
        dropped.restate(id(0));
        dropped.restate(id(one));
        dropped.begin(id(new));
        dropped.begin(id(1));
        assert!([0, one, new].iter().all(|number| !dropped.has(&id(*number))));
        assert!(dropped.has(&id(two)) && dropped.has(&id(1)), "nothing has said all of them");
        dropped.add(id(one));
        assert!(dropped.has(&id(one)), "a later change of it is dropped");
        assert_eq!(dropped.len(), REMEMBERED + 2, "it has the place of the one that is written now");
    }

    #[test]
    fn what_was_said_again_is_remembered_of_the_latest() {
        let mut dropped = full(&[REMEMBERED]);
        (0..=REMEMBERED).for_each(|number| dropped.restate(id(2 * REMEMBERED + number)));
        assert_eq!(dropped.restated.len(), REMEMBERED);
        assert!(dropped.has(&id(2 * REMEMBERED)), "it may be one of those again");
        assert!(!dropped.has(&id(2 * REMEMBERED + 1)) && !dropped.has(&id(3 * REMEMBERED)));
    }
}
