// From the lead, for step 5: use it, change it, or delete it. Not compiled yet.
//! [`Shadow`]: what LRU would have done, for one session in eight.

use hashlink::LinkedHashMap;

use crate::session::SessionOrigin;

/// One session in this number is watched.
const SHARE: u64 = 8;

/// Returns that the comparison remembers, on average: 10,000 of all sessions.
const WINDOW: f64 = 10_000.0 / SHARE as f64;

/// By how much more restores a policy may force than LRU, before LRU is followed.
const TOLERANCE: f64 = 1.03;

/// The number of standard deviations by which it must be worse.
const DEVIATIONS: f64 = 3.0;

/// Keeps the sessions that LRU would keep, one session in eight, and compares which returns force a restore.
///
/// Such a simulation of a sample with as small a share of the places has the miss ratio of the whole, within a few per cent
/// (Waldspurger, Saemundson, Ahmad, Park: "Cache Modeling and Optimization using Miniature Simulations", ATC 2017). Only
/// returns and arrivals matter: uses within a second of each other change no order that a restore could tell.
///
/// Memory: an entry for one session in eight of those that have a place. Cost: O(1) per event of a watched session.
#[derive(Clone, Debug, Default)]
pub(super) struct Shadow {
    /// The sessions that LRU would keep, the least recently used first.
    kept: LinkedHashMap<SessionOrigin, ()>,
    /// Decaying counts of the returns that forced a restore, of the policy and of LRU.
    own: f64,
    lru: f64,
    /// Those that forced one of the two alone.
    own_alone: f64,
    lru_alone: f64,
}

impl Shadow {
    /// Whether a session is watched. By a hash, since origins are given in turn.
    fn watches(session: SessionOrigin) -> bool {
        use std::hash::BuildHasher;
        foldhash::fast::FixedState::default().hash_one(session) % SHARE == 0
    }

    /// Notes that a session came. `places` is the number of sessions that have one.
    pub(super) fn came(&mut self, session: SessionOrigin, places: usize) {
        if Self::watches(session) {
            self.keep(session, places);
        }
    }

    /// Notes that a session was used again. `restored` says that it had lost its place under the policy.
    pub(super) fn returned(&mut self, session: SessionOrigin, restored: bool, places: usize) {
        if !Self::watches(session) {
            return;
        }
        let kept = self.kept.contains_key(&session);
        for count in [&mut self.own, &mut self.lru, &mut self.own_alone, &mut self.lru_alone] {
            *count *= 1.0 - 1.0 / WINDOW;
        }
        self.own += f64::from(restored);
        self.lru += f64::from(!kept);
        self.own_alone += f64::from(restored && kept);
        self.lru_alone += f64::from(!restored && !kept);
        self.keep(session, places);
    }

    /// Notes that a session will not come back.
    pub(super) fn gone(&mut self, session: SessionOrigin) {
        self.kept.remove(&session);
    }

    fn keep(&mut self, session: SessionOrigin, places: usize) {
        self.kept.insert(session, ());
        while self.kept.len() as u64 > (places as u64).div_ceil(SHARE) {
            self.kept.pop_front();
        }
    }

    /// The share of LRU's restores that the policy spares; less than zero if it forces more. `None` before LRU would have
    /// forced any.
    pub(super) fn advantage(&self) -> Option<f64> {
        (self.lru >= 1.0).then(|| 1.0 - self.own / self.lru)
    }

    /// Whether the policy has been worse than LRU by more than 3 % and by more than chance.
    ///
    /// The two see the same returns, so what differs are those that forced one of them alone; their number has the variance
    /// of its sum (McNemar's test).
    pub(super) fn is_worse(&self) -> bool {
        let more = self.own_alone - self.lru_alone;
        self.own > TOLERANCE * self.lru && more > DEVIATIONS * (self.own_alone + self.lru_alone).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched() -> impl Iterator<Item = SessionOrigin> {
        std::iter::repeat_with(SessionOrigin::allocate).filter(|session| Shadow::watches(*session))
    }

    #[test]
    fn one_session_in_eight_is_watched() {
        let count = (0..80_000).filter(|_| Shadow::watches(SessionOrigin::allocate())).count();
        assert!((9_500..10_500).contains(&count), "{count}");
    }

    #[test]
    fn it_keeps_what_lru_keeps_in_an_eighth_of_the_places() {
        let mut shadow = Shadow::default();
        let sessions: Vec<_> = watched().take(4).collect();
        sessions[..3].iter().for_each(|session| shadow.came(*session, 24));
        shadow.returned(sessions[0], false, 24);
        shadow.came(sessions[3], 24);
        assert_eq!(shadow.kept.keys().copied().collect::<Vec<_>>(), [sessions[2], sessions[0], sessions[3]]);
        shadow.gone(sessions[0]);
        assert_eq!(shadow.kept.len(), 2);
        shadow.came(sessions[1], 1);
        assert_eq!(shadow.kept.len(), 1, "fewer places");
    }

    #[test]
    fn a_session_that_is_not_watched_changes_nothing() {
        let mut shadow = Shadow::default();
        let other = std::iter::repeat_with(SessionOrigin::allocate).find(|session| !Shadow::watches(*session)).unwrap();
        shadow.came(other, 80);
        shadow.returned(other, true, 80);
        assert_eq!((shadow.kept.len(), shadow.advantage()), (0, None));
    }

    /// A policy that forces `own` of 100 returns to be restores beside an LRU that forces `lru` of them, others each.
    fn after(own: u32, lru: u32, hundreds: u32) -> Shadow {
        let mut shadow = Shadow::default();
        let mut sessions = watched();
        let (kept, lost) = (sessions.next().unwrap(), sessions.next().unwrap());
        for nth in 0..100 * hundreds {
            shadow.came(kept, 8);
            let session = if nth % 100 < lru { lost } else { kept };
            shadow.returned(session, nth % 100 >= 100 - own, 8);
        }
        shadow
    }

    #[test]
    fn the_advantage_is_the_share_of_restores_that_is_spared() {
        assert_eq!(Shadow::default().advantage(), None);
        let advantage = after(10, 40, 50).advantage().unwrap();
        assert!((advantage - 0.75).abs() < 0.03, "{advantage}");
    }

    #[test]
    fn it_is_worse_only_by_more_than_chance_and_more_than_three_per_cent() {
        assert!(!after(10, 40, 50).is_worse());
        assert!(!after(42, 40, 50).is_worse(), "that may be chance");
        assert!(after(60, 30, 50).is_worse());
    }

    #[test]
    fn what_was_long_ago_counts_no_more() {
        let mut shadow = after(60, 30, 50);
        assert!(shadow.is_worse());
        let session = watched().next().unwrap();
        for _ in 0..20_000 {
            shadow.returned(session, false, 8);
        }
        assert!(!shadow.is_worse());
    }
}
