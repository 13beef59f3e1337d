//! Which session goes when there is no room.
//!
//! An [`EvictionPolicy`] orders the sessions; a session that may not go is not in the order, which the manager sees to.
//! Built in are [`Prospects`], which is the default, [`AbandonedFirst`], [`Lru`], [`Lfu`], [`Fifo`] and [`Random`]. [`Scored`] makes a
//! policy of a score, [`victim_fn()`] makes one of a closure, and [`EvictionPolicyExt`] composes policies.
//!
//! A policy sees a session as a [`SessionInfo`], and all sessions as [`Candidates`]. It knows neither the registry nor
//! rmcp.

mod abandoned_first;
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
mod prospects;
mod random;
mod ranking;
mod scored;
mod tiers;
mod victim_fn;

pub use abandoned_first::AbandonedFirst;
pub use candidates::Candidates;
pub(crate) use candidates::{AHEAD, View};
pub use fifo::Fifo;
pub use idle_period::IdlePeriod;
pub use info::SessionInfo;
pub use lfu::Lfu;
pub use lru::Lru;
pub use only::Only;
pub use policy::{EvictionPolicy, EvictionPolicyExt};
pub use prospects::Prospects;
pub use random::Random;
pub use scored::Scored;
pub use tiers::Tiers;
pub use victim_fn::{VictimFn, victim_fn};
