//! [`SettingsInForce`]: what an operator sees of the settings.

use std::time::{Duration, SystemTime};

use super::idle_timeout::IdleTimeout;
use super::in_force::InForce;
use crate::call_rejection::CallRejection;

/// The settings in force that can change while the manager runs, and since when they are; from
/// [`settings`](crate::PolicySessionManager::settings).
///
/// The fields are named as the setters of [`LiveSettings`](crate::LiveSettings). Defaults that follow from other settings
/// stand here as numbers.
///
/// ```
/// use rmcp_session_policy::PolicySessionManager;
///
/// let sessions = PolicySessionManager::local().max_sessions(100).build()?;
/// let settings = sessions.settings();
/// assert_eq!((settings.max_sessions, settings.max_opening, settings.changes), (100, 10, 0));
/// # Ok::<(), rmcp_session_policy::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SettingsInForce {
    /// Since when these settings are in force.
    pub since: SystemTime,
    /// How often the settings were changed.
    pub changes: u64,
    /// The capacity.
    pub max_sessions: usize,
    /// How many places half-open sessions may hold.
    pub max_opening: usize,
    /// How long a session may be idle.
    pub idle_timeout: IdleTimeout,
    /// The longest life of a session.
    pub max_lifetime: Option<Duration>,
    /// How long a handshake may take.
    pub init_timeout: Duration,
    /// For how long after its last use a session is never evicted.
    pub min_idle: Duration,
    /// For how long a request protects its session.
    pub max_busy: Duration,
    /// How long a close may take.
    pub close_deadline: Duration,
    /// The share of the places that one client may hold at the cost of others, and the name of its setter.
    pub client_share: Option<(&'static str, f64)>,
    /// How many sessions one client may have.
    pub per_client_max: Option<usize>,
    /// Whether the guard against surges is on.
    pub surge_guard: bool,
    /// How many sessions may be parked.
    pub max_parked: usize,
    /// How many bytes the parked sessions may hold together.
    pub max_parked_bytes: usize,
    /// How many bytes one parked session may hold.
    pub max_parked_entry_bytes: usize,
    /// For how long a session stays parked.
    pub max_parked_age: Duration,
    /// How many listening streams of parked sessions stay open.
    pub max_parked_streams: usize,
    /// How many bytes the session data of one session may be.
    pub max_session_data_bytes: usize,
    /// The form of the answer to a rejected `tools/call`.
    pub reject_calls_with: CallRejection,
    /// How long a hook for a final end may take.
    pub final_end_deadline: Duration,
    /// After how long clients should open their listening streams again after a drain.
    pub expected_downtime: Duration,
    /// Whether sessions are evicted.
    pub evicts: bool,
}

impl SettingsInForce {
    pub(super) fn of(in_force: &InForce) -> Self {
        let given = &in_force.given;
        Self {
            since: in_force.since,
            changes: in_force.changes,
            max_sessions: given.max_sessions,
            max_opening: in_force.max_opening,
            idle_timeout: given.idle_timeout,
            max_lifetime: given.max_lifetime,
            init_timeout: given.init_timeout,
            min_idle: given.min_idle,
            max_busy: given.max_busy,
            close_deadline: given.close_deadline,
            client_share: given.share.as_ref().map(|share| (share.setting, share.share)),
            per_client_max: given.client_max,
            surge_guard: given.surge_guard,
            max_parked: given.limits.entries,
            max_parked_bytes: given.limits.bytes,
            max_parked_entry_bytes: given.limits.entry_bytes,
            max_parked_age: given.limits.age,
            max_parked_streams: in_force.max_parked_streams,
            max_session_data_bytes: in_force.max_data_bytes,
            reject_calls_with: given.call_rejection,
            final_end_deadline: given.final_end_deadline,
            expected_downtime: given.expected_downtime,
            evicts: given.evicts,
        }
    }
}
