//! One session: its key, its state, its moments and uses, and the activities in flight.
//!
//! This module knows no other session, no policy, and not the inner manager.

mod activity;
mod fingerprint;
mod key;
mod kind;
mod origin;
mod record;
mod requests;
mod signals;
mod state;

pub(crate) use activity::Activity;
pub use fingerprint::Fingerprint;
pub use key::SessionKey;
pub(crate) use kind::ActivityKind;
pub(crate) use origin::Origin;
pub use origin::SessionOrigin;
pub(crate) use record::{Record, Recorded, Software};
pub(crate) use signals::Signals;
pub use state::Phase;
pub(crate) use state::StateSnapshot;
