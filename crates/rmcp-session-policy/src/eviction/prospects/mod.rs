//! [`Prospects`]: a learned policy. The session goes that is least likely to be worth its place.

mod ages;
mod class;
mod client_names;
mod index;
mod known;
mod learner;
mod rebuild;
mod tables;

use std::time::Duration;

use tokio::time::Instant;

use self::class::Listening;
use self::known::Tick;
use self::learner::{Facts, Learner};
use super::{Candidates, EvictionPolicy, IdlePeriod, Lru, SessionInfo};
use crate::session::{Phase, SessionKey, SessionOrigin, Stream};

/// How many sessions are drawn for a choice.
const SAMPLE: usize = 32;
/// How many sessions are kept from one choice to the next.
const RUNNERS_UP: usize = 8;
/// How long a stream must be lost to count as lost.
const STREAM_LOST: Duration = Duration::from_secs(30);
/// How many parked sessions are followed.
const MOST_PARKED: usize = 1 << 20;

/// TODO docs
#[derive(Debug)]
pub struct Prospects {
    learner: Learner,
    lru: Lru,
    /// The sessions with the lowest indexes that were seen at the last choice, without the one that went.
    runners_up: Vec<SessionKey>,
    /// The moment from which ticks are counted, once there is a session.
    start: Option<Instant>,
    /// The latest moment that is known.
    now: Tick,
}

impl Default for Prospects {
    fn default() -> Self {
        Self::new()
    }
}

impl Prospects {
    /// Creates the policy.
    #[must_use]
    pub fn new() -> Self {
        Self {
            learner: Learner::new(MOST_PARKED),
            lru: Lru::new(),
            runners_up: Vec::with_capacity(RUNNERS_UP),
            start: None,
            now: Tick::default(),
        }
    }

    fn tick(&mut self, moment: Instant) -> Tick {
        let start = *self.start.get_or_insert(moment);
        Tick((moment.saturating_duration_since(start).as_millis() / 100) as u32)
    }
}

fn listening(stream: Stream, now: Instant) -> Listening {
    match stream {
        Stream::Never => Listening::Never,
        Stream::Lost(since) if now.saturating_duration_since(since) >= STREAM_LOST => Listening::Lost,
        Stream::Open | Stream::Lost(_) => Listening::Open,
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

impl EvictionPolicy for Prospects {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        let now = self.tick(session.created());
        self.now = self.now.max(now);
        self.lru.on_insert(session);
        if session.opened() == session.created() {
            self.learner.open(session.key(), now);
        } else {
            let since = self.tick(session.last_used());
            self.learner.restore(session.key(), session.origin().number() as u32, since);
        }
        self.learner.work(self.now);
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        self.lru.on_remove(session);
        self.runners_up.retain(|key| *key != session.key());
        if session.in_flight() == 0 && session.phase() != Phase::Opening {
            let last_used = session.last_used();
            let since = self.tick(last_used);
            // The moment is not known, but not before the last one that is.
            let moment = self.start.map_or(last_used, |start| start + Duration::from_millis(100 * u64::from(self.now.0)));
            let facts = facts(session, moment.max(last_used));
            self.learner.leave(session.key(), session.origin().number() as u32, &facts, since, self.now);
        }
    }

    fn on_suspend(&mut self, session: &SessionInfo<'_>) {
        self.lru.on_remove(session);
        self.runners_up.retain(|key| *key != session.key());
    }

    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        self.lru.on_insert(session);
    }

    fn tracks_returns(&self) -> bool {
        true
    }

    fn on_return(&mut self, session: &SessionInfo<'_>, idle: &IdlePeriod) {
        let facts = Facts {
            client_name: session.client_name(),
            calls: idle.calls,
            last_gap: idle.last_gap,
            listening: listening(idle.stream, session.last_used()),
        };
        self.learner.come_back(session.key(), &facts, idle.lasted.as_secs_f64());
    }

    fn on_forgotten(&mut self, session: SessionOrigin) {
        self.learner.forget(session.number() as u32, self.now);
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        let now = candidates.now();
        let tick = self.tick(now);
        self.now = self.now.max(tick);
        let oldest = self.lru.victim(candidates);
        let mut best: [(f32, Option<SessionKey>); RUNNERS_UP + 1] = [(f32::INFINITY, None); RUNNERS_UP + 1];
        let kept = std::mem::take(&mut self.runners_up);
        let kept_sessions = kept.iter().copied().chain(oldest).filter_map(|key| candidates.get(key)).filter(|session| session.in_flight() == 0);
        for session in kept_sessions.chain(candidates.sample(SAMPLE)) {
            let class = self.learner.class(&facts(&session, now));
            let last_used = session.last_used();
            let since = self.tick(last_used);
            self.learner.watch(session.key(), class, since, tick);
            let index = self.learner.index(class, now.saturating_duration_since(last_used).as_secs_f64());
            let place = best.partition_point(|(lower, _)| *lower <= index);
            if place <= RUNNERS_UP && !best.iter().any(|(_, key)| *key == Some(session.key())) {
                best[place..].rotate_right(1);
                best[place] = (index, Some(session.key()));
            }
        }
        self.runners_up = kept;
        self.runners_up.clear();
        self.runners_up.extend(best[1..].iter().filter_map(|(_, key)| *key));
        best[0].1.or(oldest)
    }
}
