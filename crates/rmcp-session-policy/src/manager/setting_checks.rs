//! What [`build`](super::PolicySessionManagerBuilder::build) and
//! [`reconfigure`](super::PolicySessionManager::reconfigure) check: one function for each setting or group of settings. Each
//! error names the setting, its value, and a remedy.

use std::time::Duration;

use super::client_limits::{ClientLimit, ClientLimits, ClientShare};
use super::idle_timeout::{IdleTimeout, Worth};
use super::parking_state::Limits;
use super::settings::Given;
use crate::config_error::ConfigError;
use crate::data::DataTypes;
use crate::eviction::EvictionPolicy;
use crate::registry::ClientOf;
use crate::time::HOUR;
use crate::transport::ProbeTimes;

/// The default limit of the data of one session, in bytes.
const SESSION_DATA: usize = 64 << 10;
/// The longest duration of a setting. tokio's timer wheel reaches two years. No session needs a time that long.
const LONGEST: Duration = HOUR.saturating_mul(365 * 24);

/// Checks the capacity.
pub(super) fn capacity(most: usize) -> Result<(), ConfigError> {
    if most == 0 {
        return Err(ConfigError::new("max_sessions", most, "allow at least 1 session"));
    }
    if most > u32::MAX as usize {
        return Err(ConfigError::new("max_sessions", most, "allow at most 4,294,967,295 sessions"));
    }
    Ok(())
}

/// Checks how many ends and rejections are kept.
pub(super) fn explanations(most: usize) -> Result<(), ConfigError> {
    if most > 1_000_000 {
        return Err(ConfigError::new("explanations", most, "keep at most 1,000,000; 0 keeps none"));
    }
    Ok(())
}

/// Checks how many of `most` places half-open sessions may hold, or returns the default.
pub(super) fn opening(set: Option<usize>, most: usize) -> Result<usize, ConfigError> {
    let opening = set.unwrap_or_else(|| default_opening(most));
    if opening == 0 {
        return Err(ConfigError::new("max_opening", opening, "allow at least 1 half-open session"));
    }
    if opening > most {
        let remedy = format!("allow at most max_sessions, which is {most}");
        return Err(ConfigError::new("max_opening", opening, remedy));
    }
    Ok(opening)
}

/// The default of `max_opening` for `most` places.
pub(crate) fn default_opening(most: usize) -> usize {
    (most / 10).max((most / 4).min(5)).max(1)
}

/// Checks that no more streams are held than sessions are parked.
pub(super) fn parked_streams(set: Option<usize>, limits: &Limits) -> Result<(), ConfigError> {
    if let Some(streams) = set
        && streams > limits.entries
    {
        let remedy = format!("allow at most max_parked, which is {}; 0 keeps none", limits.entries);
        return Err(ConfigError::new("max_parked_streams", streams, remedy));
    }
    Ok(())
}

/// Checks the limits of clients. `before`: those that they replace.
pub(super) fn client_limits(given: &Given, before: Option<&ClientLimits>) -> Result<ClientLimits, ConfigError> {
    let mut limits = ClientLimits::default();
    if let Some(ClientShare { setting, share, of }) = &given.share {
        if !(*share > 0.0 && *share <= 1.0) {
            return Err(ConfigError::new(*setting, share, "allow more than 0 and at most 1"));
        }
        if !given.evicts {
            return Err(ConfigError::new(*setting, share, "leave it out: with refuse_when_full no session makes room"));
        }
        limits.share = Some(ClientLimit { of: of.clone(), sessions: full_places(given.max_sessions, *share) });
    }
    if let Some(sessions) = given.client_max {
        if sessions == 0 {
            return Err(ConfigError::new("per_client_max", sessions, "allow at least 1 session"));
        }
        let of = before.and_then(|before| before.max.as_ref()).map(|max| max.of.clone());
        limits.max = Some(ClientLimit { of: of.unwrap_or_else(ClientOf::per_client), sessions });
    }
    before.iter().for_each(|before| limits.follow(before));
    Ok(limits)
}

/// A share of `most` places, in full places; 0.29 of 100 are 29, though the product is a little less.
fn full_places(most: usize, share: f64) -> usize {
    ((most as f64 * share + 1e-9) as usize).max(1)
}

/// Checks a worth. `learns`: whether sessions are parked and evicted.
pub(super) fn worth(worth: Worth, learns: bool) -> Result<(), ConfigError> {
    let wrong = |remedy| Err(ConfigError::new("idle_timeout", worth, remedy));
    if !(worth.keep > 0.0 && worth.keep < 1.0) {
        return wrong("keep a share of more than 0 and less than 1, such as 0.95");
    }
    if !learns {
        return wrong("allow parking and eviction, or give a duration");
    }
    Ok(())
}

/// Has the eviction policy keep a share of the resumptions, if the idle timeout is a worth.
pub(super) fn keep_resumptions(timeout: IdleTimeout, policy: &mut dyn EvictionPolicy) -> Result<(), ConfigError> {
    let IdleTimeout::Worth(worth) = timeout else { return Ok(()) };
    if policy.keep_resumptions(worth.keep) { Ok(()) } else { no_worth(timeout) }
}

/// The error of an idle timeout that needs a policy which knows a worth.
pub(super) fn no_worth(timeout: IdleTimeout) -> Result<(), ConfigError> {
    let IdleTimeout::Worth(worth) = timeout else { return Ok(()) };
    let remedy = "give eviction(Prospects::new()) or another policy that knows what a place is worth, or a duration";
    Err(ConfigError::new("idle_timeout", worth, remedy))
}

/// Checks the durations: none is zero, and none is longer than a year.
pub(super) fn durations(settings: &Given) -> Result<(), ConfigError> {
    let idle_timeout = match settings.idle_timeout {
        IdleTimeout::After(timeout) => Some(timeout),
        IdleTimeout::Worth(_) | IdleTimeout::Never => None,
    };
    let durations = [
        ("idle_timeout", idle_timeout, "allow more than zero, or None for no timeout"),
        ("max_lifetime", settings.max_lifetime, "allow more than zero, or None for no limit"),
        ("init_timeout", Some(settings.init_timeout), "allow more than zero"),
        ("max_busy", Some(settings.max_busy), "allow more than zero"),
        ("close_deadline", Some(settings.close_deadline), "allow more than zero"),
        ("final_end_deadline", Some(settings.final_end_deadline), "allow more than zero"),
        ("expected_downtime", Some(settings.expected_downtime), "allow more than zero"),
        ("max_parked_age", Some(settings.limits.age), "allow more than zero; max_parked(0) parks no session"),
        ("min_idle", Some(settings.min_idle).filter(|idle| !idle.is_zero()), ""),
    ];
    for (setting, duration, remedy) in durations {
        if duration == Some(Duration::ZERO) {
            return Err(ConfigError::new(setting, Duration::ZERO, remedy));
        }
        if duration.is_some_and(|duration| duration > LONGEST) {
            return Err(ConfigError::new(setting, duration.unwrap_or_default(), "allow at most 365 days"));
        }
    }
    Ok(())
}

/// Checks the times of probes.
pub(super) fn listener_probes(times: Option<ProbeTimes>) -> Result<(), ConfigError> {
    let Some(ProbeTimes { every, answer_within }) = times else { return Ok(()) };
    let durations = [("every of probe_listeners", every), ("answer_within of probe_listeners", answer_within)];
    for (setting, duration) in durations {
        if duration.is_zero() {
            let remedy = "allow more than zero; without probe_listeners there are no probes";
            return Err(ConfigError::new(setting, duration, remedy));
        }
        if duration > LONGEST {
            return Err(ConfigError::new(setting, duration, "allow at most 365 days"));
        }
    }
    if answer_within > every {
        let remedy = format!("allow at most every, which is {every:?}");
        return Err(ConfigError::new("answer_within of probe_listeners", answer_within, remedy));
    }
    Ok(())
}

/// Checks the bytes of parked sessions.
pub(super) fn parked_bytes(limits: &Limits) -> Result<(), ConfigError> {
    if limits.entries > 0 && (limits.bytes == 0 || limits.entry_bytes == 0) {
        let setting = if limits.bytes == 0 { "max_parked_bytes" } else { "max_parked_entry_bytes" };
        return Err(ConfigError::new(setting, 0, "allow at least 1 KiB; max_parked(0) parks no session"));
    }
    Ok(())
}

/// Checks the limit of session data, or returns the default.
pub(super) fn data_bytes(set: Option<usize>, limits: &Limits) -> Result<usize, ConfigError> {
    let parked = Some(limits.bytes).filter(|_| limits.entries > 0);
    let fitting = parked.map_or(SESSION_DATA, |bytes| SESSION_DATA.min(bytes / 4));
    let bytes = set.unwrap_or(fitting);
    DataTypes::check_bytes(bytes, parked)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_in_full_places_and_at_least_one() {
        let shares = [(100, 0.29), (1_000, 0.05), (30, 0.1), (10, 0.05), (10, 1.0), (19, 0.1)];
        assert_eq!(shares.map(|(most, share)| full_places(most, share)), [29, 50, 3, 1, 10, 1]);
    }

    #[test]
    fn half_open_sessions_hold_a_tenth_of_the_places_but_not_under_the_lesser_of_5_and_a_quarter() {
        let defaults = [1, 3, 4, 8, 19, 20, 49, 60, 100, 1_000].map(default_opening);
        assert_eq!(defaults, [1, 1, 1, 2, 4, 5, 5, 6, 10, 100]);
    }
}
