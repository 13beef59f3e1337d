//! What the benches share.

pub mod service;
pub mod stub;
