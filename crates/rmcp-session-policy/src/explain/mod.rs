//! Why sessions ended and arrivals were rejected: one sentence for the client and one for the operator of each, and the
//! bounded history that keeps the last ones.
//!
//! What is kept is facts of a fixed size. Sentences are made of them when they are asked for.

mod client;
mod explanation;
mod figures;
mod for_client;
mod for_operator;
mod history;

pub(crate) use client::Client;
pub(crate) use explanation::{Cause, End, Eviction, MadeRoom};
pub use explanation::{Explained, Explanation};
pub(crate) use history::History;
