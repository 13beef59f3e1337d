//! All sessions: the one authority on which sessions exist, and which of them may be evicted.
//!
//! It is synchronous and knows no inner manager: the manager keeps it behind one lock, which a request takes only
//! for a policy that asks to see every use.

mod choice;
mod rules;
mod sessions;
mod suspend;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod test_registry;
mod view;

pub(crate) use choice::Choice;
pub(crate) use rules::{Predicate, Rules};
pub(crate) use sessions::Registry;
