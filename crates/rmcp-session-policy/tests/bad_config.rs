//! A setting that makes no sense is refused by name, with its value and what would do.

use std::time::Duration;

use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::{Builder, ConfigError, HOUR, MINUTE, PolicySessionManager, SECOND};

type Local = Builder<LocalSessionManager>;

fn refused(configure: impl FnOnce(Local) -> Local) -> ConfigError {
    configure(PolicySessionManager::local()).build().expect_err("makes no sense")
}

fn assert_names(error: &ConfigError, setting: &str, value: &str, remedy: &str) {
    assert_eq!((error.setting.as_str(), error.value.as_str()), (setting, value));
    assert!(error.remedy.contains(remedy), "{setting}: {}", error.remedy);
    assert_eq!(error.to_string(), format!("{setting} is {value}: {}", error.remedy));
}

#[test]
fn no_session_at_all_is_refused() {
    assert_names(&refused(|b| b.max_sessions(0)), "max_sessions", "0", "at least 1");
}

#[test]
fn more_sessions_than_keys_are_refused() {
    let most = u32::MAX as usize;
    assert_names(&refused(|b| b.max_sessions(most + 1)), "max_sessions", "4294967296", "at most 4,294,967,295");
}

#[test]
fn no_half_open_session_is_refused() {
    assert_names(&refused(|b| b.max_opening(0)), "max_opening", "0", "at least 1");
}

#[test]
fn more_half_open_sessions_than_places_are_refused() {
    let error = refused(|b| b.max_sessions(10).max_opening(11));
    assert_names(&error, "max_opening", "11", "max_sessions, which is 10");
    assert!(PolicySessionManager::local().max_sessions(10).max_opening(10).build().is_ok());
}

type Setter = (&'static str, fn(Local, Duration) -> Local);

const DURATIONS: [Setter; 6] = [
    ("idle_timeout", |b, d| b.idle_timeout(d)),
    ("max_lifetime", |b, d| b.max_lifetime(d)),
    ("init_timeout", |b, d| b.init_timeout(d)),
    ("max_busy", |b, d| b.max_busy(d)),
    ("close_deadline", |b, d| b.close_deadline(d)),
    ("max_parked_age", |b, d| b.max_parked_age(d)),
];

/// Zero is its default.
const MIN_IDLE: Setter = ("min_idle", |b, d| b.min_idle(d));

#[test]
fn durations_of_zero_are_refused() {
    for (setting, set) in DURATIONS {
        assert_names(&refused(|b| set(b, Duration::ZERO)), setting, "0ns", "more than zero");
        assert!(set(PolicySessionManager::local(), Duration::from_nanos(1)).build().is_ok(), "{setting}");
    }
}

#[test]
fn durations_beyond_the_timers_reach_are_refused() {
    let year = 365 * 24 * HOUR;
    for (setting, set) in DURATIONS.into_iter().chain([MIN_IDLE]) {
        let value = format!("{:?}", year + SECOND);
        assert_names(&refused(|b| set(b, year + SECOND)), setting, &value, "at most 365 days");
        assert_names(&refused(|b| set(b, Duration::MAX)), setting, &format!("{:?}", Duration::MAX), "at most 365 days");
        assert!(set(PolicySessionManager::local(), year).build().is_ok(), "{setting}");
    }
}

#[test]
fn a_remedy_names_the_way_to_have_none() {
    assert!(refused(|b| b.idle_timeout(Duration::ZERO)).remedy.contains("None"));
    assert!(refused(|b| b.max_lifetime(Duration::ZERO)).remedy.contains("None"));
    assert!(refused(|b| b.max_parked_age(Duration::ZERO)).remedy.contains("max_parked(0)"));
    assert!(PolicySessionManager::local().idle_timeout(None).max_lifetime(None).build().is_ok());
}

#[test]
fn parking_without_room_is_refused_unless_nobody_is_parked() {
    assert_names(&refused(|b| b.max_parked_bytes(0)), "max_parked_bytes", "0", "max_parked(0)");
    assert_names(&refused(|b| b.max_parked_entry_bytes(0)), "max_parked_entry_bytes", "0", "max_parked(0)");
    let nobody = PolicySessionManager::local().max_parked(0).max_parked_bytes(0).max_parked_entry_bytes(0);
    assert!(nobody.build().is_ok());
}

#[test]
fn min_idle_may_be_zero() {
    assert!(PolicySessionManager::local().min_idle(Duration::ZERO).build().is_ok());
    assert!(PolicySessionManager::local().min_idle(MINUTE).build().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_end_waits_for_the_calls_and_ends() {
    let sessions = PolicySessionManager::local().build().expect("valid");
    let report = sessions.drain(Duration::MAX).await;
    assert_eq!((report.finished, report.cut_off, report.stuck), (0, 0, 0));
}
