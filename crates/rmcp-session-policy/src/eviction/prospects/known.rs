//! [`Live`] and [`Parked`]: up to which moment each session was watched.

use hashbrown::HashTable;

use super::class::Class;
use super::ticks::Tick;
use crate::session::SessionKey;

/// A period in which a session was not used, and how much of it is in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Idle {
    /// When it began.
    pub(super) since: Tick,
    /// Up to which moment it was watched.
    pub(super) watched: Tick,
}

impl Idle {
    /// A period that begins now.
    pub(super) const fn begin(now: Tick) -> Self {
        Self { since: now, watched: now }
    }

    /// A period of which it is not known how much is in the tables. No more of it is watched.
    pub(super) const fn unknown(since: Tick) -> Self {
        Self { since, watched: Tick(u32::MAX) }
    }

    pub(super) fn is_unknown(self) -> bool {
        self.watched == Tick(u32::MAX)
    }

    /// The idle age up to which it was watched, in seconds.
    pub(super) fn age(self) -> f64 {
        self.watched.since(self.since)
    }
}

/// The idle periods of the live sessions: 12 bytes for each place.
#[derive(Clone, Debug, Default)]
pub(super) struct Live {
    /// By the index of the session's key, with its generation.
    seats: Vec<(u32, Idle)>,
}

impl Live {
    /// Puts a session in, for an earlier one with the same index.
    pub(super) fn insert(&mut self, key: SessionKey, idle: Idle) {
        let index = key.index();
        if self.seats.len() <= index {
            if self.seats.capacity() <= index {
                // By a quarter, not by as much again: no server needs a seat more than it has places.
                self.seats.reserve_exact(index + 1 - self.seats.len() + self.seats.len() / 4);
            }
            self.seats.resize(index + 1, (0, Idle::unknown(Tick(0))));
        }
        self.seats[index] = (key.generation(), idle);
    }

    /// Reads the seats of sessions, so that they are in the cache afterwards: the waits for them go on side by side.
    pub(super) fn bring_into_cache(&self, keys: impl Iterator<Item = SessionKey>) {
        let generation = |key: SessionKey| self.seats.get(key.index()).map_or(0, |seat| seat.0);
        std::hint::black_box(keys.fold(0, |sum, key| sum ^ generation(key)));
    }

    /// The idle period of a session that was put in. Constant time.
    pub(super) fn get(&mut self, key: SessionKey) -> Option<&mut Idle> {
        self.seats.get_mut(key.index()).filter(|seat| seat.0 == key.generation()).map(|seat| &mut seat.1)
    }
}

/// A session that was removed and may come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Away {
    /// The name of the session, by which it is found when it comes back.
    pub(super) session: u32,
    pub(super) idle: Idle,
    /// Its class when it was removed.
    pub(super) class: Class,
}

/// How many tables find a session by its name. When one of them grows, few entries move at one time.
const SHARDS: usize = 256;

/// The sessions that were removed and may come back: 16 bytes for each, and 6 to 11 to find it.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    /// In no order.
    entries: Vec<Away>,
    /// The place of each in `entries`.
    places: Vec<HashTable<u32>>,
    limit: usize,
    /// From here down to the first, the entries have not been visited in this round.
    next: usize,
}

impl Parked {
    /// Makes room for this many sessions, and for none beyond.
    pub(super) fn new(limit: usize) -> Self {
        Self { entries: Vec::new(), places: (0..SHARDS).map(|_| HashTable::new()).collect(), limit, next: 0 }
    }

    /// Spreads names, which are numbers in order, over high and low bits: the names of a shard end alike.
    fn hash(session: u32) -> u64 {
        let product = u64::from(session).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        product ^ (product >> 32)
    }

    fn shard(session: u32) -> usize {
        session as usize % SHARDS
    }

    /// Puts a session in, unless there is no more room.
    pub(super) fn insert(&mut self, away: Away) {
        self.remove(away.session);
        if self.entries.len() >= self.limit {
            return;
        }
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(4 + self.entries.len() / 4);
        }
        let Self { entries, places, .. } = self;
        let place = entries.len() as u32;
        entries.push(away);
        let hash = |place: &u32| Self::hash(entries[*place as usize].session);
        places[Self::shard(away.session)].insert_unique(Self::hash(away.session), place, hash);
    }

    /// Takes a session out.
    pub(super) fn remove(&mut self, session: u32) -> Option<Away> {
        let Self { entries, places, .. } = self;
        let found = places[Self::shard(session)]
            .find_entry(Self::hash(session), |place| entries[*place as usize].session == session)
            .ok()?;
        let (place, _) = found.remove();
        let away = entries.swap_remove(place as usize);
        if let Some(moved) = entries.get(place as usize) {
            let from = entries.len() as u32;
            let entry = places[Self::shard(moved.session)].find_mut(Self::hash(moved.session), |other| *other == from);
            if let Some(entry) = entry {
                *entry = place;
            }
        }
        Some(away)
    }

    /// Begins a round: each session that is in is visited once, unless it is taken out.
    pub(super) fn begin_round(&mut self) {
        self.next = self.entries.len();
    }

    /// Visits the next session of the round; it is taken out if `keep` returns false. Returns false at the end.
    ///
    /// The round goes from the last to the first, so an entry that moves to the place of one taken out has been visited, or
    /// is visited twice.
    pub(super) fn visit(&mut self, keep: impl FnOnce(&mut Away) -> bool) -> bool {
        self.next = self.next.min(self.entries.len());
        let Some(next) = self.next.checked_sub(1) else { return false };
        self.next = next;
        if !keep(&mut self.entries[next]) {
            self.remove(self.entries[next].session);
        }
        true
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::class::Listening;
    use super::*;

    fn away(session: u32, since: u32) -> Away {
        Away { session, idle: Idle::begin(Tick(since)), class: Class::new(0, 0, None, Listening::Never) }
    }

    #[test]
    fn a_seat_is_of_one_incarnation() {
        let mut live = Live::default();
        let [old, new] = [1, 2].map(|generation| SessionKey::new(5, generation));
        live.insert(old, Idle::begin(Tick(7)));
        assert_eq!(live.get(old).copied(), Some(Idle::begin(Tick(7))));
        let unknown = Idle::unknown(Tick(3));
        live.insert(new, unknown);
        assert_eq!(live.get(old), None);
        assert_eq!(live.get(new).copied(), Some(unknown));
        assert_eq!(live.get(SessionKey::new(9, 1)), None);
        assert!(unknown.is_unknown() && unknown.age() > 4e8, "more than was ever waited for");
        assert_eq!(size_of::<(u32, Idle)>(), 12);
    }

    #[test]
    fn an_entry_takes_16_bytes() {
        assert_eq!(size_of::<Away>(), 16);
    }

    #[test]
    fn no_more_than_the_limit_are_kept() {
        let mut parked = Parked::new(3);
        (0..10).for_each(|session| parked.insert(away(session, 0)));
        parked.insert(away(1, 5));
        assert_eq!(parked.len(), 3);
        assert_eq!(parked.remove(1), Some(away(1, 5)), "it had a place already");
        assert_eq!(parked.remove(7), None);
        parked.insert(away(7, 0));
        assert_eq!(parked.remove(7), Some(away(7, 0)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32),
        Remove(u32),
        Round { visits: usize, drop_odd: bool },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Names that fall into the same shard, and others.
        let session = || prop_oneof![0..40_u32, (0..40_u32).prop_map(|nth| nth * SHARDS as u32)];
        let step = prop_oneof![
            4 => session().prop_map(Step::Insert),
            2 => session().prop_map(Step::Remove),
            1 => (0..60_usize, any::<bool>()).prop_map(|(visits, drop_odd)| Step::Round { visits, drop_odd }),
        ];
        proptest::collection::vec(step, 1..300)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn parked_sessions_agree_with_a_map(steps in steps()) {
            let (mut parked, mut model) = (Parked::new(usize::MAX), BTreeMap::new());
            for (nth, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(session) => {
                        parked.insert(away(session, nth as u32));
                        model.insert(session, away(session, nth as u32));
                    }
                    Step::Remove(session) => prop_assert_eq!(parked.remove(session), model.remove(&session)),
                    Step::Round { visits, drop_odd } => {
                        let mut seen = std::collections::BTreeSet::new();
                        parked.begin_round();
                        let all = (0..visits).all(|_| parked.visit(|entry| {
                            seen.insert(entry.session);
                            entry.idle.watched = Tick(nth as u32 + 1);
                            model.insert(entry.session, *entry);
                            !(drop_odd && entry.session % 2 == 1)
                        }));
                        // A round that is over has been everywhere.
                        prop_assert!(all || seen == model.keys().copied().collect());
                        model.retain(|session, _| !(drop_odd && session % 2 == 1 && seen.contains(session)));
                    }
                }
                prop_assert_eq!(parked.len(), model.len());
            }
            for (session, entry) in model {
                prop_assert_eq!(parked.remove(session), Some(entry));
            }
        }
    }
}
