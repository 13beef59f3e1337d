//! The wrapper between the inner manager's transport and rmcp's service, which sees each message in both directions.
//!
//! It knows exactly which requests are in flight. Each request of a client carries an [`InFlight`] in its extensions,
//! which rmcp moves into the handler's context, and gets an id that tells when its handler is done. The drop of the
//! wrapper ends the incarnation.
//!
//! The parts:
//! - `policy_transport` is the wrapper. `transport_slot` holds the inner transport, so that a close can take it from
//!   outside.
//! - `session` is one incarnation: the record, the flags of its handshake and its close, and what belongs to it.
//! - `ids`, `in_flight`, `service_id` and `request_kind` follow each request from its admission until its handler is
//!   done.
//! - `stream` is what a client reads, `severable` the inner stream behind it, and `farewell` what it reads if its
//!   session closes.
//! - `replayed` is a stream of stored events and of live ones after them.
//! - `event_id` and `seal` make and read the ids of events.
//! - `listening`, `listener` and `held` keep a listening stream open from one incarnation to the next.
//! - `probes` and `probe_id` end the listening streams of clients that are gone.

mod event_id;
mod farewell;
mod held;
mod ids;
mod in_flight;
mod listener;
mod listening;
mod policy_transport;
mod probe_id;
mod probes;
mod replayed;
mod request_kind;
mod seal;
mod service_id;
mod session;
mod severable;
mod stream;
mod transport_slot;

pub(crate) use event_id::{EventId, EventSource, Incarnations, Resumption};
pub(crate) use farewell::cut_answer;
pub(crate) use held::{HeldStreams, ParkedSession};
pub(crate) use ids::{IdRefused, MAX_IN_FLIGHT, Seat, is_call};
pub(crate) use in_flight::{InFlight, Leased, RequestOwner};
pub(crate) use listening::{Listening, Reserved};
pub use policy_transport::PolicyTransport;
#[cfg(feature = "http")]
pub(crate) use probe_id::{PROBE_ID_BYTES, PROBE_PREFIX};
pub(crate) use probes::{ProbeTimes, Probes};
pub(crate) use replayed::Replayed;
pub(crate) use request_kind::{is_discover, kind_of};
pub(crate) use seal::{LazySealKey, SealKey};
pub(crate) use session::{Flag, Session, TransportEvents};
pub(crate) use stream::{LiveStream, PolicyStream, StreamRequest};
