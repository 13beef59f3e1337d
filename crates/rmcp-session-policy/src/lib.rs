#![doc = include_str!("../README.md")]

pub mod admission;
pub mod bounded;
mod call_rejection;
mod config_error;
mod context;
mod error;
pub mod eviction;
#[cfg(feature = "http")]
pub mod http;
mod manager;
mod observe;
mod queue;
mod registry;
mod stamp;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod tracker;
mod transport;

use std::time::Duration;

pub use call_rejection::CallRejection;
pub use config_error::ConfigError;
pub use context::ClientContext;
pub use error::{PolicyError, ServerFull};
pub use manager::{
    BusyGuard, CurrentSession, CurrentSessionError, PolicySessionManager, PolicySessionManagerBuilder, SessionSelector,
};
pub use observe::{CloseReason, DrainReport, RejectionReason, SessionEvent, SessionObserver, SessionSnapshot, Stats};
pub use registry::{Fingerprint, Phase, SessionKey, SessionOrigin};
pub use transport::PolicyTransport;

/// The guide's code, compiled and run with the doctests.
#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../../../docs/writing-a-policy.md")]
struct WritingAPolicy;

/// The code of the page on moving, likewise.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/moving-from-mcp-session.md")]
struct Moving;

/// One second.
pub const SECOND: Duration = Duration::from_secs(1);
/// One minute.
pub const MINUTE: Duration = Duration::from_secs(60);
/// One hour.
pub const HOUR: Duration = Duration::from_secs(60 * 60);
