//! docs/design.md, L6.
//!
//! A client at its limit, or with its share of the places, makes room for itself, and no other client does.

use std::sync::Arc;
use std::time::Duration;

use crate::parked::{is_restored, park, ready, scripted};
use crate::scripted::{Act, Call, Scripted, initialized};
use crate::web::{Server, call, header, initialize};
use futures_util::future::join_all;
use reqwest::StatusCode;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp_session_policy::admission::{Concurrent, RejectionClass};
use rmcp_session_policy::{
    ClientContext, CloseReason, PolicyError, PolicySessionManager, PolicySessionManagerBuilder, RejectionReason,
    SECOND, SessionKey,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

type Builder = PolicySessionManagerBuilder<Scripted>;

fn alice() -> ClientContext {
    ClientContext::new().with_principal("alice")
}

fn keys(server: &Server) -> Vec<SessionKey> {
    server.sessions.list().into_iter().map(|session| session.key).collect()
}

/// Makes a call as a user, and returns the status and the body.
async fn calls(server: &Server, user: &str, session: &str, tool: &str, arguments: Value) -> (StatusCode, String) {
    let request = server.post(Some(session), &call(7, tool, &arguments)).header("x-user", user);
    let response = request.send().await.expect("answers");
    (response.status(), response.text().await.expect("text"))
}

/// Begins a call that takes a minute, and waits until it is under way.
async fn begins_a_long_call(server: &Server, user: &str, session: &str) -> reqwest::Response {
    let busy = server.sessions.stats().busy;
    let request = server.post(Some(session), &call(9, "sleep", &json!({"millis": 60_000}))).header("x-user", user);
    let response = request.send().await.expect("answers");
    while server.sessions.stats().busy == busy {
        tokio::task::yield_now().await;
    }
    response
}

#[tokio::test]
async fn at_its_limit_a_client_s_least_recently_used_session_goes_though_places_are_free() {
    let server = Server::start(PolicySessionManager::local().max_sessions(100).per_client_max(2)).await;
    let _bob = server.open_as("bob").await;
    let first = server.open_as("alice").await;
    let _second = server.open_as("alice").await;
    assert_eq!(calls(&server, "alice", &first, "count", json!({})).await.0, 200);
    let before = keys(&server);
    let _third = server.open_as("alice").await;
    let after = keys(&server);
    assert!(after.contains(&before[0]) && after.contains(&before[1]) && !after.contains(&before[2]));
    let stats = server.sessions.stats();
    assert_eq!((stats.live, stats.parked, stats.closed(CloseReason::Evicted)), (3, 1, 1));
}

#[tokio::test]
async fn if_all_its_sessions_are_busy_a_newcomer_is_429_and_another_client_s_is_not() {
    let server = Server::start(PolicySessionManager::local().per_client_max(2)).await;
    let sessions = [server.open_as("alice").await, server.open_as("alice").await];
    let mut long = Vec::new();
    for session in &sessions {
        long.push(begins_a_long_call(&server, "alice", session).await);
    }
    let response = server.post(None, &initialize(3)).header("x-user", "alice").send().await.expect("answers");
    assert_eq!(
        (response.status(), header(response.headers(), "retry-after")),
        (StatusCode::TOO_MANY_REQUESTS, Some("1"))
    );
    let body: Value = response.json().await.expect("json");
    let data = json!({ "reason": "quota", "policy": "per_client_max", "retryAfterSeconds": 1, "retryAfterMs": null,
        "limit": 2, "remaining": 0 });
    assert_eq!((&body["id"], &body["error"]["code"], &body["error"]["data"]), (&json!(3), &json!(429), &data));
    let _bob = server.open_as("bob").await;
    let stats = server.sessions.stats();
    assert_eq!((stats.live, stats.rejected(RejectionReason::Quota), stats.closed(CloseReason::Evicted)), (3, 1, 0));
}

#[tokio::test]
async fn a_client_of_which_no_principal_is_known_is_its_address() {
    let server = Server::start(PolicySessionManager::local().per_client_max(1)).await;
    let (_one, _two, _alice) = (server.open().await, server.open().await, server.open_as("alice").await);
    assert_eq!(server.sessions.stats().live, 2);
}

#[tokio::test]
async fn a_restore_counts_as_a_session_of_the_client_that_opened_it() {
    let server = Server::start(PolicySessionManager::local().per_client_max(1)).await;
    let first = server.open_as("alice").await;
    let second = server.open_as("alice").await;
    assert_eq!(server.sessions.stats().parked, 1);
    assert_eq!(calls(&server, "alice", &first, "count", json!({})).await.0, 200);
    let stats = server.sessions.stats();
    assert_eq!((stats.live, stats.parked, stats.restored), (1, 1, 1), "the two change places");
    let long = begins_a_long_call(&server, "alice", &first).await;
    let (status, body) = calls(&server, "alice", &second, "count", json!({})).await;
    assert!(status == 200 && body.contains("\"isError\":true") && body.contains("per_client_max"), "{status} {body}");
    let stats = server.sessions.stats();
    assert_eq!((stats.live, stats.parked, stats.rejected(RejectionReason::Quota)), (1, 1, 1), "it stays parked");
    drop(long);
}

#[tokio::test]
async fn a_ping_of_a_parked_session_costs_its_client_no_other() {
    let server = Server::start(PolicySessionManager::local().per_client_max(1)).await;
    let first = server.open_as("alice").await;
    let _second = server.open_as("alice").await;
    let ping = json!({"jsonrpc": "2.0", "id": 5, "method": "ping"});
    let response = server.post(Some(&first), &ping).header("x-user", "alice").send().await.expect("answers");
    assert_eq!(response.status(), 200);
    assert!(response.text().await.expect("text").contains("\"result\":{}"));
    let stats = server.sessions.stats();
    assert_eq!((stats.live, stats.parked, stats.restored), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_is_exact_however_many_newcomers_come_at_once() {
    let (inner, sessions) = scripted(|builder| builder.max_sessions(100).per_client_max(3));
    inner.set(Call::Close, Act::Slow(Duration::from_millis(1)));
    for _ in 0..20 {
        let creates = (0..20).map(|_| {
            let sessions = Arc::clone(&sessions);
            tokio::spawn(alice().scope(async move {
                let (id, transport) = sessions.create_session().await.ok()?;
                sessions.accept_message(&id, initialized()).await.ok()?;
                Some(transport)
            }))
        });
        let opened = join_all(creates).await.into_iter().filter_map(|created| created.expect("no panic")).count();
        assert!(opened > 0);
    }
    assert_eq!(inner.most(), 3);
    while sessions.stats().closing > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(sessions.stats().reserved, 0);
    let reasons = [RejectionReason::Quota, RejectionReason::ServerFull].map(|reason| sessions.stats().rejected(reason));
    assert!(reasons[0] > 0 && reasons[1] == 0, "{reasons:?}");
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_fails_or_is_dropped_gives_its_room_back() {
    let (inner, sessions) = scripted(|builder| builder.per_client_max(1));
    for act in [Act::Error, Act::Never] {
        inner.set(Call::Create, act);
        let create = alice().scope(sessions.create_session());
        assert!(!matches!(timeout(SECOND, create).await, Ok(Ok(_))));
        inner.set(Call::Create, Act::Ok);
        let (_id, transport) = alice().scope(sessions.create_session()).await.expect("room");
        drop(transport);
        while sessions.stats().live > 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_waits_until_the_session_that_makes_room_is_gone_but_not_for_long() {
    let (inner, sessions) = scripted(|builder| builder.per_client_max(1));
    let _first = alice().scope(ready(&sessions)).await;
    inner.set(Call::Close, Act::Slow(Duration::from_millis(200)));
    let _second = alice().scope(ready(&sessions)).await;
    assert_eq!(inner.most(), 1);
    inner.set(Call::Close, Act::Never);
    let Err(PolicyError::Rejected(rejection)) = alice().scope(sessions.create_session()).await else {
        panic!("the session does not go")
    };
    assert_eq!((rejection.class(), rejection.limit()), (RejectionClass::Quota, Some(1)));
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.closing, stats.reserved, inner.most()), (1, 1, 0, 1));
    let bob = ClientContext::new().with_principal("bob");
    assert!(bob.scope(sessions.create_session()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_becomes_idle_in_a_moment_makes_room() {
    let (_inner, sessions) = scripted(|builder| builder.per_client_max(1));
    let first = Arc::clone(&sessions);
    // The request that opened it holds it until its end.
    let first = tokio::spawn(alice().scope(async move {
        let created = first.create_session().await;
        sleep(Duration::from_millis(10)).await;
        created.is_ok()
    }));
    while sessions.stats().busy == 0 {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    assert!(alice().scope(sessions.create_session()).await.is_ok());
    assert!(first.await.expect("no panic") && began.elapsed() < Duration::from_millis(20));
}

#[tokio::test(start_paused = true)]
async fn a_client_of_which_nothing_is_known_has_no_limit() {
    let (_inner, sessions) = scripted(|builder| builder.max_sessions(2).per_client_max(1).per_client_share(0.5));
    let _sessions = [ready(&sessions).await, ready(&sessions).await];
    assert_eq!(sessions.stats().live, 2);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_that_admission_rejects_closes_none_of_its_client_s_sessions() {
    let (_inner, sessions) = scripted(|builder| builder.admission(Concurrent::new(1)).per_client_max(1));
    let _first = alice().scope(ready(&sessions)).await;
    let refused = alice().scope(sessions.create_session()).await;
    assert!(matches!(refused, Err(PolicyError::Rejected(rejection)) if rejection.policy() == "concurrent"));
    assert_eq!((sessions.stats().live, sessions.stats().closing), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_s_limit_holds_where_no_session_is_evicted() {
    let (_inner, sessions) = scripted(|builder| builder.max_sessions(2).refuse_when_full().per_client_max(1));
    let (_first, _bob) = (
        alice().scope(ready(&sessions)).await,
        ClientContext::new().with_principal("bob").scope(ready(&sessions)).await,
    );
    let _second = alice().scope(ready(&sessions)).await;
    assert_eq!(sessions.stats().closed(CloseReason::Evicted), 1);
    let carol = ClientContext::new().with_principal("carol");
    let refused = carol.scope(sessions.create_session()).await;
    assert!(matches!(refused, Err(PolicyError::ServerFull(_))));
}

#[tokio::test]
async fn a_client_that_holds_its_share_of_a_full_server_makes_room_for_itself() {
    let server = Server::start(PolicySessionManager::local().max_sessions(4).per_client_share(0.5)).await;
    let _bob = [server.open_as("bob").await, server.open_as("bob").await];
    let theirs = keys(&server);
    for _ in 0..10 {
        server.open_as("alice").await;
    }
    let here = keys(&server);
    assert!(theirs.iter().all(|key| here.contains(key)), "used longer ago than all of alice's");
    let stats = server.sessions.stats();
    assert_eq!((stats.live, stats.closed(CloseReason::Evicted)), (4, 8));
    assert_eq!(stats.rejected(RejectionReason::Quota), 0);
}

#[tokio::test]
async fn a_network_may_have_a_share_and_so_may_any_key() {
    type Share = fn(Builder) -> Builder;
    let shares: [Share; 2] = [
        |builder| builder.per_prefix_share(0.5),
        |builder| builder.per_key_share(0.5, |client| client.peer().map(|peer| peer.is_ipv4())),
    ];
    for share in shares {
        let (_inner, sessions) = scripted(|builder| share(builder.max_sessions(4)));
        let at = |address: [u8; 4]| ClientContext::new().with_peer(address.into());
        let stranger = ClientContext::new().with_peer("2001:db8::1".parse().expect("an address"));
        let mut open = vec![stranger.clone().scope(ready(&sessions)).await, stranger.scope(ready(&sessions)).await];
        let theirs = sessions.list();
        for last in 0..10 {
            open.push(at([192, 0, 2, last]).scope(ready(&sessions)).await);
        }
        let here = sessions.list();
        assert!(theirs.iter().all(|one| here.iter().any(|session| session.key == one.key)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_restored_session_is_its_opener_s_wherever_it_is_restored_from() {
    let at = |last| ClientContext::new().with_peer([192, 0, 2, last].into());
    let limits: [fn(Builder) -> Builder; 2] =
        [|builder| builder.per_client_share(0.5), |builder| builder.per_client_max(1)];
    for limit in limits {
        let (_inner, sessions) = scripted(|builder| limit(builder.max_sessions(2)));
        let (first, transport) = at(1).scope(ready(&sessions)).await;
        park(&sessions, &first).await;
        drop(transport);
        let _theirs = at(2).scope(ready(&sessions)).await;
        let theirs = sessions.list()[0].key;
        let _second = at(1).scope(ready(&sessions)).await;
        let restored = at(3).scope(sessions.restore_session(first)).await;
        assert!(is_restored(&restored));
        assert!(sessions.list().iter().any(|session| session.key == theirs), "though it was used before");
        assert_eq!((sessions.stats().live, sessions.stats().closed(CloseReason::Evicted)), (2, 2));
    }
}
