//! The choice of a victim.
//!
//! It runs under the manager's lock, in these steps:
//! 1. The registry hears which sessions have changed, and looks again at those that are due.
//! 2. If the half-open sessions hold their share, the oldest of them goes (L6).
//! 3. If the client of the arrival holds its share of the places, one of its own sessions goes, if one may.
//! 4. While places are asked for much faster than before, the guard chooses, if it can.
//! 5. Otherwise the policy names a session. The registry claims it, or suspends it if it may not go and asks again.
//! 6. If the policy breaks its contract, the oldest session that may go goes instead. The registry counts that (L13).

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use tokio::time::Instant;

use super::client_id::ClientId;
use super::rules::Verdict;
use super::sessions::{Registry, Standing};
use super::view::{Draws, SlotsView};
use crate::admission::ArrivalKind;
use crate::context::ClientContext;
use crate::eviction::Candidates;
use crate::queue::Queue;
use crate::session::{Phase, Recorded, SessionKey};
use crate::timestamp::Timestamp;

/// How often a policy may fail before it [names](Registry::name) a session in its order: by the name of one that is not,
/// or by naming none while changes wait to be heard. The names of sessions in its order are not limited, because each
/// such session is claimed or leaves the order.
const TRIES: usize = 4;

/// What came of asking for a victim.
#[derive(Debug)]
pub(crate) enum Choice<S> {
    /// This session's close has begun: its state is closing, and the policy has heard of its end. The caller sets the
    /// reason under the same lock, by `ManagerState::mark_closing`, and runs the close after it.
    Victim(Arc<S>),
    /// The half-open sessions, and newcomers that will be, hold their share, and none of the half-open ones may go:
    /// each is answering `initialize`, was so a moment ago, or is protected. For a restore, no other session may go
    /// either. The caller waits, because each handshake ends by itself.
    Handshakes,
    /// No session may go, or the manager evicts none at all. The caller waits for the place of a session that is
    /// closing already, or for a short time, and refuses the arrival after that.
    NoVictim,
}

impl<S: Recorded> Registry<S> {
    /// Chooses a victim and begins its close. `arriving`: how many other newcomers are on their way to be half-open
    /// sessions. `newcomer`: the client of the arrival, for the policy. `full`: the same client, if it holds its share of
    /// the places.
    ///
    /// Once half-open sessions hold their share the oldest of them goes. While none of them may, a newcomer waits, so
    /// that a flood of handshakes evicts no session that finished its own; a restore goes on to the policy, because its
    /// session finished its handshake before.
    ///
    /// The cost is O(log n) amortized for each session that is named, with the two exceptions of L7: the first choice
    /// that needs the fallback looks at all sessions, and so does a choice at which many protected sessions are due and
    /// no other may go.
    pub(crate) fn choose(
        &mut self,
        now: Instant,
        kind: ArrivalKind,
        newcomer: Option<&ClientContext>,
        arriving: usize,
        full: Option<ClientId>,
    ) -> Choice<S> {
        if self.policy.is_none() {
            return Choice::NoVictim;
        }
        // Of a full microsecond, as all moments are that policies see: what lasted a second has lasted one exactly.
        let now = Timestamp::at(now).instant();
        self.hear(now);
        self.hear_of_time(now);
        self.hear_of_returns();
        let share_is_full = self.signals.opening.load(SeqCst) as usize + arriving >= self.max_opening;
        if share_is_full {
            if let Some(session) = self.oldest_opening(now, Timestamp::NEVER) {
                return Choice::Victim(session);
            }
            if kind != ArrivalKind::Restore {
                return Choice::Handshakes;
            }
        }
        let own = full.and_then(|client| self.choose_own(now, client));
        if let Some(session) = own.or_else(|| self.choose_in_surge(now, newcomer)) {
            return Choice::Victim(session);
        }
        let chosen = self.choose_by_policy(now, newcomer);
        if let Some(session) = &chosen {
            self.note_victim(session, now);
        }
        let none = if share_is_full { Choice::Handshakes } else { Choice::NoVictim };
        chosen.map_or(none, Choice::Victim)
    }

    /// Has the policy choose, and chooses for it if it breaks its contract. `None` if no session may go.
    ///
    /// A policy that names none is asked again as long as sessions are found that were due, and once more if a session
    /// in its order may go: a change just after the policy's look is no fault of the policy.
    fn choose_by_policy(&mut self, now: Instant, newcomer: Option<&ClientContext>) -> Option<Arc<S>> {
        let mut missed = false;
        let fault = loop {
            match self.propose(now, newcomer) {
                Ok(session) => return Some(session),
                // No newcomer is turned away while any session may go.
                Err(None) if self.hear_of_time(now) => {}
                // It may have come to that since the policy looked, so the policy is asked once more.
                Err(None) if !missed && self.oldest(now).is_some() => missed = true,
                Err(fault) => break fault,
            }
        };
        let mut chosen = None;
        while chosen.is_none()
            && let Some(key) = self.oldest(now)
        {
            chosen = self.claim_or_suspend(key, now);
        }
        if let Some(why) = fault.or(chosen.is_some().then_some("it named none while some session might go")) {
            self.note_overruled(why);
        }
        chosen
    }

    /// Begins the close of the oldest half-open session that may go and was opened before a moment, and returns it.
    ///
    /// The queue drops entries of sessions that are half-open no longer. A session that is kept (it is answering
    /// `initialize`, was so less than 100 ms ago, or is protected) leaves the queue and is marked as `answering`.
    /// [`look_again`](Registry::look_again) puts it back when its state changes or its moment comes, in its old order.
    /// `min_idle` is not asked here.
    pub(super) fn oldest_opening(&mut self, now: Instant, before: Timestamp) -> Option<Arc<S>> {
        while self.opening.peek().is_some_and(|(opened, _)| opened < before)
            && let Some((_, key)) = self.opening.pop()
        {
            let Some(slot) = self.slots.get_mut(key.index()).filter(|slot| slot.is(key)) else { continue };
            let session = Arc::clone(&slot.session);
            let record = session.record();
            let mut seen = record.entry.state.read();
            while seen.phase() == Phase::Opening {
                if seen.active() > 0 {
                    // Taken out until the answer is given, so that a flood of slow ones is passed once, not each time.
                    seen = record.entry.state.watch();
                    if seen.active() > 0 && seen.phase() == Phase::Opening {
                        slot.answering = true;
                        break;
                    }
                    continue;
                }
                // In a surge the client has as long for its next step as the handshakes of others may take.
                let until = record.next_step_until().map(|until| match before {
                    Timestamp::NEVER => until,
                    _ => until.max(record.answered().instant() + now.saturating_duration_since(before.instant())),
                });
                if let Some(until) = until.filter(|until| now < *until) {
                    slot.answering = true;
                    self.expect(key, Verdict::Not(Some(until)), now);
                    break;
                }
                if self.rules.protects(record) {
                    slot.answering = true;
                    self.expect(key, Verdict::Protected, now);
                    break;
                }
                match record.entry.state.close_if(seen) {
                    Ok(()) => {
                        record.left_opening();
                        self.retire(key);
                        return Some(session);
                    }
                    Err(changed) => seen = changed,
                }
            }
        }
        None
    }

    /// Asks the policy, and suspends what it names and may not go, until it names a session that may. That session's
    /// close has begun.
    ///
    /// # Errors
    ///
    /// Those of [`name`](Self::name).
    fn propose(&mut self, now: Instant, newcomer: Option<&ClientContext>) -> Result<Arc<S>, Option<&'static str>> {
        // Each session leaves the order once, so this ends.
        loop {
            let key = self.name(now, newcomer)?;
            if let Some(session) = self.claim_or_suspend(key, now) {
                return Ok(session);
            }
        }
    }

    /// Has the policy name a session in its order, whether it may go or not.
    ///
    /// # Errors
    ///
    /// - `Err(None)`: the policy names none.
    /// - `Err(Some(why))`: the policy panicked, or it named a session that is not in its order and has used up its
    ///   [`TRIES`].
    pub(super) fn name(
        &mut self,
        now: Instant,
        newcomer: Option<&ClientContext>,
    ) -> Result<SessionKey, Option<&'static str>> {
        let mut fault = None;
        for _ in 0..TRIES {
            let Self { slots, rules, policy, listed, random, .. } = self;
            let Some(policy) = policy else { return Err(None) };
            let view = SlotsView { slots, rules, now, listed, draws: RefCell::new(Draws::new(random)) };
            let named = catch_unwind(AssertUnwindSafe(|| policy.victim(&Candidates::new(&view, now, newcomer))));
            let kept = view.draws.into_inner().kept;
            let drew_it = matches!(&named, Ok(Some(key)) if kept.contains(key));
            self.suspend_drawn(kept, now);
            match named {
                Err(_) => return Err(Some("it panicked")),
                Ok(None) if self.signals.changed.is_empty() => return Err(None),
                Ok(None) => self.hear(now),
                Ok(Some(key)) if self.is_listed(key) => return Ok(key),
                // It was in the order when the policy named it, and left because it was drawn too and may not go.
                Ok(Some(_)) if drew_it => {}
                Ok(Some(_)) => fault = Some("it kept naming sessions that are not in its order"),
            }
        }
        Err(fault)
    }

    /// Takes sessions out of the policy's order that were drawn and may not go, so that none is drawn twice for nothing.
    fn suspend_drawn(&mut self, drawn: Vec<SessionKey>, now: Instant) {
        for key in drawn {
            if let Some(slot) = self.get(key).filter(|slot| slot.standing == Standing::Listed)
                && let (_, verdict) = self.rules.look(slot.record(), now)
                && verdict != Verdict::MayGo
            {
                self.suspend(key);
                self.expect(key, verdict, now);
            }
        }
    }

    /// The oldest session in the policy's order that may go; suspends those before it. O(log n) amortized, after one
    /// look at all sessions when it is asked for the first time.
    ///
    /// Returns `None` if no session in the order may go; all of them are suspended by then. The order is the fallback
    /// of the registry (decision 25). From its first use on, [`stand`](Registry::stand) puts each session into it that
    /// comes into the policy's order. The session that is returned stays at its front, until it is claimed and a later
    /// call removes it.
    fn oldest(&mut self, now: Instant) -> Option<SessionKey> {
        if self.listed.len() == 0 {
            return None;
        }
        if self.fallback.is_none() {
            let listed = self.slots.iter_mut().map(|(_, slot)| slot).filter(|slot| slot.standing == Standing::Listed);
            let mut order: Vec<_> = listed
                .map(|slot| {
                    #[cfg(any(test, feature = "testing"))]
                    super::test_registry::note_look();
                    slot.in_fallback = true;
                    (slot.record().entry.created, slot.record().entry.key)
                })
                .collect();
            order.sort_unstable();
            let fallback = self.fallback.insert(Queue::default());
            order.into_iter().for_each(|(created, key)| fallback.push(created, key));
        }
        while let Some((_, key)) = self.fallback.as_ref()?.peek() {
            if let Some(slot) = self.get(key).filter(|slot| slot.standing == Standing::Listed) {
                match self.rules.look(slot.record(), now).1 {
                    Verdict::MayGo => return Some(key),
                    verdict => {
                        self.suspend(key);
                        self.expect(key, verdict, now);
                    }
                }
            }
            self.fallback.as_mut()?.pop();
            if let Some(slot) = self.get_mut(key) {
                slot.in_fallback = false;
            }
        }
        None
    }

    /// Begins the close of a session; if it may not go, takes it out of the policy's order until it may. Returns the
    /// session if its close has begun. The session must be in the policy's order, because the policy hears of each
    /// suspension once.
    pub(super) fn claim_or_suspend(&mut self, key: SessionKey, now: Instant) -> Option<Arc<S>> {
        let verdict = match self.claim(key, now) {
            Ok(session) => return Some(session),
            Err(verdict) => verdict,
        };
        self.suspend(key);
        self.expect(key, verdict, now);
        None
    }

    /// Begins the close of a session that may go, in one atomic step.
    ///
    /// The compare-and-swap takes the reading that was judged. If an activity began or ended meanwhile it fails, and
    /// the session is judged again. On success the policy hears of the end, and the caller sets the reason.
    ///
    /// # Errors
    ///
    /// Returns the verdict if the session may not go; it is watched then. A session that is not there gives
    /// `Verdict::Not(None)`.
    pub(crate) fn claim(&mut self, key: SessionKey, now: Instant) -> Result<Arc<S>, Verdict> {
        let session = self.get(key).map(|slot| Arc::clone(&slot.session)).ok_or(Verdict::Not(None))?;
        let record = session.record();
        loop {
            let (seen, verdict) = self.rules.look(record, now);
            if verdict != Verdict::MayGo {
                return Err(verdict);
            }
            if record.entry.state.close_if(seen).is_ok() {
                if seen.phase() == Phase::Opening {
                    record.left_opening();
                }
                self.retire(key);
                return Ok(session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;
    use crate::eviction::{EvictionPolicy, Fifo, Lru, SessionInfo, victim_fn};
    use crate::registry::Rules;
    use crate::registry::test_registry::{TestRegistry, begin, call, lenient, looks, touch};
    use crate::session::ActivityKind;

    fn half_open(max_opening: usize) -> TestRegistry {
        TestRegistry::with(Lru::new(), lenient(), max_opening)
    }

    #[tokio::test(start_paused = true)]
    async fn half_open_sessions_below_their_share_are_no_victims() {
        let mut stage = half_open(3);
        stage.opening();
        stage.opening();
        assert_eq!(stage.victim(), None);
        stage.ready();
        assert_eq!(stage.victims(), [3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_share_of_half_open_sessions_gives_its_oldest_and_never_a_ready_one() {
        let mut stage = half_open(2);
        stage.ready_many::<2>();
        [stage.opening(), stage.opening(), stage.opening()].into_iter().for_each(drop);
        assert_eq!([stage.victim(), stage.victim()], [Some(3), Some(4)]);
        assert_eq!(stage.signals.opening.load(SeqCst), 1);
        assert_eq!(stage.victims(), [1, 2], "below its share again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_open_session_that_the_author_protects_is_no_victim() {
        let rules = Rules { protect: Some(Arc::new(|session| session.key().generation() == 1)), ..lenient() };
        let mut stage = TestRegistry::with(Lru::new(), rules, 1);
        let _protected = stage.opening();
        assert!(matches!(stage.choose(), Choice::Handshakes), "a newcomer waits");
        let _other = stage.opening();
        assert_eq!(stage.victim(), Some(2));
        advance(Duration::from_secs(2)).await;
        assert!(matches!(stage.choose(), Choice::Handshakes), "asked again, and kept again");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_goes_while_answering_initialize() {
        let mut stage = half_open(2);
        stage.ready();
        let [two, three] = [stage.opening(), stage.opening()];
        let handshakes = [&two, &three].map(|record| begin(record, ActivityKind::Handshake));
        assert!(matches!(stage.choose(), Choice::Handshakes));
        let [of_two, of_three] = handshakes;
        drop(of_three);
        assert_eq!(stage.victim(), Some(3), "the other is still answering");
        let _four = stage.opening();
        drop(of_two);
        assert_eq!(stage.victim(), Some(2), "in its old order");
    }

    #[tokio::test(start_paused = true)]
    async fn a_restore_takes_the_oldest_half_open_session_and_else_the_policy_s_choice() {
        let mut stage = half_open(2);
        let [_one, two, _three] = [stage.ready(), stage.opening(), stage.opening()];
        let restore = |stage: &mut TestRegistry| match stage.choose_for(ArrivalKind::Restore) {
            Choice::Victim(record) => {
                Ok(stage.registry.remove(record.entry.key).unwrap().session.entry.key.generation())
            }
            choice => Err(matches!(choice, Choice::Handshakes)),
        };
        let handshake = begin(&two, ActivityKind::Handshake);
        assert_eq!(restore(&mut stage), Ok(3), "the other half-open one is answering");
        let four = stage.opening();
        let other = begin(&four, ActivityKind::Handshake);
        assert!(matches!(stage.choose(), Choice::Handshakes), "a newcomer waits");
        assert_eq!(restore(&mut stage), Ok(1), "a restore does not");
        assert_eq!(restore(&mut stage), Err(true), "unless there is nothing else");
        drop(other);
        assert_eq!(restore(&mut stage), Ok(4));
        assert_eq!(restore(&mut stage), Err(false), "half-open sessions below their share stay");
        drop(handshake);
        assert_eq!(restore(&mut stage), Err(false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_slow_handshakes_is_passed_once() {
        let mut stage = half_open(10);
        let handshakes: Vec<_> = (0..1_000).map(|_| begin(&stage.opening(), ActivityKind::Handshake)).collect();
        assert!(matches!(stage.choose(), Choice::Handshakes));
        assert_eq!(stage.registry.opening.len(), 0, "all are taken out");
        drop(handshakes);
        assert_eq!(stage.victim(), Some(1));
        assert_eq!(stage.registry.opening.len(), 999);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_leaves_the_half_open_ones_once() {
        let mut stage = half_open(usize::MAX);
        let [one, two] = [stage.opening(), stage.opening()];
        touch(&one);
        one.ready();
        assert_eq!(stage.signals.opening.load(SeqCst), 1);
        two.ready();
        assert_eq!((stage.victim(), stage.victim()), (Some(2), Some(1)));
        assert_eq!(stage.signals.opening.load(SeqCst), 0);
    }

    /// Panics when asked for the method, and otherwise does as the oldest-first policy.
    #[derive(Debug)]
    struct Panics(&'static str, Fifo);

    impl Panics {
        fn at(&self, method: &str) {
            assert_ne!(self.0, method, "of the test");
        }
    }

    impl EvictionPolicy for Panics {
        fn on_insert(&mut self, session: &SessionInfo<'_>) {
            self.at("on_insert");
            self.1.on_insert(session);
        }
        fn on_remove(&mut self, session: &SessionInfo<'_>) {
            self.at("on_remove");
            self.1.on_remove(session);
        }
        fn on_suspend(&mut self, session: &SessionInfo<'_>) {
            self.at("on_suspend");
            self.1.on_suspend(session);
        }
        fn on_resume(&mut self, session: &SessionInfo<'_>) {
            self.at("on_resume");
            self.1.on_resume(session);
        }
        fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
            self.at("victim");
            self.1.victim(candidates)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_policy_that_panics_costs_nobody_a_place() {
        for method in ["on_insert", "on_remove", "on_suspend", "on_resume", "victim"] {
            let mut stage = TestRegistry::new(Panics(method, Fifo::new()));
            let [one, ..] = stage.ready_many::<4>();
            let busy = call(&one);
            assert_eq!(stage.victim(), Some(2), "{method}");
            drop(busy);
            // A session that it was not told of it does not name while it can name another.
            let order = if method == "on_resume" { [3, 4, 1] } else { [1, 3, 4] };
            assert_eq!(stage.victims(), order, "{method}");
            assert!(stage.registry.overruled > 0, "{method}");
        }
    }

    /// Holds a policy to the bound on calls, and the registry to the oldest that may go.
    fn is_overruled(
        mut policy: impl FnMut(&Candidates<'_>) -> Option<SessionKey> + Send + 'static,
        first: usize,
        then: usize,
    ) {
        use std::sync::atomic::AtomicUsize;
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let mut stage = TestRegistry::new(victim_fn(move |candidates: &Candidates<'_>| {
            counter.fetch_add(1, SeqCst);
            policy(candidates)
        }));
        let [one, two, ..] = stage.ready_many::<4>();
        let _busy = call(&one);
        touch(&two);
        assert_eq!(stage.victim(), Some(2), "the oldest that may go");
        assert_eq!((asked.load(SeqCst), stage.registry.overruled), (first, 1));
        assert_eq!(stage.victim(), Some(3));
        assert_eq!((asked.load(SeqCst), stage.registry.overruled), (first + then, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_policy_that_names_who_may_not_go_is_overruled() {
        is_overruled(|_| Some(SessionKey::new(9_999, 1)), TRIES, TRIES);
        is_overruled(|_| Some(SessionKey::new(0, 77)), TRIES, TRIES);
        // It is busy, and suspended.
        is_overruled(|_| Some(SessionKey::new(0, 1)), 1 + TRIES, TRIES);
        // It is asked once more, because a request might have ended since it looked.
        is_overruled(|_| None, 2, 2);
        is_overruled(|_| panic!("of the test"), 1, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_policy_that_names_a_session_whose_end_has_begun_is_overruled() {
        let mut named = None;
        let mut stage = TestRegistry::new(victim_fn(move |candidates: &Candidates<'_>| {
            named = named.or_else(|| candidates.iter().map(|session| session.key()).min());
            named
        }));
        stage.ready_many::<3>();
        let Choice::Victim(closing) = stage.choose() else { panic!("one may go") };
        assert_eq!((closing.entry.key.generation(), stage.registry.overruled), (1, 0));
        assert_eq!((stage.victim(), stage.registry.overruled), (Some(2), 1));
        assert!(stage.registry.remove(closing.entry.key).is_some());
        assert_eq!((stage.victim(), stage.registry.overruled), (Some(3), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_overruled_when_nobody_may_go() {
        let mut stage = TestRegistry::new(Lru::new());
        let _busy = stage.ready_many::<3>().map(|record| call(&record));
        assert_eq!((stage.victim(), stage.registry.overruled), (None, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_predicate_that_cannot_make_up_its_mind_ends_the_search() {
        use std::sync::atomic::AtomicBool;
        let flip = AtomicBool::new(false);
        let protect = Arc::new(move |_: &SessionInfo<'_>| flip.fetch_xor(true, SeqCst));
        let rules = Rules { protect: Some(protect), ..lenient() };
        let mut stage = TestRegistry::with(Lru::new(), rules, usize::MAX);
        stage.ready();
        let count = looks(|| drop(stage.choose()));
        assert!(count <= 10, "{count} looks");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_ends_while_a_policy_that_looks_at_all_is_asked_is_no_fault() {
        use std::sync::Mutex;
        let busy = Arc::new(Mutex::new(None));
        let ends = Arc::clone(&busy);
        let mut stage = TestRegistry::new(victim_fn(move |candidates: &Candidates<'_>| {
            let named = candidates.iter().map(|session| session.key()).min();
            drop(ends.lock().unwrap().take());
            named
        }));
        *busy.lock().unwrap() = Some(call(&stage.ready()));
        assert_eq!((stage.victim(), stage.registry.overruled), (Some(1), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_policy_costs_that_names_none_does_not_grow_with_the_sessions() {
        const SESSIONS: usize = 10_000;
        let mut stage = TestRegistry::new(victim_fn(|_: &Candidates<'_>| None));
        let records: Vec<_> = (0..SESSIONS).map(|_| stage.ready()).collect();
        let calls: Vec<_> = records.iter().take(SESSIONS / 2).map(call).collect();
        assert_eq!(stage.victim(), Some(SESSIONS as u32 / 2 + 1));
        let pops = looks(|| {
            for gone in 2..=100 {
                assert_eq!(stage.victim(), Some((SESSIONS / 2 + gone) as u32), "the oldest");
                stage.ready();
            }
        });
        assert!(pops <= 3 * 99, "{pops} looks");
        assert!(stage.registry.fallback.as_ref().is_some_and(|fallback| fallback.len() <= SESSIONS));
        drop(calls);
        assert_eq!(stage.victims().len(), SESSIONS - 1, "each once");
    }

    #[tokio::test(start_paused = true)]
    async fn moments_to_look_again_are_no_more_than_the_sessions() {
        // Each is first found idle too briefly, then busy: a near moment, then a far one, over and over.
        let rules = Rules { min_idle: Duration::from_millis(10), ..lenient() };
        let mut stage = TestRegistry::with(Lru::new(), rules, usize::MAX);
        let crowd = stage.ready_many::<20>();
        for _ in 0..500 {
            let calls = crowd.each_ref().map(call);
            assert_eq!(stage.victim(), None);
            drop(calls);
            assert_eq!(stage.victim(), None);
            advance(Duration::from_millis(1)).await;
        }
        assert!(stage.registry.moments.len() <= 64 + 2 * 20, "{}", stage.registry.moments.len());
        assert!(stage.signals.changed.len() <= 20);
        advance(Duration::from_millis(10)).await;
        assert_eq!((stage.victims().len(), stage.registry.overruled), (20, 0), "and those that count are kept");
    }
}
