//! Session limits for MCP servers built with [rmcp](https://docs.rs/rmcp).
//!
//! [`PolicySessionManager`] wraps any rmcp [`SessionManager`](rmcp::transport::streamable_http_server::session::SessionManager)
//! and is one itself. It bounds the number of sessions exactly, asks an [admission policy](admission) whether a session may
//! be opened, and an [eviction policy](eviction) which session is closed when the server is full.
//!
//! ```
//! use rmcp_session_policy::admission::{AdmissionPolicyExt, TokenBucket};
//! use rmcp_session_policy::eviction::Lru;
//! use rmcp_session_policy::{MINUTE, PolicySessionManager};
//!
//! let sessions = PolicySessionManager::local() // over rmcp's LocalSessionManager
//!     .max_sessions(1_000)
//!     .admission(TokenBucket::per_minute(10).burst(10).per_client())
//!     .eviction(Lru::new())
//!     .idle_timeout(30 * MINUTE)
//!     .build()?;
//! assert_eq!(sessions.stats().max_sessions, 1_000);
//! # Ok::<(), rmcp_session_policy::ConfigError>(())
//! ```
//!
//! # Concepts
//!
//! | concept | where |
//! |---|---|
//! | a session, as policies read it | [`SessionInfo`](eviction::SessionInfo), its [`Phase`], [`Stream`], [`SessionKey`] and [`SessionOrigin`] |
//! | the settings of a manager | [`PolicySessionManagerBuilder`], [`ConfigError`] |
//! | which session is evicted | [`EvictionPolicy`](eviction::EvictionPolicy): [`Prospects`](eviction::Prospects) (the default), [`AbandonedFirst`](eviction::AbandonedFirst), [`Lru`](eviction::Lru), [`Lfu`](eviction::Lfu), [`Fifo`](eviction::Fifo), [`Random`](eviction::Random), [`Scored`](eviction::Scored), [`victim_fn`](eviction::victim_fn), and the combinators of [`EvictionPolicyExt`](eviction::EvictionPolicyExt) |
//! | which arrival is admitted | [`AdmissionPolicy`](admission::AdmissionPolicy): [`TokenBucket`](admission::TokenBucket), [`SlidingWindow`](admission::SlidingWindow), [`Concurrent`](admission::Concurrent), [`admit_fn`](admission::admit_fn), and the combinators of [`AdmissionPolicyExt`](admission::AdmissionPolicyExt) |
//! | the client of a request | [`ClientContext`] |
//! | parking: evicted sessions that the next request restores | [`PolicySessionManager::parking`] |
//! | the session of a request, in its handler | [`CurrentSession`], [`BusyGuard`] |
//! | what handlers keep in a session | [`SessionData`], [`FinalEnd`], [`SessionDataError`] |
//! | sessions that outlive their process | [`directory`] |
//! | an event store that costs no client its answer | [`event_store`] |
//! | metrics for any exporter | `Metrics` (feature `metrics`), [`stats`](PolicySessionManager::stats) without it |
//! | counts, lists and events | [`Stats`], [`SessionSnapshot`], [`SessionObserver`], [`SessionEvent`], [`CloseReason`], [`RejectionReason`] |
//! | stopping | [`refuse_newcomers`](PolicySessionManager::refuse_newcomers), [`drain`](PolicySessionManager::drain), [`terminate`](PolicySessionManager::terminate) |
//! | a preset with the API of the crate `mcp-session` | [`bounded`] |
//!
//! The module `http` (feature `http`, on by default) has the tower layer, which gives policies the client's address and
//! principal and gives clients the right status. `Metrics` (feature `metrics`) has a manager record metrics for any exporter. The
//! module `testing` (feature `testing`) has a test kit for policies, and
//! `simulation` (feature `simulation`) drives one without a server, for replays.
//!
//! The [guides](_guide) describe the layer's answers, how clients behave, how to write a policy, and how to move from
//! `mcp-session`. The repository's README has the tables of policies and what each is good for, and
//! [`docs/SUMMARY.md`](https://github.com/rmcp-session-policy/rmcp-session-policy/blob/main/docs/SUMMARY.md) lists all pages, with
//! a quick start, concepts, and a runbook.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod _guide;
#[cfg(feature = "admin")]
pub mod admin;
pub mod admission;
pub mod bounded;
mod call_rejection;
mod config_error;
mod context;
mod data;
pub mod directory;
mod error;
pub mod event_store;
pub mod eviction;
mod explain;
#[cfg(feature = "http")]
pub mod http;
mod lazy_notify;
mod manager;
#[cfg(feature = "metrics")]
mod metrics;
mod observe;
mod queue;
mod registry;
mod scope;
mod session;
#[cfg(feature = "simulation")]
pub mod simulation;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod time;
mod timestamp;
mod tracker;
mod transport;

#[cfg(feature = "metrics")]
pub use self::metrics::Metrics;
pub use call_rejection::CallRejection;
pub use config_error::ConfigError;
pub use context::ClientContext;
pub use data::SessionDataError;
pub use error::{PolicyError, ServerFull};
pub use explain::{Explained, Explanation};
pub use manager::{
    BusyGuard, CurrentSession, CurrentSessionError, FinalEnd, FinalEndReason, GivenUp, IdleTimeout, LiveSettings,
    PolicySessionManager, PolicySessionManagerBuilder, SessionData, SessionSelector, SettingsInForce, Worth,
};
pub use observe::{
    CloseReason, DrainReport, Queued, RejectionReason, SessionEvent, SessionObserver, SessionSnapshot, Stats,
};
pub use session::{Fingerprint, Phase, SessionKey, SessionOrigin, Stream};
pub use time::{HOUR, MINUTE, SECOND};
pub use transport::PolicyTransport;

/// The code of the README and of pages of the book that are no guides, compiled and run with the doctests.
#[cfg(all(doctest, feature = "axum"))]
mod book {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[doc = include_str!("../docs/choosing-policies.md")]
    struct ChoosingPolicies;

    #[doc = include_str!("../docs/moving-from-hand-written-limits.md")]
    struct MovingFromHandWrittenLimits;

    #[doc = include_str!("../docs/revision-2026-07-28.md")]
    struct Revision;

    #[doc = include_str!("../docs/runbook.md")]
    struct Runbook;
}
