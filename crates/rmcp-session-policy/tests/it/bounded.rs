//! docs/design.md, section 5.7.
//!
//! Module `bounded` keeps the promises of the crate `mcp-session`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::service::{NOT_FOUND, Service, WELL};
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp_session_policy::bounded::{
    BoundedSessionError, BoundedSessionManager, BoundedSessionManagerBuilder, CloseReason, SessionConfig,
};
use serde_json::json;
use tokio::time::{advance, sleep};

const SECOND: Duration = Duration::from_secs(1);

fn bounded(max_sessions: usize) -> Arc<BoundedSessionManager> {
    Arc::new(BoundedSessionManager::new(SessionConfig::default(), max_sessions))
}

async fn existing(sessions: &BoundedSessionManager) -> usize {
    sessions.policies().inner().sessions.read().await.len()
}

#[tokio::test(start_paused = true)]
async fn the_oldest_goes_and_its_client_is_told_404() {
    let sessions = bounded(2);
    let service = Service::new(Arc::clone(&sessions), None);
    let (first, second) = (service.open().await, service.open().await);
    assert_eq!(service.echo(&first).await, WELL, "a use does not make it younger");
    let third = service.open().await;
    assert_eq!(service.echo(&first).await, NOT_FOUND);
    assert_eq!((service.echo(&second).await, service.echo(&third).await), (WELL, WELL));
    assert_eq!((sessions.active_session_count().await, existing(&sessions).await), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_is_evicted_before_a_busy_one_and_a_busy_one_before_a_newcomer_is_refused() {
    let sessions = bounded(2);
    let service = Service::new(Arc::clone(&sessions), None);
    let sleeps = |id: String| {
        let service = service.clone();
        tokio::spawn(async move { service.call(&id, "sleep", json!({ "millis": 600_000 })).await.1 })
    };
    let first = service.open().await;
    let mut oldest = sleeps(first.clone());
    sleep(SECOND).await;
    let second = service.open().await;
    let third = service.open().await;
    assert_eq!(service.echo(&second).await, NOT_FOUND, "idle, though younger");
    let _busy = sleeps(third.clone());
    sleep(SECOND).await;
    assert!(!oldest.is_finished());
    let fourth = service.open().await;
    let said = (&mut oldest).await.expect("no panic");
    assert!(said.contains("\"isError\":true") && said.contains("evicted"), "{said}");
    assert_eq!(service.echo(&fourth).await, WELL);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_at_once_never_exceed_the_bound() {
    let sessions = bounded(10);
    let service = Service::new(Arc::clone(&sessions), None);
    let clients: Vec<_> = (0..1_000)
        .map(|_| {
            let (service, sessions) = (service.clone(), Arc::clone(&sessions));
            tokio::spawn(async move {
                crate::service::read(service.send(http::Method::POST, None, Some(crate::service::initialize())).await)
                    .await;
                existing(&sessions).await
            })
        })
        .collect();
    for client in clients {
        let seen = client.await.expect("no panic");
        assert!(seen <= 10, "{seen} sessions at once");
    }
    assert!(sessions.active_session_count().await <= 10);
}

#[tokio::test(start_paused = true)]
async fn newcomers_over_the_rate_are_refused_and_evict_no_session() {
    let sessions = BoundedSessionManager::new(SessionConfig::default(), 2).with_rate_limit(2, 60 * SECOND);
    let sessions = Arc::new(sessions);
    let service = Service::new(Arc::clone(&sessions), None);
    let (first, second) = (service.open().await, service.open().await);
    let refused = sessions.create_session().await.map(|_| ()).expect_err("the third");
    assert!(matches!(refused, BoundedSessionError::RateLimited), "{refused}");
    assert_eq!(refused.to_string(), "session creation rate limit exceeded");
    assert_eq!((service.echo(&first).await, service.echo(&second).await), (WELL, WELL));
    advance(60 * SECOND).await;
    service.open().await;
    assert_eq!(service.echo(&first).await, NOT_FOUND);
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_lifetime_or_when_it_is_idle() {
    let builder = || BoundedSessionManagerBuilder::new(10).session_config(SessionConfig::default());
    let sessions = builder().idle_timeout(40 * SECOND).max_lifetime(100 * SECOND).build();
    let service = Service::new(Arc::clone(&sessions), None);
    let (idle, used) = (service.open().await, service.open().await);
    for _ in 0..4 {
        sleep(24 * SECOND).await;
        assert_eq!(service.echo(&used).await, WELL);
    }
    assert_eq!(service.echo(&idle).await, NOT_FOUND);
    sleep(5 * SECOND).await;
    assert_eq!(service.echo(&used).await, NOT_FOUND, "its lifetime is over");
    assert_eq!((sessions.active_session_count().await, existing(&sessions).await), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_running_call_is_not_cut_by_the_idle_timeout() {
    let mut config = SessionConfig::default();
    config.keep_alive = Some(SECOND);
    let service = Service::new(Arc::new(BoundedSessionManager::new(config, 1)), None);
    let id = service.open().await;
    let (status, said) = service.call(&id, "sleep", json!({ "millis": 60_000 })).await;
    assert_eq!(status, 200);
    assert!(said.contains("slept 60000"), "{said}");
}

#[test]
fn invalid_settings_panic_as_documented() {
    let panics = |what: &dyn Fn()| {
        let panic = catch_unwind(AssertUnwindSafe(what)).expect_err("panics");
        match panic.downcast_ref::<&str>() {
            Some(said) => (*said).to_owned(),
            None => panic.downcast_ref::<String>().expect("text").clone(),
        }
    };
    let new = || BoundedSessionManager::new(SessionConfig::default(), 1);
    for said in [
        panics(&|| drop(BoundedSessionManager::new(SessionConfig::default(), 0))),
        panics(&|| drop(BoundedSessionManagerBuilder::new(0))),
    ] {
        assert_eq!(said, "max_sessions must be at least 1, got 0");
    }
    for said in [
        panics(&|| drop(new().with_rate_limit(0, SECOND))),
        panics(&|| drop(BoundedSessionManagerBuilder::new(1).rate_limit(0, SECOND))),
    ] {
        assert_eq!(said, "max_creates must be at least 1; pass no rate limit instead of 0");
    }
}

#[test]
fn any_duration_is_taken() {
    for time in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        drop(BoundedSessionManagerBuilder::new(usize::MAX).idle_timeout(time).max_lifetime(time).build());
        drop(BoundedSessionManagerBuilder::new(1).rate_limit(1, time).build());
        drop(BoundedSessionManager::new(SessionConfig::default(), 1).with_rate_limit(usize::MAX, time));
    }
}

#[test]
fn close_reasons_display_as_their_names() {
    let reasons = [CloseReason::Evicted, CloseReason::MaxLifetime, CloseReason::Closed];
    assert_eq!(reasons.map(|reason| reason.to_string()), ["Evicted", "MaxLifetime", "Closed"]);
}

/// What its README shows, with the `use` changed.
#[test]
fn code_written_for_mcp_session_compiles() {
    let mut session_config = SessionConfig::default();
    session_config.keep_alive = Some(Duration::from_secs(4 * 60 * 60));
    let manager =
        Arc::new(BoundedSessionManager::new(session_config, 100).with_rate_limit(10, Duration::from_secs(60)));
    let _service = rmcp::transport::StreamableHttpService::new(
        || Ok(crate::server::Tools::default()),
        manager,
        rmcp::transport::StreamableHttpServerConfig::default(),
    );
}
