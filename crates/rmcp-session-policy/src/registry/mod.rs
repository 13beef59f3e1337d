//! All sessions: the one authority on which sessions exist, and which of them may be evicted.
//!
//! It is synchronous and knows no inner manager: the manager keeps it behind one lock, which a request takes only
//! for a policy that asks to see every use.
//!
//! The parts:
//! - `sessions` keeps one slot for each session, and tells the policy what becomes of the session.
//! - `rules` judges whether one session may go.
//! - `suspend` takes sessions that may not go out of the policy's order, and puts them back.
//! - `choice` finds a victim and claims it: `half_open` among the half-open sessions, `proposal` by the policy.
//! - `view` shows the sessions to the policy; `dense` is the list from which it draws some.
//! - `guard` chooses while places are asked for much faster than before: `surge` notices that, `surge_sessions` knows which
//!   sessions came with it, and `sample` takes one of some that are drawn.
//! - `clients` counts the sessions of each client, which `client_id` tells apart: `shares` has a client that holds its share
//!   of the places make room for itself, and `client_max` one that has as many sessions as it may.
//! - `groups` are lists of sessions to draw from.
//! - `returns` tells the policy of sessions that came back, and of those that never will.
//!
//! The registry is a part of `ManagerState`, so the manager's lock guards all of it. A session tells of its changes
//! without that lock, through [`Signals`](crate::session::Signals).

mod choice;
mod client_id;
mod client_max;
mod clients;
mod dense;
mod groups;
mod guard;
mod half_open;
mod proposal;
mod returns;
mod rules;
mod sample;
mod sessions;
mod shares;
mod surge;
mod surge_sessions;
mod suspend;
mod swap;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod test_registry;
mod told;
mod view;

pub(crate) use choice::Choice;
pub(crate) use client_id::{ClientId, ClientIds, ClientOf};
pub(crate) use client_max::Allowed;
pub(crate) use rules::{Predicate, Rules};
pub(crate) use sessions::{LOT, Registry};
