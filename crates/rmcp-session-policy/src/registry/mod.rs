//! Who is here: the one authority on which sessions exist and which may go.
//!
//! It is synchronous and knows no inner manager: the manager keeps it behind one lock, which a request takes only
//! for a policy that asks to see every use.

mod activity;
mod bell;
mod choice;
mod fingerprint;
mod key;
mod later;
mod origin;
mod record;
mod requests;
mod roster;
mod rules;
mod sessions;
mod signals;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod stage;
mod state;

pub(crate) use activity::{Activity, Kind};
pub(crate) use choice::Choice;
pub use fingerprint::Fingerprint;
pub use key::SessionKey;
pub(crate) use origin::Origin;
pub use origin::SessionOrigin;
pub(crate) use record::{Record, Recorded, Software};
pub(crate) use roster::Roster;
pub(crate) use rules::{Predicate, Rules};
pub(crate) use sessions::Registry;
pub(crate) use signals::Signals;
pub use state::Phase;
pub(crate) use state::Reading;
