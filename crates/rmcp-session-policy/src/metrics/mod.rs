//! Metrics of a manager, for any exporter of the facade [`metrics`](https://docs.rs/metrics).
//!
//! - `settings` is what the author says of them.
//! - `catalogue` names, describes and explains each one.
//! - `instruments` are the handles: made once, and recorded into where something happens.
//! - `labels` keep the values of labels few, whatever strangers send.
//!
//! No label is a session id, an address or a principal (L12).

mod catalogue;
mod instruments;
mod labels;
mod settings;

pub(crate) use instruments::{Ended, Instruments};
pub use settings::Metrics;
