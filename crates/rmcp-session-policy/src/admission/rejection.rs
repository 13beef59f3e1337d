//! What a refusal says.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectionClass {
    /// The client used up what it is given; HTTP 429.
    Quota,
    /// The server has no room; HTTP 503.
    NoCapacity,
    /// The server has too much to do; HTTP 503.
    Overload,
    /// What the policy depends on failed; HTTP 503.
    Backend,
}

/// When to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Retry {
    /// Waiting that long is enough, unless somebody else comes first.
    After(Duration),
    /// Nobody knows.
    Unknown,
    /// It will never do.
    Never,
}

impl Retry {
    /// Whole seconds to wait, rounded up, at least 1: waiting that long is enough. `None`: it will never do.
    pub(crate) fn seconds(self) -> Option<u64> {
        match self {
            Self::After(wait) => Some((wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)),
            // A place may come free at any moment.
            Self::Unknown => Some(1),
            Self::Never => None,
        }
    }

    /// The wait, to compare by: the sooner the smaller.
    pub(super) const fn wait(self) -> Duration {
        match self {
            Self::After(wait) => wait,
            Self::Unknown => Duration::from_secs(u32::MAX as u64),
            Self::Never => Duration::MAX,
        }
    }
}

/// A refusal: which policy, why, when to come back, and what the limit is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    policy: Cow<'static, str>,
    class: RejectionClass,
    retry: Retry,
    limit: Option<u64>,
    remaining: Option<u64>,
}

impl Rejection {
    /// Creates a refusal by the policy of that name: of class `Quota`, not knowing when to come back.
    #[must_use]
    pub fn new(policy: impl Into<Cow<'static, str>>) -> Self {
        Self {
            policy: policy.into(),
            class: RejectionClass::Quota,
            retry: Retry::Unknown,
            limit: None,
            remaining: None,
        }
    }

    /// Says whose limit it is.
    #[must_use]
    pub const fn with_class(mut self, class: RejectionClass) -> Self {
        self.class = class;
        self
    }

    /// Says when to come back.
    #[must_use]
    pub const fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Says how many are let in, and how many more would be now.
    #[must_use]
    pub const fn with_limit(mut self, limit: u64, remaining: u64) -> Self {
        self.limit = Some(limit);
        self.remaining = Some(remaining);
        self
    }

    /// The policy that refused.
    #[must_use]
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// Whose limit it is.
    #[must_use]
    pub const fn class(&self) -> RejectionClass {
        self.class
    }

    /// When to come back.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        self.retry
    }

    /// How many are let in.
    #[must_use]
    pub const fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// How many more would be let in now.
    #[must_use]
    pub const fn remaining(&self) -> Option<u64> {
        self.remaining
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused by {}", self.policy)?;
        match self.retry {
            Retry::After(_) => write!(f, ": retry after {} s", self.retry.seconds().unwrap_or_default()),
            Retry::Unknown => Ok(()),
            Retry::Never => f.write_str(": for good"),
        }
    }
}

impl std::error::Error for Rejection {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_whole_seconds_rounded_up_and_at_least_one() {
        let after = |millis| Retry::After(Duration::from_millis(millis)).seconds();
        assert_eq!([after(0), after(1), after(1_000), after(1_001)], [Some(1), Some(1), Some(1), Some(2)]);
        assert_eq!((Retry::Unknown.seconds(), Retry::Never.seconds()), (Some(1), None));
        let rejection = Rejection::new("gate").with_retry(Retry::After(Duration::from_millis(59_001)));
        assert_eq!(rejection.to_string(), "refused by gate: retry after 60 s");
        assert_eq!((rejection.limit(), rejection.remaining()), (None, None));
        let rejection = rejection.with_limit(9, 3);
        assert_eq!((rejection.limit(), rejection.remaining()), (Some(9), Some(3)));
    }
}
