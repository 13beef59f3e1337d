//! Sessions that may not go are not in the policy's order (decision 24).
//!
//! A session leaves the order when it is to be a victim and may not go. Two things bring it back:
//! - Something happens to it. The session is watched, so the end of an activity, or a stream that opens or closes, puts
//!   its key into `Signals::changed` without a lock.
//! - Its moment comes. `moments` has the moments that are known. `rechecks` has those at which the author's predicate
//!   is asked again, since nothing tells when its answer changes (decision 25).
//!
//! The registry has no timer. It reads the queue of changes and the moments before it chooses a victim, and the queue
//! of changes also when a session comes, so that it stays short.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::rules::{Rules, Verdict};
use super::sessions::{Registry, Standing};
use crate::queue::Queue;
use crate::session::{Recorded, SessionKey};
use crate::timestamp::Timestamp;

/// At most this number of protected sessions are looked at again before the policy is asked. The others are next.
const LOOKS: usize = 1_000;

/// The number of protected sessions that are looked at again each second. Up to this number each is looked at every
/// second; of a million, each every hundred seconds.
const LOOKS_PER_SECOND: usize = 10_000;

impl<S: Recorded> Registry<S> {
    /// When the next suspended session is looked at again though nothing happens to it.
    ///
    /// `None` if no moment is known. The moment may be that of a stale entry, so a choice at that moment may find
    /// nothing new. The first request that waits for a place asks again then.
    pub(crate) fn next_moment(&self) -> Option<Instant> {
        let queues = [&self.moments, &self.rechecks].into_iter().chain(&self.revisited);
        let first = queues.filter_map(Queue::peek).min();
        first.map(|(at, _)| at.instant())
    }

    /// Looks at the sessions again that tell of a change.
    ///
    /// A session is in the queue at most once until it is watched again. So the cost is one look for each session that
    /// was watched and changed.
    pub(super) fn hear(&mut self, now: Instant) {
        while let Some(key) = self.signals.changed.pop() {
            // The policy watches it, because its place in the order depends on what happens to it.
            if self.is_listed(key) {
                self.suspend(key);
                self.resume(key);
            }
            self.look_again(key, now);
        }
    }

    /// Changes the rules. Each session that may not go is looked at again before the next victim is refused, since what was
    /// noted of it may be wrong now.
    pub(crate) fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
        let Self { revisited: [moments, rechecks], .. } = self;
        moments.append(&mut self.moments);
        rechecks.append(&mut self.rechecks);
    }

    /// Looks again at sessions that were noted under other rules, [`LOOKS`] at most; returns their number.
    fn revisit(&mut self, now: Instant) -> usize {
        let mut looks = 0;
        while looks < LOOKS
            && let Some((at, key)) = self.revisited.iter_mut().find_map(Queue::pop)
        {
            if let Some(slot) = self.get_mut(key).filter(|slot| slot.moment == at) {
                slot.moment = Timestamp::NEVER;
                self.look_again(key, now);
                looks += 1;
            }
        }
        looks
    }

    /// Looks again at the sessions that are due; tells whether there was any.
    ///
    /// Of known moments it passes all: each was noted by a look that is paid for, and one that waited for protected
    /// sessions would be missing in the policy's order. Of protected sessions it passes at most [`LOOKS`]; `choose`
    /// calls it until it finds none.
    pub(super) fn hear_of_time(&mut self, now: Instant) -> bool {
        let revisited = self.revisit(now);
        let known = self.look_at_due(usize::MAX, now, |registry| &mut registry.moments);
        let protected = self.look_at_due(LOOKS, now, |registry| &mut registry.rechecks);
        revisited + known + protected > 0
    }

    /// Looks again at the sessions in one queue that are due, `limit` at most; returns their number.
    ///
    /// Stale entries are dropped and do not count as looks. `queue` selects the queue; both use `Slot::moment`.
    fn look_at_due(&mut self, limit: usize, now: Instant, queue: impl Fn(&mut Self) -> &mut Queue<Timestamp>) -> usize {
        let mut looks = 0;
        while looks < limit
            && let Some((at, key)) = queue(self).peek().filter(|(at, _)| *at <= Timestamp::at(now))
        {
            queue(self).pop();
            if let Some(slot) = self.get_mut(key).filter(|slot| slot.moment == at) {
                slot.moment = Timestamp::NEVER;
                self.look_again(key, now);
                looks += 1;
            }
        }
        looks
    }

    /// Puts a session back to where it was taken out, if it may go.
    ///
    /// A half-open session that was set aside goes back to the queue of those, without a judgement: `oldest_opening`
    /// judges it. A suspended session is judged. If it may still not go it stays suspended, is watched again, and gets
    /// its next moment. The policy hears nothing of that.
    fn look_again(&mut self, key: SessionKey, now: Instant) {
        let Some(slot) = self.get_mut(key) else { return };
        let (session, standing) = (Arc::clone(&slot.session), slot.standing);
        if std::mem::take(&mut slot.answering) {
            self.opening.push(session.record().entry.created, key);
        }
        if standing == Standing::Suspended {
            match self.rules.look(session.record(), now).1 {
                Verdict::MayGo => self.resume(key),
                verdict => self.expect(key, verdict, now),
            }
        }
    }

    /// Notes when to look at a session again though nothing happens to it; of two moments the earlier counts.
    ///
    /// Nothing is noted for a verdict without a moment, since the session itself tells of the next change. A protected
    /// session waits one second, and one second more for each [`LOOKS_PER_SECOND`] sessions in `rechecks`.
    pub(super) fn expect(&mut self, key: SessionKey, verdict: Verdict, now: Instant) {
        let at = match verdict {
            Verdict::Not(Some(until)) => Timestamp::at(until),
            Verdict::Protected => {
                let wait = Duration::from_secs(1 + (self.rechecks.len() / LOOKS_PER_SECOND) as u64);
                Timestamp::at(now + wait)
            }
            Verdict::MayGo | Verdict::Not(None) => return,
        };
        // Later than now, also where what is less than a microsecond was lost.
        let at = at.max(Timestamp(Timestamp::at(now).0 + 1));
        let Self { moments, rechecks, slots, .. } = self;
        let queue = if verdict == Verdict::Protected { rechecks } else { moments };
        if let Some(slot) = slots.get_mut(key.index()).filter(|slot| slot.is(key) && at < slot.moment) {
            slot.moment = at;
            queue.push(at, key);
            queue.tidy(slots.len(), |at, key| {
                slots.get(key.index()).is_some_and(|slot| slot.is(key) && slot.moment == at)
            });
        }
    }

    /// Whether the session is in the policy's order. `false` for a key that is not there.
    pub(super) fn is_listed(&self, key: SessionKey) -> bool {
        self.get(key).is_some_and(|slot| slot.standing == Standing::Listed)
    }

    /// Takes a session out of the policy's order.
    ///
    /// Unless the session is resumed at once, the caller has looked at it, so that it is watched. Without that it would
    /// not come back.
    pub(super) fn suspend(&mut self, key: SessionKey) {
        self.stand(key, Standing::Suspended, |policy, session| policy.on_suspend(session));
    }

    /// Puts a suspended session back into the policy's order.
    ///
    /// The mark is cleared first: the policy may set it anew while it hears of the session, as
    /// [`Tiers`](crate::eviction::Tiers) does.
    fn resume(&mut self, key: SessionKey) {
        // What the policy watches from here on counts.
        if let Some(slot) = self.get(key) {
            slot.record().entry.state.take_watched();
        }
        self.stand(key, Standing::Listed, |policy, session| policy.on_resume(session));
    }

    /// Takes a session that is closing from the policy.
    ///
    /// A suspended session is resumed first, so the policy's calls come in pairs. The session keeps its slot until
    /// [`remove`](Self::remove). A second call changes nothing: the claim retires a victim, and so does `mark_closing`.
    pub(crate) fn retire(&mut self, key: SessionKey) {
        let Some(standing) = self.get(key).map(|slot| slot.standing) else { return };
        if standing != Standing::Retired {
            self.hear_of_returns();
        }
        if standing == Standing::Suspended {
            self.resume(key);
        }
        if standing != Standing::Retired {
            [&mut self.share, &mut self.max].into_iter().flatten().for_each(|clients| clients.closes(key));
            self.max.iter_mut().for_each(|max| max.groups.remove(key));
            self.stand(key, Standing::Retired, |policy, session| policy.on_remove(session));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use tokio::time::advance;

    use super::*;
    use crate::eviction::{Candidates, EvictionPolicy, EvictionPolicyExt, Fifo, Lru, SessionInfo};
    use crate::registry::Choice;
    use crate::registry::test_registry::{TestRegistry, call, lenient, looks, touch};

    fn end_beside<T>(act: impl FnOnce() -> T + Send, end: impl FnOnce() + Send) -> T {
        let start = Barrier::new(2);
        std::thread::scope(|scope| {
            let end = scope.spawn(|| {
                start.wait();
                end();
            });
            start.wait();
            let done = act();
            end.join().unwrap();
            done
        })
    }

    #[test]
    fn an_end_beside_a_look_is_seen_or_tells_of_itself() {
        let mut stage = TestRegistry::new(Fifo::new());
        let record = stage.ready();
        for _ in 0..3_000 {
            let busy = call(&record);
            let rules = &stage.registry.rules;
            let verdict = end_beside(|| rules.look(&record, Instant::now()).1, || drop(busy));
            assert!(verdict == Verdict::MayGo || stage.signals.changed.pop().is_some());
            assert!(stage.signals.changed.is_empty(), "told once");
            record.entry.state.take_watched();
        }
    }

    /// Counts how often it names a session and hears that one is suspended.
    #[derive(Debug, Default)]
    struct Counts(Fifo, Arc<[AtomicUsize; 3]>);

    impl EvictionPolicy for Counts {
        fn on_insert(&mut self, session: &SessionInfo<'_>) {
            self.0.on_insert(session);
        }
        fn on_remove(&mut self, session: &SessionInfo<'_>) {
            self.0.on_remove(session);
        }
        fn on_suspend(&mut self, session: &SessionInfo<'_>) {
            self.1[1].fetch_add(1, SeqCst);
            self.0.on_suspend(session);
        }
        fn on_resume(&mut self, session: &SessionInfo<'_>) {
            self.1[2].fetch_add(1, SeqCst);
            self.0.on_resume(session);
        }
        fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
            self.1[0].fetch_add(1, SeqCst);
            self.0.victim(candidates)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_session_is_named_once_while_it_is_busy() {
        let policy = Counts::default();
        let counts = Arc::clone(&policy.1);
        let counted = || counts.each_ref().map(|count| count.swap(0, SeqCst));
        let mut stage = TestRegistry::new(policy);
        let [one, two, three] = stage.ready_many();
        let first = call(&one);
        assert_eq!(stage.victim(), Some(two.entry.key.generation()));
        assert_eq!(counted(), [2, 1, 0]);
        let second = call(&one);
        drop(first);
        let third = call(&one);
        drop(second);
        assert_eq!(stage.victim(), Some(three.entry.key.generation()));
        assert_eq!(counted(), [1, 0, 0], "another request is under way");
        assert_eq!(stage.victim(), None);
        assert_eq!(counted(), [1, 0, 0]);
        drop(third);
        assert_eq!(stage.victim(), Some(one.entry.key.generation()));
        assert_eq!(counted(), [1, 0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_was_busy_is_left_alone_when_a_moment_comes_that_lost_its_meaning() {
        let policy = Counts::default();
        let counts = Arc::clone(&policy.1);
        let rules = Rules { max_busy: Duration::from_secs(60), ..lenient() };
        let mut stage = TestRegistry::with(policy, rules, usize::MAX);
        let [one, _, _] = stage.ready_many();
        let busy = call(&one);
        assert_eq!(stage.victim(), Some(2));
        drop(busy);
        stage.ready();
        advance(Duration::from_secs(60)).await;
        assert_eq!(stage.victim(), Some(1));
        assert_eq!(counts.each_ref().map(|count| count.load(SeqCst)), [3, 1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn while_time_keeps_a_session_its_policy_does_not_hear_of_it() {
        let policy = Counts::default();
        let counts = Arc::clone(&policy.1);
        let rules = Rules { min_idle: Duration::from_secs(10), ..lenient() };
        let mut stage = TestRegistry::with(policy, rules, usize::MAX);
        let one = stage.ready();
        for _ in 0..20 {
            advance(Duration::from_secs(1)).await;
            touch(&one);
            assert_eq!(stage.victim(), None);
        }
        assert_eq!(counts[1].load(SeqCst), 1);
        assert!(stage.registry.next_moment().is_some());
        advance(Duration::from_secs(10)).await;
        assert_eq!((stage.victim(), counts[2].load(SeqCst)), (Some(1), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn protected_sessions_are_looked_at_again_each_second_and_not_all_at_once() {
        const SESSIONS: usize = 5_000;
        let rules = Rules { protect: Some(Arc::new(|session| session.uses() == 0)), ..lenient() };
        let mut stage = TestRegistry::with(Fifo::new(), rules, usize::MAX);
        (0..SESSIONS).for_each(|_| drop(stage.ready()));
        let free = |stage: &mut TestRegistry| touch(&stage.ready());
        free(&mut stage);
        assert_eq!(stage.victim(), Some(SESSIONS as u32 + 1));
        free(&mut stage);
        assert_eq!(looks(|| _ = stage.victim()), 2, "none again before a second has passed");
        advance(Duration::from_secs(1)).await;
        free(&mut stage);
        assert_eq!(looks(|| _ = stage.victim()), LOOKS + 2);
        // A newcomer is turned away only when all were looked at.
        assert!(looks(|| assert!(matches!(stage.choose(), Choice::NoVictim))) >= SESSIONS - LOOKS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lifted_protection_is_seen_after_a_second_however_many_others_are_busy() {
        use std::sync::atomic::AtomicBool;
        let lifted = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&lifted);
        let protect: crate::registry::Predicate = Arc::new(move |_| !seen.load(SeqCst));
        let rules = Rules { max_busy: Duration::from_secs(600), protect: Some(protect), ..lenient() };
        let mut stage = TestRegistry::with(Fifo::new(), rules, usize::MAX);
        let _busy: Vec<_> = (0..2 * LOOKS_PER_SECOND).map(|_| call(&stage.ready())).collect();
        let last = stage.ready();
        assert_eq!(stage.victim(), None);
        lifted.store(true, SeqCst);
        advance(Duration::from_secs(1)).await;
        assert_eq!(stage.victim(), Some(last.entry.key.generation()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_of_less_than_a_microsecond_is_no_endless_search() {
        let rules = Rules { min_idle: Duration::from_nanos(500), ..lenient() };
        let mut stage = TestRegistry::with(Fifo::new(), rules, usize::MAX);
        stage.ready();
        assert_eq!(stage.victim(), None);
        advance(Duration::from_micros(1)).await;
        assert_eq!(stage.victim(), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_a_policy_watches_is_put_back_when_something_happens_to_it() {
        let mut stage = TestRegistry::new(Lru::new().tiers([|session: &SessionInfo<'_>| session.open_streams() == 0]));
        let [one, _two] = stage.ready_many();
        one.stream_opened();
        assert_eq!(stage.victim(), Some(2));
        stage.ready();
        one.stream_closed(Instant::now());
        assert_eq!((stage.victim(), stage.registry.listed.len()), (Some(1), 1));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::{model, thread};

    use super::*;
    use crate::eviction::{EvictionPolicyExt, Fifo, SessionInfo};
    use crate::registry::test_registry::{TestRegistry, call};
    use crate::session::Stream;

    #[test]
    fn an_end_beside_a_look_is_seen_or_tells_of_itself() {
        model(|| {
            let mut stage = TestRegistry::new(Fifo::new());
            let record = stage.ready();
            let busy = call(&record);
            let end = thread::spawn(move || drop(busy));
            let verdict = stage.registry.rules.look(&record, Instant::now()).1;
            end.join().unwrap();
            assert!(verdict == Verdict::MayGo || stage.signals.changed.pop().is_some());
            assert!(stage.signals.changed.is_empty(), "told once");
        });
    }

    #[test]
    fn a_session_whose_request_ends_while_it_is_suspended_or_resumed_is_in_the_order_after() {
        model(|| {
            let mut stage = TestRegistry::new(Fifo::new());
            let record = stage.ready();
            let first = call(&record);
            let end = thread::spawn(move || drop(first));
            // Suspends it, or finds that it may go; then one more look, beside the same end.
            let gone = stage.victim().or_else(|| stage.victim());
            end.join().unwrap();
            assert_eq!(gone.or_else(|| stage.victim()), Some(1));
            assert_eq!(stage.registry.overruled, 0);
        });
    }

    #[test]
    fn a_stream_that_is_lost_while_a_policy_reads_it_is_seen_or_tells_of_itself() {
        model(|| {
            let mut stage = TestRegistry::new(Fifo::new());
            let record = stage.ready();
            record.stream_opened();
            let losing = Arc::clone(&record);
            let end = thread::spawn(move || losing.stream_closed(Instant::now()));
            let session = SessionInfo::of(&record);
            session.watch_milestones();
            let seen = session.stream();
            end.join().unwrap();
            assert!(matches!(session.stream(), Stream::Lost(_)));
            let told = stage.signals.changed.len();
            assert!(matches!(seen, Stream::Lost(_)) || told == 1);
            assert!(told <= 1, "told once");
        });
    }

    #[test]
    fn a_stream_that_closes_while_its_tier_is_read_is_seen_or_tells_of_itself() {
        model(|| {
            let no_stream = |session: &SessionInfo<'_>| session.open_streams() == 0;
            let mut stage = TestRegistry::new(Fifo::new().tiers([no_stream]));
            let [_one, two] = stage.ready_many();
            let one = Arc::clone(&_one);
            [&one, &two].into_iter().for_each(|record| record.stream_opened());
            let end = thread::spawn(move || two.stream_closed(Instant::now()));
            // Reads the tiers of both.
            let first = stage.victim();
            end.join().unwrap();
            assert!(first.is_some());
            let third = stage.ready();
            third.stream_opened();
            if first == Some(1) {
                assert_eq!(stage.victim(), Some(2), "it is in the first tier again");
            }
        });
    }
}
