//! [`Rival`]: what the least recently used order would have done, on a sample of the sessions.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::ticks::Tick;
use crate::session::SessionKey;

/// While the rival has no more sessions than this, it has all; then one in eight.
const ALL_UP_TO: usize = 2_048;
/// One session in this number is in the sample of a server with many.
const SAMPLED: u32 = 8;
/// How many returns are looked at before it is judged anew which order is worse.
const RETURNS: u32 = 10_000;
/// How many times as many restores as those of LRU are still no reason to follow LRU.
const TOLERATED: f64 = 1.03;
/// How many standard deviations the difference must have.
const DEVIATIONS: f64 = 3.0;

/// The restores that one order forced and the other would not have forced, and those that both did.
#[derive(Clone, Copy, Debug, Default)]
struct Score {
    both: f64,
    only_here: f64,
    only_lru: f64,
}

impl Score {
    fn here(self) -> f64 {
        self.both + self.only_here
    }

    fn lru(self) -> f64 {
        self.both + self.only_lru
    }

    /// Whether the order here is worse by more than is tolerated and by more than chance explains.
    ///
    /// What both forced says nothing of the difference, and each of the others moves it by one (McNemar 1947), so its variance
    /// is their number.
    fn is_worse(self) -> bool {
        let (difference, variance) = (self.only_here - self.only_lru, self.only_here + self.only_lru);
        self.here() > TOLERATED * self.lru() && difference > DEVIATIONS * variance.sqrt()
    }
}

/// A session that the least recently used order would have kept.
#[derive(Clone, Copy, Debug)]
struct Seat {
    used: Tick,
    /// Its last incarnation, which may have been evicted here.
    key: SessionKey,
}

/// The sessions that would be live if the least recently used one had gone each time, and how it would have done.
///
/// It has as many sessions as the server, or as its share of the sample, and evicts whenever the server does. It hears of
/// sessions that come, come back and are forgotten; that they were used within a second, or are at work, it sees when they are
/// about to go. So it costs nothing per request.
#[derive(Clone, Debug, Default)]
pub(super) struct Rival {
    seats: HashMap<u32, Seat, foldhash::fast::RandomState>,
    /// Least recently used first. An entry counts if its session's seat has the same moment.
    order: BinaryHeap<Reverse<(Tick, u32)>>,
    /// Whether only a sample is in.
    is_sample: bool,
    score: Score,
    returns: u32,
    follows_lru: bool,
    /// Whether any session was restored: without parking the rival cannot know what it would have been worth.
    has_restored: bool,
}

/// How many entries are looked at for one victim at most. What is left is caught up at the next ones.
const LOOKS: usize = 64;

impl Rival {
    fn counts(&self, session: u32) -> bool {
        !self.is_sample || is_sampled(session)
    }

    fn put(&mut self, session: u32, key: SessionKey, used: Tick) {
        self.seats.insert(session, Seat { used, key });
        if self.order.len() > 2 * self.seats.len() + 64 {
            self.order.clear();
            self.order.extend(self.seats.iter().map(|(session, seat)| Reverse((seat.used, *session))));
        } else {
            self.order.push(Reverse((used, session)));
        }
        if !self.is_sample && self.seats.len() > ALL_UP_TO {
            self.is_sample = true;
            self.seats.retain(|session, _| is_sampled(*session));
        }
    }

    /// Hears of a session that is opened.
    pub(super) fn open(&mut self, session: u32, key: SessionKey, now: Tick) {
        if self.counts(session) {
            self.put(session, key, now);
        }
    }

    /// Hears of a session that is restored, because it was evicted here.
    pub(super) fn restore(&mut self, session: u32, key: SessionKey, now: Tick) {
        self.has_restored = true;
        if self.counts(session) {
            let is_kept = self.seats.contains_key(&session);
            let restores = if is_kept { &mut self.score.only_here } else { &mut self.score.both };
            *restores += 1.0;
            self.put(session, key, now);
        }
    }

    /// Hears of a live session that was used after it was idle.
    pub(super) fn come_back(&mut self, session: u32, key: SessionKey, used: Tick) {
        self.judge();
        if self.counts(session) {
            if !self.seats.contains_key(&session) {
                self.score.only_lru += 1.0;
            }
            self.put(session, key, used);
        }
    }

    /// Hears of a session that will not come back.
    pub(super) fn forget(&mut self, session: u32) {
        self.seats.remove(&session);
    }

    /// Evicts until there are as many as on the server, which is full and has `live` sessions.
    ///
    /// `last_used` tells when a live session was used last, which for one at work is now. `None` if it is not live.
    pub(super) fn evict(&mut self, live: usize, last_used: impl Fn(SessionKey) -> Option<Tick>) {
        let limit = if self.is_sample { live / SAMPLED as usize } else { live };
        for _ in 0..LOOKS {
            if self.seats.len() <= limit {
                return;
            }
            let Some(Reverse((used, session))) = self.order.pop() else { return };
            let Some(seat) = self.seats.get_mut(&session).filter(|seat| seat.used == used) else { continue };
            match last_used(seat.key) {
                Some(later) if later > used => {
                    seat.used = later;
                    self.order.push(Reverse((later, session)));
                }
                _ => {
                    self.seats.remove(&session);
                }
            }
        }
    }

    /// Counts a return, and after some of them judges which order is worse. What was before counts half then, so the server
    /// follows LRU the longer, the clearer the case was, and tries again after that.
    fn judge(&mut self) {
        self.returns += 1;
        if self.returns < RETURNS {
            return;
        }
        self.returns = 0;
        self.follows_lru = self.has_restored && self.score.is_worse();
        let Score { both, only_here, only_lru } = &mut self.score;
        [both, only_here, only_lru].into_iter().for_each(|restores| *restores /= 2.0);
    }

    /// Whether LRU is to be followed, because it is better at present.
    pub(super) fn follows_lru(&self) -> bool {
        self.follows_lru
    }

    /// The share of LRU's restores that were avoided lately; negative if there were more. `None` if nothing is known.
    pub(super) fn advantage(&self) -> Option<f64> {
        let known = self.has_restored && self.score.lru() > 0.0;
        known.then(|| 1.0 - self.score.here() / self.score.lru())
    }
}

/// Whether a session is in the sample. Of eight that came one after another one is, at a place that differs from eight to eight.
const fn is_sampled(session: u32) -> bool {
    let place = (session / SAMPLED).wrapping_mul(0x9E37_79B9) >> 29;
    session % SAMPLED == place
}
