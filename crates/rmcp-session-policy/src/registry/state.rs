//! The one word that says whether a session may go.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Half-open: neither `notifications/initialized` nor a request after `initialize` has come yet.
    Opening,
    /// The handshake is finished.
    Ready,
    /// Its end has begun.
    Closing,
}

const ACTIVE: u64 = (1 << 24) - 1;
const READY: u64 = 1 << 24;
const CLOSING: u64 = 1 << 25;
const MET: u64 = 1 << 26;
const BEGUN: u64 = 1 << 27;

/// Phase, activities under way, the *met* mark, and a count of all that ever began, in one atomic word.
///
/// Because the count of beginnings is part of the word, a claim that compares and swaps it fails whenever an activity
/// began since the word was read, even one that has ended again.
#[derive(Debug)]
pub(crate) struct State(AtomicU64);

/// One reading of a [`State`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading(u64);

impl Reading {
    pub(crate) const fn phase(self) -> Phase {
        if self.0 & CLOSING != 0 {
            Phase::Closing
        } else if self.0 & READY != 0 {
            Phase::Ready
        } else {
            Phase::Opening
        }
    }

    pub(crate) const fn active(self) -> usize {
        (self.0 & ACTIVE) as usize
    }
}

impl State {
    pub(crate) const fn opening() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(crate) fn read(&self) -> Reading {
        Reading(self.0.load(SeqCst))
    }

    /// Counts an activity in, unless the session is closing.
    pub(crate) fn begin(&self) -> bool {
        // Never counted in and out again: whoever waits for the last activity of a closing session to end would see
        // one that nobody tells the end of.
        let one_more = |word: u64| (word & CLOSING == 0).then(|| word.wrapping_add(BEGUN + 1));
        self.0.fetch_update(SeqCst, SeqCst, one_more).is_ok()
    }

    /// Counts an activity out. Returns the word as it is now, and whether a policy that met this session waits for it.
    ///
    /// It waits for each end, not only the last: those still under way may be too old to protect the session.
    pub(crate) fn end(&self) -> (Reading, bool) {
        let word = self.0.fetch_sub(1, SeqCst) - 1;
        (Reading(word), word & MET != 0 && self.take_met())
    }

    /// Takes the *met* mark away; true for the one caller that found it.
    pub(crate) fn take_met(&self) -> bool {
        self.0.load(SeqCst) & MET != 0 && self.0.fetch_and(!MET, SeqCst) & MET != 0
    }

    /// Marks the session as met by a policy while it may not go; returns the word at that moment.
    pub(crate) fn meet(&self) -> Reading {
        Reading(self.0.fetch_or(MET, SeqCst))
    }

    /// Moves from opening to ready; true for the one caller that did.
    pub(crate) fn ready(&self) -> bool {
        let word = self.0.load(SeqCst);
        word & (READY | CLOSING) == 0 && self.0.fetch_or(READY, SeqCst) & (READY | CLOSING) == 0
    }

    /// Begins the end, whatever is under way. Returns the phase it ended, or `None` if its end had begun before.
    pub(crate) fn close(&self) -> Option<Phase> {
        let word = Reading(self.0.fetch_or(CLOSING, SeqCst));
        (word.phase() != Phase::Closing).then(|| word.phase())
    }

    /// Begins the end if nothing has begun or moved since `seen` was read. The *met* mark does not count.
    pub(crate) fn close_if(&self, seen: Reading) -> Result<(), Reading> {
        let unmoved = |word: u64| ((word ^ seen.0) & !MET == 0).then_some(word | CLOSING);
        self.0.fetch_update(SeqCst, SeqCst, unmoved).map(drop).map_err(Reading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_fails_when_a_request_came_and_went_in_between() {
        let state = State::opening();
        assert!(state.ready());
        let seen = state.read();
        assert!(state.begin());
        state.end();
        assert_eq!(state.read().active(), seen.active());
        assert!(state.close_if(seen).is_err());
        assert_eq!(state.close_if(state.read()), Ok(()));
    }

    #[test]
    fn nothing_begins_once_the_end_has() {
        let state = State::opening();
        assert_eq!(state.close(), Some(Phase::Opening));
        assert_eq!(state.close(), None);
        assert!(!state.begin());
        assert_eq!(state.read().active(), 0);
        assert!(!state.ready());
    }

    #[test]
    fn a_claim_succeeds_whatever_became_of_the_mark() {
        let state = State::opening();
        let seen = state.read();
        state.meet();
        assert_eq!(state.close_if(seen), Ok(()));
        assert_eq!(state.close(), None);
    }

    #[test]
    fn a_refused_beginning_is_never_seen() {
        let state = State::opening();
        state.close();
        let closed = state.read();
        assert!(!state.begin());
        assert_eq!(state.read(), closed);
    }

    #[test]
    fn an_end_reports_a_meeting_once() {
        let state = State::opening();
        state.ready();
        state.begin();
        state.begin();
        assert_eq!(state.meet().active(), 2);
        assert!(state.end().1, "what is still under way may be too old to count");
        assert!(!state.end().1, "met once, told once");
        state.begin();
        assert!(!state.end().1);
    }

    #[test]
    fn of_all_who_end_and_close_exactly_one_is_the_first() {
        for _ in 0..200 {
            let state = State::opening();
            let (ready, closed) = std::thread::scope(|scope| {
                let ready = scope.spawn(|| state.ready());
                let closed = scope.spawn(|| state.close());
                (ready.join().unwrap(), closed.join().unwrap())
            });
            // Whoever moves it out of `Opening` counts it out; nobody else does.
            assert_eq!(usize::from(ready) + usize::from(closed == Some(Phase::Opening)), 1);
        }
    }
}
