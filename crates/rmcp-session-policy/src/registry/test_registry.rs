//! Drives the real registry without a manager: what the test kit and the tests of policies and rules stand on.
//!
//! Sessions are named by their order of arrival, which is their key's generation: 1, 2, 3.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Choice, Registry, Rules};
use crate::admission::ArrivalKind;
#[cfg(test)]
use crate::context::ClientContext;
use crate::eviction::EvictionPolicy;
use crate::session::{Activity, ActivityKind, Origin, Record, Signals};
use crate::timestamp::Timestamp;

thread_local! {
    /// How often this thread looked at a session to see whether it may go.
    static LOOKS: Cell<usize> = const { Cell::new(0) };
}

/// Counts a look.
pub(super) fn note_look() {
    LOOKS.set(LOOKS.get() + 1);
}

/// How many looks `act` takes.
pub(crate) fn looks(act: impl FnOnce()) -> usize {
    let before = LOOKS.get();
    act();
    LOOKS.get() - before
}

/// Rules under which every ready session that is not busy may go.
pub(crate) fn lenient() -> Rules {
    Rules { min_idle: Duration::ZERO, max_busy: Duration::from_secs(600), protect: None }
}

/// A registry and what its sessions tell it.
pub(crate) struct TestRegistry {
    pub(crate) registry: Registry<Record>,
    #[cfg(test)]
    pub(crate) signals: Arc<Signals>,
}

impl TestRegistry {
    pub(crate) fn new(policy: impl EvictionPolicy) -> Self {
        Self::with(policy, lenient(), usize::MAX)
    }

    pub(crate) fn with(policy: impl EvictionPolicy, rules: Rules, max_opening: usize) -> Self {
        let signals = Arc::new(Signals::new(policy.tracks_returns(), Arc::default(), None));
        let mut registry = Registry::new(Some(Box::new(policy)), rules, max_opening, Arc::clone(&signals));
        // The same history gives the same victims.
        registry.random = fastrand::Rng::with_seed(1);
        Self {
            registry,
            #[cfg(test)]
            signals,
        }
    }

    fn origin(&self, last_used: Timestamp, restored: bool) -> Origin {
        Origin { restored, ..Origin::new("a session".into(), None, last_used) }
    }

    /// A session that is half-open.
    pub(crate) fn opening(&mut self) -> Arc<Record> {
        let now = Instant::now();
        let origin = self.origin(Timestamp::of(now), false);
        self.registry.insert(origin, now, |record| record)
    }

    /// A session whose handshake is finished.
    pub(crate) fn ready(&mut self) -> Arc<Record> {
        let record = self.opening();
        record.ready();
        record
    }

    #[cfg(test)]
    /// `N` sessions whose handshake is finished.
    pub(crate) fn ready_many<const N: usize>(&mut self) -> [Arc<Record>; N] {
        std::array::from_fn(|_| self.ready())
    }

    #[cfg(test)]
    /// A session of a known client whose handshake is finished.
    pub(crate) fn ready_of(&mut self, client: ClientContext) -> Arc<Record> {
        let now = Instant::now();
        let origin = Origin { context: Some(Arc::new(client)), ..self.origin(Timestamp::of(now), false) };
        let record = self.registry.insert(origin, now, |record| record);
        record.ready();
        record
    }

    #[cfg(test)]
    /// A session that came back, last used at the stage's beginning.
    pub(crate) fn restored(&mut self) -> Arc<Record> {
        let origin = self.origin(Timestamp(0), true);
        self.registry.insert(origin, Instant::now(), |record| record)
    }

    pub(crate) fn choose_for(&mut self, kind: ArrivalKind) -> Choice<Record> {
        self.registry.choose(Instant::now(), kind, None, 0, None)
    }

    pub(crate) fn choose(&mut self) -> Choice<Record> {
        self.choose_for(ArrivalKind::Create)
    }

    /// Has a victim chosen and takes it out; returns which one it was, counted by arrival.
    pub(crate) fn victim(&mut self) -> Option<u32> {
        let Choice::Victim(record, _) = self.choose() else { return None };
        self.registry.remove(record.entry.key).expect("a victim is in the registry");
        Some(record.entry.key.generation())
    }

    #[cfg(test)]
    /// All that go, in their order, until none may.
    pub(crate) fn victims(&mut self) -> Vec<u32> {
        std::iter::from_fn(|| self.victim()).collect()
    }
}

/// Begins a call, which lasts until it is dropped.
pub(crate) fn call(record: &Arc<Record>) -> Activity<Record> {
    begin(record, ActivityKind::Call).expect("the session is not closing")
}

/// Begins an activity, unless the session is closing.
pub(crate) fn begin(record: &Arc<Record>, kind: ActivityKind) -> Option<Activity<Record>> {
    Activity::begin(record, kind, Instant::now())
}

/// Makes a call that ends at once.
pub(crate) fn touch(record: &Arc<Record>) {
    drop(call(record));
}
