//! Why sessions end, and why newcomers are refused.

use std::fmt;

use crate::admission::RejectionClass;

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client closed it.
    Client,
    /// A newcomer needed its place.
    Evicted,
    /// It was not heard of for the idle timeout.
    Idle,
    /// It reached the maximum lifetime.
    Lifetime,
    /// Its handshake was not finished in time.
    InitTimeout,
    /// Its `initialize` was answered with an error, or nobody waited for the answer.
    InitFailed,
    /// Its service ended.
    Ended,
    /// An operator terminated it.
    Revoked,
    /// The server was drained.
    Drained,
}

impl CloseReason {
    /// All reasons there are.
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
    ];

    /// Whether the session is parked, so that its next request restores it. After [`InitTimeout`](Self::InitTimeout) it is
    /// only if the answer to its `initialize` was sent, which the reason does not tell: here that counts as no.
    #[must_use]
    pub const fn is_restorable(self) -> bool {
        matches!(self, Self::Evicted | Self::Idle | Self::Drained)
    }

    /// The reason as one lower-case word, as logs and metrics show it.
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
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a newcomer was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RejectionReason {
    /// An admission policy: the client used up its quota.
    Quota,
    /// An admission policy: the server has no room by its reckoning.
    NoCapacity,
    /// An admission policy: the server has too much to do.
    Overload,
    /// What an admission policy depends on failed, or the inner session manager did.
    Backend,
    /// Every place was taken and no session might go.
    ServerFull,
    /// The server was draining.
    Draining,
    /// Its session was closed while `initialize` was being answered: by an operator, or because the answer took too long.
    CutOff,
}

impl RejectionReason {
    /// All reasons there are.
    pub const ALL: &[Self] =
        &[Self::Quota, Self::NoCapacity, Self::Overload, Self::Backend, Self::ServerFull, Self::Draining, Self::CutOff];

    /// The reason as one lower-case word, as logs and metrics show it.
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
