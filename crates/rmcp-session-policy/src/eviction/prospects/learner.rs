//! [`Learner`]: which sessions come back, learned from those that did and those that did not.

use std::time::Duration;

use super::class::{Class, Listening};
use super::client_names::{ClientNames, Name, OTHERS, PLACES};
use super::known::{Away, Idle, Live, Parked};
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

    /// Notes a new session.
    pub(super) fn open(&mut self, key: SessionKey, now: Tick) {
        self.live.insert(key, Idle::begin(now));
    }

    /// Notes that a session which was removed has come back, as a new incarnation. It was used last at `since`.
    pub(super) fn restore(&mut self, key: SessionKey, session: u32, since: Tick) {
        let away = self.parked.remove(session);
        self.live.insert(key, away.map_or(Idle::unknown(since), |away| away.idle));
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
                // What has been away for longer is censored: nothing distinguishes it from what was away for so long.
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
