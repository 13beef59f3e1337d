//! Who is here: the one authority on which sessions exist and which may go.
//!
//! It is synchronous and knows no inner manager: the manager keeps it behind one lock, which no request ever takes.

mod key;
mod record;
mod requests;
mod roster;
mod rules;
mod sessions;
mod state;

pub use key::SessionKey;
pub use record::Fingerprint;
pub(crate) use record::{Activity, Kind, Origin, Record, Signals, Software};
pub(crate) use roster::Roster;
pub(crate) use rules::{Predicate, Rules};
pub(crate) use sessions::{Choice, Registry};
pub use state::Phase;
pub(crate) use state::Reading;
