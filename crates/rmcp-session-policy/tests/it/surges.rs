//! docs/design.md, L6.
//!
//! In a surge the sessions that came with it make room, and those that were there keep their places.

use std::time::Duration;

use crate::parked::{is_restored, park, ready, scripted};
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp_session_policy::admission::{Arrival, Permit, Rejection, admit_fn};
use rmcp_session_policy::eviction::Lru;
use rmcp_session_policy::{ClientContext, CloseReason, HOUR, MINUTE};
use tokio::time::{Instant, advance};

#[tokio::test(start_paused = true)]
async fn a_burst_after_a_quiet_time_costs_no_session_that_was_there() {
    for guard in [true, false] {
        let (_inner, sessions) =
            scripted(|builder| builder.max_sessions(10).eviction(Lru::new()).surge_guard(guard).idle_timeout(None));
        let mut open = vec![ready(&sessions).await];
        // The first one looks abandoned by now, and goes first either way.
        advance(31 * MINUTE).await;
        open.extend([ready(&sessions).await, ready(&sessions).await]);
        let there: Vec<_> = sessions.list().iter().skip(1).map(|session| session.key).collect();
        advance(MINUTE).await;
        let began = Instant::now();
        for _ in 0..20 {
            open.push(ready(&sessions).await);
            advance(Duration::from_millis(200)).await;
        }
        let stats = sessions.stats();
        assert_eq!((stats.live, stats.closed(CloseReason::Evicted)), (10, 13));
        let here: Vec<_> = sessions.list().iter().map(|session| session.key).collect();
        assert_eq!(there.iter().all(|key| here.contains(key)), guard);
        // Noticed at the fifth; the registry's moments are full microseconds.
        let before = stats.surge_since.map(|since| (began + Duration::from_millis(800) - since).as_millis());
        assert_eq!(before, guard.then_some(5_000));
    }
}

#[tokio::test(start_paused = true)]
async fn an_arrival_that_admission_rejects_or_that_takes_only_a_free_place_asks_for_none() {
    let gate = admit_fn(|arrival: &Arrival<'_>| match arrival.context() {
        Some(_) => Ok(Permit::free()),
        None => Err(Rejection::new("gate")),
    });
    let (_inner, sessions) = scripted(|builder| builder.max_sessions(1).admission(gate).idle_timeout(None));
    let known = ClientContext::new().with_principal("alice");
    let (first, _transport) = known.clone().scope(ready(&sessions)).await;
    park(&sessions, &first).await;
    let _second = known.clone().scope(ready(&sessions)).await;
    advance(HOUR).await;
    for _ in 0..100 {
        assert!(sessions.create_session().await.is_err());
        let passive = known.clone().passive().scope(sessions.restore_session(std::sync::Arc::clone(&first))).await;
        assert!(!is_restored(&passive));
    }
    assert_eq!(sessions.stats().surge_since, None);
    for _ in 0..5 {
        known.clone().scope(sessions.create_session()).await.expect("a place");
    }
    assert!(sessions.stats().surge_since.is_some());
}
