//! What the policy names, and what goes instead if the policy breaks its contract (L13).

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::time::Instant;

use super::rules::Verdict;
use super::sessions::{Registry, Standing};
use super::told::Told;
use super::view::{Draws, SlotsView};
use crate::context::ClientContext;
use crate::eviction::Candidates;
use crate::queue::Queue;
use crate::session::{Recorded, SessionKey};

/// How often a policy may fail before it [names](Registry::name) a session in its order: by the name of one that is not,
/// or by naming none while changes wait to be heard. The names of sessions in its order are not limited, because each
/// such session is claimed or leaves the order.
const TRIES: usize = 4;

impl<S: Recorded> Registry<S> {
    /// Has the policy choose, and chooses for it if it breaks its contract. `None` if no session may go.
    ///
    /// A policy that names none is asked again as long as sessions are found that were due, and once more if a session
    /// in its order may go: a change just after the policy's look is no fault of the policy.
    ///
    /// The text says why the session was chosen.
    pub(super) fn choose_by_policy(
        &mut self,
        now: Instant,
        newcomer: Option<&ClientContext>,
    ) -> Option<(Arc<S>, &'static str)> {
        let mut missed = false;
        let fault = loop {
            match self.propose(now, newcomer) {
                Ok(session) => return Some((session, self.phrase())),
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
        chosen.map(|session| (session, "oldest, as the eviction policy named none that may go,"))
    }

    /// Why the policy named the session that it named last. If it panics, that is counted, and the phrase is the default.
    fn phrase(&mut self) -> &'static str {
        let mut phrase = "chosen by the eviction policy,";
        self.call_policy(|policy| phrase = policy.phrase());
        phrase
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
            let Some(Told { policy, .. }) = policy else { return Err(None) };
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
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;
    use crate::eviction::{EvictionPolicy, Fifo, Lru, SessionInfo, victim_fn};
    use crate::registry::Choice;
    use crate::registry::test_registry::{TestRegistry, call, looks, touch};

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
        let Choice::Victim(closing, _) = stage.choose() else { panic!("one may go") };
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
}
