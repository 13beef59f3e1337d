//! The HTTP edge: policies learn who is asking, clients learn the truth.
//!
//! rmcp gives a session manager no request, and turns each of its errors into 500. [`PolicyLayer`] goes around the
//! service: it tells the manager who is asking, and answers by what the manager decided.

mod answer;
mod body;
mod forwarded;
mod layer;
mod service;

pub use body::{PolicyBody, TeeBody};
pub use layer::{ForwardedHeader, PolicyLayer};
pub use service::PolicyService;
