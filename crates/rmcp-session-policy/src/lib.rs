#![doc = include_str!("../README.md")]

pub mod admission;
pub mod bounded;
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

pub use context::ClientContext;
pub use error::{AtCapacity, ConfigError, PolicyError};
pub use manager::{Builder, PolicySessionManager, Select};
pub use observe::{CloseReason, DrainReport, RefusalReason, SessionEvent, SessionObserver, SessionSnapshot, Stats};
pub use registry::{Fingerprint, Phase, SessionKey, SessionOrigin};
pub use transport::Governed;

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
