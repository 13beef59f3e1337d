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

/// What tests see of a rival.
#[cfg(test)]
impl Rival {
    /// How many sessions it has.
    pub(super) fn len(&self) -> usize {
        self.seats.len()
    }

    /// Whether it has a session.
    pub(super) fn has(&self, session: u32) -> bool {
        self.seats.contains_key(&session)
    }

    /// How many returns it heard of since it judged last.
    pub(super) fn returns(&self) -> u32 {
        self.returns
    }

    /// Makes a rival that is better.
    pub(super) fn follow_lru(&mut self) {
        self.follows_lru = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(session: u32) -> SessionKey {
        SessionKey::new(session, 1)
    }

    /// Opens sessions from 0 on, one each tick.
    fn open(rival: &mut Rival, count: u32) {
        (0..count).for_each(|session| rival.open(session, key(session), Tick(session)));
    }

    const fn idle(_: SessionKey) -> Option<Tick> {
        None
    }

    fn here(rival: &Rival) -> Vec<u32> {
        let mut here: Vec<_> = rival.seats.keys().copied().collect();
        here.sort_unstable();
        here
    }

    #[test]
    fn the_least_recently_used_go_until_there_are_as_many_as_on_the_server() {
        let mut rival = Rival::default();
        open(&mut rival, 6);
        rival.come_back(0, key(0), Tick(10));
        rival.forget(1);
        rival.evict(3, idle);
        assert_eq!(here(&rival), [0, 4, 5]);
    }

    #[test]
    fn a_session_that_was_used_since_stays() {
        let mut rival = Rival::default();
        open(&mut rival, 4);
        rival.evict(2, |session| match session.index() {
            0 => Some(Tick(20)),
            1 => Some(Tick(30)),
            2 => Some(Tick(2)),
            _ => None,
        });
        assert_eq!(here(&rival), [0, 1], "not what is least recently told of");
    }

    #[test]
    fn a_session_that_was_used_since_goes_in_its_turn() {
        let mut rival = Rival::default();
        open(&mut rival, 3);
        rival.evict(2, |session| (session.index() == 0).then_some(Tick(10)));
        rival.come_back(2, key(2), Tick(20));
        rival.evict(1, idle);
        assert_eq!(here(&rival), [2]);
    }

    #[test]
    fn the_moment_of_a_later_incarnation_counts() {
        let mut rival = Rival::default();
        open(&mut rival, 2);
        rival.restore(0, key(7), Tick(5));
        rival.restore(1, key(8), Tick(6));
        rival.evict(1, |session| (session == key(7)).then_some(Tick(9)));
        assert_eq!(here(&rival), [0]);
    }

    #[test]
    fn what_is_too_many_for_one_time_goes_the_next_times() {
        let mut rival = Rival::default();
        open(&mut rival, 200);
        let left = [(); 4].map(|()| {
            rival.evict(10, idle);
            rival.len()
        });
        assert_eq!(left, [136, 72, 10, 10]);
        assert_eq!(here(&rival), (190..200).collect::<Vec<_>>());
    }

    #[test]
    fn restores_of_both_and_of_one_are_told_apart() {
        let mut rival = Rival::default();
        open(&mut rival, 4);
        rival.evict(2, idle);
        rival.restore(0, key(0), Tick(10)); // neither order kept it
        rival.restore(3, key(3), Tick(11)); // LRU kept it
        rival.come_back(1, key(1), Tick(12)); // LRU did not
        rival.come_back(2, key(2), Tick(13)); // both kept it
        let Score { both, only_here, only_lru } = rival.score;
        assert_eq!((both, only_here, only_lru), (1.0, 1.0, 1.0));
        assert_eq!(here(&rival), [0, 1, 2, 3]);
        rival.come_back(5, key(5), Tick(14));
        assert_eq!(rival.advantage(), Some(1.0 - 2.0 / 3.0));
    }

    #[test]
    fn without_a_restore_nothing_is_known() {
        let mut rival = Rival::default();
        open(&mut rival, 4);
        rival.evict(2, idle);
        rival.come_back(1, key(1), Tick(12));
        assert_eq!(rival.advantage(), None);
        rival.score = Score { both: 0.0, only_here: 1_000.0, only_lru: 0.0 };
        (0..RETURNS).for_each(|_| rival.come_back(1, key(1), Tick(13)));
        assert!(!rival.follows_lru());
    }

    #[test]
    fn of_no_restores_there_is_no_share() {
        let mut rival = Rival::default();
        open(&mut rival, 1);
        rival.restore(0, key(0), Tick(5));
        assert_eq!((rival.score.here(), rival.advantage()), (1.0, None));
        rival.forget(0);
        rival.restore(0, key(0), Tick(6));
        assert_eq!(rival.advantage(), Some(-1.0), "two, and LRU one");
    }

    #[test]
    fn worse_is_by_more_than_3_percent_and_3_deviations() {
        let score = |both, only_here, only_lru| Score { both, only_here, only_lru };
        assert!(score(0.0, 10.0, 0.0).is_worse(), "10 is more than 3 times its root");
        assert!(!score(0.0, 9.0, 0.0).is_worse(), "9 is exactly that");
        assert!(!score(0.0, 0.0, 0.0).is_worse());
        assert!(score(0.0, 136.0, 90.0).is_worse(), "46 of 226");
        assert!(!score(0.0, 135.0, 91.0).is_worse(), "44 of 226");
        assert!(!score(1_000.0, 29.0, 0.0).is_worse(), "by less than 3 %");
        assert!(!score(1_000.0, 30.0, 0.0).is_worse(), "by exactly that");
        assert!(score(1_000.0, 31.0, 0.0).is_worse());
        assert!(!score(0.0, 0.0, 50.0).is_worse());
    }

    #[test]
    fn lru_is_followed_until_the_case_is_forgotten() {
        let mut rival = Rival::default();
        rival.restore(1, key(1), Tick(0));
        rival.score = Score { both: 100.0, only_here: 80.0, only_lru: 0.0 };
        let mut follows = Vec::new();
        for _ in 0..6 {
            (0..RETURNS - 1).for_each(|_| rival.come_back(1, key(1), Tick(1)));
            let before = rival.follows_lru();
            rival.come_back(1, key(1), Tick(1));
            follows.push((before, rival.follows_lru()));
        }
        let (yes, no) = (true, false);
        assert_eq!(follows, [(no, yes), (yes, yes), (yes, yes), (yes, yes), (yes, no), (no, no)], "80, 40, 20, 10, 5");
    }

    #[test]
    fn all_restores_of_the_past_count_half() {
        let mut rival = Rival::default();
        rival.restore(1, key(1), Tick(0));
        rival.score = Score { both: 8.0, only_here: 6.0, only_lru: 4.0 };
        (0..RETURNS).for_each(|_| rival.come_back(1, key(1), Tick(1)));
        let Score { both, only_here, only_lru } = rival.score;
        assert_eq!((both, only_here, only_lru, rival.returns()), (4.0, 3.0, 2.0, 0));
    }

    #[test]
    fn of_many_sessions_one_in_eight_is_kept() {
        let mut rival = Rival::default();
        open(&mut rival, 2_048);
        assert_eq!((rival.len(), rival.is_sample), (2_048, false));
        (2_048..8_000).for_each(|session| rival.open(session, key(session), Tick(session)));
        assert_eq!((rival.len(), rival.is_sample), (1_000, true));
        (0..20).for_each(|_| rival.evict(807, idle));
        assert_eq!(rival.len(), 100, "an eighth of those on the server");
        assert!(here(&rival).into_iter().all(|session| session >= 7_200));

        let (inside, outside) = (here(&rival)[0], (7_200..).find(|session| !is_sampled(*session)).unwrap());
        rival.restore(outside, key(outside), Tick(9_000));
        rival.come_back(outside, key(outside), Tick(9_001));
        assert_eq!((rival.score.here(), rival.score.lru(), rival.len()), (0.0, 0.0, 100), "it is not in the sample");
        assert_eq!(rival.returns(), 1, "all returns make time pass");
        rival.restore(inside, key(inside), Tick(9_002));
        assert_eq!(rival.score.here(), 1.0);
    }

    #[test]
    fn of_eight_that_came_one_after_another_one_is_in_the_sample_whichever() {
        let sample: Vec<u32> = (0..80_000).filter(|session| is_sampled(*session)).collect();
        let eights: Vec<u32> = sample.iter().map(|session| session / 8).collect();
        assert_eq!(eights, (0..10_000).collect::<Vec<_>>());
        for place in 0..8 {
            let there = sample.iter().filter(|session| *session % 8 == place).count();
            assert!((1_200..1_300).contains(&there), "{there} of 10,000 are at {place}");
        }
    }

    #[test]
    fn stale_entries_are_bounded() {
        let mut rival = Rival::default();
        open(&mut rival, 10);
        let lengths = (10..9_000).map(|tick| {
            rival.come_back(tick % 10, key(tick % 10), Tick(tick));
            rival.order.len()
        });
        assert_eq!(lengths.max(), Some(85), "twice as many as sessions, and 65");
        rival.evict(3, idle);
        assert_eq!(here(&rival), [7, 8, 9], "the order is as it was");
    }
}
