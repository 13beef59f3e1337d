//! The policy: what it is told goes to the learner, and the session with the lowest index of a sample goes.

use std::time::Duration;

use tokio::time::Instant;

use super::class::{Class, Listening};
use super::learner::{Facts, Learner};
use super::rival::Rival;
use super::ticks::Clock;
use crate::eviction::{Candidates, EvictionPolicy, IdlePeriod, Lru, SessionInfo};
use crate::session::{Phase, SessionKey, SessionOrigin, Stream};

/// How many sessions are drawn for a choice.
const SAMPLE: usize = 32;
/// How many sessions with low indexes are looked at again at the next choice.
const RUNNERS_UP: usize = 8;
/// A stream counts as lost after this time: proxies cut streams, and clients open them again within seconds.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// How many parked sessions are followed. The returns of others are not learned from.
const MOST_PARKED: usize = 1 << 20;

/// Evicts the session that is least likely to be worth its place, by what it learned of sessions like it.
///
/// Some sessions come back and some never do, and the time since the last use tells little about which: a session that listed
/// the tools and never called is dead after a minute, a job that calls every quarter of an hour is not. The policy learns
/// that while the server runs. It needs no settings and no training, and begins as LRU with a guess.
///
/// # How it works
///
/// **Classes.** A session is in one of 945 classes, by four facts: the client's name (the eight commonest, or any other), how often
/// the session called (0, 1, 2 to 3, 4 to 15, or more), how long it paused before its last call (no earlier call, or under 10 s, 1,
/// 4, 12 or 40 minutes, or more), and whether the client never listened, listens, or lost its stream half a minute ago.
///
/// **Evidence.** For each class and each idle age (in steps of a factor of √2, from half a second to four days) it counts how long
/// sessions were watched at that age, and how many came back. All sessions are watched: those that came back, those that ended,
/// those that still are idle, and evicted ones while they are parked. A class of which little is known borrows from classes like
/// it. Evidence is forgotten: by half in a day, and where more than a hundred returns were seen, as new ones come.
///
/// **Index.** Once a minute it computes what a place is worth for each class at each age: of all ages up to which the session
/// might be held, the greatest ratio of the probability that it is back by then to the time that its place is held for that.
/// This looks ahead. Just after its call, a job that is due in a quarter of an hour has nearly the same index as a minute before the
/// next; a plain rate of returns would evict it shortly before it is due.
///
/// **Choice.** The lowest index goes, of 32 sessions drawn at random, of the best eight that the last choice left, and of the one
/// that is least recently used.
///
/// **Rival.** It also keeps count of what LRU would have done, on one session in eight (on all, up to 2,048). If it forced more
/// restores than LRU of late, by more than 3 % and by more than chance explains, it follows LRU until that has been forgotten. See
/// [`advantage`](EvictionPolicy::advantage).
///
/// # When to use it
///
/// On the workloads of `rmcp-session-policy-lab` it forces 1 to 95 % fewer restores than [`Lru`] (at 25 to 90 % of the
/// places needed; decision 30 has the table): fewest less where all clients are
/// people who chat, most where many sessions never call or call on schedule. What it learns is lost when the process ends, and it
/// needs some thousand returns to be better than LRU. Without parking it learns less, since an evicted session that comes back
/// is a new one.
///
/// It protects no session, and learning does not stop a flood of new sessions. A client that lies about its name gets the rank of
/// that name. Invented names cost no memory.
///
/// # Cost
///
/// A use costs what it costs with LRU; one after more than a second of idleness is queued for the policy. O(log n) per insert and
/// remove and O(1) per victim, amortized, which takes a few microseconds however many sessions there are. An insert also does a
/// share of the work that is due, such as 40 µs of the next indexes. Memory: 0.6 MiB, and beside LRU's order 20 bytes for a live
/// session and about 25 for a parked one, of which it follows a million at most.
///
/// # Sources
///
/// - The index is that of Gittins ("Bandit processes and dynamic allocation indices", 1979). For evictions, Bilardi and Versaci
///   ("Optimal eviction policies for stochastic address traces", Theoretical Computer Science 2013) call it the least profit rate
///   and show that it is optimal where every item comes back by its own law.
/// - To rank by what a place will bring rather than by recency: Beckmann, Chen, Cidon ("LHD: improving cache hit rate by maximizing
///   hit density", NSDI 2018).
/// - To learn by category of client: "KVCache cache in the wild" (USENIX ATC 2025).
///
/// ```
/// use std::time::Duration;
///
/// use rmcp_session_policy::PolicySessionManager;
/// use rmcp_session_policy::eviction::Prospects;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = PolicySessionManager::local().max_sessions(1_000).eviction(Prospects::new()).build()?;
/// assert_eq!(sessions.stats().advantage, None, "nothing was learned yet");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Prospects {
    learner: Learner,
    rival: Rival,
    lru: Lru,
    /// The sessions with the lowest indexes of the last choice, without the one that was named.
    runners_up: Vec<SessionKey>,
    /// The sessions of a choice. Kept, so that a choice allocates nothing.
    drawn: Vec<Drawn>,
    /// The session that was named last. If it is removed, it was evicted.
    named: Option<SessionKey>,
    /// How many sessions there are.
    live: usize,
    /// Not all calls tell how late it is.
    clock: Clock,
}

impl Default for Prospects {
    fn default() -> Self {
        Self::new()
    }
}

impl Prospects {
    /// Creates the policy. It has learned nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            learner: Learner::new(MOST_PARKED),
            rival: Rival::default(),
            lru: Lru::new(),
            runners_up: Vec::with_capacity(RUNNERS_UP),
            drawn: Vec::with_capacity(SAMPLE + RUNNERS_UP + 1),
            named: None,
            live: 0,
            clock: Clock::default(),
        }
    }

    /// Takes a session out of the orders, for now or for good.
    fn take_out(&mut self, session: &SessionInfo<'_>) {
        self.lru.on_remove(session);
        self.runners_up.retain(|key| *key != session.key());
        self.named.take_if(|named| *named == session.key());
    }

    /// The session with the lowest index of the runners-up, the one that is least recently used, and a sample.
    fn lowest(&mut self, candidates: &Candidates<'_>, oldest: Option<SessionKey>) -> Option<SessionKey> {
        let (now, tick) = (candidates.now(), self.clock.tick(candidates.now()));
        let mut lowest = Lowest::default();
        let kept = std::mem::take(&mut self.runners_up);
        let known = kept.iter().copied().chain(oldest).filter_map(|key| candidates.get(key));
        // What is at work cannot go, so its index says nothing.
        let known = known.filter(|session| session.in_flight() == 0 && session.phase() == Phase::Ready);
        self.drawn.clear();
        for session in known.chain(candidates.sample(SAMPLE)) {
            let (class, since) = (self.learner.class(&facts(&session, now)), session.last_used());
            self.drawn.push(Drawn { key: session.key(), class, since, is_idle: session.in_flight() == 0 });
        }
        self.learner.bring_into_cache(self.drawn.iter().map(|drawn| drawn.key));
        for Drawn { key, class, since, is_idle } in &self.drawn {
            // A call that hangs for longer than `max_busy` is no idleness, though its session may go.
            if *is_idle {
                self.learner.watch(*key, *class, self.clock.tick(*since), tick);
            }
            let age = now.saturating_duration_since(*since).as_secs_f64();
            lowest.insert(self.learner.index(*class, age), *key);
        }
        self.runners_up = kept;
        self.runners_up.clear();
        self.runners_up.extend(lowest.keys.iter().skip(1).map_while(|(_, key)| *key));
        lowest.keys[0].1
    }
}

/// A session of a choice.
#[derive(Clone, Copy, Debug)]
struct Drawn {
    key: SessionKey,
    class: Class,
    /// When it was used last.
    since: Instant,
    is_idle: bool,
}

/// The lowest indexes that were seen, lowest first.
struct Lowest {
    keys: [(f32, Option<SessionKey>); RUNNERS_UP + 1],
}

impl Default for Lowest {
    fn default() -> Self {
        Self { keys: [(f32::INFINITY, None); RUNNERS_UP + 1] }
    }
}

impl Lowest {
    /// Puts a session in, once, if its index is among the lowest. Of equals the first comes first.
    fn insert(&mut self, index: f32, session: SessionKey) {
        let place = self.keys.partition_point(|(lower, key)| key.is_some() && *lower <= index);
        if place < self.keys.len() && self.keys.iter().all(|(_, key)| *key != Some(session)) {
            self.keys[place..].rotate_right(1);
            self.keys[place] = (index, Some(session));
        }
    }
}

fn facts<'a>(session: &SessionInfo<'a>, now: Instant) -> Facts<'a> {
    Facts {
        client_name: session.client_name(),
        calls: session.calls(),
        last_gap: session.last_gap(),
        listening: listening(session.stream(), now),
    }
}

fn listening(stream: Stream, now: Instant) -> Listening {
    match stream {
        Stream::Never => Listening::Never,
        Stream::Lost(at) if now.saturating_duration_since(at) >= LOST_AFTER => Listening::Lost,
        Stream::Open | Stream::Lost(_) => Listening::Open,
    }
}

/// Whether this is not the first incarnation of a session.
fn is_restored(session: &SessionInfo<'_>) -> bool {
    session.opened() != session.created()
}

/// The short name of a session for the tables: sessions that are four thousand millions apart share it.
const fn number(session: SessionOrigin) -> u32 {
    session.number() as u32
}

impl EvictionPolicy for Prospects {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        let now = self.clock.advance(session.created());
        let (number, key) = (number(session.origin()), session.key());
        self.live += 1;
        self.lru.on_insert(session);
        if is_restored(session) {
            self.learner.restore(key, number, self.clock.tick(session.last_used()));
            self.rival.restore(number, key, now);
        } else {
            self.learner.open(key, now);
            self.rival.open(number, key, now);
        }
        self.learner.work(now);
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        let number = number(session.origin());
        self.live = self.live.saturating_sub(1);
        if self.named != Some(session.key()) {
            // LRU would not have kept it either.
            self.rival.forget(number);
        }
        self.take_out(session);
        let last_used = session.last_used();
        let now = self.clock.latest(last_used);
        // A client that was never there tells nothing. The phase does not tell it from others: it is `Closing` by now.
        let has_been_open = session.finished_handshake() || is_restored(session);
        if session.in_flight() == 0 && has_been_open {
            let (since, tick) = (self.clock.tick(last_used), self.clock.tick(now));
            self.learner.leave(session.key(), number, &facts(session, now), since, tick);
        }
    }

    fn on_suspend(&mut self, session: &SessionInfo<'_>) {
        self.take_out(session);
    }

    fn phrase(&self) -> &'static str {
        if self.rival.follows_lru() { "least recently used" } else { "least likely to return" }
    }

    fn pick(&mut self, among: &[SessionInfo<'_>], now: Instant) -> Option<SessionKey> {
        if self.rival.follows_lru() {
            return among.iter().min_by_key(|session| session.rank_by_use()).map(SessionInfo::key);
        }
        let mut lowest = Lowest::default();
        for session in among {
            let class = self.learner.class(&facts(session, now));
            let age = now.saturating_duration_since(session.last_used()).as_secs_f64();
            lowest.insert(self.learner.index(class, age), session.key());
        }
        lowest.keys[0].1
    }

    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        self.lru.on_insert(session);
    }

    fn tracks_returns(&self) -> bool {
        true
    }

    fn on_return(&mut self, session: &SessionInfo<'_>, idle: &IdlePeriod) {
        let last_used = session.last_used();
        let facts = Facts {
            client_name: session.client_name(),
            calls: idle.calls,
            last_gap: idle.last_gap,
            // It was used then or earlier.
            listening: listening(idle.stream, last_used),
        };
        self.learner.come_back(session.key(), &facts, idle.lasted.as_secs_f64());
        // The first use of a restored session was heard of as its restore.
        if idle.lasted <= last_used.saturating_duration_since(session.created()) {
            self.rival.come_back(number(session.origin()), session.key(), self.clock.tick(last_used));
        }
    }

    fn on_forgotten(&mut self, session: SessionOrigin) {
        self.learner.forget(number(session), self.clock.now());
        self.rival.forget(number(session));
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        let now = self.clock.advance(candidates.now());
        let clock = self.clock;
        self.rival.evict(self.live, |key| {
            let session = candidates.get(key)?;
            // After what came in this tick: what is at work is not evicted.
            Some(if session.in_flight() > 0 { now.next() } else { clock.tick(session.last_used()) })
        });
        let oldest = self.lru.victim(candidates);
        let lowest = self.lowest(candidates, oldest);
        self.named = if self.rival.follows_lru() { oldest } else { lowest.or(oldest) };
        self.named
    }

    fn keep_resumptions(&mut self, share: f64) -> bool {
        self.learner.keep_resumptions(share);
        true
    }

    fn worth_until(&mut self, session: &SessionInfo<'_>, now: Instant) -> Instant {
        let last_used = session.last_used();
        let class = self.learner.class(&facts(session, now));
        let tick = self.clock.advance(now);
        self.learner.work(tick);
        if session.in_flight() == 0 {
            self.learner.watch(session.key(), class, self.clock.tick(last_used), tick);
        }
        let age = now.saturating_duration_since(last_used).as_secs_f64();
        last_used + Duration::from_secs_f64(self.learner.worth_until(class, age))
    }

    fn advantage(&self) -> Option<f64> {
        self.rival.advantage()
    }
}

/// What tests see of a policy.
#[cfg(test)]
impl Prospects {
    /// The evidence of a class at the ages of a bucket.
    pub(super) fn evidence(&self, class: Class, bucket: usize) -> super::tables::Evidence {
        self.learner.evidence(class, bucket)
    }

    /// How many sessions are live, and how many are away and followed.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.live, self.learner.parked())
    }

    /// Lets no rebuild begin by itself from now on.
    pub(super) fn rebuild_never(&mut self) {
        self.learner.rebuild_never();
    }

    /// Rebuilds at once, and forgets nothing. No rebuild begins by itself from then on.
    pub(super) fn rebuild_all(&mut self) {
        self.learner.rebuild_all(self.clock.now());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::advance;

    use super::super::ages::BUCKETS;
    use super::super::class::Class;
    use super::super::client_names::OTHERS;
    use super::super::shared_policy::{Shared, close, restore};
    use super::super::tables::Evidence;
    use super::*;
    use crate::registry::Rules;
    use crate::registry::test_registry::{TestRegistry, begin, call, lenient, looks, touch};
    use crate::session::{ActivityKind, Record, Software};

    async fn pass(seconds: u64) {
        advance(Duration::from_secs(seconds)).await;
    }

    fn number_of(record: &Record) -> u32 {
        record.entry.key.generation()
    }

    fn rival_has(shared: &Shared) -> usize {
        shared.policy().rival.len()
    }

    fn has(shared: &Shared, record: &Record) -> bool {
        shared.policy().rival.has(number(record.entry.serial))
    }

    /// All evidence of sessions that called this often, never listened and have no name.
    fn seen(shared: &Shared, calls: u64, listening: Listening) -> Evidence {
        let mut sum = Evidence::default();
        let class = Class::new(OTHERS, calls, None, listening);
        (0..BUCKETS).for_each(|bucket| sum += shared.policy().evidence(class, bucket));
        sum
    }

    #[track_caller]
    fn assert_seen(shared: &Shared, calls: u64, listening: Listening, watched: f64, returns: f64) {
        let evidence = seen(shared, calls, listening);
        let is_close = (evidence.watched - watched).abs() < 1e-6 && evidence.returns == returns;
        assert!(is_close, "{evidence:?}, not {watched} s and {returns}");
    }

    #[cfg(feature = "testing")]
    #[test]
    fn it_keeps_the_laws() {
        let new = Prospects::new();
        crate::testing::eviction::keeps_the_laws(|| new.clone());
    }

    /// A server on which one session calls each minute, and each minute another one lists the tools and is never used again.
    async fn trained(minutes: usize) -> (TestRegistry, Arc<Record>, Shared) {
        let (mut stage, shared) = Shared::stage();
        let worker = stage.ready();
        let mut dead = std::collections::VecDeque::new();
        for _ in 0..minutes {
            touch(&worker);
            dead.push_back(stage.ready());
            pass(60).await;
            // They are closed after ten minutes.
            if dead.len() > 10 {
                let gone = dead.pop_front().unwrap();
                close(&mut stage, &gone);
                stage.signals.forget(gone.entry.serial);
            }
        }
        (stage, worker, shared)
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_comes_back_goes_before_what_does_whatever_was_used_last() {
        let (mut stage, worker, _) = trained(300).await;
        touch(&worker);
        pass(40).await;
        // It has just been opened, while the worker has been idle for 40 s.
        stage.ready();
        let victims = stage.victims();
        assert_eq!(victims.last(), Some(&number_of(&worker)), "{victims:?}");
        assert_eq!((victims.len(), stage.registry.overruled), (12, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn as_long_as_nothing_was_learned_the_order_is_that_of_lru() {
        let mut stage = TestRegistry::new(Prospects::new());
        let mut records = Vec::new();
        for _ in 0..200 {
            records.push(stage.ready());
            pass(1).await;
        }
        touch(&records[3]);
        pass(5).await;
        let expected: Vec<u32> = (1..=200).filter(|session| *session != 4).chain([4]).collect();
        assert_eq!((stage.victims(), stage.registry.overruled), (expected, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn busy_sessions_are_not_named_for_long_and_come_back() {
        let mut stage = TestRegistry::new(Prospects::new());
        let records: Vec<_> = (0..100).map(|_| stage.ready()).collect();
        let calls: Vec<_> = records.iter().skip(1).map(call).collect();
        pass(60).await;
        assert_eq!((stage.victim(), stage.victim()), (Some(1), None));
        drop(calls);
        pass(1).await;
        assert_eq!(stage.victims().len(), 99);
        assert_eq!(stage.registry.overruled, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_that_are_resumed_are_in_the_order_of_lru_again() {
        let (mut stage, shared) = Shared::stage();
        let calls: Vec<_> = (0..100).map(|_| call(&stage.ready())).collect();
        assert_eq!(stage.victim(), None);
        // They end from the first to the last.
        drop(calls);
        shared.policy().rival.follow_lru();
        assert_eq!(stage.victims(), (1..=100).collect::<Vec<_>>());
        assert_eq!(stage.registry.overruled, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_is_known_to_be_at_work_is_not_named_where_another_may_go() {
        let (mut stage, shared) = Shared::stage();
        let [busy, idle] = stage.ready_many();
        let under_way = call(&busy);
        pass(5).await;
        touch(&idle);
        pass(5).await;
        assert_eq!((stage.victim(), shared.named()), (Some(2), vec![2]));
        drop(under_way);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_is_known_to_be_half_open_is_not_named_where_another_may_go() {
        let (mut stage, shared) = Shared::stage();
        let [gone, _] = stage.ready_many();
        close(&mut stage, &gone);
        pass(10).await;
        // Its last use is longest ago, and its client has sent nothing yet.
        restore(&mut stage, &gone);
        assert_eq!((stage.victim(), shared.named()), (Some(2), vec![2]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_few_that_may_go_are_found_among_many_that_may_not() {
        let mut stage = TestRegistry::new(Prospects::new());
        let calls: Vec<_> = (0..1_000).map(|_| call(&stage.ready())).collect();
        (0..20).for_each(|_| drop(stage.ready()));
        pass(10).await;
        let mut victims = stage.victims();
        victims.sort_unstable();
        assert_eq!(victims, (1_001..=1_020).collect::<Vec<_>>());
        drop(calls);
    }

    #[tokio::test(start_paused = true)]
    async fn a_choice_looks_at_32_sessions_that_are_drawn_and_a_few_that_are_known() {
        let mut stage = TestRegistry::new(Prospects::new());
        (0..1_000).for_each(|_| drop(stage.ready()));
        pass(10).await;
        stage.victim();
        let count = looks(|| {
            stage.victim();
        });
        // Beside those that are drawn: eight runners-up, the least recently used, and what the registry takes out.
        assert!((32 + 8 + 1..32 + 8 + 6).contains(&count), "{count}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_order_of_lru_is_followed_while_the_rival_is_better() {
        let (mut stage, worker, shared) = trained(300).await;
        touch(&worker);
        pass(40).await;
        let dead = stage.ready();
        let others = stage.victims();
        assert_eq!(others.last(), Some(&number_of(&worker)));
        let (worker, dead) = (restore(&mut stage, &worker), restore(&mut stage, &dead));
        [&worker, &dead].into_iter().for_each(|record| record.ready());
        shared.policy().rival.follow_lru();
        assert_eq!(stage.victims(), [&worker, &dead].map(|record| number_of(record)));
        assert_eq!(stage.registry.overruled, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_lowest_eight_of_a_choice_without_the_victim_are_looked_at_again() {
        let (mut stage, shared) = Shared::stage();
        let mut records = Vec::new();
        for _ in 0..20 {
            records.push(stage.ready());
            pass(1).await;
        }
        let runners_up = || shared.policy().runners_up.iter().map(|key| key.generation()).collect::<Vec<_>>();
        assert_eq!((stage.victim(), runners_up()), (Some(1), (2..10).collect()));
        assert_eq!((stage.victim(), runners_up()), (Some(2), (3..11).collect()));
        close(&mut stage, &records[2]);
        assert_eq!(runners_up(), (4..11).collect::<Vec<_>>(), "those that have ended are not kept");
    }

    #[tokio::test(start_paused = true)]
    async fn a_runner_up_is_found_again_among_many() {
        let (mut stage, _, shared) = trained(300).await;
        let crowd: Vec<_> = (0..2_000).map(|_| stage.ready()).collect();
        pass(60).await;
        // All call but one, which is neither drawn nor the least recently used.
        crowd.iter().for_each(touch);
        let dead = stage.ready();
        pass(30).await;
        let victims: Vec<_> = (0..20).filter_map(|_| stage.victim()).collect();
        assert!(!victims.contains(&number_of(&dead)));
        shared.policy().runners_up.push(dead.entry.key);
        assert_eq!(stage.victim(), Some(number_of(&dead)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_runner_up_that_may_not_go_any_more_is_not_named_again() {
        let rules = Rules { min_idle: Duration::from_secs(10), ..lenient() };
        let mut stage = TestRegistry::with(Prospects::new(), rules, usize::MAX);
        let records: Vec<_> = (0..9).map(|_| stage.ready()).collect();
        pass(10).await;
        assert_eq!(stage.victim(), Some(1));
        records.iter().skip(1).for_each(touch);
        assert_eq!(stage.victim(), None);
        pass(10).await;
        assert_eq!(stage.victims().len(), 8);
        assert_eq!(stage.registry.overruled, 0);
    }

    #[test]
    fn the_lowest_indexes_are_kept_in_order_and_each_session_once() {
        let key = |index| SessionKey::new(index, 1);
        let mut lowest = Lowest::default();
        let indexes = [5.0, 3.0, 5.0, 9.0, 1.0, 7.0, 6.0, 8.0, 4.0, 2.0, 10.0, 3.0];
        (0..).zip(indexes).for_each(|(session, index)| lowest.insert(index, key(session)));
        lowest.insert(0.5, key(9));
        let kept = lowest.keys.map(|(index, key)| (index, key.map(SessionKey::index)));
        let expected = [(1.0, 4), (2.0, 9), (3.0, 1), (3.0, 11), (4.0, 8), (5.0, 0), (5.0, 2), (6.0, 6), (7.0, 5)];
        assert_eq!(kept, expected.map(|(index, key)| (index, Some(key))));
    }

    #[test]
    fn a_session_with_any_index_is_better_than_none() {
        let mut lowest = Lowest::default();
        lowest.insert(f32::INFINITY, SessionKey::new(1, 1));
        lowest.insert(f32::INFINITY, SessionKey::new(2, 1));
        assert_eq!(lowest.keys.map(|(_, key)| key.map(SessionKey::index))[..3], [Some(1), Some(2), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_is_suspended_has_not_left() {
        let (mut stage, shared) = Shared::stage();
        let one = stage.ready();
        pass(5).await;
        let busy = call(&one);
        assert_eq!(stage.victim(), None);
        assert_eq!(shared.policy().counts(), (1, 0));
        drop(busy);
        pass(5).await;
        stage.ready();
        assert_eq!(shared.policy().counts(), (2, 0));
        assert_eq!((stage.victim(), stage.victim()), (Some(1), Some(2)));
        // The last one was not idle for long. It may come back all the same.
        assert_eq!(shared.policy().counts(), (0, 2));
        stage.signals.forget(one.entry.serial);
        stage.ready();
        assert_eq!(shared.policy().counts(), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_that_are_drawn_are_watched() {
        let (mut stage, shared) = Shared::stage();
        stage.ready_many::<3>();
        pass(30).await;
        assert_eq!(stage.victim(), Some(1));
        assert_seen(&shared, 0, Listening::Never, 90.0, 0.0);
        // The first is parked, and watched when a rebuild is due.
        pass(10).await;
        assert_eq!(stage.victim(), Some(2));
        assert_seen(&shared, 0, Listening::Never, 110.0, 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_closes_at_work_is_not_followed() {
        let (mut stage, shared) = Shared::stage();
        let [busy, idle] = stage.ready_many();
        pass(30).await;
        let under_way = call(&busy);
        stage.ready();
        close(&mut stage, &busy);
        assert_eq!(shared.policy().counts(), (2, 0));
        assert_seen(&shared, 0, Listening::Never, 30.0, 1.0);
        close(&mut stage, &idle);
        assert_eq!(shared.policy().counts(), (1, 1));
        assert_seen(&shared, 0, Listening::Never, 60.0, 1.0);
        drop(under_way);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_closes_half_open_is_no_evidence() {
        let (mut stage, shared) = Shared::stage();
        let half_open = stage.opening();
        pass(30).await;
        stage.ready();
        close(&mut stage, &half_open);
        assert_eq!(shared.policy().counts(), (1, 0));
        assert_seen(&shared, 0, Listening::Never, 0.0, 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_restored_session_whose_client_sends_nothing_is_followed() {
        let (mut stage, shared) = Shared::stage();
        let one = stage.ready();
        pass(30).await;
        assert_eq!(stage.victim(), Some(1));
        let back = restore(&mut stage, &one);
        pass(10).await;
        assert_eq!((stage.victim(), shared.policy().counts()), (Some(number_of(&back)), (0, 1)));
        assert_seen(&shared, 0, Listening::Never, 40.0, 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_is_no_idleness() {
        let (mut stage, shared) = Shared::stage();
        let hung: [_; 2] = stage.ready_many();
        let calls = hung.each_ref().map(call);
        pass(700).await;
        assert_eq!(stage.victim(), Some(1), "after ten minutes it may go");
        assert_seen(&shared, 1, Listening::Never, 0.0, 0.0);
        drop(calls);
        pass(20).await;
        assert_eq!(stage.victim(), Some(2));
        assert_seen(&shared, 1, Listening::Never, 20.0, 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rival_evicts_when_the_server_does_and_lets_go_what_ends_otherwise() {
        let (mut stage, shared) = Shared::stage();
        let records = stage.ready_many::<3>();
        pass(5).await;
        assert_eq!(stage.victim(), Some(1));
        // It was evicted here, and the rival evicts one in its turn when the next goes: until then it has all.
        assert_eq!(rival_has(&shared), 3);
        close(&mut stage, &records[1]);
        assert_eq!(rival_has(&shared), 2, "an idle timeout comes under LRU too");
        assert_eq!(stage.victim(), Some(3));
        assert_eq!(rival_has(&shared), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rival_sees_a_use_that_no_return_told_of() {
        let (mut stage, shared) = Shared::stage();
        let used = stage.ready();
        advance(Duration::from_millis(300)).await;
        let other = stage.ready();
        advance(Duration::from_millis(300)).await;
        touch(&used);
        pass(60).await;
        assert_eq!((stage.victim(), stage.victim()), (Some(2), Some(1)));
        assert_eq!([&used, &other].map(|record| has(&shared, record)), [true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rival_keeps_what_is_at_work() {
        let (mut stage, shared) = Shared::stage();
        let busy = stage.ready();
        let under_way = call(&busy);
        pass(60).await;
        let idle = stage.ready();
        assert_eq!((stage.victim(), stage.victim()), (Some(2), None));
        assert_eq!([&busy, &idle].map(|record| has(&shared, record)), [true, false], "though they are of one moment");
        drop(under_way);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_use_of_a_restored_session_is_no_return_for_the_rival() {
        let (mut stage, shared) = Shared::stage();
        let one = stage.ready();
        pass(60).await;
        close(&mut stage, &one);
        let back = restore(&mut stage, &one);
        touch(&back);
        stage.ready();
        assert_eq!(shared.policy().rival.returns(), 0);
        assert_seen(&shared, 0, Listening::Never, 60.0, 1.0);
        pass(5).await;
        touch(&back);
        stage.ready();
        assert_eq!(shared.policy().rival.returns(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_use_of_a_new_session_is_a_return_for_the_rival() {
        let (mut stage, shared) = Shared::stage();
        let one = stage.ready();
        pass(60).await;
        touch(&one);
        stage.ready();
        assert_eq!(shared.policy().rival.returns(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn restores_count_against_what_lru_would_have_kept() {
        let (mut stage, shared) = Shared::stage();
        let [one, two] = stage.ready_many();
        pass(5).await;
        assert_eq!(shared.policy().advantage(), None);
        assert_eq!(stage.victim(), Some(1));
        restore(&mut stage, &one).ready();
        assert_eq!(shared.policy().advantage(), None, "LRU forced none: there is no share of it");
        close(&mut stage, &two);
        restore(&mut stage, &two).ready();
        assert_eq!(shared.policy().advantage(), Some(-1.0), "two, and LRU one");
        // The rival forgets what is forgotten, so it has room for what it would have evicted.
        stage.signals.forget(two.entry.serial);
        stage.ready();
        assert_eq!(rival_has(&shared), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn of_those_that_the_registry_shows_it_picks_the_lowest() {
        let (mut stage, worker, shared) = trained(300).await;
        let dead = stage.ready();
        pass(1).await;
        touch(&worker);
        pass(40).await;
        let later = stage.ready();
        let among = [&worker, &dead, &later].map(|record| SessionInfo::of(record));
        let now = Instant::now();
        // One that learned nothing picks what is least recently used.
        assert_eq!(Prospects::new().pick(&among, now), Some(dead.entry.key));
        assert_eq!(Prospects::new().pick(&[], now), None);
        // One that learned knows that the worker is due, and that a session which never called is not.
        let among = [among[0], among[2]];
        assert_eq!(shared.policy().pick(&among, now), Some(later.entry.key));
    }

    #[tokio::test(start_paused = true)]
    async fn it_picks_the_least_recently_used_while_the_rival_is_better() {
        let (mut stage, worker, shared) = trained(300).await;
        touch(&worker);
        pass(40).await;
        let later = stage.ready();
        let among = [&later, &worker].map(|record| SessionInfo::of(record));
        let mut policy = shared.policy();
        assert_eq!(policy.pick(&among, Instant::now()), Some(later.entry.key));
        policy.rival.follow_lru();
        assert_eq!(policy.pick(&among, Instant::now()), Some(worker.entry.key));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_lost_after_half_a_minute() {
        let lost = Instant::now();
        assert_eq!(listening(Stream::Never, lost), Listening::Never);
        assert_eq!(listening(Stream::Open, lost), Listening::Open);
        pass(30).await;
        let now = Instant::now();
        assert_eq!(listening(Stream::Lost(lost), now - Duration::from_millis(1)), Listening::Open);
        assert_eq!(listening(Stream::Lost(lost), now), Listening::Lost);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_known_by_its_name_calls_last_gap_and_stream() {
        let (mut stage, _) = Shared::stage();
        let record = stage.ready();
        record.software.get_or_init(|| Software::new("agent", "1"));
        touch(&record);
        pass(7).await;
        touch(&record);
        record.stream_opened();
        let facts = facts(&SessionInfo::of(&record), Instant::now());
        let gap = Some(Duration::from_secs(7));
        assert_eq!(
            (facts.client_name, facts.calls, facts.last_gap, facts.listening),
            (Some("agent"), 2, gap, Listening::Open)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_return_counts_for_the_class_before_it() {
        let (mut stage, shared) = Shared::stage();
        let record = stage.ready();
        record.stream_opened();
        pass(7).await;
        touch(&record);
        drop(begin(&record, ActivityKind::List));
        record.stream_closed(Instant::now());
        stage.ready();
        assert_seen(&shared, 0, Listening::Open, 7.0, 1.0);
        // After that the stream is lost, for long enough.
        pass(31).await;
        touch(&record);
        stage.ready();
        assert_seen(&shared, 1, Listening::Lost, 31.0, 1.0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_moments_of_a_choice_and_of_an_arrival_are_what_it_knows_of_the_time() {
        let (mut stage, shared) = Shared::stage();
        let [one, two] = stage.ready_many();
        pass(30).await;
        close(&mut stage, &one);
        // Nothing told it how late it is.
        assert_seen(&shared, 0, Listening::Never, 0.0, 0.0);
        assert_eq!(stage.victim(), Some(2));
        stage.signals.forget(one.entry.serial);
        stage.ready();
        assert_seen(&shared, 0, Listening::Never, 60.0, 0.0);
        pass(30).await;
        stage.ready();
        stage.signals.forget(two.entry.serial);
        stage.ready();
        assert_seen(&shared, 0, Listening::Never, 90.0, 0.0);
    }
}
