//! [`Rejection`]: what a policy returns when it does not admit.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// Says which kind of limit rejected an arrival, and so which HTTP status the client gets.
///
/// ```
/// use rmcp_session_policy::admission::{Rejection, RejectionClass};
///
/// assert_eq!(Rejection::new("tenants").class(), RejectionClass::Quota);
/// let rejection = Rejection::new("tenants").with_class(RejectionClass::Backend);
/// assert_eq!(rejection.class(), RejectionClass::Backend);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectionClass {
    /// The client used up its quota; HTTP 429.
    Quota,
    /// The server has no room; HTTP 503.
    NoCapacity,
    /// The server has too much to do; HTTP 503.
    Overload,
    /// What the policy depends on failed; HTTP 503.
    Backend,
}

/// Says when an arrival that was rejected may come back.
///
/// ```
/// use std::time::Duration;
///
/// use rmcp_session_policy::admission::{Rejection, Retry};
///
/// let rejection = Rejection::new("tenants").with_retry(Retry::After(Duration::from_millis(1_500)));
/// assert_eq!(rejection.to_string(), "refused by tenants: retry after 2 s");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Retry {
    /// Waiting that long is enough, unless another arrival comes first.
    After(Duration),
    /// The policy does not know.
    Unknown,
    /// Coming back is of no use: the policy will reject it again.
    Never,
}

impl Retry {
    /// Returns the whole seconds to wait, rounded up, at least 1. Returns `None` for [`Never`](Self::Never).
    pub(crate) fn seconds(self) -> Option<u64> {
        match self {
            Self::After(wait) => Some(wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)),
            // A place may become free at any moment.
            Self::Unknown => Some(1),
            Self::Never => None,
        }
    }

    /// Returns the wait to compare by: shorter is sooner.
    pub(super) const fn wait(self) -> Duration {
        match self {
            Self::After(wait) => wait,
            Self::Unknown => Duration::from_secs(u32::MAX as u64),
            Self::Never => Duration::MAX,
        }
    }
}

/// Says that a policy rejects an arrival: which policy, why, when to come back, and what the limit is.
///
/// ```
/// use rmcp_session_policy::admission::{Rejection, Retry};
///
/// let rejection = Rejection::new("plan").with_limit(10, 0).with_retry(Retry::Never);
/// assert_eq!(rejection.policy(), "plan");
/// assert_eq!((rejection.limit(), rejection.remaining()), (Some(10), Some(0)));
/// assert_eq!(rejection.to_string(), "refused by plan: for good");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    policy: Cow<'static, str>,
    class: RejectionClass,
    retry: Retry,
    limit: Option<u64>,
    remaining: Option<u64>,
    period: Option<Duration>,
}

impl Rejection {
    /// Creates a rejection by the policy with that name, of class [`Quota`](RejectionClass::Quota) and with an
    /// [unknown](Retry::Unknown) wait.
    #[must_use]
    pub fn new(policy: impl Into<Cow<'static, str>>) -> Self {
        Self {
            policy: policy.into(),
            class: RejectionClass::Quota,
            retry: Retry::Unknown,
            limit: None,
            remaining: None,
            period: None,
        }
    }

    /// Sets the kind of limit. Defaults to [`RejectionClass::Quota`].
    #[must_use]
    pub const fn with_class(mut self, class: RejectionClass) -> Self {
        self.class = class;
        self
    }

    /// Sets when to come back. Defaults to [`Retry::Unknown`].
    #[must_use]
    pub const fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Sets the limit, and the number that would still be admitted now. Defaults to none.
    #[must_use]
    pub const fn with_limit(mut self, limit: u64, remaining: u64) -> Self {
        self.limit = Some(limit);
        self.remaining = Some(remaining);
        self
    }

    /// Sets the period that the limit is for: as the minute in 20 a minute. Clients and operators are told of it. Defaults to
    /// none, for a limit on what there is at one time.
    ///
    /// ```
    /// use rmcp_session_policy::MINUTE;
    /// use rmcp_session_policy::admission::Rejection;
    ///
    /// let rejection = Rejection::new("plan").with_limit(20, 0).with_period(MINUTE);
    /// assert_eq!(rejection.period(), Some(MINUTE));
    /// ```
    #[must_use]
    pub const fn with_period(mut self, period: Duration) -> Self {
        self.period = Some(period);
        self
    }

    /// Returns the name of the policy that rejected.
    #[must_use]
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// Returns the kind of limit.
    #[must_use]
    pub const fn class(&self) -> RejectionClass {
        self.class
    }

    /// Returns when to come back.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        self.retry
    }

    /// Returns the limit.
    #[must_use]
    pub const fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Returns the number that would still be admitted now.
    #[must_use]
    pub const fn remaining(&self) -> Option<u64> {
        self.remaining
    }

    /// Returns the period that the limit is for.
    #[must_use]
    pub const fn period(&self) -> Option<Duration> {
        self.period
    }

    /// Returns the name of the policy, to be kept: without a copy if it is a literal.
    pub(crate) fn policy_name(&self) -> Cow<'static, str> {
        self.policy.clone()
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
        assert_eq!(Retry::After(Duration::MAX).seconds(), Some(u64::MAX), "no overflow");
        let rejection = Rejection::new("gate").with_retry(Retry::After(Duration::from_millis(59_001)));
        assert_eq!(rejection.to_string(), "refused by gate: retry after 60 s");
        assert_eq!((rejection.limit(), rejection.remaining()), (None, None));
        let rejection = rejection.with_limit(9, 3);
        assert_eq!((rejection.limit(), rejection.remaining()), (Some(9), Some(3)));
    }
}
