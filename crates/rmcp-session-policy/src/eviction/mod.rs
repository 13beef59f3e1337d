//! Which session goes when there is no room.
//!
//! An [`EvictionPolicy`] orders the sessions; a session that may not go is not in the order, which the manager sees to.
//! Built in are [`Fifo`], [`Lru`] and [`Lfu`]; [`victim_fn()`] makes a policy of a closure, and [`EvictionPolicyExt`]
//! composes policies.
//!
//! A policy sees a session as a [`SessionInfo`], and all sessions as [`Candidates`]. It knows neither the registry nor
//! rmcp.

mod candidates;
mod fifo;
mod idle_period;
mod info;
mod lfu;
mod lru;
#[cfg(test)]
mod model_tests;
mod only;
mod policy;
mod ranking;
mod tiers;
mod victim_fn;

pub use candidates::Candidates;
pub(crate) use candidates::View;
pub use fifo::Fifo;
pub use idle_period::IdlePeriod;
pub use info::SessionInfo;
pub use lfu::Lfu;
pub use lru::Lru;
pub use only::Only;
pub use policy::{EvictionPolicy, EvictionPolicyExt};
pub use tiers::Tiers;
pub use victim_fn::{VictimFn, victim_fn};
