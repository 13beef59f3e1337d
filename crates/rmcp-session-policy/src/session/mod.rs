//! One session: its key, its state, its moments and uses, and the activities in flight.
//!
//! Nothing here knows another session, a policy, or the inner manager.

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
