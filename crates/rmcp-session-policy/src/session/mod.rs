//! One session: its key, its state, its moments and uses, and the activities in flight.
//!
//! This module knows no other session, no policy, and not the inner manager.
//!
//! The parts:
//! - `record` is what is known of one incarnation. Requests write to it without the manager's lock.
//! - `state` is the atomic word of a record, which decides each race between a request and a close.
//! - `activity` is a guard for one activity, `kind` says how it counts, and `requests` keeps when it began.
//! - `untaken` counts the answers that the HTTP server has not taken.
//! - `signals` is how sessions tell their manager of a change, and `returns` of a use after an idle period.
//! - `stream` says whether a client listens, and `software` with which program.
//! - `key`, `origin` and `fingerprint` are the names of a session.

mod activity;
mod entry;
mod fingerprint;
mod key;
mod kind;
mod origin;
mod record;
mod requests;
mod returns;
mod signals;
mod software;
mod state;
mod stream;
mod untaken;

pub(crate) use activity::Activity;
pub use fingerprint::Fingerprint;
pub use key::SessionKey;
pub(crate) use kind::ActivityKind;
pub use origin::SessionOrigin;
pub(crate) use origin::{Gap, History, Origin};
pub(crate) use record::{Record, Recorded};
#[cfg(feature = "simulation")]
pub(crate) use requests::ActivityId;
pub(crate) use returns::Return;
pub(crate) use signals::Signals;
pub(crate) use software::Software;
pub use state::Phase;
pub(crate) use state::StateSnapshot;
pub use stream::Stream;
