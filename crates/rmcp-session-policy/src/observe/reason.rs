//! [`CloseReason`] and [`RejectionReason`]: why sessions end, and why newcomers and requests are rejected.

use std::fmt;

use crate::admission::RejectionClass;

/// Says why a session ended.
///
/// ```
/// use rmcp_session_policy::CloseReason;
///
/// assert_eq!(CloseReason::InitTimeout.as_str(), "init_timeout");
/// assert!(CloseReason::Evicted.is_restorable());
/// assert!(!CloseReason::Client.is_restorable());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client closed it.
    Client,
    /// An arrival needed its place: a newcomer, or a session that was restored.
    Evicted,
    /// It was idle for the idle timeout.
    Idle,
    /// It reached the maximum lifetime.
    Lifetime,
    /// Its handshake was not finished in time.
    InitTimeout,
    /// Its `initialize` was answered with an error, or the client did not wait for the answer.
    InitFailed,
    /// Its service ended.
    Ended,
    /// An operator terminated it.
    Revoked,
    /// The server was drained.
    Drained,
    /// Another server has it now, of those that share a [directory](crate::directory).
    Moved,
}

impl CloseReason {
    /// Every reason.
    pub const ALL: &[Self] = &[
        Self::Client,
        Self::Evicted,
        Self::Idle,
        Self::Lifetime,
        Self::InitTimeout,
        Self::InitFailed,
        Self::Ended,
        Self::Revoked,
        Self::Drained,
        Self::Moved,
    ];

    /// Returns whether the session is parked, so that its next request restores it; after [`Moved`](Self::Moved), another
    /// server has it, and its client may try again as well.
    ///
    /// After [`InitTimeout`](Self::InitTimeout) a session is parked only if the answer to its `initialize` was sent. The
    /// reason does not tell, so this returns false.
    #[must_use]
    pub const fn is_restorable(self) -> bool {
        matches!(self, Self::Evicted | Self::Idle | Self::Drained | Self::Moved)
    }

    /// Returns the reason as one lower-case word, as logs and metrics show it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Evicted => "evicted",
            Self::Idle => "idle",
            Self::Lifetime => "lifetime",
            Self::InitTimeout => "init_timeout",
            Self::InitFailed => "init_failed",
            Self::Ended => "ended",
            Self::Revoked => "revoked",
            Self::Drained => "drained",
            Self::Moved => "moved",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Says why a newcomer or a request was rejected.
///
/// ```
/// use rmcp_session_policy::RejectionReason;
/// use rmcp_session_policy::admission::RejectionClass;
///
/// assert_eq!(RejectionReason::from(RejectionClass::Quota), RejectionReason::Quota);
/// assert_eq!(RejectionReason::Quota.to_string(), "quota");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RejectionReason {
    /// An admission policy: the client used up its quota.
    Quota,
    /// An admission policy: the server has no room, as the policy counts it.
    NoCapacity,
    /// An admission policy: the server has too much to do.
    Overload,
    /// The inner session manager failed, or something that an admission policy depends on.
    Backend,
    /// Every place was taken and no session might go.
    ServerFull,
    /// The server was draining.
    Draining,
    /// Its session was closed while `initialize` was being answered: by an operator, or because the answer took too long.
    CutOff,
}

impl RejectionReason {
    /// Every reason.
    pub const ALL: &[Self] =
        &[Self::Quota, Self::NoCapacity, Self::Overload, Self::Backend, Self::ServerFull, Self::Draining, Self::CutOff];

    /// Returns the reason as one lower-case word, as logs and metrics show it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::NoCapacity => "capacity",
            Self::Overload => "overload",
            Self::Backend => "backend",
            Self::ServerFull => "at_capacity",
            Self::Draining => "draining",
            Self::CutOff => "cut_off",
        }
    }
}

impl From<RejectionClass> for RejectionReason {
    fn from(class: RejectionClass) -> Self {
        match class {
            RejectionClass::Quota => Self::Quota,
            RejectionClass::NoCapacity => Self::NoCapacity,
            RejectionClass::Overload => Self::Overload,
            RejectionClass::Backend => Self::Backend,
        }
    }
}

impl fmt::Display for RejectionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without an arm for a new reason, this does not compile.
    #[test]
    fn all_reasons_of_a_close_are_listed_in_their_order() {
        use CloseReason::{Client, Drained, Ended, Evicted, Idle, InitFailed, InitTimeout, Lifetime, Moved, Revoked};
        let next = |reason: &CloseReason| match reason {
            Client => Some(Evicted),
            Evicted => Some(Idle),
            Idle => Some(Lifetime),
            Lifetime => Some(InitTimeout),
            InitTimeout => Some(InitFailed),
            InitFailed => Some(Ended),
            Ended => Some(Revoked),
            Revoked => Some(Drained),
            Drained => Some(Moved),
            Moved => None,
        };
        assert_eq!(std::iter::successors(Some(Client), next).collect::<Vec<_>>(), CloseReason::ALL);
    }

    #[test]
    fn all_reasons_of_a_rejection_are_listed_in_their_order() {
        use RejectionReason::{Backend, CutOff, Draining, NoCapacity, Overload, Quota, ServerFull};
        let next = |reason: &RejectionReason| match reason {
            Quota => Some(NoCapacity),
            NoCapacity => Some(Overload),
            Overload => Some(Backend),
            Backend => Some(ServerFull),
            ServerFull => Some(Draining),
            Draining => Some(CutOff),
            CutOff => None,
        };
        assert_eq!(std::iter::successors(Some(Quota), next).collect::<Vec<_>>(), RejectionReason::ALL);
    }
}
