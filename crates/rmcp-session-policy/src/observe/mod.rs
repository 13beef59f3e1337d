//! What operators see: events, counts, the reasons in both, and a snapshot of each session.

mod counts;
mod event;
mod owned_event;
mod queued;
mod reason;
mod snapshot;

pub(crate) use counts::Counters;
pub use counts::{DrainReport, Stats};
pub use event::{SessionEvent, SessionObserver};
pub use queued::Queued;
pub use reason::{CloseReason, RejectionReason};
pub use snapshot::SessionSnapshot;
