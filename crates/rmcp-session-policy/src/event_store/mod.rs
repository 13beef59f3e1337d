//! [`BestEffort`]: a wrapper for any event store, so that a store in trouble costs clients the resumption of streams and not
//! their answers.
//!
//! rmcp asks its event store for the id of each event before it sends the event. A store that fails loses the event: the
//! client of a call gets 200 and a stream with nothing in it. A store that hangs holds up the whole session.
//!
//! The parts: `position` is what the ids of the wrapper say, `streams` what it remembers of the streams.

mod best_effort;
mod position;
mod streams;

pub use best_effort::BestEffort;
