//! [`KeyList`]: sessions in a dense list, to draw from.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rmcp_session_policy::SessionKey;

/// The sessions of an order, in no order. All operations take constant time.
#[derive(Debug)]
pub(super) struct KeyList {
    keys: Vec<SessionKey>,
    /// The place in `keys` of each session, by the key's index.
    places: Vec<u32>,
    random: ChaCha8Rng,
}

impl KeyList {
    /// Creates an empty list. All lists draw in the same way.
    pub(super) fn new() -> Self {
        Self { keys: Vec::new(), places: Vec::new(), random: ChaCha8Rng::seed_from_u64(0) }
    }

    pub(super) fn insert(&mut self, key: SessionKey) {
        if self.places.len() <= key.index() {
            self.places.resize(key.index() + 1, 0);
        }
        self.places[key.index()] = self.keys.len() as u32;
        self.keys.push(key);
    }

    /// Takes a session out, if it is in.
    pub(super) fn remove(&mut self, key: SessionKey) {
        let Some(place) = self.places.get(key.index()).map(|place| *place as usize) else { return };
        if self.keys.get(place) == Some(&key) {
            self.keys.swap_remove(place);
            if let Some(moved) = self.keys.get(place) {
                self.places[moved.index()] = place as u32;
            }
        }
    }

    /// Draws a session, each with the same chance. `None` if there is none.
    pub(super) fn draw(&mut self) -> Option<SessionKey> {
        let place = (u128::from(self.random.next_u64()) * self.keys.len() as u128) >> 64;
        self.keys.get(place as usize).copied()
    }
}
