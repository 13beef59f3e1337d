//! The parked sessions in the order in which they are forgotten beyond the limits, without locks and clocks.

use std::time::Duration;

use hashlink::LinkedHashMap;
use rmcp::transport::streamable_http_server::session::SessionId;
use tokio::time::Instant;

use super::parked::Parked;
use crate::directory::Ownership;
use crate::observe::CloseReason;
use crate::timestamp::Timestamp;

/// The limits of the parking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) entries: usize,
    pub(super) bytes: usize,
    pub(super) entry_bytes: usize,
    pub(super) age: Duration,
}

/// The result of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    ToStay,
    /// The session was ended for good while it was being restored.
    Barred,
    /// The session left the parking for good while it was being restored; the policies have been told of its end.
    Lost,
}

/// Oldest first.
type Queue = LinkedHashMap<SessionId, Parked>;

/// The parked sessions.
///
/// A session is *pinned* during its restore: it keeps its room, and neither its age nor another session removes it.
/// When the parking is full and the session that made a place free must be parked, a pinned session gives up its room.
/// It is then *in transit*, and counts against the places. If its restore is given up, the oldest parked session counts
/// against the places instead (*over*), until another session takes the place.
///
/// So the live sessions and those in the five queues together are never more than the places and the limit of the
/// parking together.
#[derive(Default)]
pub(super) struct ParkingState {
    /// Sessions that were called.
    called: Queue,
    /// Sessions that were never called. They are forgotten first.
    uncalled: Queue,
    /// Pinned sessions that count against the limits.
    pinned: Queue,
    /// Pinned sessions that count against the places instead.
    transit: Queue,
    /// Sessions that were called, are older than all in `called`, and count against the places too.
    over: Queue,
    /// The bytes of the sessions that count against the limits.
    bytes: usize,
    stays: u64,
}

impl ParkingState {
    /// How many sessions count against the limits, and their bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.called.len() + self.uncalled.len() + self.pinned.len(), self.bytes)
    }

    pub(super) fn get(&self, id: &str) -> Option<&Parked> {
        let queues = [&self.called, &self.uncalled, &self.pinned, &self.transit, &self.over];
        let parked = queues.into_iter().filter(|queue| !queue.is_empty()).find_map(|queue| queue.get(id));
        parked.filter(|parked| parked.ended.is_none())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&SessionId, &Parked)> {
        let Self { called, uncalled, pinned, transit, over, .. } = self;
        [called, uncalled, pinned, transit, over].into_iter().flatten().filter(|(_, parked)| parked.ended.is_none())
    }

    const fn queue(&mut self, called: bool) -> &mut Queue {
        if called { &mut self.called } else { &mut self.uncalled }
    }

    /// Appends a session to its queue. Returns the session of the same id that it replaces.
    fn push(&mut self, id: SessionId, parked: Parked) -> Option<Parked> {
        self.bytes += parked.bytes(&id);
        let before = self.queue(parked.has_called()).insert(SessionId::clone(&id), parked)?;
        self.bytes -= before.bytes(&id);
        Some(before)
    }

    /// Parks a session that has left its place. `places` is the number of places without a session now. Sessions that
    /// are forgotten for it, perhaps itself, are pushed to `gone`.
    pub(super) fn park(
        &mut self,
        id: SessionId,
        mut parked: Parked,
        limits: &Limits,
        places: usize,
        gone: &mut Vec<Parked>,
    ) {
        self.stays += 1;
        parked.stay = self.stays;
        let is_back = parked.is_back;
        gone.extend(self.remove_unpinned(&id));
        gone.extend(self.push(id, parked));
        self.put_pinned_in_transit(limits, places);
        if is_back {
            self.spare_the_oldest(limits, places);
        }
        self.shrink(limits, gone);
    }

    /// Makes pinned sessions count against the places, as far as there is no room and places are free.
    fn put_pinned_in_transit(&mut self, limits: &Limits, places: usize) {
        while self.is_over(limits) && self.against_places() < places {
            let Some((id, parked)) = self.pinned.pop_front() else { break };
            self.bytes -= parked.bytes(&id);
            self.transit.insert(id, parked);
        }
    }

    /// How many sessions count against the places.
    fn against_places(&self) -> usize {
        self.transit.len() + self.over.len()
    }

    fn is_over(&self, limits: &Limits) -> bool {
        let (entries, bytes) = self.size();
        entries > limits.entries || bytes > limits.bytes
    }

    fn shrink(&mut self, limits: &Limits, gone: &mut Vec<Parked>) {
        while self.is_over(limits) && self.forget_one(gone) {}
    }

    fn forget_one(&mut self, gone: &mut Vec<Parked>) -> bool {
        let unpinned = self.uncalled.pop_front().or_else(|| self.called.pop_front());
        // All are pinned, and another session took the place: the newest pinned one has neither a place nor room.
        let Some((id, parked)) = unpinned.or_else(|| self.pinned.pop_back()) else { return false };
        self.bytes -= parked.bytes(&id);
        gone.push(parked);
        true
    }

    /// Records that a session has come into a place. `places` is the number of places without a session now.
    pub(super) fn arrive(
        &mut self,
        id: &str,
        pin: Option<&Parked>,
        limits: &Limits,
        places: usize,
        gone: &mut Vec<Parked>,
    ) -> Came {
        let came = match pin.map(|pin| self.remove_pinned(id, pin)) {
            Some(None) => Came::Lost,
            Some(Some(parked)) if parked.ended.is_some() => Came::Barred,
            _ => Came::ToStay,
        };
        self.balance(limits, places, gone);
        came
    }

    /// Takes in a session that was claimed, pinned: its restore has a place, so it is in transit. `places` is the number of
    /// places without a session now, that one included.
    pub(super) fn claimed(
        &mut self,
        id: SessionId,
        mut parked: Parked,
        limits: &Limits,
        places: usize,
        gone: &mut Vec<Parked>,
    ) -> Parked {
        self.stays += 1;
        parked.stay = self.stays;
        gone.extend(self.remove_unpinned(&id));
        self.transit.insert(id, parked.clone());
        self.balance(limits, places, gone);
        parked
    }

    /// Sets under what this server has a pinned session in the directory. Returns false if that has left the parking.
    pub(super) fn set_ownership(&mut self, id: &str, pin: &Parked, ownership: Ownership) -> bool {
        let pinned = self.pinned.get_mut(id).or_else(|| self.transit.get_mut(id));
        let parked = pinned.filter(|parked| parked.stay == pin.stay);
        parked.map(|parked| parked.ownership = Some(ownership)).is_some()
    }

    /// Removes a session that another server has claimed, unless it is pinned: then its restore hears of that. Returns
    /// whether it did.
    pub(super) fn lose(&mut self, id: &str, ownership: Ownership, gone: &mut Vec<Parked>) -> bool {
        let is_this = |queue: &Queue| queue.get(id).is_some_and(|parked| parked.ownership == Some(ownership));
        let is_here = [&self.called, &self.uncalled, &self.over].into_iter().any(is_this);
        if is_here {
            gone.extend(self.remove_unpinned(id));
        }
        is_here
    }

    /// Removes a pinned session that another server has claimed: it has not ended, whatever was decided here.
    pub(super) fn lose_pinned(&mut self, id: &str, pin: &Parked, gone: &mut Vec<Parked>) {
        if let Some(mut parked) = self.remove_pinned(id, pin) {
            parked.ended = None;
            gone.push(parked);
        }
    }

    /// Makes what counts against the places count against the limits, as far as another session has its place, and the
    /// other way round as far as there is room.
    fn balance(&mut self, limits: &Limits, places: usize, gone: &mut Vec<Parked>) {
        while self.against_places() > places {
            if let Some((id, parked)) = self.over.pop_back() {
                self.count_again(id, parked);
            } else if let Some((id, parked)) = self.transit.pop_back() {
                self.bytes += parked.bytes(&id);
                self.pinned.insert(id, parked);
            } else {
                break;
            }
        }
        while !self.is_over(limits)
            && let Some((id, parked)) = self.over.pop_back()
        {
            self.count_again(id, parked);
        }
        self.shrink(limits, gone);
    }

    /// Called when a session is parked again after a restore that was given up. While its place is free, it must not
    /// push another client's session out.
    fn spare_the_oldest(&mut self, limits: &Limits, places: usize) {
        if self.uncalled.is_empty() && self.is_over(limits) && self.against_places() < places {
            self.put_oldest_over();
        }
    }

    /// Makes the oldest parked session count against the places.
    fn put_oldest_over(&mut self) {
        if let Some((id, parked)) = self.called.pop_front() {
            self.bytes -= parked.bytes(&id);
            self.over.insert(id, parked);
        }
    }

    /// Makes a session of `over` count against the limits again, as the oldest in `called`.
    fn count_again(&mut self, id: SessionId, parked: Parked) {
        self.bytes += parked.bytes(&id);
        self.called.insert(SessionId::clone(&id), parked);
        self.called.to_front(&id);
    }

    /// Pins a session that is not pinned.
    pub(super) fn pin(&mut self, id: &str) -> Option<Parked> {
        if let Some((id, parked)) = self.over.remove_entry(id) {
            self.transit.insert(id, parked.clone());
            return Some(parked);
        }
        let (id, parked) = self.called.remove_entry(id).or_else(|| self.uncalled.remove_entry(id))?;
        self.pinned.insert(id, parked.clone());
        Some(parked)
    }

    /// Ends the pin of a session that did not come into a place. Its client has asked for it, so its age counts from
    /// now. `places` is the number of places without a session now.
    pub(super) fn unpin(
        &mut self,
        id: &SessionId,
        pin: &Parked,
        now: Instant,
        limits: &Limits,
        places: usize,
        gone: &mut Vec<Parked>,
    ) {
        let was_in_transit = self.transit.len();
        let Some(mut parked) = self.remove_pinned(id, pin) else { return };
        if parked.ended.is_some() {
            gone.push(parked);
            return;
        }
        parked.seen(now);
        let was_in_transit = self.transit.len() < was_in_transit;
        gone.extend(self.push(SessionId::clone(id), parked));
        if was_in_transit {
            self.spare_the_oldest(limits, places);
        }
        self.shrink(limits, gone);
    }

    fn remove_pinned(&mut self, id: &str, pin: &Parked) -> Option<Parked> {
        let is_this = |queue: &Queue| queue.get(id).is_some_and(|parked| parked.stay == pin.stay);
        if is_this(&self.transit) {
            return self.transit.remove(id);
        }
        let parked = if is_this(&self.pinned) { self.pinned.remove(id) } else { None }?;
        self.bytes -= parked.bytes(id);
        Some(parked)
    }

    fn remove_unpinned(&mut self, id: &str) -> Option<Parked> {
        if let Some(parked) = self.over.remove(id) {
            return Some(parked);
        }
        let parked = self.called.remove(id).or_else(|| self.uncalled.remove(id))?;
        self.bytes -= parked.bytes(id);
        Some(parked)
    }

    /// Removes a session that must not be restored. Returns true for the one caller that did. A pinned session is
    /// removed after its restore.
    pub(super) fn take(&mut self, id: &str, reason: CloseReason, gone: &mut Vec<Parked>) -> bool {
        if let Some(mut parked) = self.remove_unpinned(id) {
            parked.ended = Some(reason);
            gone.push(parked);
            return true;
        }
        let pinned = self.pinned.get_mut(id).or_else(|| self.transit.get_mut(id));
        pinned.filter(|parked| parked.ended.is_none()).is_some_and(|parked| parked.ended.replace(reason).is_none())
    }

    /// Records a message from the client of a parked session.
    pub(super) fn touch(&mut self, id: &str, now: Instant, limits: &Limits, gone: &mut Vec<Parked>) -> bool {
        if let Some((id, mut parked)) = self.over.remove_entry(id) {
            parked.seen(now);
            gone.extend(self.push(id, parked));
            self.put_oldest_over();
            self.shrink(limits, gone);
            return true;
        }
        for queue in [&mut self.called, &mut self.uncalled] {
            if let Some(parked) = queue.to_back(id) {
                parked.seen(now);
                return true;
            }
        }
        let pinned = self.pinned.get_mut(id).or_else(|| self.transit.get_mut(id));
        pinned.filter(|parked| parked.ended.is_none()).map(|parked| parked.seen(now)).is_some()
    }

    /// Forgets sessions that other limits leave no room for, or that are too old for them, `most` at most. Returns whether
    /// there are no more of them. `places` is the number of places without a session now: sessions whose restores are under
    /// way count against those first.
    pub(super) fn fit(
        &mut self,
        limits: &Limits,
        now: Instant,
        places: usize,
        most: usize,
        gone: &mut Vec<Parked>,
    ) -> bool {
        let until = gone.len() + most;
        while gone.len() < until {
            let before = gone.len();
            if self.oldest().is_some_and(|since| since + limits.age <= now) {
                self.expire_one(now, limits.age, gone);
            } else {
                self.put_pinned_in_transit(limits, places);
                if self.is_over(limits) {
                    self.forget_one(gone);
                }
            }
            if gone.len() == before {
                return true;
            }
        }
        false
    }

    /// Forgets the sessions that were parked too long ago.
    pub(super) fn expire(&mut self, now: Instant, age: Duration, gone: &mut Vec<Parked>) {
        while self.expire_one(now, age, gone) {}
    }

    fn expire_one(&mut self, now: Instant, age: Duration, gone: &mut Vec<Parked>) -> bool {
        let is_due = |queue: &Queue| queue.front().is_some_and(|(_, oldest)| oldest.since.instant() + age <= now);
        if is_due(&self.over) {
            gone.extend(self.over.pop_front().map(|(_, parked)| parked));
            return true;
        }
        let queue = [&mut self.called, &mut self.uncalled].into_iter().find(|queue| is_due(queue));
        let Some((id, parked)) = queue.and_then(LinkedHashMap::pop_front) else { return false };
        self.bytes -= parked.bytes(&id);
        gone.push(parked);
        true
    }

    /// From when the age of the oldest session counts.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let fronts = [self.called.front(), self.uncalled.front(), self.over.front()];
        fronts.into_iter().flatten().map(|(_, parked)| parked.since).min().map(Timestamp::instant)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::manager::parked::entry_bytes;
    use crate::session::SessionOrigin;

    const PLACES: usize = 3;
    const SESSIONS: usize = 12;

    fn limits() -> Limits {
        Limits {
            entries: 4,
            bytes: 4 * entry_bytes("0", 20, None),
            entry_bytes: usize::MAX,
            age: Duration::from_secs(60),
        }
    }

    fn ids(queue: &Queue) -> Vec<&str> {
        queue.keys().map(|id| &**id).collect()
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// A new session comes into a free place.
        Open,
        /// A live session loses its place and is parked.
        Park {
            called: bool,
            said: usize,
            is_back: bool,
        },
        Pin,
        /// A pinned session comes into a free place.
        Arrive,
        Unpin,
        Take,
        Touch,
        Pass,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Open),
            6 => (any::<bool>(), 0..40_usize, any::<bool>())
                .prop_map(|(called, said, is_back)| Step::Park { called, said, is_back }),
            4 => Just(Step::Pin),
            3 => Just(Step::Arrive),
            2 => Just(Step::Unpin),
            1 => Just(Step::Take),
            1 => Just(Step::Touch),
            1 => Just(Step::Pass),
        ]
    }

    proptest! {
        /// After each step the bounds hold, and each session is live, parked, or has left the parking exactly once.
        #[test]
        fn it_is_exact(steps in prop::collection::vec((step(), any::<prop::sample::Index>()), 0..200)) {
            let limits = limits();
            let mut lot = ParkingState::default();
            let mut now = Instant::now();
            let mut live = BTreeSet::<String>::new();
            let mut pins = BTreeMap::<String, Parked>::new();
            let mut inside = BTreeMap::<SessionOrigin, String>::new();
            let mut opened = 0;
            for (step, any) in steps {
                let mut gone = Vec::new();
                let among = |names: &mut dyn Iterator<Item = String>| {
                    let names: Vec<_> = names.collect();
                    (!names.is_empty()).then(|| names[any.index(names.len())].clone())
                };
                match step {
                    Step::Open if live.len() < PLACES && live.len() + inside.len() < SESSIONS => {
                        opened += 1;
                        let id = opened.to_string();
                        live.insert(id.clone());
                        lot.arrive(&id, None, &limits, PLACES - live.len(), &mut gone);
                    }
                    Step::Park { called, said, is_back } => {
                        if let Some(id) = among(&mut live.iter().cloned()) {
                            live.remove(&id);
                            let mut parked = Parked::made_up(called, said, now);
                            parked.is_back = is_back;
                            inside.insert(parked.serial(), id.clone());
                            lot.park(id.into(), parked, &limits, PLACES - live.len(), &mut gone);
                        }
                    }
                    Step::Pin => {
                        if let Some(id) = among(&mut inside.values().cloned())
                            && let Some(pin) = lot.pin(&id)
                        {
                            pins.insert(id, pin);
                        }
                    }
                    Step::Arrive if live.len() < PLACES => {
                        if let Some(id) = among(&mut pins.keys().cloned()) {
                            let pin = pins.remove(&id).unwrap();
                            live.insert(id.clone());
                            inside.remove(&pin.serial());
                            lot.arrive(&id, Some(&pin), &limits, PLACES - live.len(), &mut gone);
                        }
                    }
                    Step::Unpin => {
                        if let Some(id) = among(&mut pins.keys().cloned()) {
                            let pin = pins.remove(&id).unwrap();
                            lot.unpin(&id.into(), &pin, now, &limits, PLACES - live.len(), &mut gone);
                        }
                    }
                    Step::Take => {
                        if let Some(id) = among(&mut inside.values().cloned()) {
                            let first = lot.get(&id).is_some();
                            prop_assert_eq!(lot.take(&id, CloseReason::Client, &mut gone), first);
                            prop_assert!(lot.get(&id).is_none());
                        }
                    }
                    Step::Touch => {
                        if let Some(id) = among(&mut inside.values().cloned()) {
                            let here = lot.get(&id).is_some();
                            prop_assert_eq!(lot.touch(&id, now, &limits, &mut gone), here);
                        }
                    }
                    Step::Pass => {
                        now += Duration::from_secs(25);
                        lot.expire(now, limits.age, &mut gone);
                    }
                    _ => {}
                }
                for parked in gone {
                    let id = inside.remove(&parked.serial());
                    prop_assert!(id.is_some(), "left twice");
                    let pinned = pins.remove(&id.unwrap()).is_some();
                    prop_assert!(!pinned || lot.called.len() + lot.uncalled.len() == 0, "left before others");
                }
                let counted = [&lot.called, &lot.uncalled, &lot.pinned];
                let held = counted.into_iter().flatten().map(|(id, parked)| parked.bytes(id)).sum::<usize>();
                let (entries, bytes) = lot.size();
                prop_assert_eq!(held, bytes);
                prop_assert!(entries <= limits.entries && bytes <= limits.bytes);
                prop_assert!(lot.against_places() + live.len() <= PLACES);
                prop_assert_eq!(entries + lot.against_places(), inside.len());
                prop_assert_eq!(lot.pinned.len() + lot.transit.len(), pins.len());
                prop_assert!(lot.uncalled.values().is_sorted_by_key(|parked| parked.since));
                prop_assert!(lot.over.values().chain(lot.called.values()).is_sorted_by_key(|parked| parked.since));
            }
        }
    }

    /// A full parking of four sessions, named by their order.
    fn full() -> (ParkingState, Instant) {
        let (mut lot, now) = (ParkingState::default(), Instant::now());
        for id in ["1", "2", "3", "4"] {
            lot.park(id.into(), Parked::made_up(true, 0, now), &limits(), 0, &mut Vec::new());
        }
        (lot, now)
    }

    #[test]
    fn lower_limits_forget_no_session_that_is_being_restored_while_its_place_is_free() {
        let (mut lot, now) = full();
        let mut gone = Vec::new();
        let pins = ["2", "3"].map(|id| lot.pin(id).unwrap());
        let none = Limits { entries: 0, ..limits() };
        assert!(lot.fit(&none, now, 1, 9, &mut gone));
        assert_eq!((ids(&lot.transit), lot.size(), gone.len()), (vec!["2"], (0, 0), 3), "one place is free");
        assert_eq!(lot.arrive("2", Some(&pins[0]), &none, 0, &mut gone), Came::ToStay);
        assert_eq!(lot.arrive("3", Some(&pins[1]), &none, 0, &mut gone), Came::Lost);
    }

    #[test]
    fn a_pinned_session_makes_room_for_the_one_whose_place_it_gets() {
        let (mut lot, now) = full();
        let mut gone = Vec::new();
        let pin = lot.pin("2").unwrap();
        lot.park("5".into(), Parked::made_up(true, 0, now), &limits(), 1, &mut gone);
        assert!(gone.is_empty() && lot.get("2").is_some());
        assert_eq!((ids(&lot.called), ids(&lot.transit)), (vec!["1", "3", "4", "5"], vec!["2"]));
        assert_eq!(lot.arrive("2", Some(&pin), &limits(), 0, &mut gone), Came::ToStay);
        assert!(gone.is_empty() && lot.get("2").is_none());
        assert_eq!(lot.size().0, 4);
    }

    #[test]
    fn once_its_place_has_gone_to_another_a_pinned_session_counts_again() {
        let (mut lot, now) = full();
        let mut gone = Vec::new();
        drop(lot.pin("2").unwrap());
        lot.park("5".into(), Parked::made_up(true, 0, now), &limits(), 1, &mut gone);
        lot.arrive("6", None, &limits(), 0, &mut gone);
        assert_eq!((ids(&lot.called), ids(&lot.pinned), gone.len()), (vec!["3", "4", "5"], vec!["2"], 1));
    }

    #[test]
    fn a_pinned_session_that_does_not_come_back_pushes_nobody_out_while_nobody_has_the_place() {
        let (mut lot, now) = full();
        let mut gone = Vec::new();
        let pin = lot.pin("2").unwrap();
        lot.park("5".into(), Parked::made_up(true, 0, now), &limits(), 1, &mut gone);
        lot.unpin(&"2".into(), &pin, now, &limits(), 1, &mut gone);
        assert_eq!((ids(&lot.over), ids(&lot.called)), (vec!["1"], vec!["3", "4", "5", "2"]));
        // The session of `over` is restored as any other, and so are the rest.
        let pin = lot.pin("1").unwrap();
        assert_eq!(ids(&lot.transit), ["1"]);
        lot.unpin(&"1".into(), &pin, now, &limits(), 1, &mut gone);
        assert_eq!((ids(&lot.over), ids(&lot.called)), (vec!["3"], vec!["4", "5", "2", "1"]));
        let pin = lot.pin("4").unwrap();
        assert_eq!(lot.arrive("4", Some(&pin), &limits(), 0, &mut gone), Came::ToStay);
        assert_eq!((ids(&lot.over).len(), ids(&lot.called), gone.len()), (0, vec!["3", "5", "2", "1"], 0));
    }

    #[test]
    fn nor_does_one_that_came_into_its_place_and_was_given_up() {
        let (mut lot, now) = full();
        let mut gone = Vec::new();
        let pin = lot.pin("2").unwrap();
        lot.park("5".into(), Parked::made_up(true, 0, now), &limits(), 1, &mut gone);
        lot.arrive("2", Some(&pin), &limits(), 0, &mut gone);
        let mut back = Parked::made_up(true, 0, now);
        back.is_back = true;
        lot.park("2".into(), back, &limits(), 1, &mut gone);
        assert_eq!((ids(&lot.over), ids(&lot.called), gone.len()), (vec!["1"], vec!["3", "4", "5", "2"], 0));
    }

    #[test]
    fn once_a_newcomer_has_the_place_the_oldest_goes() {
        let (mut lot, now) = full();
        let mut gone = Vec::new();
        let pin = lot.pin("2").unwrap();
        lot.park("5".into(), Parked::made_up(true, 0, now), &limits(), 1, &mut gone);
        lot.unpin(&"2".into(), &pin, now, &limits(), 1, &mut gone);
        assert!(gone.is_empty());
        lot.arrive("6", None, &limits(), 0, &mut gone);
        assert_eq!((ids(&lot.called), lot.over.len(), gone.len()), (vec!["3", "4", "5", "2"], 0, 1));
    }

    #[test]
    fn of_sessions_that_are_all_pinned_one_is_lost_when_its_place_has_gone_to_another() {
        let (mut lot, now) = full();
        let mut gone = Vec::new();
        let pins = ["1", "2", "3", "4"].map(|id| lot.pin(id).unwrap());
        lot.park("5".into(), Parked::made_up(true, 0, now), &limits(), 1, &mut gone);
        assert_eq!((ids(&lot.transit), ids(&lot.called)), (vec!["1"], vec!["5"]));
        let _five = lot.pin("5").unwrap();
        lot.arrive("6", None, &limits(), 0, &mut gone);
        assert_eq!((lot.size().0, gone.len(), gone[0].serial()), (4, 1, pins[0].serial()));
        assert_eq!(lot.arrive("1", Some(&pins[0]), &limits(), 0, &mut gone), Came::Lost);
        lot.take("2", CloseReason::Client, &mut gone);
        assert_eq!(lot.arrive("2", Some(&pins[1]), &limits(), 0, &mut gone), Came::Barred);
        lot.unpin(&"1".into(), &pins[0], now, &limits(), 0, &mut gone);
        assert_eq!((lot.size().0, gone.len()), (3, 1));
    }

    #[test]
    fn what_was_heard_of_is_the_last_to_be_too_old() {
        let (mut lot, now) = full();
        let at = |secs| now + Duration::from_secs(secs);
        let mut touch = |id| lot.touch(id, at(30), &limits(), &mut Vec::new());
        assert!(touch("2") && !touch("7"));
        assert_eq!(lot.oldest(), Some(Timestamp::at(now).instant()));
        let mut gone = Vec::new();
        lot.expire(at(60), limits().age, &mut gone);
        assert_eq!((ids(&lot.called), gone.len()), (vec!["2"], 3));
        let origin = lot.get("2").unwrap().origin("2".into());
        assert_eq!(
            (origin.history.last_seen, origin.history.last_used),
            (Timestamp::at(at(30)), Timestamp::at(now)),
            "seen, and not used"
        );
        lot.expire(at(89), limits().age, &mut gone);
        assert_eq!(lot.size().0, 1);
        lot.expire(at(90), limits().age, &mut gone);
        assert_eq!((lot.size(), lot.oldest()), ((0, 0), None));
    }
}
