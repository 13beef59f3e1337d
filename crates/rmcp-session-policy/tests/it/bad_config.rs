//! `build` refuses an invalid setting with its name, its value and a remedy.

use std::sync::Arc;
use std::time::Duration;

use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::admission::{
    AdmissionPolicy, AdmissionPolicyExt, Arrival, Concurrent, Open, SlidingWindow, TokenBucket,
};
use rmcp_session_policy::{ConfigError, HOUR, MINUTE, PolicySessionManager, PolicySessionManagerBuilder, SECOND};

type Local = PolicySessionManagerBuilder<LocalSessionManager>;

const DAY: Duration = Duration::from_secs(24 * HOUR.as_secs());

fn refused(configure: impl FnOnce(Local) -> Local) -> ConfigError {
    configure(PolicySessionManager::local()).build().expect_err("makes no sense")
}

fn assert_names(error: &ConfigError, setting: &str, value: &str, remedy: &str) {
    assert_eq!((&*error.setting, &*error.value), (setting, value));
    assert!(error.remedy.contains(remedy), "{setting}: {}", error.remedy);
    assert_eq!(error.to_string(), format!("{setting} is {value}: {}", error.remedy));
}

#[test]
fn max_sessions_of_zero_is_refused() {
    assert_names(&refused(|b| b.max_sessions(0)), "max_sessions", "0", "at least 1");
}

#[test]
fn more_sessions_than_keys_are_refused() {
    let most = u32::MAX as usize;
    assert_names(&refused(|b| b.max_sessions(most + 1)), "max_sessions", "4294967296", "at most 4,294,967,295");
}

#[test]
fn no_down_time_is_refused() {
    let error = refused(|b| b.expected_downtime(Duration::ZERO));
    assert_names(&error, "expected_downtime", "0ns", "more than zero");
}

#[test]
fn probes_that_cannot_be_are_refused() {
    let off = "without probe_listeners there are no probes";
    let (every, within) = ("every of probe_listeners", "answer_within of probe_listeners");
    assert_names(&refused(|b| b.probe_listeners(Duration::ZERO, SECOND)), every, "0ns", off);
    assert_names(&refused(|b| b.probe_listeners(SECOND, Duration::ZERO)), within, "0ns", off);
    let too_long = refused(|b| b.probe_listeners(366 * DAY, SECOND));
    assert_names(&too_long, every, "31622400s", "at most 365 days");
    assert_names(&refused(|b| b.probe_listeners(SECOND, 2 * SECOND)), within, "2s", "every, which is 1s");
    assert!(PolicySessionManager::local().probe_listeners(SECOND, SECOND).build().is_ok());
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

#[test]
fn a_share_that_is_none_is_refused() {
    for (share, value) in [(0.0, "0.0"), (-0.1, "-0.1"), (1.01, "1.01"), (f64::NAN, "NaN")] {
        let remedy = "more than 0 and at most 1";
        assert_names(&refused(|b| b.per_client_share(share)), "per_client_share", value, remedy);
        assert_names(&refused(|b| b.per_prefix_share(share)), "per_prefix_share", value, remedy);
        assert_names(&refused(|b| b.per_key_share(share, |_| Some(1))), "per_key_share", value, remedy);
    }
    assert!(PolicySessionManager::local().per_client_share(1.0).build().is_ok());
    let none_goes = refused(|b| b.per_client_share(0.1).refuse_when_full());
    assert_names(&none_goes, "per_client_share", "0.1", "refuse_when_full");
}

#[test]
fn no_session_of_a_client_is_refused() {
    assert_names(&refused(|b| b.per_client_max(0)), "per_client_max", "0", "at least 1");
    assert!(PolicySessionManager::local().per_client_max(1).refuse_when_full().build().is_ok());
}

#[test]
fn more_streams_of_parked_sessions_than_parked_sessions_are_refused() {
    let error = refused(|b| b.max_parked(10).max_parked_streams(11));
    assert_names(&error, "max_parked_streams", "11", "max_parked, which is 10");
    assert!(PolicySessionManager::local().max_parked(10).max_parked_streams(10).build().is_ok());
    assert!(PolicySessionManager::local().max_parked(0).max_parked_streams(0).build().is_ok());
    assert!(PolicySessionManager::local().max_parked(1).build().is_ok(), "the default bound is no more than a bound");
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
fn the_error_names_the_setting_that_switches_it_off() {
    assert!(refused(|b| b.idle_timeout(Duration::ZERO)).remedy.contains("None"));
    assert!(refused(|b| b.max_lifetime(Duration::ZERO)).remedy.contains("None"));
    assert!(refused(|b| b.max_parked_age(Duration::ZERO)).remedy.contains("max_parked(0)"));
    assert!(PolicySessionManager::local().idle_timeout(None).max_lifetime(None).build().is_ok());
}

#[test]
fn a_parking_without_bytes_is_refused_unless_max_parked_is_zero() {
    assert_names(&refused(|b| b.max_parked_bytes(0)), "max_parked_bytes", "0", "max_parked(0)");
    assert_names(&refused(|b| b.max_parked_entry_bytes(0)), "max_parked_entry_bytes", "0", "max_parked(0)");
    let none = PolicySessionManager::local().max_parked(0).max_parked_bytes(0).max_parked_entry_bytes(0);
    assert!(none.build().is_ok());
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

/// The setting and the value that the error of an invalid policy names, and the policy.
type Senseless = (&'static str, String, fn() -> Box<dyn AdmissionPolicy>);

fn senseless() -> Vec<Senseless> {
    let most = i32::MAX as usize;
    vec![
        ("the limit of Concurrent", "0".into(), || Box::new(Concurrent::new(0))),
        ("the limit of SlidingWindow", "0".into(), || Box::new(SlidingWindow::new(0, MINUTE))),
        ("the limit of SlidingWindow", (most + 1).to_string(), || {
            Box::new(SlidingWindow::new(i32::MAX as usize + 1, MINUTE))
        }),
        ("the window of SlidingWindow", "0ns".into(), || Box::new(SlidingWindow::new(1, Duration::ZERO))),
        ("the rate of TokenBucket", "0.0".into(), || Box::new(TokenBucket::per_second(0.0))),
        ("the rate of TokenBucket", "NaN".into(), || Box::new(TokenBucket::per_second(f64::NAN))),
        ("the burst of TokenBucket", "0".into(), || Box::new(TokenBucket::per_second(1.0).burst(0))),
        ("the rate of TokenBucket", "1e-300".into(), || Box::new(TokenBucket::per_second(1e-300))),
        ("the burst of TokenBucket", "1000".into(), || Box::new(TokenBucket::new(1, 365 * DAY).burst(1_000))),
        ("the burst of TokenBucket", "36501".into(), || Box::new(TokenBucket::new(1, DAY).burst(36_501))),
    ]
}

#[test]
fn an_admission_policy_that_makes_no_sense_is_refused_wherever_it_stands() {
    type Wrap = fn(Box<dyn AdmissionPolicy>) -> Box<dyn AdmissionPolicy>;
    let wraps: [Wrap; 7] = [
        |policy| policy,
        |policy| Box::new(Arc::new(policy)),
        |policy| Box::new(Open.and(policy)),
        |policy| Box::new(policy.and(Open).or(Open)),
        |policy| Box::new(Open.or(policy)),
        |policy| Box::new(policy.only(|_: &Arrival<'_>| true)),
        |policy| Box::new(policy.shadow()),
    ];
    for (setting, value, make) in senseless() {
        for (nth, wrap) in wraps.iter().enumerate() {
            let error = refused(|b| b.admission(wrap(make())));
            assert_eq!((&*error.setting, &*error.value), (setting, &*value), "wrapped in way {nth}");
            assert_eq!(refused(|b| b.requests(wrap(make()))), error);
        }
    }
    let keyed: [ConfigError; 3] = [
        refused(|b| b.admission(Concurrent::new(0).per_client())),
        refused(|b| b.admission(SlidingWindow::new(0, MINUTE).per_client())),
        refused(|b| b.admission(TokenBucket::per_second(1.0).burst(0).per_session())),
    ];
    assert!(keyed.iter().all(|error| error.value == "0"), "{keyed:?}");
}

#[test]
fn the_largest_and_the_smallest_valid_settings_are_accepted() {
    let local = PolicySessionManager::local;
    assert!(local().admission(SlidingWindow::new(i32::MAX as usize, Duration::MAX)).build().is_ok());
    assert!(local().admission(SlidingWindow::new(1, Duration::from_nanos(1))).build().is_ok());
    assert!(local().admission(TokenBucket::per_second(f64::MAX)).build().is_ok());
    assert!(local().admission(TokenBucket::new(1, 36_500 * DAY)).build().is_ok());
    assert!(local().admission(TokenBucket::new(1, DAY).burst(36_500)).build().is_ok());
    assert!(local().admission(Concurrent::new(u64::MAX)).build().is_ok());
}
