//! [`Epoch`]: a number that fences off the writes of servers that have lost a session.

use std::fmt;
use std::num::NonZeroU64;

/// Numbers the owners of one session. Each claim that is won makes the number higher by one.
///
/// A write carries the epoch under which its server has the session. If the session was claimed since, the epoch in the
/// directory is higher, and the write has no effect (a *fencing token*).
///
/// ```
/// use rmcp_session_policy::directory::Epoch;
///
/// assert_eq!(Epoch::FIRST.get(), 1);
/// assert_eq!(Epoch::FIRST.next(), Epoch::new(2).expect("not zero"));
/// assert_eq!(Epoch::new(0), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(NonZeroU64);

impl Epoch {
    /// The epoch under which the server that opened a session has it.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// Returns the epoch with this number, as a backend has stored it. `None` for zero.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Returns the number, for a backend to store. It fits into 63 bits: no session is claimed that often.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// Returns the epoch of the next owner.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({})", self.0)
    }
}
