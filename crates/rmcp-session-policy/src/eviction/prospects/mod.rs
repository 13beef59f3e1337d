//! [`Prospects`]: the learned policy, and what it is made of.
//!
//! From the bottom to the top:
//! - `ages`: buckets of idle age; `class`: kinds of sessions; `client_names`: the commonest names of clients.
//! - `tables`: for each class and bucket, how long sessions were watched and how many came back; `index`: what a place is worth,
//!   from how likely a session is to come back at each age; `rebuild`: the second from the first, for all classes.
//! - `ticks`: moments in four bytes; `known`: up to when each session was watched; `learner`: all of the above, fed with what happens.
//! - `rival`: what LRU would have done; `policy`: the choice of a victim.

mod ages;
mod class;
mod client_names;
mod index;
mod known;
mod learner;
#[cfg(test)]
mod model_tests;
mod policy;
mod price;
mod rebuild;
mod rival;
#[cfg(test)]
mod shared_policy;
mod tables;
mod ticks;

pub use policy::Prospects;
