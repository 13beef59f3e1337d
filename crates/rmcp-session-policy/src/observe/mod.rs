//! Seeing what happens: events, counts, and who is here.

mod counts;
mod event;
mod reason;
mod snapshot;

pub(crate) use counts::Counters;
pub use counts::{DrainReport, Stats};
pub use event::{SessionEvent, SessionObserver};
pub use reason::{CloseReason, RejectionReason};
pub use snapshot::SessionSnapshot;
