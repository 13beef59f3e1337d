//! The atomic word that decides whether a session may be evicted.
//!
//! A request adds to the word when it begins, and a close sets a bit in it. So for each race between a request and a
//! close one of the two comes first, and the other sees that. No lock is needed.

use std::sync::atomic::Ordering::SeqCst;

use crate::sync::AtomicU64;

/// The phase of a session.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use rmcp::transport::streamable_http_server::session::SessionManager;
/// use rmcp_session_policy::{Phase, PolicySessionManager};
///
/// let sessions = PolicySessionManager::local().build()?;
/// let (_id, _transport) = sessions.create_session().await?;
/// // The client has not finished its handshake yet.
/// assert_eq!(sessions.list()[0].phase, Phase::Opening);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Half-open: neither `notifications/initialized` nor a request after `initialize` has come yet.
    Opening,
    /// The handshake is finished.
    Ready,
    /// The session is closing.
    Closing,
}

/// The bits that count the activities under way.
const ACTIVE: u64 = (1 << 24) - 1;
/// Set once the handshake is finished. Never cleared.
const READY: u64 = 1 << 24;
/// Set once the close has begun. Never cleared; nothing begins from then on.
const CLOSING: u64 = 1 << 25;
/// Set while the registry or a policy wants to hear of the next change.
const WATCHED: u64 = 1 << 26;
/// Set while a policy wants to hear of the next milestone: the first call, or a stream that opens or closes.
const MILESTONE: u64 = 1 << 27;
/// One in the count of all activities that ever began, which takes the rest of the word and may wrap.
const BEGUN: u64 = 1 << 28;

/// Phase, activities under way, the two marks of watchers, and a count of all that ever began, in one atomic word.
///
/// The count of beginnings is part of the word. So a compare-and-swap fails if an activity began since the word was
/// read, even if that activity has ended.
#[derive(Debug)]
pub(crate) struct State(AtomicU64);

/// The value of a [`State`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateSnapshot(u64);

impl StateSnapshot {
    /// The phase at that moment. A session that closes without a finished handshake is closing, not half-open.
    pub(crate) const fn phase(self) -> Phase {
        if self.0 & CLOSING != 0 {
            Phase::Closing
        } else if self.0 & READY != 0 {
            Phase::Ready
        } else {
            Phase::Opening
        }
    }

    /// Whether the handshake was finished by then, also of a session that is closing.
    pub(crate) const fn was_ready(self) -> bool {
        self.0 & READY != 0
    }

    /// How many activities are under way, of any kind and any age.
    pub(crate) const fn active(self) -> usize {
        (self.0 & ACTIVE) as usize
    }
}

impl State {
    /// The word of a new session: half-open, and no activity has begun.
    pub(crate) fn opening() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The state at this moment, which does not change any more.
    pub(super) fn copy(&self) -> Self {
        Self(AtomicU64::new(self.0.load(SeqCst)))
    }

    pub(crate) fn read(&self) -> StateSnapshot {
        StateSnapshot(self.0.load(SeqCst))
    }

    /// Counts an activity in. Returns false if the session is closing.
    pub(crate) fn begin(&self) -> bool {
        // The word is not incremented and decremented again: a task that waits for the last activity of a closing
        // session would see an activity, and would never be notified of its end.
        let one_more = |word: u64| (word & CLOSING == 0).then(|| word.wrapping_add(BEGUN + 1));
        self.0.fetch_update(SeqCst, SeqCst, one_more).is_ok()
    }

    /// Counts one more beginning for an activity that is counted in already. Returns false if the session is closing.
    pub(crate) fn convert(&self) -> bool {
        let begun = |word: u64| (word & CLOSING == 0).then(|| word.wrapping_add(BEGUN));
        self.0.fetch_update(SeqCst, SeqCst, begun).is_ok()
    }

    /// Counts an activity out. Returns the word as it is now, and whether the session is watched, which is true once.
    ///
    /// Each end counts, not only the last: the activities still under way may be too old to protect the session.
    ///
    /// Only the caller that has counted the activity in may call it. If the session is watched, that caller puts the
    /// key into the queue of changes.
    pub(crate) fn end(&self) -> (StateSnapshot, bool) {
        let word = self.0.fetch_sub(1, SeqCst) - 1;
        (StateSnapshot(word), word & WATCHED != 0 && self.take_watched())
    }

    /// Takes the *watched* mark away; true for the one caller that found it.
    pub(crate) fn take_watched(&self) -> bool {
        self.0.load(SeqCst) & WATCHED != 0 && self.0.fetch_and(!WATCHED, SeqCst) & WATCHED != 0
    }

    /// Marks the session, so that it tells of its next milestone. A milestone before this call is in the facts that the
    /// caller reads after it.
    pub(crate) fn watch_milestones(&self) {
        self.0.fetch_or(MILESTONE, SeqCst);
    }

    /// Takes the mark of [`watch_milestones`](Self::watch_milestones) away; true for the one caller that found it.
    pub(crate) fn take_milestone(&self) -> bool {
        // One step, so that the facts which were written before it are seen by whatever marks the session after it.
        self.0.fetch_and(!MILESTONE, SeqCst) & MILESTONE != 0
    }

    /// Marks the session, so that it tells of the next thing that happens to it; returns the word at that moment.
    ///
    /// The word that it returns is without the mark of this call. A change before it is in that word; a change after it
    /// takes the mark away.
    pub(crate) fn watch(&self) -> StateSnapshot {
        StateSnapshot(self.0.fetch_or(WATCHED, SeqCst))
    }

    /// Moves from opening to ready. Returns true for the one caller that did.
    ///
    /// Neither a ready nor a closing session moves. Where `ready` and a close race, the one that comes first takes the
    /// session out of the half-open ones: the caller of the other is told that it did not.
    pub(crate) fn ready(&self) -> bool {
        let word = self.0.load(SeqCst);
        word & (READY | CLOSING) == 0 && self.0.fetch_or(READY, SeqCst) & (READY | CLOSING) == 0
    }

    /// Begins the end, even with activities in progress. Returns the phase before, or `None` if the end had begun
    /// already.
    ///
    /// Exactly one caller of this and [`close_if`](Self::close_if) begins the close. That caller sets the reason and
    /// runs the close.
    pub(crate) fn close(&self) -> Option<Phase> {
        let word = StateSnapshot(self.0.fetch_or(CLOSING, SeqCst));
        (word.phase() != Phase::Closing).then(|| word.phase())
    }

    /// Begins the end if nothing has begun or moved since `seen` was read. The marks of watchers do not count.
    ///
    /// # Errors
    ///
    /// Returns the word as it is now, for another look. If that is closing, another caller has begun the close.
    pub(crate) fn close_if(&self, seen: StateSnapshot) -> Result<(), StateSnapshot> {
        let unmoved = |word: u64| ((word ^ seen.0) & !(WATCHED | MILESTONE) == 0).then_some(word | CLOSING);
        self.0.fetch_update(SeqCst, SeqCst, unmoved).map(drop).map_err(StateSnapshot)
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
    fn a_claim_fails_when_a_lease_became_a_request_in_between() {
        let state = State::opening();
        assert!(state.ready() && state.begin());
        let seen = state.read();
        assert!(state.convert());
        assert_eq!(state.read().active(), 1);
        assert!(state.close_if(seen).is_err());
        assert_eq!(state.close_if(state.read()), Ok(()));
        assert!(!state.convert());
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
        state.watch();
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
    fn a_milestone_is_told_once_and_moves_no_claim() {
        let state = State::opening();
        state.ready();
        let seen = state.read();
        state.watch_milestones();
        assert!(!state.take_watched(), "another mark");
        assert!(state.take_milestone());
        assert!(!state.take_milestone());
        state.watch_milestones();
        assert_eq!(state.close_if(seen), Ok(()));
    }

    #[test]
    fn an_end_reports_a_watch_once() {
        let state = State::opening();
        state.ready();
        state.begin();
        state.begin();
        assert_eq!(state.watch().active(), 2);
        assert!(state.end().1, "what is still under way may be too old to count");
        assert!(!state.end().1, "watched once, told once");
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
            // The thread that moves the state out of `Opening` counts it out, and no other does.
            assert_eq!(usize::from(ready) + usize::from(closed == Some(Phase::Opening)), 1);
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::sync::Arc;

    use loom::{model, thread};

    use super::*;

    fn ready() -> Arc<State> {
        let state = State::opening();
        assert!(state.ready());
        Arc::new(state)
    }

    /// Runs `act` on a thread of its own.
    fn beside<T: 'static>(state: &Arc<State>, act: impl FnOnce(&State) -> T + 'static) -> thread::JoinHandle<T> {
        let state = Arc::clone(state);
        thread::spawn(move || act(&state))
    }

    /// Claims an idle session, as the choice of a victim does.
    fn claim(state: &State) -> bool {
        let mut seen = state.read();
        while seen.phase() != Phase::Closing && seen.active() == 0 {
            match state.close_if(seen) {
                Ok(()) => return true,
                Err(changed) => seen = changed,
            }
        }
        false
    }

    #[test]
    fn either_a_claim_succeeds_or_the_request_that_begins_beside_it() {
        model(|| {
            let state = ready();
            let request = beside(&state, State::begin);
            let claimed = claim(&state);
            assert_ne!(claimed, request.join().unwrap());
            assert_eq!(state.read().active(), usize::from(!claimed));
        });
    }

    #[test]
    fn no_claim_overlooks_a_request_that_came_and_went() {
        model(|| {
            let state = ready();
            let seen = state.read();
            let request = beside(&state, |state| state.begin().then(|| state.end()).is_some());
            let claimed = state.close_if(seen).is_ok();
            assert_ne!(claimed, request.join().unwrap());
        });
    }

    #[test]
    fn of_two_claims_and_a_close_exactly_one_begins_the_end() {
        model(|| {
            let state = ready();
            let others = [beside(&state, claim), beside(&state, |state| state.close().is_some())];
            let won = usize::from(claim(&state));
            let won = others.into_iter().fold(won, |won, other| won + usize::from(other.join().unwrap()));
            assert_eq!(won, 1);
        });
    }

    #[test]
    fn a_mark_does_not_hinder_a_claim() {
        model(|| {
            let state = ready();
            let seen = state.read();
            let watching = beside(&state, State::watch);
            let taking = beside(&state, State::take_watched);
            assert_eq!(state.close_if(seen), Ok(()));
            watching.join().unwrap();
            let taken = taking.join().unwrap();
            assert_ne!(taken, state.take_watched());
        });
    }

    #[test]
    fn whoever_ends_opening_is_one() {
        model(|| {
            let state = Arc::new(State::opening());
            let ready = beside(&state, State::ready);
            let closed = beside(&state, State::close);
            // One read, as the lifecycle task does at a deadline.
            let seen = state.read();
            let claimed = seen.phase() == Phase::Opening && state.close_if(seen).is_ok();
            let counted_out = [ready.join().unwrap(), closed.join().unwrap() == Some(Phase::Opening), claimed];
            assert_eq!(counted_out.into_iter().filter(|out| *out).count(), 1);
        });
    }

    #[test]
    fn after_a_close_nothing_begins_and_the_last_end_tells() {
        model(|| {
            let state = ready();
            assert!(state.begin());
            let last = |reading: StateSnapshot| reading.phase() == Phase::Closing && reading.active() == 0;
            let old = beside(&state, move |state| last(state.end().0));
            let new = beside(&state, move |state| state.begin().then(|| last(state.end().0)));
            assert_eq!(state.close(), Some(Phase::Ready));
            // The thread that closed it waits if an activity is in progress now.
            let waits = state.read().active() > 0;
            assert!(!state.begin());
            let told =
                [old.join().unwrap(), new.join().unwrap() == Some(true)].into_iter().filter(|told| *told).count();
            assert!(told <= 1);
            assert!(!waits || told == 1, "the wait would never end");
            assert_eq!(state.read().active(), 0);
        });
    }

    #[test]
    fn an_end_beside_a_watch_is_seen_or_tells_of_itself() {
        model(|| {
            let state = ready();
            assert!(state.begin() && state.begin());
            let ends = [beside(&state, |state| state.end().1), beside(&state, |state| state.end().1)];
            let seen = state.watch().active();
            let told = ends.into_iter().map(|end| end.join().unwrap()).filter(|told| *told).count();
            // Notified once, by the first end after the read.
            assert_eq!(told, usize::from(seen > 0));
        });
    }
}
