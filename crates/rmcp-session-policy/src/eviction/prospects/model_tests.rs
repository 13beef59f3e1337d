//! Holds the evidence of the policy to a plain model, over random histories.

use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use tokio::time::advance;

use super::ages::{BEGINS, BUCKETS, bucket};
use super::class::{Class, Listening};
use super::client_names::OTHERS;
use super::shared_policy::{Shared, close, restore};
use super::tables::Evidence;
use crate::registry::test_registry::{TestRegistry, begin};
use crate::session::{Activity, ActivityKind, Record};

/// What happens; an index picks a session that is there, or away.
#[derive(Clone, Debug)]
enum Event {
    Open,
    /// A request that is answered at once: a call, or one that is not.
    Use(Index, bool),
    /// Begins a call, or ends the one under way.
    Toggle(Index),
    Evict,
    Close(Index),
    /// A session that is away is restored. Its client finishes the handshake, or has not yet.
    Restore(Index, bool),
    /// A session that is away will not come back.
    Forget(Index),
    /// The parked sessions are watched, and the indexes computed.
    Rebuild,
    /// Tenths of a second pass.
    Pass(u32),
}

fn history() -> impl Strategy<Value = Vec<Event>> {
    let index = any::<Index>;
    let event = prop_oneof![
        4 => Just(Event::Open),
        4 => (index(), any::<bool>()).prop_map(|(session, calls)| Event::Use(session, calls)),
        3 => index().prop_map(Event::Toggle),
        4 => Just(Event::Evict),
        1 => index().prop_map(Event::Close),
        4 => (index(), any::<bool>()).prop_map(|(session, is_ready)| Event::Restore(session, is_ready)),
        1 => index().prop_map(Event::Forget),
        1 => Just(Event::Rebuild),
        4 => (0..30_u32).prop_map(Event::Pass),
        3 => (0..9_000_u32).prop_map(Event::Pass),
        1 => (0..2_000_000_u32).prop_map(Event::Pass),
    ];
    vec(event, 1..150)
}

/// A session, live or away.
struct Session {
    record: Arc<Record>,
    under_way: Option<Activity<Record>>,
    /// When it was used last, in tenths of a second.
    used: u32,
    calls: u64,
    last_gap: Option<u32>,
    /// Whether the policy knows how much of this idle period it has watched.
    is_known: bool,
}

/// The server with the policy, and what its evidence should be.
struct Model {
    stage: TestRegistry,
    shared: Shared,
    live: Vec<Session>,
    away: Vec<Session>,
    /// Tenths of a second since the begin.
    now: u32,
    /// The latest moment that the policy was told.
    told: u32,
    /// By class and bucket.
    evidence: Vec<[Evidence; BUCKETS]>,
}

/// The age up to which a parked session is watched, in seconds.
const WATCHED_UP_TO: f64 = BEGINS[BUCKETS];

impl Session {
    fn new(record: Arc<Record>, now: u32) -> Self {
        Self { record, under_way: None, used: now, calls: 0, last_gap: None, is_known: true }
    }

    fn class(&self) -> Class {
        let gap = self.last_gap.map(|tenths| Duration::from_millis(100 * u64::from(tenths)));
        Class::new(OTHERS, self.calls, gap, Listening::Never)
    }

    /// How long it has been idle, in seconds.
    fn idle(&self, now: u32) -> f64 {
        f64::from(now.saturating_sub(self.used)) / 10.0
    }
}

impl Model {
    fn new() -> Self {
        let (stage, shared) = Shared::stage();
        let evidence = Class::all().map(|_| [Evidence::default(); BUCKETS]).collect();
        Self { stage, shared, live: Vec::new(), away: Vec::new(), now: 0, told: 0, evidence }
    }

    /// Counts an idle period up to an age, each second at its age.
    fn watch(&mut self, class: Class, age: f64) {
        for bucket in 0..BUCKETS {
            let end = if bucket == BUCKETS - 1 { age } else { age.min(BEGINS[bucket + 1]) };
            self.evidence[class.index()][bucket].watched += (end - BEGINS[bucket]).max(0.0);
        }
    }

    fn open(&mut self) {
        self.live.push(Session::new(self.stage.ready(), self.now));
        self.told = self.now;
    }

    fn begin(&mut self, nth: usize, kind: ActivityKind) {
        let session = &mut self.live[nth];
        let idle = if session.under_way.is_some() { 0 } else { self.now - session.used };
        let (class, was_known) = (session.class(), session.is_known);
        if idle > 10 {
            session.is_known = true;
        }
        session.used = self.now;
        if kind == ActivityKind::Call {
            session.last_gap = (session.calls > 0).then_some(idle);
            session.calls += 1;
        }
        let activity = begin(&session.record, kind);
        if session.under_way.is_none() {
            session.under_way = activity;
        }
        if idle > 10 && was_known {
            self.watch(class, f64::from(idle) / 10.0);
            self.evidence[class.index()][bucket(f64::from(idle) / 10.0)].returns += 1.0;
        }
    }

    fn end(&mut self, nth: usize) {
        self.live[nth].used = self.now;
        self.live[nth].under_way = None;
    }

    /// A session has left. One that was at work had no idle period of which something is known.
    fn leave(&mut self, nth: usize) {
        if self.live[nth].under_way.is_some() {
            self.end(nth);
            self.live[nth].is_known = false;
        }
        self.away.push(self.live.swap_remove(nth));
    }

    async fn happens(&mut self, event: Event) {
        match event {
            Event::Open => self.open(),
            Event::Pass(tenths) => {
                advance(Duration::from_millis(100 * u64::from(tenths))).await;
                self.now += tenths;
            }
            Event::Evict => {
                self.told = self.now;
                let victim = self.stage.victim();
                let nth = self.live.iter().position(|session| Some(session.record.entry.key.generation()) == victim);
                nth.into_iter().for_each(|nth| self.leave(nth));
            }
            Event::Rebuild => {
                self.shared.policy().rebuild_all();
                self.censor();
            }
            Event::Use(pick, _) | Event::Toggle(pick) | Event::Close(pick) if !self.live.is_empty() => {
                self.acts(pick.index(self.live.len()), event);
            }
            Event::Restore(pick, _) | Event::Forget(pick) if !self.away.is_empty() => {
                let session = self.away.swap_remove(pick.index(self.away.len()));
                match event {
                    Event::Restore(_, is_ready) => self.restore(session, is_ready).await,
                    _ => self.forget(&session),
                }
            }
            _ => {}
        }
    }

    /// The sessions that have been away for too long are not followed any more.
    fn censor(&mut self) {
        for nth in 0..self.away.len() {
            let session = &mut self.away[nth];
            let (class, age) = (session.class(), session.idle(self.told));
            if session.is_known && age >= WATCHED_UP_TO {
                session.is_known = false;
                self.watch(class, age);
            }
        }
    }

    fn acts(&mut self, nth: usize, event: Event) {
        let is_at_work = self.live[nth].under_way.is_some();
        match event {
            Event::Use(_, calls) => {
                self.begin(nth, if calls { ActivityKind::Call } else { ActivityKind::List });
                if is_at_work {
                    self.live[nth].used = self.now;
                } else {
                    self.end(nth);
                }
            }
            Event::Toggle(_) if is_at_work => self.end(nth),
            Event::Toggle(_) => self.begin(nth, ActivityKind::Call),
            _ => {
                close(&mut self.stage, &self.live[nth].record);
                self.leave(nth);
            }
        }
    }

    async fn restore(&mut self, mut session: Session, is_ready: bool) {
        // An incarnation begins after the session was opened. Where the use before it was at work, nothing is told of another one
        // within a second, and the policy may find out later or never that a new period began.
        let tenths = if session.is_known { 1 } else { 11 };
        advance(Duration::from_millis(100 * u64::from(tenths))).await;
        self.now += tenths;
        session.record = restore(&mut self.stage, &session.record);
        if is_ready {
            session.record.ready();
        }
        self.told = self.now;
        self.live.push(session);
    }

    fn forget(&mut self, session: &Session) {
        self.stage.signals.forget(session.record.entry.serial);
        if session.is_known {
            self.watch(session.class(), session.idle(self.told));
        }
    }

    /// Brings each idle period to an end, so that all of it is evidence.
    fn finish(&mut self) {
        for nth in 0..self.live.len() {
            if self.live[nth].under_way.is_none() {
                self.begin(nth, ActivityKind::Call);
            }
            self.end(nth);
        }
        self.open();
        std::mem::take(&mut self.away).iter().for_each(|session| self.forget(session));
        self.open();
    }

    /// Compares the evidence of all ages for which there is an index, which are those from a second on. Whether no name has a
    /// place of its own changes with time, so the evidence of all names is summed up.
    fn compare(&self) {
        let policy = self.shared.policy();
        for class in Class::all().filter(|class| class.name() == OTHERS) {
            for bucket in bucket(1.0)..BUCKETS {
                let (mut seen, expected) = (Evidence::default(), self.evidence[class.index()][bucket]);
                (0..=OTHERS).for_each(|name| seen += policy.evidence(class.with_name(name), bucket));
                let is_close = (seen.watched - expected.watched).abs() < 1e-6 * expected.watched.max(1.0);
                assert!(is_close && seen.returns == expected.returns, "{class:?} {bucket}: {seen:?}, not {expected:?}");
            }
        }
        assert_eq!(policy.counts(), (self.live.len(), 0));
    }
}

async fn agrees(history: Vec<Event>) {
    let mut model = Model::new();
    model.open();
    // None begins by itself from now on, since it would forget some evidence.
    model.shared.policy().rebuild_never();
    for event in history {
        model.happens(event).await;
    }
    model.finish();
    model.compare();
    assert_eq!(model.stage.registry.overruled, 0);
}

/// Plays a history in a thread of its own. Moments have a tie-breaker for each thread, and a microsecond has a limited number of them.
fn play(history: Vec<Event>) {
    let paused = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let played = std::thread::spawn(move || paused.block_on(agrees(history))).join();
    played.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn each_second_of_idleness_is_evidence_once_and_each_return(history in history()) {
        play(history);
    }
}
