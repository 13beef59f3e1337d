//! [`Dense`]: keys in no order, of which one can be drawn at random.

use crate::session::SessionKey;

/// The place of a key that is in no list.
pub(super) const NOWHERE: u32 = u32::MAX;

/// Keys in no order. Their owner keeps the place of each, so that a key is taken out in constant time.
#[derive(Debug, Default)]
pub(super) struct Dense {
    keys: Vec<SessionKey>,
}

impl Dense {
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn get(&self, place: usize) -> Option<SessionKey> {
        self.keys.get(place).copied()
    }

    /// Puts a key in, and returns its place.
    pub(super) fn push(&mut self, key: SessionKey) -> u32 {
        if self.keys.len() == self.keys.capacity() {
            // By a quarter, not by as much again: there are as many keys as sessions for most of a server's life.
            self.keys.reserve_exact(4 + self.keys.len() / 4);
        }
        self.keys.push(key);
        (self.keys.len() - 1) as u32
    }

    /// Takes the key at this place out, and returns the one that has the place now, if another key moved there.
    pub(super) fn remove(&mut self, place: u32) -> Option<SessionKey> {
        self.keys.swap_remove(place as usize);
        self.get(place as usize)
    }

    /// Draws keys, all if there are no more than `count`. One may be drawn twice otherwise.
    pub(super) fn draw(&self, count: usize, random: &mut fastrand::Rng) -> Vec<SessionKey> {
        if self.keys.len() <= count {
            return self.keys.clone();
        }
        (0..count).map(|_| self.keys[random.usize(..self.keys.len())]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_key_moves_into_the_gap() {
        let mut dense = Dense::default();
        let keys = [1, 2, 3].map(|index| SessionKey::new(index, 1));
        assert_eq!(keys.map(|key| dense.push(key)), [0, 1, 2]);
        assert_eq!(dense.remove(0), Some(keys[2]));
        assert_eq!(dense.remove(1), None, "the last one leaves no gap");
        assert_eq!((dense.len(), dense.get(0), dense.get(1)), (1, Some(keys[2]), None));
    }
}
