//! An idle timeout by worth: who comes back keeps its place, who does not loses it soon.

use std::sync::Arc;

use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::eviction::{EvictionPolicyExt, Lru, Prospects, SessionInfo};
use rmcp_session_policy::{
    CloseReason, ConfigError, HOUR, MINUTE, PolicySessionManager, PolicySessionManagerBuilder, SECOND, Worth,
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::session::{Driver, Http};

type Manager = PolicySessionManager<LocalSessionManager>;

fn by_worth() -> Arc<Manager> {
    let builder = PolicySessionManager::local().idle_timeout(Worth::keep(0.9));
    Arc::new(builder.build().expect("valid"))
}

/// How long after now a session ends as idle.
async fn idle_for(sessions: &Manager) -> u64 {
    let (before, start) = (sessions.stats().closed(CloseReason::Idle), Instant::now());
    while sessions.stats().closed(CloseReason::Idle) == before {
        sleep(SECOND).await;
    }
    start.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn until_something_is_learned_it_is_half_an_hour_whether_a_client_listens_or_pings() {
    let sessions = by_worth();
    let alice = Driver::ready(&sessions).await.expect("room");
    let listening = alice.listen().await.expect("lives");
    sleep(20 * MINUTE).await;
    alice.ping().await.expect("lives");
    assert!((600..=601).contains(&idle_for(&sessions).await));
    drop(listening);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_calls_on_schedule_keeps_its_place_and_one_that_never_calls_goes_soon() {
    let sessions = by_worth();
    let http = Http::new(&sessions, Some(sessions.parking()));
    let worker = http.open().await.expect("room");
    // Beside the worker, which calls each ten minutes, some session always lists the tools and is never used again.
    for _ in 0..400 {
        http.open().await.expect("room");
        sleep(10 * MINUTE).await;
        let echoed = http.call(&worker, "echo", json!({ "text": "here" })).await;
        assert_eq!(echoed.text().as_deref(), Some("here"));
    }
    let restored = sessions.stats().restored;
    assert!(restored <= 60, "{restored} of 400: a tenth may be lost, and more until the price is found");
    let closed = sessions.stats().closed(CloseReason::Idle);
    http.open().await.expect("room");
    sleep(3 * MINUTE).await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.closed(CloseReason::Idle)), (1, closed + 1), "the worker is there: {stats:?}");
}

#[tokio::test(start_paused = true)]
async fn a_busy_session_is_not_idle_and_a_half_open_one_has_its_own_time() {
    let builder = PolicySessionManager::local().idle_timeout(Worth::keep(0.9));
    let sessions = Arc::new(builder.init_timeout(2 * HOUR).build().expect("valid"));
    let half_open = Driver::open(&sessions).await.expect("room");
    half_open.initialize().await.expect("answers");
    let alice = Driver::ready(&sessions).await.expect("room");
    let call = alice.sleep(540_000).await.expect("lives");
    assert_eq!(call.text().await, "slept 540000");
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.closed(CloseReason::Idle)), (2, 0));
    assert!((1_800..=1_801).contains(&idle_for(&sessions).await), "from the end of the call");
}

#[test]
fn what_cannot_be_kept_is_refused() {
    type Local = PolicySessionManagerBuilder<LocalSessionManager>;
    let refused = |configure: fn(Local) -> Local| -> ConfigError {
        let builder = configure(PolicySessionManager::local());
        builder.build().expect_err("makes no sense")
    };
    for keep in [0.0, 1.0, -1.0, 2.0, f64::NAN] {
        let error = PolicySessionManager::local().idle_timeout(Worth::keep(keep)).build().expect_err("makes no sense");
        assert_eq!((&*error.setting, error.remedy.contains("0.95")), ("idle_timeout", true));
    }
    let no_parking = refused(|b| b.idle_timeout(Worth::keep(0.9)).max_parked(0));
    assert!(no_parking.remedy.contains("parking"), "{no_parking}");
    let no_eviction = refused(|b| b.idle_timeout(Worth::keep(0.9)).refuse_when_full());
    assert!(no_eviction.remedy.contains("eviction"), "{no_eviction}");
    let no_worth = refused(|b| b.idle_timeout(Worth::keep(0.9)).eviction(Lru::new()));
    assert!(no_worth.remedy.contains("Prospects"), "{no_worth}");
    let of_some = refused(|b| b.idle_timeout(Worth::keep(0.9)).eviction(Prospects::new().only(|_| true)));
    assert!(of_some.remedy.contains("Prospects"), "its second order knows no worth: {of_some}");
    let calls: fn(&SessionInfo<'_>) -> bool = |session| session.calls() == 0;
    let tiers = PolicySessionManager::local().idle_timeout(Worth::keep(0.9)).eviction(Prospects::new().tiers([calls]));
    assert!(tiers.build().is_ok());
}
