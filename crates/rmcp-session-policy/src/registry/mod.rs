//! Who is here: the one authority on which sessions exist and which may go.
//!
//! It is synchronous and knows no inner manager: the manager keeps it behind one lock, which no request ever takes.

mod choice;
mod key;
mod later;
mod record;
mod requests;
mod roster;
mod rules;
mod sessions;
#[cfg(test)]
pub(crate) mod stage;
mod state;

pub(crate) use choice::Choice;
pub use key::SessionKey;
pub use record::Fingerprint;
pub(crate) use record::{Activity, Kind, Origin, Record, Signals, Software};
pub(crate) use roster::Roster;
pub(crate) use rules::{Predicate, Rules};
pub(crate) use sessions::Registry;
pub use state::Phase;
pub(crate) use state::Reading;
