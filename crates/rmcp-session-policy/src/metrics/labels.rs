//! The values of labels that others choose. Each is one of a table that does not grow beyond its bound; what is not in it is
//! `other`.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use hashbrown::HashMap;
use metrics::{Counter, Label, counter};

use super::catalogue::REJECTED;
use crate::admission::ArrivalKind;
use crate::observe::RejectionReason;

/// What stands for every value that is not in the table.
pub(super) const OTHER: &str = "other";
/// How many policies have counters of their own.
const MOST_POLICIES: usize = 32;
/// The longest name of a policy that is a label, in bytes.
const LONGEST_POLICY: usize = 64;

/// The names of client software that have series of their own. Clients choose their names, so only those that the author has
/// listed count: a table of the names that come first would belong to the first flood.
#[derive(Debug, Default)]
pub(super) struct Clients {
    /// The index of each name, from 2 on.
    names: HashMap<Box<str>, u8>,
}

impl Clients {
    /// Of a session whose `initialize` has not come.
    pub(super) const UNKNOWN: u8 = 0;
    const NOT_LISTED: u8 = 1;

    /// `names` are 250 at most.
    pub(super) fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self { names: names.into_iter().map(String::into_boxed_str).zip(Self::NOT_LISTED + 1..).collect() }
    }

    /// Whether any is listed.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn index(&self, name: &str) -> u8 {
        self.names.get(name).copied().unwrap_or(Self::NOT_LISTED)
    }

    /// The value of the label for each index, in their order.
    pub(super) fn values(&self) -> Vec<String> {
        let mut values = vec![String::new(); self.names.len() + 2];
        values[usize::from(Self::UNKNOWN)] = "unknown".to_owned();
        values[usize::from(Self::NOT_LISTED)] = OTHER.to_owned();
        self.names.iter().for_each(|(name, index)| values[usize::from(*index)] = String::from(&**name));
        values
    }
}

/// The counters of the rejections by one policy, by what was rejected and why.
#[derive(Debug)]
struct Policy {
    name: Box<str>,
    counters: [[OnceLock<Counter>; RejectionReason::ALL.len()]; 3],
}

impl Policy {
    fn new(name: &str) -> Self {
        Self { name: name.into(), counters: Default::default() }
    }

    fn count(&self, labels: &[Label], kind: ArrivalKind, reason: RejectionReason) {
        let (index, what) = match kind {
            ArrivalKind::Create => (0, "create"),
            ArrivalKind::Restore => (1, "restore"),
            ArrivalKind::Request => (2, "request"),
        };
        let make = || {
            let own = [("kind", what), ("policy", &self.name), ("reason", reason.as_str())];
            let own = own.map(|(key, value)| Label::new(key, value.to_owned()));
            counter!(REJECTED, [labels, &own].concat())
        };
        let counter = &self.counters[index][reason as usize];
        // Made before it is put there: others that want it would wait for the recorder.
        counter
            .get()
            .unwrap_or_else(|| {
                let made = make();
                counter.get_or_init(|| made)
            })
            .increment(1);
    }
}

/// The counters of rejections. Policies choose their names, and some may make new ones, so a bounded number of them have
/// counters of their own: those that came first.
#[derive(Debug)]
pub(super) struct Rejections {
    policies: RwLock<Vec<Arc<Policy>>>,
    others: Policy,
}

impl Default for Rejections {
    fn default() -> Self {
        Self { policies: RwLock::default(), others: Policy::new(OTHER) }
    }
}

impl Rejections {
    pub(super) fn count(&self, labels: &[Label], kind: ArrivalKind, reason: RejectionReason, policy: &str) {
        // The recorder is called when the lock is let go.
        self.find(policy).as_deref().unwrap_or(&self.others).count(labels, kind, reason);
    }

    /// The counters of a policy that has some, which it may get now.
    fn find(&self, policy: &str) -> Option<Arc<Policy>> {
        let known = |policies: &[Arc<Policy>]| policies.iter().find(|known| *known.name == *policy).map(Arc::clone);
        {
            let policies = self.policies.read().unwrap_or_else(PoisonError::into_inner);
            let known = known(&policies);
            if known.is_some() || policies.len() >= MOST_POLICIES || policy.len() > LONGEST_POLICY {
                return known;
            }
        }
        let mut policies = self.policies.write().unwrap_or_else(PoisonError::into_inner);
        let known = known(&policies);
        if known.is_some() || policies.len() >= MOST_POLICIES {
            return known;
        }
        let new = Arc::new(Policy::new(policy));
        policies.push(Arc::clone(&new));
        Some(new)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use metrics::{CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

    use super::*;

    #[test]
    fn only_listed_clients_have_a_label_of_their_own() {
        let clients = Clients::new(["claude-code", "cursor"].map(String::from));
        let values = clients.values();
        let label = |name: &str| &*values[usize::from(clients.index(name))];
        assert_eq!(
            ["claude-code", "cursor", "Cursor", "a stranger's"].map(label),
            ["claude-code", "cursor", OTHER, OTHER]
        );
        assert_eq!(values[usize::from(Clients::UNKNOWN)], "unknown");
    }

    #[test]
    fn a_policy_that_makes_up_names_makes_a_bounded_number_of_series() {
        let rejections = Rejections::default();
        let count = |policy: &str| rejections.count(&[], ArrivalKind::Create, RejectionReason::Quota, policy);
        count(&"n".repeat(LONGEST_POLICY + 1));
        (0..10 * MOST_POLICIES).for_each(|number| count(&format!("policy {number}")));
        let policies = rejections.policies.read().expect("no panic");
        assert_eq!((policies.len(), &*policies[0].name), (MOST_POLICIES, "policy 0"));
    }

    /// Looks at each call whether the lock of the policies is free.
    #[derive(Debug)]
    struct Looks {
        rejections: Arc<Rejections>,
        calls: AtomicU64,
    }

    impl Looks {
        fn look(&self) {
            assert!(self.rejections.policies.try_write().is_ok(), "called under the lock");
            self.calls.fetch_add(1, Relaxed);
        }
    }

    impl CounterFn for Looks {
        fn increment(&self, _: u64) {
            self.look();
        }

        fn absolute(&self, _: u64) {}
    }

    struct Recorded(Arc<Looks>);

    impl Recorder for Recorded {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            self.0.look();
            Counter::from_arc(Arc::clone(&self.0))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn the_recorder_is_called_under_no_lock() {
        let looks = Arc::new(Looks { rejections: Arc::default(), calls: AtomicU64::new(0) });
        metrics::with_local_recorder(&Recorded(Arc::clone(&looks)), || {
            for policy in ["one", "one", &"n".repeat(LONGEST_POLICY + 1)] {
                looks.rejections.count(&[], ArrivalKind::Create, RejectionReason::Quota, policy);
            }
        });
        assert_eq!(looks.calls.load(Relaxed), 5, "two are made, and three counted");
    }
}
