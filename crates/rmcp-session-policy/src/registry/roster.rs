//! The registry as one choice of a victim sees it.

use std::cell::RefCell;

use tokio::time::Instant;

use super::rules::{Rules, Verdict};
use super::sessions::Slots;
use crate::context::ClientContext;
use crate::eviction::SessionInfo;
use crate::session::Record;
use crate::session::SessionKey;
use crate::timestamp::Timestamp;

/// The sessions at one moment, and which of them may go.
pub(crate) struct Roster<'a> {
    pub(super) slots: &'a dyn Slots,
    pub(super) rules: &'a Rules,
    pub(super) now: Instant,
    pub(super) newcomer: Option<&'a ClientContext>,
    /// Whom to look at again though nothing happens to them.
    pub(super) again: RefCell<Vec<(SessionKey, Again)>>,
}

/// When to look at a session again though nothing happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// At this moment it may go.
    At(Timestamp),
    /// The author's predicate keeps it, until it says otherwise.
    Protected,
    /// A policy's filter hides it, until it says otherwise.
    Hidden,
}

impl<'a> Roster<'a> {
    pub(crate) const fn now(&self) -> Instant {
        self.now
    }

    pub(crate) const fn newcomer(&self) -> Option<&'a ClientContext> {
        self.newcomer
    }

    fn record(&self, key: SessionKey) -> Option<&'a Record> {
        self.slots.record(key)
    }

    /// The session if it may go; if not, it is marked so that its change is told.
    pub(crate) fn meet(&self, key: SessionKey) -> Option<SessionInfo<'a>> {
        #[cfg(any(test, feature = "testing"))]
        super::test_registry::note_look();
        let record = self.record(key)?;
        let read = record.state.read();
        let mut verdict = self.rules.judge(record, read, self.now);
        if verdict != Verdict::MayGo {
            // Marked before it is judged again: a request that ends in between is either seen here or tells of itself.
            let seen = record.state.meet();
            if seen != read || verdict == Verdict::Protected {
                verdict = self.rules.judge(record, seen, self.now);
            }
        }
        let again = match verdict {
            Verdict::MayGo => return Some(SessionInfo::of(record)),
            Verdict::Not(until) => until.map(|until| Again::At(Timestamp::at(until))),
            Verdict::Protected => Some(Again::Protected),
        };
        self.again.borrow_mut().extend(again.map(|again| (key, again)));
        None
    }

    /// Marks a session that may go, but that a policy's filter hides unless it says otherwise `now`.
    pub(crate) fn hide(&self, session: SessionInfo<'a>, passes_now: impl FnOnce() -> bool) -> Option<SessionInfo<'a>> {
        self.record(session.key())?.state.meet();
        // Asked again after the mark, as above.
        if passes_now() {
            return Some(session);
        }
        self.again.borrow_mut().push((session.key(), Again::Hidden));
        None
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = SessionInfo<'a>> {
        let (rules, now) = (self.rules, self.now);
        self.slots
            .records()
            .inspect(|_| {
                #[cfg(any(test, feature = "testing"))]
                super::test_registry::note_look();
            })
            .filter(move |record| rules.judge(record, record.state.read(), now) == Verdict::MayGo)
            .map(SessionInfo::of)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use crate::eviction::{Fifo, SessionInfo};
    use crate::registry::test_registry::{TestRegistry, call};

    use super::*;

    fn roster(stage: &TestRegistry) -> Roster<'_> {
        let (slots, rules) = (&stage.registry.slots, &stage.registry.rules);
        Roster { slots, rules, now: Instant::now(), newcomer: None, again: RefCell::default() }
    }

    #[test]
    fn an_end_beside_a_meeting_is_seen_or_tells_of_itself() {
        let mut stage = TestRegistry::new(Fifo::new());
        let record = stage.ready();
        for _ in 0..3_000 {
            let (busy, start) = (call(&record), Barrier::new(2));
            std::thread::scope(|scope| {
                let end = scope.spawn(|| {
                    start.wait();
                    drop(busy);
                });
                start.wait();
                let seen = roster(&stage).meet(record.key).is_some();
                end.join().unwrap();
                let told = stage.signals.idle.pop().is_some();
                assert!(seen || told);
                assert!(stage.signals.idle.is_empty(), "told once");
                record.state.take_met();
            });
        }
    }

    #[test]
    fn a_stream_that_closes_beside_a_meeting_is_seen_or_tells_of_itself() {
        let mut stage = TestRegistry::new(Fifo::new());
        let record = stage.ready();
        for _ in 0..3_000 {
            let start = Barrier::new(2);
            record.stream_opened();
            std::thread::scope(|scope| {
                let end = scope.spawn(|| {
                    start.wait();
                    record.stream_closed(Instant::now());
                });
                start.wait();
                let no_stream = |session: &SessionInfo<'_>| session.open_streams() == 0;
                let roster = roster(&stage);
                let candidates = crate::eviction::Candidates::of(&roster);
                let seen = candidates.filter(&no_stream, |few| few.contains(record.key));
                end.join().unwrap();
                assert!(seen || stage.signals.idle.pop().is_some());
                while stage.signals.idle.pop().is_some() {}
                record.state.take_met();
            });
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::sync::Arc;

    use loom::{model, thread};

    use super::*;
    use crate::eviction::{Candidates, Fifo};
    use crate::registry::test_registry::{TestRegistry, call};

    fn roster(stage: &TestRegistry) -> Roster<'_> {
        let (slots, rules) = (&stage.registry.slots, &stage.registry.rules);
        Roster { slots, rules, now: Instant::now(), newcomer: None, again: RefCell::default() }
    }

    #[test]
    fn an_end_beside_a_meeting_is_seen_or_tells_of_itself() {
        model(|| {
            let mut stage = TestRegistry::new(Fifo::new());
            let record = stage.ready();
            let busy = call(&record);
            let end = thread::spawn(move || drop(busy));
            let seen = roster(&stage).meet(record.key).is_some();
            end.join().unwrap();
            assert!(seen || stage.signals.idle.pop().is_some());
            assert!(stage.signals.idle.is_empty(), "told once");
        });
    }

    #[test]
    fn a_stream_that_closes_beside_a_meeting_is_seen_or_tells_of_itself() {
        model(|| {
            let mut stage = TestRegistry::new(Fifo::new());
            let record = stage.ready();
            record.stream_opened();
            let closing = Arc::clone(&record);
            let end = thread::spawn(move || closing.stream_closed(Instant::now()));
            let no_stream = |session: &SessionInfo<'_>| session.open_streams() == 0;
            let seen = Candidates::of(&roster(&stage)).filter(&no_stream, |few| few.contains(record.key));
            end.join().unwrap();
            assert!(seen || stage.signals.idle.pop().is_some());
        });
    }
}
