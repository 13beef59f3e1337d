//! [`keeps_the_laws`]: checks a whole manager against a model of it.
//!
//! The model does not know how the manager works. It knows where each session should be, which session may be evicted for
//! another, and what each client should be told. Both run through the same random histories on paused time; the manager
//! is behind rmcp's service and the HTTP layer, over a [`Scripted`](super::inner::Scripted) inner manager.
//!
//! A history is played one event at a time. After each, two seconds pass, so that everything which the event began is
//! over. Then the counts of the manager, its events, its leases and the inner manager are compared with the model.
//! Nothing happens at the same time as something else, so this check finds wrong decisions, not races.
//!
//! The model cannot know which victim a policy names. So it looks which session is gone, and only checks that this one
//! was allowed to go, unless the caller gives the order of the victims.

/// Says what is wrong, unless this holds: returns the text as the error of the function around it.
macro_rules! hold {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}

mod answer;
mod history;
mod model;
mod server;
mod side_by_side;
mod witnesses;

pub use history::{Event, histories};
pub use model::Who;

use self::side_by_side::run;
use super::{Broken, paused, through};
use crate::eviction::EvictionPolicy;

/// Checks a manager with an eviction policy against the laws: the bound, which sessions are never victims, one end of
/// each session, what clients are told, what is undone and what is restored.
///
/// It runs 48 histories of up to 119 events each. Not for policies that by design may name no victim, as `.only(..)`
/// does when no session passes.
///
/// ```
/// rmcp_session_policy::testing::manager::keeps_the_laws(rmcp_session_policy::eviction::Fifo::new);
/// ```
///
/// # Panics
///
/// Panics if model and manager disagree, with the difference and a short history that shows it.
#[track_caller]
pub fn keeps_the_laws<P: EvictionPolicy>(make: impl Fn() -> P) {
    through(&histories(120), "the manager", 48, |history| {
        agrees(make(), &history).map_err(|law| Broken { law: law.into(), history })
    });
}

/// Runs a manager and the model through one history, in which every candidate may be the victim. For your own property
/// test, which keeps the seeds of failing histories.
///
/// # Errors
///
/// Returns the difference, if the two disagree.
pub fn agrees(policy: impl EvictionPolicy, history: &[Event]) -> Result<(), String> {
    paused(run(policy, None, history))
}

/// Does the same with a policy of which every victim is known: the session with the lowest `order`, of those that may
/// go.
///
/// # Errors
///
/// Returns the difference, if the two disagree.
pub fn agrees_in_order(policy: impl EvictionPolicy, order: fn(&Who) -> usize, history: &[Event]) -> Result<(), String> {
    paused(run(policy, Some(order), history))
}
