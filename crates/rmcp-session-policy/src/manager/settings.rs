//! The settings of a manager: [`Settings`], which stay as they were built, and [`Given`], which may change while it runs.

use std::sync::Arc;
use std::time::Duration;

use super::client_limits::ClientShare;
use super::final_ends::Hook;
use super::idle_timeout::IdleTimeout;
use super::parking_state::Limits;
use crate::call_rejection::CallRejection;
use crate::data::DataTypes;
use crate::directory::SessionDirectory;
#[cfg(feature = "metrics")]
use crate::metrics::Instruments;
use crate::registry::{Predicate, Rules};
use crate::time::{HOUR, MINUTE, SECOND};
use crate::transport::ProbeTimes;

/// The settings that stay as they were built.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// When listening streams are probed. `None` if they are not.
    pub(crate) listener_probes: Option<ProbeTimes>,
    /// Whether the manager logs each close. An observer may log them instead.
    pub(crate) logs_ends: bool,
    /// Whether busy sessions are offered to the eviction policy too.
    pub(super) busy_may_go: bool,
    /// What keeps sessions beyond the process.
    pub(crate) directory: Option<Arc<dyn SessionDirectory>>,
    /// The types of session data.
    pub(crate) data_types: Arc<DataTypes>,
    /// What is done at the final end of a session with data.
    pub(crate) final_end: Option<Hook>,
    /// How many ends and rejections are kept to be explained.
    pub(crate) explanations: usize,
    /// What records metrics.
    #[cfg(feature = "metrics")]
    pub(crate) metrics: Option<Arc<Instruments>>,
}

/// The settings that may change while the manager runs, as they were given. `None` stands for a default that follows from
/// other settings, or for no limit.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) max_sessions: usize,
    pub(super) max_opening: Option<usize>,
    pub(super) max_parked_streams: Option<usize>,
    pub(super) idle_timeout: IdleTimeout,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) init_timeout: Duration,
    pub(super) min_idle: Duration,
    pub(super) max_busy: Duration,
    pub(super) close_deadline: Duration,
    pub(super) protect: Option<Protect>,
    pub(super) share: Option<ClientShare>,
    pub(super) client_max: Option<usize>,
    /// Whether the guard is on.
    pub(super) surge_guard: bool,
    /// Of the parking.
    pub(super) limits: Limits,
    pub(super) max_data_bytes: Option<usize>,
    /// How a rejected or cut-off `tools/call` within a session is answered.
    pub(super) call_rejection: CallRejection,
    pub(super) final_end_deadline: Duration,
    /// What a drain says to clients that listen.
    pub(super) expected_downtime: Duration,
    /// Whether sessions are evicted.
    pub(super) evicts: bool,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            max_sessions: 1_000,
            max_opening: None,
            max_parked_streams: None,
            idle_timeout: IdleTimeout::After(30 * MINUTE),
            max_lifetime: None,
            init_timeout: 30 * SECOND,
            min_idle: Duration::ZERO,
            max_busy: 10 * MINUTE,
            close_deadline: 5 * SECOND,
            protect: None,
            share: None,
            client_max: None,
            surge_guard: true,
            limits: Limits { entries: 10_000, bytes: 64 << 20, entry_bytes: 64 << 10, age: 24 * HOUR },
            max_data_bytes: None,
            call_rejection: CallRejection::Result,
            final_end_deadline: 10 * SECOND,
            expected_downtime: 3 * SECOND,
            evicts: true,
        }
    }
}

impl Given {
    /// Whether the deadlines of sessions are others than by these settings.
    pub(super) fn has_other_times(&self, before: &Self) -> bool {
        let times = |given: &Self| (given.idle_timeout, given.max_lifetime, given.init_timeout, given.max_busy);
        times(self) != times(before)
    }

    /// Whether the [rules](Self::rules) are others than by these settings. Two closures are never the same rule.
    pub(super) fn has_other_rules(&self, before: &Self) -> bool {
        let is_same = match (&self.protect, &before.protect) {
            (Some(one), Some(other)) => Arc::ptr_eq(&one.0, &other.0),
            (one, other) => one.is_none() && other.is_none(),
        };
        !is_same || (self.min_idle, self.max_busy) != (before.min_idle, before.max_busy)
    }

    /// What keeps a session from eviction.
    pub(super) fn rules(&self, busy_may_go: bool) -> Rules {
        let max_busy = if busy_may_go { Duration::ZERO } else { self.max_busy };
        Rules {
            min_idle: self.min_idle,
            max_busy,
            protect: self.protect.as_ref().map(|protect| Arc::clone(&protect.0)),
        }
    }
}

/// What the author protects.
#[derive(Clone)]
pub(super) struct Protect(pub(super) Predicate);

impl std::fmt::Debug for Protect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Protect(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_times_and_other_rules_are_others() {
        let before = Given { protect: Some(Protect(Arc::new(|_| true))), ..Given::default() };
        let others = |change: fn(&mut Given)| {
            let mut given = before.clone();
            change(&mut given);
            (given.has_other_times(&before), given.has_other_rules(&before))
        };
        assert_eq!(others(|given| (given.max_sessions, given.surge_guard) = (7, false)), (false, false));
        assert_eq!(others(|given| given.idle_timeout = IdleTimeout::Never), (true, false));
        assert_eq!(others(|given| given.max_lifetime = Some(HOUR)), (true, false));
        assert_eq!(others(|given| given.init_timeout = MINUTE), (true, false));
        assert_eq!(others(|given| given.max_busy = MINUTE), (true, true));
        assert_eq!(others(|given| given.min_idle = MINUTE), (false, true));
        assert_eq!(others(|given| given.protect = None), (false, true));
        assert_eq!(others(|given| given.protect = Some(Protect(Arc::new(|_| true)))), (false, true));
    }
}
