//! [`Found`]: what a look-up finds.

use std::time::Duration;

use super::digest::OwnerDigest;
use super::epoch::Epoch;
use super::server_id::ServerId;

/// Says where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FoundState {
    /// A server has it, and is not gone as far as the directory knows. A claim of another server is not won.
    Live,
    /// No server has it, so the first claim wins: it was parked or released, or the server that had it is gone.
    Parked,
    /// It has ended for good, and the directory still remembers that.
    Dead,
}

/// Describes a session as a look-up saw it. A claim gives it back to the directory, which compares the epoch.
///
/// ```
/// use std::time::Duration;
///
/// use rmcp_session_policy::directory::{Epoch, Found, FoundState, ServerId};
///
/// let server = ServerId::from_bytes([7; 16]);
/// let found = Found::new(FoundState::Parked, server, Epoch::FIRST).with_age(Duration::from_secs(60));
/// assert_eq!((found.owner, found.epoch, found.age), (None, Epoch::FIRST, Duration::from_secs(60)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// The owner. `None` if the session has none.
    pub owner: Option<OwnerDigest>,
    /// Where the session is.
    pub state: FoundState,
    /// The server that has the session, or had it last.
    pub server: ServerId,
    /// The epoch under which that server has or had it.
    pub epoch: Epoch,
    /// How long ago the session was opened, its earlier incarnations included.
    pub age: Duration,
    /// Whether the server that has it is about to stop, and parks it once it is idle ([`leave`](super::SessionDirectory::leave)).
    pub leaving: bool,
}

impl Found {
    /// Describes a session without an owner that was opened just now.
    #[must_use]
    pub const fn new(state: FoundState, server: ServerId, epoch: Epoch) -> Self {
        Self { owner: None, state, server, epoch, age: Duration::ZERO, leaving: false }
    }

    /// Describes a session that this server has parked: it knows the epoch, and its owner was compared.
    pub(crate) const fn parked_here(epoch: Epoch) -> Self {
        Self::new(FoundState::Parked, ServerId::from_bytes([0; 16]), epoch)
    }

    /// Sets the owner. Defaults to none.
    #[must_use]
    pub const fn with_owner(mut self, owner: Option<OwnerDigest>) -> Self {
        self.owner = owner;
        self
    }

    /// Sets whether the server that has it is about to stop. Defaults to no.
    #[must_use]
    pub const fn with_leaving(mut self, leaving: bool) -> Self {
        self.leaving = leaving;
        self
    }

    /// Sets how long ago the session was opened. Defaults to zero.
    #[must_use]
    pub const fn with_age(mut self, age: Duration) -> Self {
        self.age = age;
        self
    }
}
