//! [`Learner`]: which sessions come back, learned from those that did and those that did not.

use std::time::Duration;

use super::class::{Class, Listening};
use super::client_names::{ClientNames, Name, OTHERS, PLACES};
use super::known::{Away, Idle, Live, Parked};
use super::price::{self, Price};
use super::rebuild::Rebuild;
use super::tables::Tables;
use super::ticks::Tick;
use crate::session::SessionKey;

/// How long after the begin of a rebuild the next one is due, in seconds.
const REBUILD_EVERY: f64 = 60.0;
/// How long it takes until half of what was seen is forgotten, in seconds.
const HALF_LIFE: f64 = 86_400.0;
/// Idleness that is no longer is not learned from: the registry does not tell of returns after it. In seconds.
const SHORTEST: f64 = 1.0;
/// The idle timeout while there is no price, in seconds.
const FIXED: f64 = 1_800.0;
/// How many sessions go by the price without a restore in between. If no session of these comes back, none can: then there is
/// no price, which would only rise, since it learns nothing of those that went too early.
const MOST_LET_GO: u32 = 2_000;
/// How much older an idle session is, as a factor, when its worth is computed again.
const LOOK_AHEAD: f64 = 1.5;
/// How many parked sessions one slice of work visits, which takes 10 µs.
const VISITS: usize = 128;
/// How many steps of a rebuild one slice of work does, which takes 40 µs at most.
const STEPS: usize = 4;

/// What is known of a session that tells its class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) client_name: Option<&'a str>,
    pub(super) calls: u64,
    pub(super) last_gap: Option<Duration>,
    pub(super) listening: Listening,
}

/// The work that a learner does in slices, one at each arrival.
#[derive(Clone, Debug)]
enum Work {
    /// None until the next rebuild is due.
    Nothing,
    /// Watch the parked sessions.
    Visit,
    /// Compute the indexes.
    Rebuild(Box<Rebuild>),
}

/// What was seen of all sessions, and the index of each class.
///
/// Each second of idleness is counted once, whatever became of the session: when it comes back, when it is removed, and in
/// between whenever it is watched. So sessions that are still idle count too, those that were evicted up to their return or up
/// to when they are forgotten, and a session that ends for good counts up to its end as one that did not come back until then
/// (it is censored). Without that, a class which never comes back would look as if little were known of it.
#[derive(Clone, Debug)]
pub(super) struct Learner {
    names: ClientNames,
    tables: Tables,
    live: Live,
    parked: Parked,
    work: Work,
    /// What a place must be worth, if idle sessions are to go.
    price: Option<Price>,
    /// How many sessions went by the price since the last restore.
    let_go: u32,
    /// When the last rebuild began.
    begun: Tick,
    /// When each place of a name was given to it.
    named: [Tick; PLACES],
}

impl Learner {
    /// Makes a learner that has seen nothing, and follows at most this many parked sessions.
    pub(super) fn new(most_parked: usize) -> Self {
        let mut tables = Tables::new();
        let mut rebuild = Rebuild::new(1.0);
        while rebuild.step(&mut tables) {}
        Self {
            names: ClientNames::new(),
            tables,
            live: Live::default(),
            parked: Parked::new(most_parked),
            work: Work::Nothing,
            price: None,
            let_go: 0,
            begun: Tick::default(),
            named: [Tick::default(); PLACES],
        }
    }

    /// Returns the class of a session.
    pub(super) fn class(&self, facts: &Facts<'_>) -> Class {
        self.class_of(self.names.name(facts.client_name), facts)
    }

    fn class_of(&self, name: Name, facts: &Facts<'_>) -> Class {
        Class::new(self.names.place(name), facts.calls, facts.last_gap, facts.listening)
    }

    /// Returns the index of a session that has been idle for `age` seconds: how many returns a second of its place is worth.
    pub(super) fn index(&self, class: Class, age: f64) -> f32 {
        self.tables.index(class, age)
    }

    /// Sets a price for a place, at which this share of the resumptions is kept.
    pub(super) fn keep_resumptions(&mut self, share: f64) {
        self.price = Some(Price::new(share));
    }

    /// Returns the idle age in seconds up to which a session that has been idle for `age` is worth its place: `age` or less
    /// if it is not. Indexes and the price move, so it is to be asked again then.
    pub(super) fn worth_until(&mut self, class: Class, age: f64) -> f64 {
        let price = self.price.as_ref().and_then(Price::now).filter(|_| self.let_go < MOST_LET_GO);
        let until = match price {
            _ if age < price::SHORTEST => return price::SHORTEST,
            None => return FIXED,
            Some(price) => self.tables.falls_below(class, price, age, age * LOOK_AHEAD),
        };
        self.let_go += u32::from(until <= age);
        until
    }

    /// Notes a new session.
    pub(super) fn open(&mut self, key: SessionKey, now: Tick) {
        self.live.insert(key, Idle::begin(now));
    }

    /// Notes that a session which was removed has come back, as a new incarnation. It was used last at `since`.
    pub(super) fn restore(&mut self, key: SessionKey, session: u32, since: Tick) {
        self.let_go = 0;
        let away = self.parked.remove(session);
        self.live.insert(key, away.map_or(Idle::unknown(since), |away| away.idle));
    }

    /// Prepares to [`watch`](Self::watch) sessions.
    pub(super) fn bring_into_cache(&self, keys: impl Iterator<Item = SessionKey>) {
        self.live.bring_into_cache(keys);
    }

    /// Notes that a live session has not been used since `since`.
    pub(super) fn watch(&mut self, key: SessionKey, class: Class, since: Tick, now: Tick) {
        if now.since(since) <= SHORTEST {
            return;
        }
        let Some(idle) = self.live.get(key) else { return };
        if idle.since != since {
            *idle = Idle::begin(since);
        }
        self.tables.watch(class, idle.age(), now.since(since));
        idle.watched = now.max(idle.watched);
    }

    /// Notes that a session was used after it was idle for `lasted` seconds. The facts are those before the use.
    pub(super) fn come_back(&mut self, key: SessionKey, facts: &Facts<'_>, lasted: f64) {
        let name = self.names.name(facts.client_name);
        self.names.see(name);
        let class = self.class_of(name, facts);
        let Some(idle) = self.live.get(key) else { return };
        if !idle.is_unknown() {
            self.tables.watch(class, idle.age(), lasted);
            self.tables.come_back(class, lasted);
            if let Some(price) = &mut self.price {
                price.come_back(&self.tables, class, lasted);
            }
        }
        // What of this period was watched says nothing of the next one.
        *idle = Idle::begin(idle.since);
    }

    /// Notes that an idle session was removed, which may be restored.
    pub(super) fn leave(&mut self, key: SessionKey, session: u32, facts: &Facts<'_>, since: Tick, now: Tick) {
        let name = self.names.name(facts.client_name);
        self.names.see(name);
        let class = self.class_of(name, facts);
        self.watch(key, class, since, now);
        let Some(idle) = self.live.get(key).copied() else { return };
        if !idle.is_unknown() {
            let idle = if idle.since == since { idle } else { Idle::begin(since) };
            self.parked.insert(Away { session, idle, class });
        }
    }

    /// Notes that a session which was removed does not come back.
    pub(super) fn forget(&mut self, session: u32, now: Tick) {
        if let Some(away) = self.parked.remove(session) {
            watch_away(&mut self.tables, &self.named, away, now);
        }
    }

    /// Does a slice of the work that is due. Takes 40 µs at most, however many sessions there are.
    pub(super) fn work(&mut self, now: Tick) {
        match &mut self.work {
            Work::Nothing if now.since(self.begun) >= REBUILD_EVERY => {
                self.parked.begin_round();
                self.work = Work::Visit;
            }
            Work::Nothing => {}
            Work::Visit => self.visit_parked(now),
            Work::Rebuild(rebuild) => {
                if !(0..STEPS).all(|_| rebuild.step(&mut self.tables)) {
                    self.work = Work::Nothing;
                }
            }
        }
    }

    /// Watches some of the parked sessions, and begins a rebuild after the last.
    fn visit_parked(&mut self, now: Tick) {
        let Self { parked, tables, named, .. } = self;
        for _ in 0..VISITS {
            let goes_on = parked.visit(|away| {
                *away = watch_away(tables, named, *away, now);
                // What has been away for longer is censored: nothing distinguishes it from what has just passed that age.
                away.idle.age() < super::ages::BEGINS[super::ages::BUCKETS]
            });
            if !goes_on {
                return self.begin_rebuild(now);
            }
        }
    }

    fn begin_rebuild(&mut self, now: Tick) {
        let keep = (-now.since(self.begun) / HALF_LIFE).exp2();
        self.begun = now;
        self.names.forget(keep as f32);
        if let Some(price) = &mut self.price {
            price.forget(keep);
        }
        if let Some(place) = self.names.promote() {
            self.named[usize::from(place)] = now;
            for class in Class::all().filter(|class| class.name() == place) {
                self.tables.merge(class, class.with_name(OTHERS));
            }
        }
        self.work = Work::Rebuild(Box::new(Rebuild::new(keep)));
    }
}

/// Watches a session that is away; returns it as it is now. Its class has the name of others if the place of its name was
/// given to another name since it was watched last.
fn watch_away(tables: &mut Tables, named: &[Tick; PLACES], mut away: Away, now: Tick) -> Away {
    if named.get(usize::from(away.class.name())).is_some_and(|named| *named >= away.idle.watched && named.0 > 0) {
        away.class = away.class.with_name(OTHERS);
    }
    tables.watch(away.class, away.idle.age(), now.since(away.idle.since));
    away.idle.watched = now.max(away.idle.watched);
    away
}

/// What tests see of a learner.
#[cfg(test)]
impl Learner {
    /// The evidence of a class at the ages of a bucket.
    pub(super) fn evidence(&self, class: Class, bucket: usize) -> super::tables::Evidence {
        self.tables.evidence(class, bucket)
    }

    /// How many sessions that were removed are followed.
    pub(super) fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Lets no rebuild begin by itself from now on.
    pub(super) fn rebuild_never(&mut self) {
        self.begun = Tick(u32::MAX);
    }

    /// Rebuilds at once, and forgets nothing. No rebuild begins by itself from then on.
    pub(super) fn rebuild_all(&mut self, now: Tick) {
        self.rebuild_never();
        self.parked.begin_round();
        self.work = Work::Visit;
        while !matches!(self.work, Work::Nothing) {
            self.work(now);
        }
        self.rebuild_never();
    }
}

#[cfg(test)]
mod tests {
    use super::super::ages::{BUCKETS, bucket};
    use super::super::tables::Evidence;
    use super::*;

    const fn key(index: u32) -> SessionKey {
        SessionKey::new(index, 1)
    }

    const fn at(seconds: u32) -> Tick {
        Tick(10 * seconds)
    }

    const fn facts_of(client_name: &str, calls: u64) -> Facts<'_> {
        Facts { client_name: Some(client_name), calls, last_gap: None, listening: Listening::Never }
    }

    const fn facts(calls: u64) -> Facts<'static> {
        Facts { client_name: None, ..facts_of("", calls) }
    }

    fn learner() -> Learner {
        Learner::new(1_000)
    }

    /// The evidence of a number of calls and a place of a name.
    fn seen_of(learner: &Learner, place: u8, calls: u64) -> Evidence {
        let mut sum = Evidence::default();
        let class = Class::new(place, calls, None, Listening::Never);
        (0..BUCKETS).for_each(|bucket| sum += learner.evidence(class, bucket));
        sum
    }

    fn watch(learner: &mut Learner, index: u32, calls: u64, since: Tick, now: Tick) {
        let class = learner.class(&facts(calls));
        learner.watch(key(index), class, since, now);
    }

    fn leave(learner: &mut Learner, index: u32, calls: u64, since: Tick, now: Tick) {
        learner.leave(key(index), index, &facts(calls), since, now);
    }

    /// Works until nothing is left, of what is due at a moment.
    fn rebuild(learner: &mut Learner, now: Tick) {
        learner.work(now);
        assert!(matches!(learner.work, Work::Visit), "a rebuild is due");
        while !matches!(learner.work, Work::Nothing) {
            learner.work(now);
        }
    }

    /// Has a name seen in nothing but its number.
    fn see(learner: &mut Learner, name: &str, times: usize) {
        let name = learner.names.name(Some(name));
        (0..times).for_each(|_| learner.names.see(name));
    }

    fn place(learner: &Learner, name: &str) -> u8 {
        learner.class(&facts_of(name, 0)).name()
    }

    #[track_caller]
    fn assert_seen(learner: &Learner, calls: u64, watched: f64, returns: f64) {
        let evidence = seen_of(learner, OTHERS, calls);
        let is_close = (evidence.watched - watched).abs() < 1e-6 && evidence.returns == returns;
        assert!(is_close, "{evidence:?}, not {watched} s and {returns}");
    }

    #[test]
    fn each_second_of_idleness_is_counted_once_and_each_return() {
        let mut learner = learner();
        learner.open(key(0), at(0));
        watch(&mut learner, 0, 0, at(0), at(10));
        watch(&mut learner, 0, 0, at(0), at(30));
        assert_seen(&learner, 0, 30.0, 0.0);
        learner.come_back(key(0), &facts(0), 50.0);
        assert_seen(&learner, 0, 50.0, 1.0);
        // The next period, of which nothing was watched before its end.
        learner.come_back(key(0), &facts(1), 20.0);
        assert_seen(&learner, 1, 20.0, 1.0);
        assert_seen(&learner, 0, 50.0, 1.0);
    }

    #[test]
    fn a_return_is_counted_at_its_age_and_idleness_at_each_age() {
        let mut learner = learner();
        learner.open(key(0), at(0));
        learner.come_back(key(0), &facts(0), 12.0);
        let class = learner.class(&facts(0));
        let returns = (0..BUCKETS).filter(|bucket| learner.evidence(class, *bucket).returns > 0.0);
        assert_eq!(returns.collect::<Vec<_>>(), [bucket(12.0)]);
        let watched = (0..BUCKETS).filter(|bucket| learner.evidence(class, *bucket).watched > 0.0);
        assert_eq!(watched.collect::<Vec<_>>(), (0..=bucket(12.0)).collect::<Vec<_>>());
    }

    #[test]
    fn idleness_of_a_second_is_not_watched() {
        let mut learner = learner();
        learner.open(key(0), at(5));
        watch(&mut learner, 0, 0, at(5), at(6));
        assert_seen(&learner, 0, 0.0, 0.0);
        watch(&mut learner, 0, 0, at(5), Tick(61));
        assert_seen(&learner, 0, 1.1, 0.0);
    }

    #[test]
    fn what_is_told_late_is_not_counted_twice() {
        let mut learner = learner();
        learner.open(key(0), at(0));
        [30, 10, 30].into_iter().for_each(|now| watch(&mut learner, 0, 0, at(0), at(now)));
        leave(&mut learner, 0, 0, at(0), at(20));
        assert_seen(&learner, 0, 30.0, 0.0);
        // A visit of the parked ones at an earlier moment.
        learner.rebuild_all(at(25));
        learner.rebuild_all(at(40));
        assert_seen(&learner, 0, 40.0, 0.0);
    }

    #[test]
    fn a_session_whose_return_was_not_told_begins_a_new_period_when_it_is_watched() {
        let mut learner = learner();
        learner.open(key(0), at(0));
        watch(&mut learner, 0, 0, at(0), at(10));
        // It was used at 11.5, and the queue of returns was full.
        watch(&mut learner, 0, 3, Tick(115), at(12));
        assert_seen(&learner, 3, 0.0, 0.0);
        watch(&mut learner, 0, 3, Tick(115), at(13));
        assert_seen(&learner, 3, 1.5, 0.0);
        learner.come_back(key(0), &facts(3), 8.5);
        assert_seen(&learner, 3, 8.5, 1.0);
    }

    #[test]
    fn an_evicted_session_is_watched_until_it_comes_back() {
        let mut learner = learner();
        learner.open(key(7), at(0));
        watch(&mut learner, 7, 2, at(0), at(10));
        leave(&mut learner, 7, 2, at(0), at(20));
        assert_seen(&learner, 2, 20.0, 0.0);
        // The second slice visits it. The rebuild that begins then has no step yet, so nothing is forgotten.
        learner.work(at(60));
        learner.work(at(90));
        assert_seen(&learner, 2, 90.0, 0.0);
        learner.restore(key(9), 7, at(0));
        assert_eq!(learner.parked(), 0);
        learner.come_back(key(9), &facts(2), 200.0);
        assert_seen(&learner, 2, 200.0, 1.0);
    }

    #[test]
    fn a_session_that_is_evicted_again_before_it_is_used_is_in_the_same_period() {
        let mut learner = learner();
        learner.open(key(0), at(0));
        leave(&mut learner, 0, 2, at(0), at(20));
        learner.restore(key(1), 0, at(0));
        learner.leave(key(1), 0, &facts(2), at(0), at(50));
        assert_seen(&learner, 2, 50.0, 0.0);
        learner.restore(key(2), 0, at(0));
        learner.come_back(key(2), &facts(2), 80.0);
        assert_seen(&learner, 2, 80.0, 1.0);
    }

    #[test]
    fn a_session_that_is_evicted_within_a_second_is_watched_from_its_last_use() {
        let mut learner = learner();
        learner.open(key(0), at(0));
        learner.come_back(key(0), &facts(0), 5.0);
        leave(&mut learner, 0, 1, at(5), Tick(55));
        assert_seen(&learner, 1, 0.0, 0.0);
        learner.rebuild_all(at(20));
        assert_seen(&learner, 1, 15.0, 0.0);
    }

    #[test]
    fn a_session_that_ends_counts_as_not_back_until_then() {
        let mut learner = learner();
        learner.open(key(0), at(0));
        leave(&mut learner, 0, 2, at(0), at(20));
        learner.forget(0, at(50));
        assert_seen(&learner, 2, 50.0, 0.0);
        learner.forget(0, at(500));
        learner.rebuild_all(at(600));
        assert_seen(&learner, 2, 50.0, 0.0);
        assert_eq!(learner.parked(), 0);
    }

    #[test]
    fn of_a_session_that_was_not_followed_nothing_is_learned_until_its_next_use() {
        let mut learner = Learner::new(0);
        learner.open(key(0), at(0));
        leave(&mut learner, 0, 2, at(0), at(20));
        learner.restore(key(1), 0, at(0));
        watch(&mut learner, 1, 2, at(0), at(100));
        learner.come_back(key(1), &facts(2), 100.0);
        assert_seen(&learner, 2, 20.0, 0.0);
        learner.come_back(key(1), &facts(4), 30.0);
        assert_seen(&learner, 4, 30.0, 1.0);
    }

    #[test]
    fn a_session_of_which_too_little_is_known_is_not_followed_when_it_is_evicted_again() {
        let mut learner = learner();
        learner.restore(key(1), 7, at(0));
        learner.leave(key(1), 7, &facts(2), at(0), at(20));
        assert_eq!(learner.parked(), 0);
        // Its next period is known, though its return was not told.
        learner.restore(key(2), 7, at(0));
        learner.leave(key(2), 7, &facts(2), at(50), at(60));
        assert_eq!(learner.parked(), 1);
        assert_seen(&learner, 2, 10.0, 0.0);
    }

    #[test]
    fn a_session_that_is_not_there_is_no_evidence() {
        let mut learner = learner();
        watch(&mut learner, 0, 0, at(0), at(10));
        learner.come_back(key(0), &facts(0), 10.0);
        leave(&mut learner, 0, 0, at(0), at(10));
        learner.forget(0, at(20));
        assert_seen(&learner, 0, 0.0, 0.0);
        assert_eq!(learner.parked(), 0);
    }

    #[test]
    fn a_parked_session_is_censored_after_four_days() {
        let mut learner = learner();
        learner.open(key(0), at(0));
        leave(&mut learner, 0, 2, at(0), at(20));
        learner.rebuild_all(at(370_000));
        assert_eq!(learner.parked(), 1);
        learner.rebuild_all(at(371_000));
        assert_eq!(learner.parked(), 0, "the last bucket ends at 370,727 s");
        assert_seen(&learner, 2, 371_000.0, 0.0);
    }

    #[test]
    fn a_rebuild_is_due_a_minute_after_the_begin_of_the_last_one() {
        let mut learner = learner();
        for (early, due) in [(Tick(599), at(60)), (Tick(1_199), at(130)), (Tick(1_899), at(190))] {
            learner.work(early);
            assert!(matches!(learner.work, Work::Nothing), "{early:?}");
            rebuild(&mut learner, due);
        }
    }

    #[test]
    fn a_rebuild_is_done_in_slices() {
        let mut learner = learner();
        for index in 0..300 {
            learner.open(key(index), at(0));
            leave(&mut learner, index, 2, at(0), at(0));
        }
        learner.work(at(60));
        let mut watched = Vec::new();
        while matches!(learner.work, Work::Visit) {
            learner.work(at(100));
            watched.push((seen_of(&learner, OTHERS, 2).watched / 100.0).round());
        }
        assert_eq!(watched, [128.0, 256.0, 300.0], "128 sessions in one");
        let slices = std::iter::from_fn(|| {
            learner.work(at(100));
            Some(learner.work.clone()).filter(|work| matches!(work, Work::Rebuild(_)))
        });
        assert_eq!(slices.count() + 1, 35, "four of 140 steps in one");
    }

    #[test]
    fn half_of_what_was_seen_is_forgotten_in_a_day() {
        let mut learner = learner();
        learner.open(key(0), at(0));
        (0..8).for_each(|_| learner.come_back(key(0), &facts(1), 10.0));
        see(&mut learner, "half of 30", 30);
        rebuild(&mut learner, at(86_400));
        assert_seen(&learner, 1, 40.0, 4.0);
        assert_eq!(place(&learner, "half of 30"), OTHERS, "15 times is too seldom for a place");
        rebuild(&mut learner, at(2 * 86_400));
        assert_seen(&learner, 1, 20.0, 2.0);
    }

    #[test]
    fn before_anything_was_seen_what_was_used_last_is_worth_most() {
        let learner = learner();
        for class in Class::all() {
            let ages = [1.0, 2.0, 2.1, 30.0, 31.0, 3_600.0, 86_400.0, 86_500.0];
            let worth = ages.map(|age| learner.index(class, age));
            assert!(worth.is_sorted_by(|younger, older| younger > older) && worth[7] > 0.0, "{worth:?}");
        }
    }

    #[test]
    fn the_facts_of_a_session_tell_its_class() {
        let mut learner = learner();
        see(&mut learner, "a", 20);
        rebuild(&mut learner, at(60));
        let minute = Some(Duration::from_secs(60));
        let facts = Facts { client_name: Some("a"), calls: 5, last_gap: minute, listening: Listening::Lost };
        assert_eq!(learner.class(&facts), Class::new(0, 5, minute, Listening::Lost));
        assert_eq!(
            learner.class(&Facts { client_name: None, ..facts }),
            Class::new(OTHERS, 5, minute, Listening::Lost)
        );
    }

    #[test]
    fn a_name_is_seen_when_a_session_comes_back_and_when_it_leaves() {
        let mut learner = learner();
        learner.open(key(0), at(0));
        (0..20).for_each(|_| learner.come_back(key(0), &facts_of("returns", 1), 10.0));
        (0..30).for_each(|_| learner.leave(key(0), 0, &facts_of("leaves", 1), at(0), at(10)));
        rebuild(&mut learner, at(60));
        rebuild(&mut learner, at(120));
        assert_eq!(["leaves", "returns"].map(|name| place(&learner, name)), [0, 1], "one in each rebuild");
    }

    /// Lets the sessions of one client come back after 30 s, on average, and those of another never.
    fn trained() -> Learner {
        let mut learner = learner();
        ["worker", "crawler"].into_iter().for_each(|name| see(&mut learner, name, 100));
        [100, 200].into_iter().for_each(|now| rebuild(&mut learner, at(now)));
        for nth in 0..100_u32 {
            learner.open(key(0), at(200));
            learner.come_back(key(0), &facts_of("worker", 1), f64::from(nth % 60) + 1.0);
            learner.open(key(1), at(200));
            learner.leave(key(1), nth, &facts_of("crawler", 1), at(200), at(260));
        }
        rebuild(&mut learner, at(300));
        learner
    }

    fn index_of(learner: &Learner, name: &str) -> f32 {
        learner.index(learner.class(&facts_of(name, 1)), 10.0)
    }

    #[test]
    fn what_comes_back_has_a_higher_index_than_what_does_not() {
        let learner = trained();
        let [worker, crawler, other] = ["worker", "crawler", "an invented name"].map(|name| index_of(&learner, name));
        assert!(worker > 10.0 * crawler, "{worker} {crawler}");
        assert!(worker > other && other > crawler, "{worker} {other} {crawler}");
    }

    #[test]
    fn an_invented_name_has_the_class_of_others_and_a_false_one_that_of_its_name() {
        let learner = trained();
        assert_eq!(learner.class(&facts_of("x", 1)), learner.class(&facts(1)));
        assert_ne!(learner.class(&facts_of("worker", 1)), learner.class(&facts(1)), "whichever client says so");
    }

    /// Eight names have the places, the last of them has been seen least, and a session of that one is parked.
    fn with_parked() -> (Learner, u8) {
        let mut learner = learner();
        for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            see(&mut learner, name, if name == "h" { 20 } else { 200 });
        }
        (1..9).for_each(|round| rebuild(&mut learner, at(60 * round)));
        let place = place(&learner, "h");
        learner.open(key(0), at(500));
        learner.leave(key(0), 0, &facts_of("h", 2), at(500), at(530));
        assert_eq!(seen_of(&learner, place, 2).watched, 30.0);
        (learner, place)
    }

    #[test]
    fn a_name_that_loses_its_place_leaves_what_was_seen_to_the_others() {
        let (mut learner, place_of_h) = with_parked();
        see(&mut learner, "new", 200);
        rebuild(&mut learner, at(600));
        assert_eq!(["new", "h"].map(|name| place(&learner, name)), [place_of_h, OTHERS]);
        assert_eq!(seen_of(&learner, place_of_h, 2), Evidence::default());
        let others = seen_of(&learner, OTHERS, 2).watched;
        assert!((99.0..=100.0).contains(&others), "with the time in the parking, and little forgotten: {others}");
        // What is parked is one of the others too.
        learner.forget(0, at(700));
        assert_eq!(seen_of(&learner, place_of_h, 2), Evidence::default());
        assert!((seen_of(&learner, OTHERS, 2).watched - others - 100.0).abs() < 1e-6);
    }

    #[test]
    fn a_session_that_is_parked_keeps_its_name_while_that_has_its_place() {
        let (mut learner, place_of_h) = with_parked();
        learner.rebuild_all(at(600));
        assert_eq!(seen_of(&learner, place_of_h, 2).watched, 100.0);
        see(&mut learner, "new", 200);
        learner.rebuild_all(at(700));
        // This one came after the change.
        learner.open(key(1), at(800));
        learner.leave(key(1), 1, &facts_of("new", 2), at(800), at(830));
        learner.forget(1, at(900));
        assert_eq!(seen_of(&learner, place_of_h, 2).watched, 100.0);
    }

    #[test]
    fn a_name_that_has_its_place_from_the_first_tick_on_keeps_it() {
        let mut learner = learner();
        see(&mut learner, "a", 16);
        learner.names.promote();
        learner.open(key(0), at(0));
        learner.leave(key(0), 0, &facts_of("a", 2), at(0), at(0));
        learner.forget(0, at(10));
        assert_eq!(seen_of(&learner, 0, 2).watched, 10.0);
    }

    /// A learner with a price: workers come back after 100 s, and what never calls does not.
    fn priced() -> Learner {
        let mut learner = trained();
        learner.keep_resumptions(0.5);
        let worker = learner.class(&facts_of("worker", 1));
        for _ in 0..200 {
            learner.price.as_mut().unwrap().come_back(&learner.tables, worker, 100.0);
        }
        learner
    }

    #[test]
    fn without_a_price_and_in_its_first_minute_a_session_is_worth_its_place() {
        let mut learner = trained();
        let class = learner.class(&facts_of("worker", 1));
        assert_eq!(learner.worth_until(class, 100.0), 1_800.0, "nothing is to be kept");
        learner.keep_resumptions(0.5);
        assert_eq!(
            [0.0, 59.9, 60.0, 2_000.0].map(|age| learner.worth_until(class, age)),
            [60.0, 60.0, 1_800.0, 1_800.0]
        );
        assert_eq!(priced().worth_until(class, 59.9), 60.0);
    }

    #[test]
    fn at_a_price_a_session_goes_when_its_index_is_below() {
        let mut learner = priced();
        let dead = learner.class(&facts_of("crawler", 1));
        let price = learner.price.as_ref().and_then(Price::now).unwrap();
        assert!(learner.index(dead, 1_000.0) < price);
        assert_eq!(learner.worth_until(dead, 1_000.0), 1_000.0);
        let class = learner.class(&facts_of("worker", 1));
        let until = learner.worth_until(class, 61.0);
        assert!((61.0..=61.0 * LOOK_AHEAD).contains(&until), "{until}");
        assert!(until == 61.0 * LOOK_AHEAD || learner.index(class, until) <= price);
    }

    #[test]
    fn when_none_of_many_that_went_comes_back_there_is_no_price_until_one_does() {
        let mut learner = priced();
        let dead = learner.class(&facts_of("crawler", 1));
        for _ in 0..MOST_LET_GO {
            assert_eq!(learner.worth_until(dead, 1_000.0), 1_000.0);
        }
        assert_eq!(learner.worth_until(dead, 1_000.0), 1_800.0);
        learner.restore(key(9), 9, at(0));
        assert_eq!(learner.worth_until(dead, 1_000.0), 1_000.0);
    }
}
