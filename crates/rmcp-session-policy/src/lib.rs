//! Session limits for MCP servers.
mod clock;
mod context;
pub mod eviction;
mod registry;
pub use context::ClientContext;
pub use registry::{Fingerprint, Phase, SessionKey};
