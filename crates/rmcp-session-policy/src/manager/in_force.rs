//! [`InForce`]: the settings that may change, as they were checked.

use std::time::SystemTime;

use super::client_limits::ClientLimits;
use super::idle_timeout::IdleTimeout;
use super::setting_checks;
use super::settings::Given;
use crate::config_error::ConfigError;

/// The settings that may change, checked, with what follows from them.
///
/// It never changes: a change of the settings puts another one in its place. Readers load it without a lock.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    pub(super) given: Given,
    pub(super) max_opening: usize,
    pub(super) max_parked_streams: usize,
    /// What the values of one session may be in bytes.
    pub(super) max_data_bytes: usize,
    pub(super) clients: ClientLimits,
    /// How often the settings were changed, and when last.
    pub(super) changes: u64,
    pub(super) since: SystemTime,
}

impl InForce {
    /// Checks all settings together. `before`: those that they replace.
    ///
    /// The eviction policy and the types of session data are not asked here.
    pub(super) fn check(given: Given, before: Option<&Self>) -> Result<Self, ConfigError> {
        let most = given.max_sessions;
        setting_checks::capacity(most)?;
        let max_opening = setting_checks::opening(given.max_opening, most)?;
        setting_checks::parked_streams(given.max_parked_streams, &given.limits)?;
        let clients = setting_checks::client_limits(&given, before.map(|before| &before.clients))?;
        if let IdleTimeout::Worth(worth) = given.idle_timeout {
            setting_checks::worth(worth, given.evicts && given.limits.entries > 0)?;
        }
        setting_checks::durations(&given)?;
        setting_checks::parked_bytes(&given.limits)?;
        let max_data_bytes = setting_checks::data_bytes(given.max_data_bytes, &given.limits)?;
        Ok(Self {
            max_opening,
            max_parked_streams: given.max_parked_streams.unwrap_or(most),
            max_data_bytes,
            clients,
            changes: before.map_or(0, |before| before.changes + 1),
            since: SystemTime::now(),
            given,
        })
    }
}
