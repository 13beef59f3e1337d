//! Which sessions may go.
//!
//! The rules protect sessions, and a policy orders them (L6). They hold for each victim, also for the one that the
//! registry chooses when the policy fails. Half-open sessions have rules of their own in `choice` once they hold their
//! share.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::eviction::SessionInfo;
use crate::session::Record;
use crate::session::{Phase, StateSnapshot};

/// A question of the server's author about a session. The registry asks it under the manager's lock, so it must not
/// call the manager. A use of a session does not run it.
pub(crate) type Predicate = Arc<dyn Fn(&SessionInfo<'_>) -> bool + Send + Sync>;

/// How long a restored session is kept for the request that brought it back, counted from the begin of its incarnation.
/// The request makes the session ready, and from then on the rules for ready sessions count.
const RESTORE_GRACE: Duration = Duration::from_secs(5);

/// What keeps a session from eviction. The settings make them.
#[derive(Clone)]
pub(crate) struct Rules {
    /// How long a session is kept after it was last used. Zero keeps none.
    pub(crate) min_idle: Duration,
    /// How long an activity keeps its session at most. The newest activity counts, because all others are older.
    pub(crate) max_busy: Duration,
    /// The author's predicate: a session for which it holds does not go.
    pub(crate) protect: Option<Predicate>,
}

/// Whether a session may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing keeps it. That holds for the reading of the state that was judged, and a claim checks that reading.
    MayGo,
    /// Until something happens to it, or until this moment. With `None`, time alone does not change that.
    Not(Option<Instant>),
    /// The author's predicate keeps it; nothing tells when that changes its answer.
    Protected,
}

impl Rules {
    /// Judges a session by one reading of its state.
    ///
    /// The checks have this order: closing, half-open, busy, with an answer that is not taken, used less than `min_idle` ago,
    /// protected. A restored
    /// session of a client that has sent nothing yet is half-open too, and is kept for [`RESTORE_GRACE`] only. The
    /// predicate comes last, so it is asked only about sessions which nothing else keeps.
    ///
    /// `seen` must come from the same record. If activities are under way, this takes the lock of the record's
    /// requests. It does not watch the session: see [`look`](Self::look).
    pub(crate) fn judge(&self, record: &Record, seen: StateSnapshot, now: Instant) -> Verdict {
        // A moment that is too far away to be told is never.
        let over = |from: Instant, lasts| from.checked_add(lasts).is_some_and(|until| until <= now);
        let not_for = |from: Instant, lasts| Verdict::Not(from.checked_add(lasts));
        match seen.phase() {
            Phase::Closing => return Verdict::Not(None),
            Phase::Opening if !record.restored => return Verdict::Not(None),
            Phase::Opening => {
                let created = record.entry.created.instant();
                if !over(created, RESTORE_GRACE) {
                    return not_for(created, RESTORE_GRACE);
                }
            }
            Phase::Ready => {}
        }
        if seen.active() > 0 {
            // Where the newest is not known, it is one that begins just now, or has just ended and tells.
            let newest = record.entry.newest_request(seen).map(|newest| newest.instant());
            if !newest.is_some_and(|newest| over(newest, self.max_busy)) {
                return not_for(newest.unwrap_or(now), self.max_busy);
            }
        }
        if let Some(until) = record.entry.untaken.keep_until(self.max_busy, now) {
            return Verdict::Not(Some(until));
        }
        if !self.min_idle.is_zero() {
            let last_used = record.entry.last_used().instant();
            if !over(last_used, self.min_idle) {
                return not_for(last_used, self.min_idle);
            }
        }
        if self.protects(record) { Verdict::Protected } else { Verdict::MayGo }
    }

    /// Looks whether a session may go. If it may not, it is watched: what changes that is seen here, or tells of
    /// itself.
    ///
    /// It returns the reading of the state that the verdict belongs to. A claim hands it to `State::close_if`, which
    /// fails if something happened since.
    ///
    /// A session that may not go is marked as watched and judged again if the reading has changed by then, or if the
    /// predicate or an answer keeps it: a request may have ended, a stream may have closed, or an answer may have been taken
    /// just before the mark.
    pub(crate) fn look(&self, record: &Record, now: Instant) -> (StateSnapshot, Verdict) {
        #[cfg(any(test, feature = "testing"))]
        super::test_registry::note_look();
        let read = record.entry.state.read();
        // Read before the verdict, and an answer that is counted in later belongs to a request that has moved the reading.
        let is_untaken = record.entry.untaken.keep_until(self.max_busy, now).is_some();
        let verdict = self.judge(record, read, now);
        if verdict == Verdict::MayGo {
            return (read, verdict);
        }
        // Marked before it is judged again.
        let seen = record.entry.state.watch();
        let same = seen == read && verdict != Verdict::Protected && !is_untaken;
        (seen, if same { verdict } else { self.judge(record, seen, now) })
    }

    /// Whether the author keeps a session. A predicate that panics keeps it: whether it may go is not known.
    pub(super) fn protects(&self, record: &Record) -> bool {
        let session = SessionInfo::of(record);
        self.protect
            .as_ref()
            .is_some_and(|protect| catch_unwind(AssertUnwindSafe(|| protect(&session))).unwrap_or(true))
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("min_idle", &self.min_idle)
            .field("max_busy", &self.max_busy)
            .field("protect", &self.protect.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::eviction::{Fifo, Lru};
    use crate::registry::test_registry::{TestRegistry, begin, call, lenient, touch};

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_safe_until_it_has_been_idle_for_min_idle() {
        let mut stage = TestRegistry::with(Fifo::new(), Rules { min_idle: secs(10), ..lenient() }, usize::MAX);
        let [one, _] = stage.ready_many();
        advance(secs(4)).await;
        touch(&one);
        advance(secs(6) - Duration::from_millis(1)).await;
        assert_eq!(stage.victim(), None);
        advance(Duration::from_millis(1)).await;
        assert_eq!(stage.victims(), [2]);
        advance(secs(4)).await;
        assert_eq!(stage.victims(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn those_whose_time_has_come_go_in_the_policy_s_order_however_many_they_are() {
        let mut stage = TestRegistry::with(Fifo::new(), Rules { min_idle: secs(10), ..lenient() }, usize::MAX);
        let crowd: Vec<_> = (0..3_000).map(|_| stage.ready()).collect();
        for record in crowd.iter().rev() {
            advance(Duration::from_millis(1)).await;
            touch(record);
        }
        assert_eq!(stage.victim(), None, "all are suspended");
        advance(secs(10)).await;
        assert_eq!(stage.victims(), (1..=3_000).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_as_old_as_max_busy_protects_no_longer() {
        let mut stage = TestRegistry::with(Lru::new(), Rules { max_busy: secs(60), ..lenient() }, usize::MAX);
        let [one, two] = stage.ready_many();
        let (hung, _later) = (call(&one), call(&two));
        advance(secs(30)).await;
        let _hung_too = call(&two);
        advance(secs(30) - Duration::from_millis(1)).await;
        assert_eq!(stage.victim(), None);
        advance(Duration::from_millis(1)).await;
        assert_eq!(stage.victims(), [1], "the newest request of the other is younger");
        advance(secs(30)).await;
        assert_eq!(stage.victims(), [2]);
        drop(hung);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_with_a_hung_request_may_go_as_soon_as_its_newer_ones_end() {
        let mut stage = TestRegistry::with(Lru::new(), Rules { max_busy: secs(60), ..lenient() }, usize::MAX);
        let one = stage.ready();
        let _hung = call(&one);
        advance(secs(60)).await;
        let newer = call(&one);
        assert_eq!(stage.victim(), None);
        drop(newer);
        assert_eq!(stage.victim(), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_notification_that_hangs_protects_no_longer_than_a_request() {
        use crate::session::ActivityKind;
        let mut stage = TestRegistry::with(Lru::new(), Rules { max_busy: secs(60), ..lenient() }, usize::MAX);
        let one = stage.ready();
        let _hung = begin(&one, ActivityKind::Message);
        assert_eq!(stage.victim(), None);
        advance(secs(60)).await;
        assert_eq!(stage.victim(), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_duration_too_long_to_be_told_is_for_ever() {
        let forever = Rules { max_busy: Duration::MAX, ..lenient() };
        let mut stage = TestRegistry::with(Lru::new(), forever, usize::MAX);
        let [one, _] = stage.ready_many();
        let _busy = call(&one);
        assert_eq!(stage.victims(), [2]);
        let never = Rules { min_idle: Duration::MAX, ..lenient() };
        let mut stage = TestRegistry::with(Lru::new(), never, usize::MAX);
        stage.ready_many::<2>();
        assert_eq!(stage.victim(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn whom_the_author_protects_is_no_victim_until_the_predicate_says_so() {
        use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
        let lifted = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&lifted);
        let protect: Predicate = Arc::new(move |session| session.uses() > 0 && !seen.load(SeqCst));
        let mut stage = TestRegistry::with(Lru::new(), Rules { protect: Some(protect), ..lenient() }, usize::MAX);
        let [one, two, _] = stage.ready_many();
        [&one, &two].into_iter().for_each(touch);
        assert_eq!(stage.victims(), [3]);
        lifted.store(true, SeqCst);
        advance(secs(1)).await;
        assert_eq!(stage.victims(), [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_were_protected_and_are_no_longer_the_policy_chooses() {
        use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
        let lifted = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&lifted);
        let protect: Predicate = Arc::new(move |session| session.uses() == 0 || !seen.load(SeqCst));
        let mut stage = TestRegistry::with(Lru::new(), Rules { protect: Some(protect), ..lenient() }, usize::MAX);
        stage.ready_many::<100>();
        let [one, two, three] = stage.ready_many();
        [&three, &one, &two].into_iter().for_each(touch);
        assert_eq!(stage.victim(), None);
        lifted.store(true, SeqCst);
        advance(secs(1)).await;
        assert_eq!(stage.victims(), [103, 101, 102], "the least recently used, not the oldest");
        assert_eq!(stage.registry.overruled, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_predicate_that_panics_protects() {
        let protect: Predicate = Arc::new(|session| if session.uses() > 0 { panic!("of the test") } else { false });
        let mut stage = TestRegistry::with(Lru::new(), Rules { protect: Some(protect), ..lenient() }, usize::MAX);
        let [one, _] = stage.ready_many();
        touch(&one);
        assert_eq!(stage.victims(), [2]);
        assert_eq!(stage.registry.overruled, 0, "the policy is not to blame");
    }

    #[tokio::test(start_paused = true)]
    async fn a_restored_session_is_kept_for_the_request_that_brought_it_back() {
        let mut stage = TestRegistry::new(Lru::new());
        advance(secs(1)).await;
        let [_one, _two] = [stage.restored(), stage.ready()];
        assert_eq!(stage.victims(), [2], "though it was used before the other");
        advance(RESTORE_GRACE - Duration::from_millis(1)).await;
        assert_eq!(stage.victim(), None);
        advance(Duration::from_millis(1)).await;
        assert_eq!(stage.victim(), Some(1));
        let used = stage.restored();
        touch(&used);
        assert_eq!(stage.victim(), Some(3), "its request came");
    }
}
