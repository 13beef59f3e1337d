//! Session data: values that handlers keep in a session, and that outlive the handler.
//!
//! `values` holds the values of one session, `types` the types that are registered under a name, which a directory stores
//! too.

mod error;
mod types;
mod values;

pub use error::SessionDataError;
pub(crate) use types::{DataTypes, Slot};
pub(crate) use values::{Value, Values};
