//! The settings that the manager reads while it runs.

use std::sync::Arc;
use std::time::Duration;

use super::client_limits::ClientLimits;
use super::final_ends::Hook;
use super::idle_timeout::IdleTimeout;
use crate::call_rejection::CallRejection;
use crate::data::DataTypes;
use crate::directory::SessionDirectory;
#[cfg(feature = "metrics")]
use crate::metrics::Instruments;
use crate::transport::ProbeTimes;

/// The settings of a manager, as its builder has checked them.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) max_sessions: usize,
    pub(crate) max_opening: usize,
    pub(crate) max_parked_streams: usize,
    /// When listening streams are probed. `None` if they are not.
    pub(crate) listener_probes: Option<ProbeTimes>,
    pub(crate) idle_timeout: IdleTimeout,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) init_timeout: Duration,
    pub(crate) max_busy: Duration,
    pub(crate) close_deadline: Duration,
    pub(crate) clients: ClientLimits,
    /// Whether the guard is on.
    pub(crate) surge_guard: bool,
    /// Whether the manager logs each close. An observer may log them instead.
    pub(crate) logs_ends: bool,
    /// How a rejected or cut-off `tools/call` within a session is answered.
    pub(crate) call_rejection: CallRejection,
    /// What keeps sessions beyond the process.
    pub(crate) directory: Option<Arc<dyn SessionDirectory>>,
    /// The types of session data, and its limit.
    pub(crate) data_types: Arc<DataTypes>,
    /// What is done at the final end of a session with data.
    pub(crate) final_end: Option<Hook>,
    pub(crate) final_end_deadline: Duration,
    /// How many ends and rejections are kept to be explained.
    pub(crate) explanations: usize,
    /// What a drain says to clients that listen.
    pub(crate) expected_downtime: Duration,
    /// What records metrics.
    #[cfg(feature = "metrics")]
    pub(crate) metrics: Option<Arc<Instruments>>,
}
