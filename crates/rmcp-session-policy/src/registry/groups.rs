//! [`Groups`]: sessions in groups, of each of which some can be drawn at random.

use std::collections::HashMap;
use std::hash::Hash;

use super::dense::Dense;
use crate::session::SessionKey;

/// Keys of sessions, each in at most one group.
///
/// A key goes in and out in O(1), and a draw costs O(1) for each key. A group without keys takes no memory, so there are no
/// more groups than sessions; beside them it keeps an entry for each index of a key.
#[derive(Debug)]
pub(super) struct Groups<G> {
    lists: HashMap<G, Dense>,
    /// The group of each key and its place there, by the key's index. It counts if that place has the key: the groups may
    /// have been cleared since, and a later session may have the index.
    places: Vec<Option<(G, u32)>>,
}

impl<G> Default for Groups<G> {
    fn default() -> Self {
        Self { lists: HashMap::new(), places: Vec::new() }
    }
}

impl<G: Copy + Eq + Hash> Groups<G> {
    /// Makes room for a key, so that [`insert`](Self::insert) has little to do when many come in at once.
    pub(super) fn make_room(&mut self, key: SessionKey) {
        if self.places.len() <= key.index() {
            self.places.resize(key.index() + 1, None);
        }
    }

    /// The group and the place of a key that is in.
    fn place(&self, key: SessionKey) -> Option<(G, u32)> {
        let (group, place) = (*self.places.get(key.index())?)?;
        (self.lists.get(&group)?.get(place as usize) == Some(key)).then_some((group, place))
    }

    /// Puts a key into a group, unless it is in one.
    pub(super) fn insert(&mut self, key: SessionKey, group: G) {
        if self.place(key).is_some() {
            return;
        }
        self.make_room(key);
        let place = self.lists.entry(group).or_default().push(key);
        self.places[key.index()] = Some((group, place));
    }

    /// Takes a key out of its group, if it is in one.
    pub(super) fn remove(&mut self, key: SessionKey) {
        let Some((group, place)) = self.place(key) else { return };
        self.places[key.index()] = None;
        let Some(list) = self.lists.get_mut(&group) else { return };
        if let Some(moved) = list.remove(place) {
            self.places[moved.index()] = Some((group, place));
        }
        if list.len() == 0 {
            self.lists.remove(&group);
        }
    }

    /// Empties all groups, in O(1).
    pub(super) fn clear(&mut self) {
        self.lists = HashMap::new();
    }

    /// Draws keys of a group, all if it has no more than `count`. One may be drawn twice otherwise.
    pub(super) fn draw(&self, group: G, count: usize, random: &mut fastrand::Rng) -> Vec<SessionKey> {
        self.lists.get(&group).map_or_else(Vec::new, |list| list.draw(count, random))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_session_that_comes_later_under_the_same_index_is_another() {
        let mut groups = Groups::default();
        let [one, two] = [1, 2].map(|generation| SessionKey::new(0, generation));
        groups.insert(one, 'a');
        groups.remove(two);
        let mut random = fastrand::Rng::with_seed(1);
        assert_eq!(groups.draw('a', 9, &mut random), [one]);
        groups.clear();
        groups.insert(two, 'b');
        groups.remove(one);
        assert_eq!(groups.draw('b', 9, &mut random), [two]);
    }

    #[test]
    fn a_group_without_keys_takes_no_memory() {
        let mut groups = Groups::default();
        for group in 0..1_000 {
            groups.insert(SessionKey::new(0, group), group);
            groups.remove(SessionKey::new(0, group));
        }
        assert_eq!((groups.lists.len(), groups.places.len()), (0, 1));
    }

    #[test]
    fn a_draw_of_many_is_of_different_ones_of_the_group() {
        let mut groups = Groups::default();
        (0..100).for_each(|index| groups.insert(SessionKey::new(index, 1), index % 2));
        let mut drawn = groups.draw(1, 40, &mut fastrand::Rng::with_seed(1));
        assert!(drawn.len() == 40 && drawn.iter().all(|key| key.index() % 2 == 1));
        drawn.sort_unstable();
        drawn.dedup();
        assert!(drawn.len() > 20);
    }

    proptest! {
        /// Against a map.
        #[test]
        fn each_key_is_in_the_group_that_it_was_put_into(steps in prop::collection::vec((0..20_u32, prop::option::of(0..4_u8)), 0..200)) {
            let (mut groups, mut model) = (Groups::default(), HashMap::new());
            for (index, group) in steps {
                let key = SessionKey::new(index, 1);
                match group {
                    Some(group) => {
                        groups.insert(key, group);
                        model.entry(key).or_insert(group);
                    }
                    None => {
                        groups.remove(key);
                        model.remove(&key);
                    }
                }
                for group in 0..4 {
                    let mut drawn = groups.draw(group, usize::MAX, &mut fastrand::Rng::with_seed(1));
                    let mut should: Vec<_> = model.iter().filter(|(_, of)| **of == group).map(|(key, _)| *key).collect();
                    drawn.sort_unstable();
                    should.sort_unstable();
                    prop_assert_eq!(drawn, should);
                }
            }
        }
    }
}
