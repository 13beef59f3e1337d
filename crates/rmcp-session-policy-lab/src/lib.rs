//! What the command-line program `rmcp-session-policy-lab` does, as a library for its own tests and benches.
//!
//! - [`presets`], [`actors`], [`distribution`] and [`mod@generate`] make traces.
//! - [`event`], [`trace`] and [`survey`] read them; [`mod@needed`] says how many places one needs.
//! - [`simulator`] plays events on the library's own registry, with its policies and the [`references`]. It asks a
//!   [`cast`] for the clients, tells an [`observer`], and policies that know the future of [`next_requests`].
//! - [`replay`] plays a trace through several [`policies`], [`mod@flood`] floods a server, and [`report`] writes what came
//!   of it.

pub mod actors;
pub mod cast;
pub mod distribution;
mod error;
pub mod event;
pub mod flood;
pub mod generate;
pub mod needed;
pub mod next_requests;
pub mod observer;
pub mod policies;
pub mod presets;
pub mod references;
pub mod replay;
pub mod report;
pub mod simulator;
pub mod survey;
pub mod trace;

pub use error::LabError;
