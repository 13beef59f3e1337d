//! A directory of sessions that outlives a process: [`SessionDirectory`], the trait of its backends, and what goes in and
//! out of one.
//!
//! With a directory, a server that was stopped or killed and started again answers each session under its old id. Several
//! servers may share one directory; each session then belongs to one of them at a time.
//!
//! | item | what it is |
//! |---|---|
//! | [`SessionDirectory`] | the trait of a backend |
//! | [`SessionDigest`], [`OwnerDigest`] | the names under which a directory knows sessions and their owners |
//! | [`Epoch`] | the number that fences off the writes of servers that have lost a session |
//! | [`Change`] | what is written of a session |
//! | [`StoredSession`], [`Usage`], [`StoredBody`] | what is stored of a session |
//! | [`Found`], [`FoundState`], [`ServerId`] | what a look-up finds |
//! | [`Claim`] | the answer to a claim |
//! | [`Due`] | a session that is to be ended though no request asks for that |
//! | [`Away`] | the error of a directory that does not answer |
//!
//! The times in a directory are durations at the moment of the call, because the clocks of two machines, and of one machine
//! before and after a restart, do not have a common zero. A backend converts them to its own clock and back.
//!
//! The parts: `body` is the encoding of what backends do not read, `hash` makes the digests, `ownership` is what a server
//! keeps of a session that it has.

mod away;
mod body;
mod change;
mod claim;
mod digest;
mod due;
mod epoch;
mod found;
mod hash;
mod ownership;
mod server_id;
mod session_directory;
mod stored;

pub use away::Away;
pub(crate) use body::{Body, BodyError, StoredSealKey, StoredValue};
pub use change::Change;
pub use claim::Claim;
pub use digest::{OwnerDigest, SessionDigest};
pub use due::Due;
pub use epoch::Epoch;
pub use found::{Found, FoundState};
pub(crate) use ownership::{InDirectory, Ownership};
pub use server_id::ServerId;
pub(crate) use session_directory::DIRECTORY_WAIT;
pub use session_directory::SessionDirectory;
pub use stored::{StoredBody, StoredSession, Usage};
