//! A queue that serves clients in turn.

use std::collections::{BTreeMap, BTreeSet};

use crate::admission::ClientKey;

/// Tells clients in a queue apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Client {
    Known(ClientKey),
    /// Neither principal nor address is known: this waiter is a client of its own.
    Alone(u64),
}

impl Client {
    fn of(key: &ClientKey, waiter: u64) -> Self {
        match key {
            ClientKey::Anonymous => Self::Alone(waiter),
            known => Self::Known(ClientKey::clone(known)),
        }
    }
}

/// The waiters of one client.
#[derive(Debug)]
struct Line {
    turn: u64,
    waiters: BTreeSet<u64>,
}

/// Waiters, each with a number of its own, served round robin by client and by ascending number within one client.
///
/// A client that begins to wait takes the last turn. So does a client that was served and has more waiters. A client
/// with many waiters is therefore served as often as one with few.
///
/// Every operation is O(log n). The queue keeps nothing of a client without waiters.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    lines: BTreeMap<Client, Line>,
    turns: BTreeMap<u64, Client>,
    last_turn: u64,
}

impl FairQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Adds a waiter. `waiter` is higher than the number of any waiter before it.
    pub(super) fn push(&mut self, key: &ClientKey, waiter: u64) {
        let Self { lines, turns, last_turn } = self;
        let client = Client::of(key, waiter);
        let line = lines.entry(client).or_insert_with_key(|client| {
            *last_turn += 1;
            turns.insert(*last_turn, Client::clone(client));
            Line { turn: *last_turn, waiters: BTreeSet::new() }
        });
        line.waiters.insert(waiter);
    }

    /// The waiter that is served next.
    pub(super) fn first(&self) -> Option<u64> {
        let (_, client) = self.turns.first_key_value()?;
        self.lines.get(client)?.waiters.first().copied()
    }

    /// Takes out the waiter that is served next. Its client, if it waits on, takes the last turn.
    pub(super) fn pop(&mut self) -> Option<u64> {
        let (_, client) = self.turns.pop_first()?;
        let line = self.lines.get_mut(&client)?;
        let waiter = line.waiters.pop_first();
        if line.waiters.is_empty() {
            self.lines.remove(&client);
        } else {
            self.last_turn += 1;
            line.turn = self.last_turn;
            self.turns.insert(self.last_turn, client);
        }
        waiter
    }

    /// Takes out a waiter that was not served. The turn of its client stays as it is.
    pub(super) fn remove(&mut self, key: &ClientKey, waiter: u64) {
        let client = Client::of(key, waiter);
        let Some(line) = self.lines.get_mut(&client) else { return };
        line.waiters.remove(&waiter);
        if line.waiters.is_empty() {
            self.turns.remove(&line.turn);
            self.lines.remove(&client);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(last: u8) -> ClientKey {
        ClientKey::Address([192, 0, 2, last].into())
    }

    fn served(mut queue: FairQueue) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn a_client_with_many_waiters_is_served_as_often_as_others() {
        let mut queue = FairQueue::default();
        (0..100).for_each(|waiter| queue.push(&address(1), waiter));
        queue.push(&address(2), 100);
        queue.push(&ClientKey::Principal("alice".into()), 101);
        queue.push(&address(2), 102);
        assert_eq!(served(queue)[..7], [0, 100, 101, 1, 102, 2, 3]);
    }

    #[test]
    fn waiters_of_unknown_clients_are_served_in_the_order_of_their_arrival() {
        let mut queue = FairQueue::default();
        (0..5).for_each(|waiter| queue.push(&ClientKey::Anonymous, waiter));
        queue.push(&address(1), 5);
        queue.push(&address(1), 6);
        queue.push(&ClientKey::Anonymous, 7);
        assert_eq!(served(queue), [0, 1, 2, 3, 4, 5, 7, 6]);
    }

    #[test]
    fn a_client_keeps_its_turn_when_its_first_waiter_leaves_and_loses_it_with_its_last() {
        let mut queue = FairQueue::default();
        for (client, waiter) in [(1, 0), (2, 1), (1, 2), (2, 3)] {
            queue.push(&address(client), waiter);
        }
        queue.remove(&address(1), 0);
        assert_eq!(queue.first(), Some(2));
        queue.remove(&address(1), 2);
        queue.push(&address(1), 4);
        assert_eq!(served(queue), [1, 4, 3]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u8),
        Pop,
        Remove(prop::sample::Index),
    }

    /// What the queue should do, as plainly as possible: one list of clients in turn, each with its waiters.
    #[derive(Default)]
    struct Model(Vec<(Option<u8>, Vec<u64>)>);

    impl Model {
        fn push(&mut self, client: Option<u8>, waiter: u64) {
            match self.0.iter_mut().find(|(other, _)| client.is_some() && *other == client) {
                Some((_, waiters)) => waiters.push(waiter),
                None => self.0.push((client, vec![waiter])),
            }
        }

        fn pop(&mut self) -> Option<u64> {
            if self.0.is_empty() {
                return None;
            }
            let (client, mut waiters) = self.0.remove(0);
            let first = waiters.remove(0);
            if !waiters.is_empty() {
                self.0.push((client, waiters));
            }
            Some(first)
        }

        fn remove(&mut self, waiter: u64) {
            for (_, waiters) in &mut self.0 {
                waiters.retain(|other| *other != waiter);
            }
            self.0.retain(|(_, waiters)| !waiters.is_empty());
        }
    }

    proptest! {
        #[test]
        fn it_serves_as_the_model_does(steps in prop::collection::vec(prop_oneof![
            4 => (0..5_u8).prop_map(Step::Push),
            2 => Just(Step::Pop),
            2 => any::<prop::sample::Index>().prop_map(Step::Remove),
        ], 0..200)) {
            let (mut queue, mut model) = (FairQueue::default(), Model::default());
            // All waiters that ever were: removing one that no longer waits changes nothing.
            let mut waiters = Vec::new();
            for step in steps {
                match step {
                    Step::Push(client) => {
                        let key = if client == 0 { ClientKey::Anonymous } else { address(client) };
                        let waiter = waiters.len() as u64;
                        queue.push(&key, waiter);
                        model.push(Some(client).filter(|client| *client != 0), waiter);
                        waiters.push(key);
                    }
                    Step::Pop => prop_assert_eq!(queue.pop(), model.pop()),
                    Step::Remove(_) if waiters.is_empty() => {}
                    Step::Remove(which) => {
                        let which = which.index(waiters.len());
                        queue.remove(&waiters[which], which as u64);
                        model.remove(which as u64);
                    }
                }
                let first = model.0.first().map(|(_, waiters)| waiters[0]);
                prop_assert_eq!((queue.first(), queue.is_empty()), (first, model.0.is_empty()));
                prop_assert_eq!((queue.lines.len(), queue.turns.len()), (model.0.len(), model.0.len()));
            }
            let rest: Vec<_> = std::iter::from_fn(|| model.pop()).collect();
            prop_assert_eq!(served(queue), rest);
        }
    }
}
