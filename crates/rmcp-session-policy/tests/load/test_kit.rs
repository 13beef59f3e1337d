//! docs/design.md, L7 and L13.
//!
//! The built-in policies and combinators keep the laws. For a policy that breaks a law, the kit names the law.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use rmcp_session_policy::admission::{
    AdmissionPolicy, AdmissionPolicyExt, Arrival, Concurrent, Open, Permit, Rejection, RejectionClass, Retry,
    SlidingWindow, TokenBucket, admit_fn,
};
use rmcp_session_policy::eviction::{
    Candidates, EvictionPolicy, EvictionPolicyExt, Fifo, Lfu, Lru, SessionInfo, victim_fn,
};
use rmcp_session_policy::testing::{admission, eviction, manager};
use rmcp_session_policy::{ClientContext, ConfigError, SessionKey};
use tokio::time::Instant;

/// Runs a test of the kit that must fail, and returns its message.
#[track_caller]
fn says(test: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(test)).expect_err("a broken policy is found");
    panic.downcast_ref::<String>().expect("a text").clone()
}

macro_rules! finds {
    ($test:expr, $law:literal) => {
        let said = says(|| $test);
        assert!(said.contains($law), "{said}");
    };
}

#[test]
fn built_in_eviction_policies_keep_the_laws() {
    eviction::keeps_the_laws(Fifo::new);
    eviction::keeps_the_laws(Lru::new);
    eviction::keeps_the_laws(Lfu::new);
    eviction::keeps_the_laws(|| Lru::new().tiers([|session: &SessionInfo<'_>| session.uses() == 0]));
    eviction::keeps_the_laws(|| Lfu::new().tiers([|session: &SessionInfo<'_>| session.uses() == 0]));
    eviction::keeps_the_laws(|| Lru::new().only(|session: &SessionInfo<'_>| session.uses() > 0));
    eviction::keeps_the_laws(|| Box::new(Lfu::new()) as Box<dyn EvictionPolicy>);
    eviction::keeps_the_laws(|| victim_fn(|candidates| candidates.iter().map(|session| session.key()).min()));
}

#[test]
fn a_manager_with_any_policy_keeps_the_laws() {
    manager::keeps_the_laws(|| victim_fn(|candidates| candidates.iter().map(|session| session.key()).max()));
}

#[test]
fn a_manager_that_disagrees_with_the_model_is_found() {
    finds!(manager::keeps_the_laws(Queue::wrong(Wrong::GivesUp)), "the eviction policy was overruled");
    let history = manager::histories(100).new_tree(&mut TestRunner::deterministic()).expect("a history").current();
    assert_eq!(manager::agrees_in_order(Lru::new(), |who| who.used, &history), Ok(()));
    let newest_first = manager::agrees_in_order(Lru::new(), |who| usize::MAX - who.used, &history);
    assert!(newest_first.is_err_and(|said| said.contains("not")), "the wrong ones went");
}

#[test]
fn built_in_eviction_policies_ask_about_few() {
    eviction::asks_about_few(Fifo::new);
    eviction::asks_about_few(Lru::new);
    eviction::asks_about_few(Lfu::new);
    eviction::asks_about_few(|| Lru::new().tiers([|session: &SessionInfo<'_>| session.open_streams() == 0]));
    eviction::asks_about_few(|| Lru::new().only(|session: &SessionInfo<'_>| session.uses() > 0));
}

#[test]
fn built_in_admission_policies_keep_the_laws() {
    let window = || SlidingWindow::new(3, Duration::from_secs(2));
    let bucket = || TokenBucket::per_second(1.0).burst(3);
    let few = || Concurrent::new(3);
    admission::keeps_the_laws(|| Open);
    admission::keeps_the_laws(window);
    admission::keeps_the_laws(bucket);
    admission::keeps_the_laws(few);
    admission::keeps_the_laws(|| window().per_client());
    admission::keeps_the_laws(|| bucket().per_client());
    admission::keeps_the_laws(|| few().per_client());
    admission::keeps_the_laws(|| window().and(bucket()).and(few()));
    admission::keeps_the_laws(|| window().or(bucket()));
    admission::keeps_the_laws(|| window().per_client().and(bucket()));
    admission::keeps_the_laws(|| bucket().per_prefix());
    admission::keeps_the_laws(|| few().per_client().and(window().per_prefix()));
    admission::keeps_the_laws(|| window().fallback(bucket()));
    admission::keeps_the_laws(|| but_the_first(bucket().per_client()).fallback(window()));
    admission::keeps_the_laws(|| but_the_first(Open).fallback(window().per_client().and(few())));
    admission::keeps_the_laws(|| window().shadow());
    admission::keeps_the_laws(|| window().only(|arrival: &Arrival<'_>| arrival.context().is_some()));
    admission::keeps_the_laws(|| admit_fn(|_| Ok(Permit::free())));
}

/// A policy with a backend that fails for the first of the kit's clients.
#[derive(Debug)]
struct ButTheFirst<P>(P);

const fn but_the_first<P: AdmissionPolicy>(policy: P) -> ButTheFirst<P> {
    ButTheFirst(policy)
}

#[async_trait]
impl<P: AdmissionPolicy> AdmissionPolicy for ButTheFirst<P> {
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        match arrival.context().and_then(ClientContext::peer) {
            Some(IpAddr::V4(peer)) if peer.octets()[3] == 0 => {
                Err(Rejection::new("backend").with_class(RejectionClass::Backend))
            }
            _ => self.0.admit(arrival).await,
        }
    }
}

/// The order of arrival, done wrong in one way or right.
#[derive(Debug)]
struct Queue {
    order: VecDeque<SessionKey>,
    wrong: Option<Wrong>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    ForgetsNone,
    KeepsTheSuspended,
    LosesTheResumed,
    GivesUp,
    Panics,
    LooksAtAll,
    PicksNone,
}

impl Queue {
    fn wrong(wrong: Wrong) -> impl Fn() -> Self {
        move || Self { order: VecDeque::new(), wrong: Some(wrong) }
    }

    fn right() -> Self {
        Self { order: VecDeque::new(), wrong: None }
    }
}

impl EvictionPolicy for Queue {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.order.push_back(session.key());
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        if self.wrong != Some(Wrong::ForgetsNone) {
            self.order.retain(|key| *key != session.key());
        }
    }

    fn on_suspend(&mut self, session: &SessionInfo<'_>) {
        if self.wrong != Some(Wrong::KeepsTheSuspended) {
            self.order.retain(|key| *key != session.key());
        }
    }

    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        if self.wrong != Some(Wrong::LosesTheResumed) {
            self.order.push_back(session.key());
        }
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        match self.wrong {
            Some(Wrong::GivesUp) if self.order.len() > 2 => None,
            Some(Wrong::Panics) if self.order.len() == 3 => panic!("three is too many"),
            Some(Wrong::LooksAtAll) => candidates.iter().min_by_key(SessionInfo::created).map(|session| session.key()),
            _ => self.order.front().copied(),
        }
    }

    fn pick(&mut self, among: &[SessionInfo<'_>], _: Instant) -> Option<SessionKey> {
        among.first().filter(|_| self.wrong != Some(Wrong::PicksNone)).map(SessionInfo::key)
    }
}

#[test]
fn a_policy_of_ten_lines_keeps_the_laws() {
    eviction::keeps_the_laws(Queue::right);
    eviction::asks_about_few(Queue::right);
    manager::keeps_the_laws(Queue::right);
}

#[test]
fn a_broken_eviction_policy_is_told_which_law_it_broke() {
    finds!(eviction::keeps_the_laws(Queue::wrong(Wrong::ForgetsNone)), "named a session that is gone");
    finds!(eviction::keeps_the_laws(Queue::wrong(Wrong::KeepsTheSuspended)), "named a session that is suspended");
    finds!(eviction::keeps_the_laws(Queue::wrong(Wrong::LosesTheResumed)), "named none while some session might go");
    finds!(eviction::keeps_the_laws(Queue::wrong(Wrong::GivesUp)), "named none while some session might go");
    finds!(eviction::keeps_the_laws(Queue::wrong(Wrong::Panics)), "it panicked, after [Open, ");
    finds!(eviction::keeps_the_laws(Queue::wrong(Wrong::PicksNone)), "picked none of the sessions");
    finds!(eviction::asks_about_few(Queue::wrong(Wrong::LooksAtAll)), "times at a session for 2000 victims");
    let mut turn = 0;
    let fickle = Arc::new(Mutex::new(move || {
        turn += 1;
        turn
    }));
    let make = || {
        let last = (fickle.lock().expect("no panic"))() % 2 == 0;
        victim_fn(move |candidates| {
            let keys = candidates.iter().map(|session| session.key());
            if last { keys.max() } else { keys.min() }
        })
    };
    finds!(eviction::keeps_the_laws(make), "named others when it went through the same again");
}

/// Admits a fixed number of newcomers, with one deliberate fault.
#[derive(Debug)]
struct Quota {
    left: Arc<Mutex<u32>>,
    wrong: Slip,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slip {
    KeepsWhatIsUndone,
    GivesBackTwice,
    PeekTakes,
    PeekRefuses,
    Promises,
    Panics,
    Invalid,
}

impl Quota {
    fn wrong(wrong: Slip) -> impl Fn() -> Self {
        move || Self { left: Arc::new(Mutex::new(3)), wrong }
    }
}

#[async_trait]
impl AdmissionPolicy for Quota {
    async fn admit(&self, _: &Arrival<'_>) -> Result<Permit, Rejection> {
        let empty = *self.left.lock().expect("no panic") == 0;
        assert!(self.wrong != Slip::Panics || !empty, "empty");
        let mut left = self.left.lock().expect("no panic");
        if *left == 0 {
            let wait = if self.wrong == Slip::Promises { Retry::After(Duration::from_secs(1)) } else { Retry::Never };
            return Err(Rejection::new("quota").with_retry(wait));
        }
        *left -= 1;
        let (quota, back) = (
            Arc::clone(&self.left),
            match self.wrong {
                Slip::KeepsWhatIsUndone => 0,
                Slip::GivesBackTwice => 2,
                _ => 1,
            },
        );
        Ok(Permit::undone_by(move || *quota.lock().expect("no panic") += back))
    }

    fn peek(&self, _: &Arrival<'_>) -> Result<(), Rejection> {
        let mut left = self.left.lock().expect("no panic");
        match self.wrong {
            Slip::PeekTakes => *left = left.saturating_sub(1),
            Slip::PeekRefuses if *left == 1 => return Err(Rejection::new("quota")),
            _ => {}
        }
        Ok(())
    }

    fn validate(&self) -> Result<(), ConfigError> {
        match self.wrong {
            Slip::Invalid => Err(ConfigError::new("quota", 3, "four would do")),
            _ => Ok(()),
        }
    }
}

#[test]
fn a_broken_admission_policy_is_told_which_law_it_broke() {
    let check = |wrong| admission::keeps_the_laws(Quota::wrong(wrong));
    finds!(check(Slip::KeepsWhatIsUndone), "what was undone, cancelled or only peeked at still counts");
    finds!(check(Slip::GivesBackTwice), "it admitted an arrival without a quota for it");
    finds!(check(Slip::PeekTakes), "what was undone, cancelled or only peeked at still counts");
    finds!(check(Slip::PeekRefuses), "`peek` refused an arrival that `admit` let in");
    finds!(check(Slip::Promises), "who waited as long as it said was refused again");
    finds!(check(Slip::Panics), "empty");
    finds!(check(Slip::Invalid), "`validate` says that its settings make no sense");
}

/// Gives a token back though time has already filled the bucket again.
#[derive(Debug)]
struct Refunds(Arc<Mutex<(f64, Option<Instant>)>>);

#[async_trait]
impl AdmissionPolicy for Refunds {
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        let mut bucket = self.0.lock().expect("no panic");
        let (tokens, seen) = &mut *bucket;
        let passed = seen.replace(arrival.now()).map_or(0.0, |seen| (arrival.now() - seen).as_secs_f64());
        *tokens = tokens.max((*tokens + passed).min(2.0));
        if *tokens < 1.0 {
            return Err(Rejection::new("bucket"));
        }
        *tokens -= 1.0;
        let bucket = Arc::clone(&self.0);
        Ok(Permit::undone_by(move || bucket.lock().expect("no panic").0 += 1.0))
    }
}

#[test]
fn a_refund_on_top_of_what_time_gave_back_is_found() {
    let make = || Refunds(Arc::new(Mutex::new((2.0, None))));
    finds!(admission::keeps_the_laws(make), "it admitted an arrival without a quota for it");
}
