//! Admission policies: the trait, the built-in policies, their combinators, and what they take and return.
//!
//! The manager asks an [`AdmissionPolicy`] whether a session may be opened or restored, or a request served, before it
//! looks for a free place. The policy returns a [`Permit`] or a [`Rejection`].
//!
//! | to limit | use |
//! |---|---|
//! | the rate, with bursts | [`TokenBucket`] |
//! | the number in any window of time, exactly | [`SlidingWindow`] |
//! | the number at one time | [`Concurrent`] |
//! | nothing | [`Open`] |
//! | by a rule of your own | [`admit_fn`], or the trait [`AdmissionPolicy`] |
//!
//! [`AdmissionPolicyExt`] combines policies: one per client, network or session, both of two, either of two, another where
//! the first one's backend fails, only for some arrivals, or only to report.
//!
//! ```
//! use rmcp_session_policy::admission::{AdmissionPolicyExt, Concurrent, TokenBucket};
//! use rmcp_session_policy::PolicySessionManager;
//!
//! let per_client = TokenBucket::per_minute(10).and(Concurrent::new(3)).per_client();
//! let sessions = PolicySessionManager::local().admission(per_client).build()?;
//! assert_eq!(sessions.stats().live, 0);
//! # Ok::<(), rmcp_session_policy::ConfigError>(())
//! ```

mod admit_fn;
mod and;
mod arrival;
mod caller_key;
mod client_key;
mod concurrent;
mod fallback;
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
mod shape;
mod sliding_window;
mod token_bucket;

pub use admit_fn::{AdmitFn, admit_fn};
pub use and::And;
/// Re-exports the attribute that an implementation of [`AdmissionPolicy`] needs, from the crate `async-trait`.
pub use async_trait::async_trait;

pub use arrival::{Arrival, ArrivalKind};
pub use caller_key::CallerKey;
pub use client_key::ClientKey;
pub use concurrent::Concurrent;
pub use fallback::Fallback;
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
