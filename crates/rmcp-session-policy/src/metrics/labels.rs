//! The values of labels that others choose. Each is one of a table that does not grow beyond its bound; what is not in it is
//! `other`.

use std::sync::{OnceLock, PoisonError, RwLock};

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
        self.counters[index][reason as usize].get_or_init(make).increment(1);
    }
}

/// The counters of rejections. Policies choose their names, and some may make new ones, so a bounded number of them have
/// counters of their own: those that came first.
#[derive(Debug)]
pub(super) struct Rejections {
    policies: RwLock<Vec<Policy>>,
    others: Policy,
}

impl Default for Rejections {
    fn default() -> Self {
        Self { policies: RwLock::default(), others: Policy::new(OTHER) }
    }
}

impl Rejections {
    pub(super) fn count(&self, labels: &[Label], kind: ArrivalKind, reason: RejectionReason, policy: &str) {
        let known = |policies: &[Policy]| {
            let known = policies.iter().find(|known| *known.name == *policy);
            known.map(|known| known.count(labels, kind, reason)).is_some()
        };
        let is_full = {
            let policies = self.policies.read().unwrap_or_else(PoisonError::into_inner);
            if known(&policies) {
                return;
            }
            policies.len() >= MOST_POLICIES
        };
        if is_full || policy.len() > LONGEST_POLICY {
            return self.others.count(labels, kind, reason);
        }
        let mut policies = self.policies.write().unwrap_or_else(PoisonError::into_inner);
        if !known(&policies) {
            if policies.len() >= MOST_POLICIES {
                return self.others.count(labels, kind, reason);
            }
            policies.push(Policy::new(policy));
            known(&policies);
        }
    }
}

#[cfg(test)]
mod tests {
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
}
