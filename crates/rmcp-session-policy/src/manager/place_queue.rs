//! The count of free places, and the queues of requests that wait for one.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::fair_queue::FairQueue;
use crate::admission::{ArrivalKind, ClientKey};

/// Counts the places, and hands each one that becomes free to a waiter. It lives under the manager's lock.
///
/// While a request waits, no place is free, so a later request cannot overtake it. Restores are served before
/// newcomers. Within each kind, waiters that had their turn and expect the place of a victim come first, and then the
/// others by client in turn.
#[derive(Debug)]
pub(super) struct Places {
    /// The capacity in force.
    all: usize,
    free: usize,
    /// How many places there are beyond the capacity, since it was lowered. Places that come back are withdrawn until there
    /// are none; no place is free meanwhile.
    over: usize,
    /// Newcomers that have or expect a place, and are not a session yet.
    arriving: usize,
    waiters: BTreeMap<u64, Waiter>,
    restores: Lane,
    newcomers: Lane,
    /// The number of the newest waiter, and of the newest turn.
    last: u64,
    /// The waiter that was last woken because it was the first of the queues.
    first: Option<u64>,
    /// Since when every look has found no evictable session.
    pub(super) stalled_since: Option<Instant>,
}

/// Waiters of one kind.
#[derive(Debug, Default)]
struct Lane {
    queued: FairQueue,
    /// Waiters that had their turn, by turn.
    expecting: BTreeMap<u64, u64>,
}

#[derive(Debug)]
struct Waiter {
    kind: ArrivalKind,
    client: ClientKey,
    stage: Stage,
    wake: Arc<Notify>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Queued,
    /// Had this turn, and expects a place.
    Expecting(u64),
    /// Has a place, and had or got this turn for it.
    Served(u64),
}

impl Places {
    pub(super) fn new(all: usize) -> Self {
        Self {
            all,
            free: all,
            over: 0,
            arriving: 0,
            waiters: BTreeMap::new(),
            restores: Lane::default(),
            newcomers: Lane::default(),
            last: 0,
            first: None,
            stalled_since: None,
        }
    }

    /// How many places are free.
    pub(super) const fn free(&self) -> usize {
        self.free
    }

    /// The capacity in force.
    pub(super) const fn all(&self) -> usize {
        self.all
    }

    /// How many places there are beyond the capacity.
    pub(super) const fn over(&self) -> usize {
        self.over
    }

    /// Changes the capacity.
    ///
    /// Places that are added go to what waits. Places that are withdrawn are free ones first, then those that were handed to
    /// a waiter which has not noticed yet, the newest first; such a waiter is the next to get one. The others are withdrawn
    /// when they come back.
    pub(super) fn resize(&mut self, all: usize) {
        let before = std::mem::replace(&mut self.all, all);
        if let Some(fewer) = before.checked_sub(all) {
            let free = fewer.min(self.free);
            self.free -= free;
            self.over += fewer - free;
            self.take_back_handed();
            return;
        }
        let more = all - before;
        let withdrawn = more.min(self.over);
        self.over -= withdrawn;
        let mut more = more - withdrawn;
        while more > 0 && self.is_awaited() {
            self.put_back();
            more -= 1;
        }
        self.free += more;
    }

    fn take_back_handed(&mut self) {
        let handed = if self.over > 0 { self.handed() } else { Vec::new() };
        for (turn, number) in handed.into_iter().take(self.over) {
            let Some(waiter) = self.waiters.get_mut(&number) else { continue };
            waiter.stage = Stage::Expecting(turn);
            let kind = waiter.kind;
            self.lane(kind).expecting.insert(turn, number);
            self.over -= 1;
        }
    }

    /// The waiters with a place that they have not noticed, the latest turn first.
    fn handed(&self) -> Vec<(u64, u64)> {
        let turn = |waiter: &Waiter| if let Stage::Served(turn) = waiter.stage { Some(turn) } else { None };
        let mut handed: Vec<_> =
            self.waiters.iter().filter_map(|(number, waiter)| Some((turn(waiter)?, *number))).collect();
        handed.sort_unstable_by(|one, other| other.cmp(one));
        handed
    }

    /// Whether any request waits for a place.
    fn is_awaited(&self) -> bool {
        [&self.restores, &self.newcomers].iter().any(|lane| !lane.expecting.is_empty() || !lane.queued.is_empty())
    }

    /// Has the first of the queue look again.
    pub(super) fn wake_first(&self) {
        if let Some(first) = self.first().and_then(|first| self.waiters.get(&first)) {
            first.wake.notify_one();
        }
    }

    /// Takes a free place.
    pub(super) fn take(&mut self, kind: ArrivalKind) -> bool {
        let Some(free) = self.free.checked_sub(1) else { return false };
        self.free = free;
        self.arriving += usize::from(is_newcomer(kind));
        true
    }

    /// Takes back the place of a session that is gone, or of a request that did not become a session.
    ///
    /// It is withdrawn while there are more than the capacity.
    pub(super) fn put_back(&mut self) {
        if let Some(fewer) = self.over.checked_sub(1) {
            self.over = fewer;
            return;
        }
        let number = [ArrivalKind::Restore, ArrivalKind::Create].into_iter().find_map(|kind| {
            let lane = self.lane(kind);
            lane.expecting.pop_first().map(|(_, number)| number).or_else(|| lane.queued.pop())
        });
        let Some(waiter) = number.and_then(|number| self.waiters.get_mut(&number)) else {
            self.free += 1;
            return;
        };
        let turn = match waiter.stage {
            Stage::Expecting(turn) | Stage::Served(turn) => turn,
            Stage::Queued => {
                self.arriving += usize::from(is_newcomer(waiter.kind));
                // Before all that get their turn later: no other of its kind had one, or it would have the place.
                self.last += 1;
                self.last
            }
        };
        waiter.stage = Stage::Served(turn);
        waiter.wake.notify_one();
        self.tell_first();
    }

    /// Called when a request with a place has become a session, or never will.
    ///
    /// The first of the queue looks again: what keeps a session that was not named yet ends without a word.
    pub(super) fn arrived(&mut self, kind: ArrivalKind) {
        self.arriving -= usize::from(is_newcomer(kind));
        self.wake_first();
    }

    /// The number of newcomers, without this waiter, that will be half-open sessions. They count as half-open in
    /// advance; otherwise a burst of newcomers would evict every session before the first of them is a session.
    pub(super) fn arriving_beside(&self, number: Option<u64>) -> usize {
        let waiter = number.and_then(|number| self.waiters.get(&number));
        let counts = waiter.is_some_and(|waiter| is_newcomer(waiter.kind) && !matches!(waiter.stage, Stage::Queued));
        self.arriving - usize::from(counts)
    }

    /// How many waiters had their turn and have no place yet.
    pub(super) fn expecting(&self) -> usize {
        self.restores.expecting.len() + self.newcomers.expecting.len()
    }

    /// Whether a request that comes now has its turn at once.
    pub(super) fn is_next(&self, kind: ArrivalKind) -> bool {
        self.restores.queued.is_empty() && (kind == ArrivalKind::Restore || self.newcomers.queued.is_empty())
    }

    /// Whether it is a waiter's turn.
    pub(super) fn is_first(&self, number: u64) -> bool {
        self.first() == Some(number)
    }

    /// Whether a waiter had its turn and has no place.
    pub(super) fn is_expecting(&self, number: u64) -> bool {
        self.waiters.get(&number).is_some_and(|waiter| matches!(waiter.stage, Stage::Expecting(_)))
    }

    /// Queues a request. Returns its number, and the `Notify` that wakes it.
    pub(super) fn queue(&mut self, kind: ArrivalKind, client: ClientKey) -> (u64, Arc<Notify>) {
        let (number, wake) = self.add(kind, client, Stage::Queued);
        let Self { waiters, restores, newcomers, .. } = self;
        if let Some(waiter) = waiters.get(&number) {
            let lane = if is_newcomer(kind) { newcomers } else { restores };
            lane.queued.push(&waiter.client, number);
        }
        // A request that is first itself need not be woken.
        self.first = self.first();
        (number, wake)
    }

    /// Registers a request that has its turn at once as one that expects a place.
    pub(super) fn expect_at_once(&mut self, kind: ArrivalKind) -> (u64, Arc<Notify>) {
        self.last += 1;
        let turn = self.last;
        let (number, wake) = self.add(kind, ClientKey::Anonymous, Stage::Expecting(turn));
        self.lane(kind).expecting.insert(turn, number);
        self.arriving += usize::from(is_newcomer(kind));
        (number, wake)
    }

    /// Makes the first of the queue expect a place.
    pub(super) fn expect(&mut self, number: u64) {
        self.last += 1;
        let turn = self.last;
        let Some(waiter) = self.waiters.get_mut(&number) else { return };
        waiter.stage = Stage::Expecting(turn);
        let kind = waiter.kind;
        self.arriving += usize::from(is_newcomer(kind));
        let lane = self.lane(kind);
        let first = lane.queued.pop();
        debug_assert_eq!(first, Some(number), "the first has its turn");
        lane.expecting.insert(turn, number);
        self.tell_first();
    }

    /// Uses up the turn of the first of the queue, which is rejected.
    pub(super) fn refuse(&mut self, number: u64) {
        if let Some(waiter) = self.waiters.remove(&number) {
            let first = self.lane(waiter.kind).queued.pop();
            debug_assert_eq!(first, Some(number), "the first has its turn");
            self.tell_first();
        }
    }

    /// Takes the place that was handed to a waiter, if one was. The waiter then leaves the queue.
    pub(super) fn collect(&mut self, number: u64) -> bool {
        let served = self.waiters.get(&number).is_some_and(|waiter| matches!(waiter.stage, Stage::Served(_)));
        if served {
            self.waiters.remove(&number);
        }
        served
    }

    /// Removes a waiter. A place that was handed to it goes to the next one.
    pub(super) fn leave(&mut self, number: u64) {
        let Some(waiter) = self.waiters.remove(&number) else { return };
        let lane = self.lane(waiter.kind);
        match waiter.stage {
            Stage::Queued => {
                lane.queued.remove(&waiter.client, number);
                self.tell_first();
            }
            Stage::Expecting(turn) => {
                lane.expecting.remove(&turn);
                self.give_up(waiter.kind);
            }
            Stage::Served(_) => {
                self.give_up(waiter.kind);
                self.put_back();
            }
        }
    }

    /// Called when a request that had or expected a place does not become a session.
    ///
    /// Fewer sessions will be half-open, so a session may become evictable for the first of the queue.
    pub(super) fn give_up(&mut self, kind: ArrivalKind) {
        self.arrived(kind);
    }

    fn add(&mut self, kind: ArrivalKind, client: ClientKey, stage: Stage) -> (u64, Arc<Notify>) {
        self.last += 1;
        let wake = Arc::<Notify>::default();
        self.waiters.insert(self.last, Waiter { kind, client, stage, wake: Arc::clone(&wake) });
        (self.last, wake)
    }

    const fn lane(&mut self, kind: ArrivalKind) -> &mut Lane {
        if is_newcomer(kind) { &mut self.newcomers } else { &mut self.restores }
    }

    fn first(&self) -> Option<u64> {
        self.restores.queued.first().or_else(|| self.newcomers.queued.first())
    }

    /// Wakes the first of the queue if it has just become the first. Only the first looks for a victim, so only one
    /// waiter is woken.
    fn tell_first(&mut self) {
        let first = self.first();
        if first.is_none() {
            self.stalled_since = None;
        }
        if first != std::mem::replace(&mut self.first, first)
            && let Some(waiter) = first.and_then(|first| self.waiters.get(&first))
        {
            waiter.wake.notify_one();
        }
    }
}

const fn is_newcomer(kind: ArrivalKind) -> bool {
    !matches!(kind, ArrivalKind::Restore)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::ArrivalKind::{Create, Restore};
    use super::*;

    fn address(last: u8) -> ClientKey {
        ClientKey::Address([192, 0, 2, last].into())
    }

    /// Takes all places.
    fn full(all: usize) -> Places {
        let mut places = Places::new(all);
        assert!((0..all).all(|_| places.take(Create)) && !places.take(Create));
        places
    }

    fn is_woken(wake: &Notify) -> bool {
        wake.notified().now_or_never().is_some()
    }

    #[test]
    fn a_place_goes_to_restores_before_newcomers_and_to_what_had_its_turn_before_the_rest() {
        let mut places = full(9);
        let expecting = places.expect_at_once(Create).0;
        let (flood, other) = (places.queue(Create, address(1)).0, places.queue(Create, address(2)).0);
        let more = places.queue(Create, address(1)).0;
        let restore = places.queue(Restore, address(1)).0;
        let restore_expecting = places.expect_at_once(Restore).0;
        for number in [restore_expecting, restore, expecting, flood, other, more] {
            assert!(!places.collect(number));
            places.put_back();
            assert!(places.collect(number) && !places.collect(number));
            assert_eq!(places.free(), 0);
        }
        places.put_back();
        assert_eq!(places.free(), 1);
    }

    #[test]
    fn a_place_that_was_handed_to_a_request_that_left_goes_to_the_next() {
        let mut places = full(2);
        let (first, second) = (places.queue(Create, address(1)).0, places.queue(Create, address(1)).0);
        places.put_back();
        places.leave(first);
        assert!(places.collect(second));
        places.put_back();
        assert_eq!((places.free(), places.waiters.len()), (1, 0));
    }

    #[test]
    fn of_all_that_wait_only_the_first_is_woken_and_only_once_it_is_first() {
        let mut places = full(2);
        let waiting: Vec<_> = (0..100).map(|_| places.queue(Create, ClientKey::Anonymous)).collect();
        let woken = |waiting: &[(u64, Arc<Notify>)]| -> Vec<_> {
            (0..waiting.len()).filter(|nth| is_woken(&waiting[*nth].1)).collect()
        };
        assert!(woken(&waiting).is_empty(), "the first knows");
        places.give_up(Create);
        assert_eq!(woken(&waiting), [0], "one newcomer less is on its way");
        places.expect(waiting[0].0);
        assert_eq!(woken(&waiting), [1]);
        places.leave(waiting[50].0);
        assert!(woken(&waiting).is_empty());
        places.leave(waiting[1].0);
        assert_eq!(woken(&waiting), [2]);
        places.refuse(waiting[2].0);
        assert_eq!(woken(&waiting), [3]);
        places.put_back();
        assert_eq!(woken(&waiting), [0], "it has its place");
        places.put_back();
        assert_eq!(woken(&waiting), [3, 4], "one has its place, the other its turn");
        let restore = places.queue(Restore, ClientKey::Anonymous);
        assert!(woken(&waiting).is_empty());
        places.leave(restore.0);
        assert_eq!(woken(&waiting), [4], "its turn again");
    }

    #[test]
    fn a_refusal_uses_the_turn_of_a_client_up() {
        let mut places = full(1);
        let numbers = [1, 1, 2].map(|client| places.queue(Create, address(client)).0);
        places.refuse(numbers[0]);
        assert!(places.is_first(numbers[2]));
    }

    #[tokio::test(start_paused = true)]
    async fn since_when_no_session_may_go_is_forgotten_with_the_last_that_waits() {
        let mut places = full(1);
        let number = places.queue(Create, address(1)).0;
        places.stalled_since = Some(Instant::now());
        places.leave(number);
        assert_eq!(places.stalled_since, None);
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Come(ArrivalKind, u8),
        /// The first of the queue takes a victim.
        Expect,
        /// The first of the queue is rejected.
        Refuse,
        /// A waiter, with or without a place handed to it, leaves.
        Leave(u8),
        /// A waiter takes the place that was handed to it.
        Collect(u8),
        /// A request with a place becomes a session.
        Settle(u8),
        /// A request gives its place back.
        GiveBack(u8),
        /// A session is gone.
        End,
        /// The capacity is changed.
        Resize(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let kind = || prop_oneof![3 => Just(Create), 1 => Just(Restore)];
        let step = prop_oneof![
            6 => (kind(), 0..4_u8).prop_map(|(kind, client)| Step::Come(kind, client)),
            2 => Just(Step::Expect),
            1 => Just(Step::Refuse),
            2 => any::<u8>().prop_map(Step::Leave),
            3 => any::<u8>().prop_map(Step::Collect),
            3 => any::<u8>().prop_map(Step::Settle),
            1 => any::<u8>().prop_map(Step::GiveBack),
            3 => Just(Step::End),
            1 => (0..8_usize).prop_map(Step::Resize),
        ];
        prop::collection::vec(step, 0..200)
    }

    /// The expected state: the waiters in order, and those with a place.
    #[derive(Default)]
    struct Model {
        /// By kind: restores, newcomers.
        expecting: [Vec<u64>; 2],
        queued: [FairQueue; 2],
        waiting: Vec<(u64, ArrivalKind, ClientKey)>,
        served: Vec<(u64, ArrivalKind, ClientKey)>,
        /// Places beyond the capacity.
        over: usize,
        holding: Vec<ArrivalKind>,
        sessions: usize,
    }

    impl Model {
        fn first(&self) -> Option<(u64, usize)> {
            (0..2).find_map(|lane| Some((self.queued[lane].first()?, lane)))
        }

        /// A place becomes free.
        fn serve(&mut self) {
            if self.over > 0 {
                self.over -= 1;
                return;
            }
            let next = (0..2).find_map(|lane| match self.expecting[lane].is_empty() {
                true => self.queued[lane].pop(),
                false => Some(self.expecting[lane].remove(0)),
            });
            if let Some(next) = next {
                let nth = self.waiting.iter().position(|(number, ..)| *number == next).expect("it waits");
                self.served.push(self.waiting.remove(nth));
            }
        }

        fn arriving(&self) -> usize {
            let served = self.served.iter().filter(|(_, kind, _)| *kind == Create).count();
            let holding = self.holding.iter().filter(|kind| **kind == Create).count();
            self.expecting[1].len() + served + holding
        }
    }

    proptest! {
        #[test]
        fn no_place_is_lost_or_made_and_each_goes_where_it_should(all in 1..6_usize, steps in steps()) {
            let (mut all, mut places, mut model) = (all, Places::new(all), Model::default());
            for step in steps {
                match step {
                    Step::Come(kind, _) if places.take(kind) => model.holding.push(kind),
                    Step::Come(kind, client) => {
                        let client = if client == 0 { ClientKey::Anonymous } else { address(client) };
                        let lane = usize::from(kind == Create);
                        let is_next = (0..=lane).all(|lane| model.queued[lane].is_empty());
                        prop_assert_eq!(places.is_next(kind), is_next);
                        // Every second request that has its turn finds a victim at once.
                        let number = if is_next && model.waiting.len() % 2 == 0 {
                            let number = places.expect_at_once(kind).0;
                            model.expecting[lane].push(number);
                            number
                        } else {
                            let number = places.queue(kind, client.clone()).0;
                            model.queued[lane].push(&client, number);
                            number
                        };
                        model.waiting.push((number, kind, client));
                    }
                    Step::Expect => if let Some((first, lane)) = model.first() {
                        places.expect(first);
                        model.queued[lane].pop();
                        model.expecting[lane].push(first);
                    },
                    Step::Refuse => if let Some((first, lane)) = model.first() {
                        places.refuse(first);
                        model.queued[lane].pop();
                        model.waiting.retain(|(number, ..)| *number != first);
                    },
                    Step::Leave(which) => {
                        let which = usize::from(which) % (model.waiting.len() + model.served.len()).max(1);
                        if which < model.waiting.len() {
                            let (number, kind, client) = model.waiting.remove(which);
                            let lane = usize::from(kind == Create);
                            model.expecting[lane].retain(|other| *other != number);
                            model.queued[lane].remove(&client, number);
                            places.leave(number);
                        } else if which < model.waiting.len() + model.served.len() {
                            let (number, ..) = model.served.remove(which - model.waiting.len());
                            model.serve();
                            places.leave(number);
                        }
                    }
                    Step::Collect(which) if !model.served.is_empty() => {
                        let (number, kind, _) = model.served.remove(usize::from(which) % model.served.len());
                        prop_assert!(places.collect(number));
                        model.holding.push(kind);
                    }
                    Step::Settle(which) if !model.holding.is_empty() => {
                        let kind = model.holding.swap_remove(usize::from(which) % model.holding.len());
                        places.arrived(kind);
                        model.sessions += 1;
                    }
                    Step::GiveBack(which) if !model.holding.is_empty() => {
                        let kind = model.holding.swap_remove(usize::from(which) % model.holding.len());
                        places.give_up(kind);
                        places.put_back();
                        model.serve();
                    }
                    Step::End if model.sessions > 0 => {
                        model.sessions -= 1;
                        places.put_back();
                        model.serve();
                    }
                    Step::Resize(to) => {
                        let mut taken = model.served.len() + model.holding.len() + model.sessions;
                        // Places that were handed and not noticed come back.
                        for (_, number) in places.handed().into_iter().take(taken.saturating_sub(to)) {
                            let nth = model.served.iter().position(|(served, ..)| *served == number).expect("it has one");
                            let waiter = model.served.remove(nth);
                            let lane = usize::from(waiter.1 == Create);
                            model.expecting[lane].insert(0, waiter.0);
                            model.waiting.push(waiter);
                            taken -= 1;
                        }
                        places.resize(to);
                        model.over = taken.saturating_sub(to);
                        while taken < to && !model.waiting.is_empty() {
                            model.serve();
                            taken += 1;
                        }
                        all = to;
                    }
                    _ => {}
                }
                let taken = model.served.len() + model.holding.len() + model.sessions;
                prop_assert_eq!(places.free() + taken, all + model.over);
                prop_assert_eq!(places.over(), model.over);
                prop_assert!(places.free() == 0 || model.waiting.is_empty());
                prop_assert_eq!(places.arriving_beside(None), model.arriving());
                prop_assert_eq!(places.expecting(), model.expecting[0].len() + model.expecting[1].len());
                prop_assert_eq!(places.first(), model.first().map(|(first, _)| first));
                prop_assert!(!model.waiting.iter().any(|(number, ..)| places.collect(*number)));
                prop_assert_eq!(places.waiters.len(), model.waiting.len() + model.served.len());
            }
        }
    }
}
