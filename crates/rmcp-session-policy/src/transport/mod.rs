//! Between the inner manager's transport and rmcp's service: sees each message both ways, and is there until the end.
//!
//! What is in flight is known here exactly: each request of a client carries an [`Activity`](crate::registry::Activity)
//! in its extensions from the moment it enters the manager, and gives it back when its answer is handed over. The drop
//! of the wrapper is the end of the incarnation.

mod cell;
mod event_id;
mod governed;
mod held;
mod listener;
mod seal;
mod session;
mod stream;
mod ticket;

pub(crate) use event_id::{EventId, EventSource, Incarnations, Resumption};
pub use governed::Governed;
pub(crate) use governed::kind_of;
pub(crate) use held::{HeldStreams, ParkedSession, Reserved};
pub(crate) use listener::Listening;
pub(crate) use seal::{LazySealKey, SealKey};
pub(crate) use session::{Flag, Host, Session};
pub(crate) use stream::GovernedStream;
pub(crate) use ticket::Ticket;
