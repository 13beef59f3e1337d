//! [`ClientNames`]: the commonest names of clients, in bounded memory whatever names clients invent.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;

use super::class::NAMES;

/// How many names have a place of their own.
pub(super) const PLACES: usize = NAMES - 1;
/// The place of all other names.
pub(super) const OTHERS: u8 = PLACES as u8;
/// How many names are counted.
const COUNTED: usize = 32;
/// How often a name must have been seen to get a place.
const SEEN_ENOUGH: f32 = 16.0;

/// A client's name, as its hash. Two names with the same hash count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name(u64);

/// A name, and how often it was seen.
#[derive(Clone, Copy, Debug)]
struct Count {
    name: Name,
    /// How often it was seen, and how often those were that had this counter before.
    seen: f32,
    /// How much of `seen` may be that of others.
    inherited: f32,
}

/// Which names have a place, and how often names were seen.
///
/// Names are counted by Space-Saving (Metwally, Agrawal, El Abbadi: "Efficient computation of frequent and top-k elements in
/// data streams", ICDT 2005): a name without a counter takes over the least one, with its count. A name that makes up more than
/// a 32nd of what is seen has a counter, however many names are invented. A name gets a place by what it was surely seen, so an
/// invented name which took over a counter does not.
///
/// A name keeps its place until another one was seen twice as often, so that places mean the same for long. Takes 700 bytes.
#[derive(Clone, Debug)]
pub(super) struct ClientNames {
    hasher: RandomState,
    counts: [Option<Count>; COUNTED],
    places: [Option<Name>; PLACES],
}

impl ClientNames {
    pub(super) fn new() -> Self {
        Self { hasher: RandomState::default(), counts: [None; COUNTED], places: [None; PLACES] }
    }

    /// Returns what stands for a name. A client without a name has the empty one.
    pub(super) fn name(&self, name: Option<&str>) -> Name {
        Name(self.hasher.hash_one(name.unwrap_or_default()))
    }

    /// Returns the place of a name.
    pub(super) fn place(&self, name: Name) -> u8 {
        self.places.iter().position(|place| *place == Some(name)).map_or(OTHERS, |place| place as u8)
    }

    /// Counts a name.
    pub(super) fn see(&mut self, name: Name) {
        if let Some(count) = self.counts.iter_mut().flatten().find(|count| count.name == name) {
            count.seen += 1.0;
            return;
        }
        let least = self.counts.iter_mut().min_by(|one, other| {
            let seen = |count: &Option<Count>| count.map_or(-1.0, |count| count.seen);
            seen(one).total_cmp(&seen(other))
        });
        if let Some(least) = least {
            let inherited = least.map_or(0.0, |count| count.seen);
            *least = Some(Count { name, seen: inherited + 1.0, inherited });
        }
    }

    /// Leaves a share of what was seen.
    pub(super) fn forget(&mut self, keep: f32) {
        for count in self.counts.iter_mut().flatten() {
            count.seen *= keep;
            count.inherited *= keep;
        }
    }

    /// Gives a place to the commonest name that has none, if it has earned one.
    ///
    /// Returns the place if another name had it before: what was kept under it belongs to that name, which is one of the
    /// others now.
    pub(super) fn promote(&mut self) -> Option<u8> {
        let homeless = self.counts.iter().flatten().filter(|count| self.place(count.name) == OTHERS);
        let sure = |count: &Count| count.seen - count.inherited;
        let best =
            homeless.max_by(|one, other| sure(one).total_cmp(&sure(other))).filter(|best| sure(best) >= SEEN_ENOUGH)?;
        let (name, sure) = (best.name, sure(best));
        let (place, seen) = (0..PLACES)
            .map(|place| (place, self.places[place].map_or(-1.0, |name| self.seen(name))))
            .min_by(|one, other| one.1.total_cmp(&other.1))?;
        if 2.0 * seen > sure {
            return None;
        }
        let had = self.places[place].replace(name);
        had.map(|_| place as u8)
    }

    /// How often a name was seen, as far as is known.
    fn seen(&self, name: Name) -> f32 {
        self.counts.iter().flatten().find(|count| count.name == name).map_or(0.0, |count| count.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(names: &mut ClientNames, name: &str, times: usize) -> Name {
        let name = names.name(Some(name));
        (0..times).for_each(|_| names.see(name));
        name
    }

    /// Nine names, the first the commonest, of which eight have a place.
    fn crowd() -> (ClientNames, Vec<Name>) {
        let mut names = ClientNames::new();
        let crowd = (0..9).map(|nth| see(&mut names, &format!("client {nth}"), 100 - 5 * nth)).collect();
        for _ in 0..20 {
            assert_eq!(names.promote(), None, "no name had the place before");
        }
        (names, crowd)
    }

    #[test]
    fn the_eight_commonest_names_have_places() {
        let (names, crowd) = crowd();
        let places: Vec<_> = crowd.iter().map(|name| names.place(*name)).collect();
        assert_eq!(places, [0, 1, 2, 3, 4, 5, 6, 7, OTHERS]);
        assert_eq!(names.place(names.name(None)), OTHERS);
    }

    #[test]
    fn a_name_seen_seldom_has_no_place_though_one_is_free() {
        let mut names = ClientNames::new();
        let name = see(&mut names, "rare", 15);
        names.promote();
        assert_eq!(names.place(name), OTHERS);
        names.see(name);
        names.promote();
        assert_eq!(names.place(name), 0);
    }

    #[test]
    fn a_name_keeps_its_place_until_another_was_seen_twice_as_often() {
        let (mut names, crowd) = crowd();
        names.forget(0.5);
        let last = names.seen(crowd[7]);
        (0..100).for_each(|_| names.see(crowd[8]));
        assert!(names.seen(crowd[8]) > 1.5 * last);
        while names.seen(crowd[8]) < 2.0 * last {
            assert_eq!(names.promote(), None);
            names.see(crowd[8]);
        }
        assert_eq!(names.promote(), Some(7));
        assert_eq!((names.place(crowd[8]), names.place(crowd[7])), (7, OTHERS));
        assert_eq!(names.promote(), None);
    }

    #[test]
    fn a_name_that_is_seen_no_more_loses_its_place() {
        let (mut names, crowd) = crowd();
        names.forget(0.1);
        let new = see(&mut names, "new", 20);
        assert_eq!(names.promote(), Some(7));
        assert_eq!((names.place(new), names.place(crowd[7])), (7, OTHERS));
    }

    #[test]
    fn a_common_name_is_found_among_a_thousand_invented_ones() {
        let (mut names, _) = crowd();
        names.forget(0.1);
        for nth in 0..1_000 {
            see(&mut names, &format!("invented {nth}"), 1);
            see(&mut names, "common", 1);
        }
        names.promote();
        assert_ne!(names.place(names.name(Some("common"))), OTHERS);
    }

    #[test]
    fn ten_thousand_invented_names_get_no_place_and_push_no_common_one_out() {
        let (mut names, crowd) = crowd();
        for nth in 0..10_000 {
            see(&mut names, &format!("invented {nth}"), 1);
            // Each of eight makes up more than a 32nd of what is seen.
            names.see(crowd[nth % 8]);
            if nth % 100 == 0 {
                names.forget(0.999);
                assert_eq!(names.promote(), None);
            }
        }
        let places: Vec<_> = crowd.iter().map(|name| names.place(*name)).collect();
        assert_eq!(places, [0, 1, 2, 3, 4, 5, 6, 7, OTHERS]);
        assert!(size_of_val(&names) <= 1_024);
    }
}
