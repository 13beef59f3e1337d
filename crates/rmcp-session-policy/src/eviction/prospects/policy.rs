//! The policy: what it is told goes to the learner, and the session with the lowest index of a sample goes.

use std::time::Duration;

use tokio::time::Instant;

use super::class::Listening;
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
        for session in known.chain(candidates.sample(SAMPLE)) {
            let class = self.learner.class(&facts(&session, now));
            let last_used = session.last_used();
            self.learner.watch(session.key(), class, self.clock.tick(last_used), tick);
            let age = now.saturating_duration_since(last_used).as_secs_f64();
            lowest.insert(self.learner.index(class, age), session.key());
        }
        self.runners_up = kept;
        self.runners_up.clear();
        self.runners_up.extend(lowest.keys.iter().skip(1).map_while(|(_, key)| *key));
        lowest.keys[0].1
    }
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
        if session.opened() == session.created() {
            self.learner.open(key, now);
            self.rival.open(number, key, now);
        } else {
            self.learner.restore(key, number, self.clock.tick(session.last_used()));
            self.rival.restore(number, key, now);
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
        if session.in_flight() == 0 && session.phase() != Phase::Opening {
            let (since, tick) = (self.clock.tick(last_used), self.clock.tick(now));
            self.learner.leave(session.key(), number, &facts(session, now), since, tick);
        }
    }

    fn on_suspend(&mut self, session: &SessionInfo<'_>) {
        self.take_out(session);
    }

    fn pick(&mut self, among: &[SessionInfo<'_>], now: Instant) -> Option<SessionKey> {
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

    fn advantage(&self) -> Option<f64> {
        self.rival.advantage()
    }
}
