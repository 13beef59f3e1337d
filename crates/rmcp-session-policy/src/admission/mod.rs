//! Who may come in.
//!
//! An [`AdmissionPolicy`] decides whether a session may come to exist, before capacity is looked at. Built in are
//! [`SlidingWindow`], [`TokenBucket`], [`Concurrent`] and [`Open`]; [`admit_fn`] makes a policy of a closure, and
//! [`AdmissionPolicyExt`] composes policies, also one per client.

mod admit_fn;
mod and;
mod arrival;
mod caller_key;
mod client_key;
mod concurrent;
mod gcra;
mod keyed;
mod log;
mod only;
mod open;
mod or;
mod permit;
mod policy;
mod rejection;
mod shadow;
mod sliding_window;
mod token_bucket;

pub use admit_fn::{AdmitFn, admit_fn};
pub use and::And;
/// The attribute that an implementation of [`AdmissionPolicy`] needs, from the crate `async-trait`.
pub use async_trait::async_trait;

pub use arrival::{Arrival, ArrivalKind};
pub use caller_key::CallerKey;
pub use client_key::ClientKey;
pub use concurrent::Concurrent;
pub use keyed::{Keyed, Replicate};
pub use only::Only;
pub use open::Open;
pub use or::Or;
pub use permit::{Lease, Permit, Reservation};
pub use policy::{AdmissionPolicy, AdmissionPolicyExt};
pub use rejection::{Rejection, RejectionClass, Retry};
pub use shadow::Shadow;
pub use sliding_window::SlidingWindow;
pub use token_bucket::TokenBucket;
