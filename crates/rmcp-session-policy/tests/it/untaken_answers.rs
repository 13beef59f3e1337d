//! docs/design.md, L6.
//!
//! A session with an answer that the server has not taken from its stream keeps its place, for five seconds at most.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Response, StatusCode};
use futures_util::FutureExt;
use rmcp::transport::Transport;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp_session_policy::directory::SessionDigest;
use rmcp_session_policy::testing::directory::MemoryDirectory;
use rmcp_session_policy::{CloseReason, GivenUp, PolicySessionManager, SECOND};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use crate::by_hand::{answer, in_a_call, told};
use crate::edge::Edge;
use crate::parked::{local, scripted};

const MILLI: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn a_session_is_no_victim_until_its_answer_is_taken() {
    let sessions = local(|b| b.max_sessions(1));
    let (_id, mut transport, stream) = in_a_call(&sessions).await;
    transport.send(answer(1, json!({ "tools": [] }))).await.expect("takes it");
    assert_eq!(sessions.list()[0].in_flight, 0);
    assert!(sessions.create_session().await.is_err());
    assert_eq!(sessions.stats().closed(CloseReason::Evicted), 0);
    let told = told(stream).await;
    assert_eq!(told[0]["result"]["tools"], json!([]), "{told:?}");
    sessions.create_session().await.expect("it may go");
    assert_eq!(sessions.stats().closed(CloseReason::Evicted), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_never_taken_keeps_its_session_for_five_seconds() {
    let sessions = local(|b| b.max_sessions(1));
    let (_id, mut transport, stream) = in_a_call(&sessions).await;
    let begun = Instant::now();
    transport.send(answer(1, json!({ "tools": [] }))).await.expect("takes it");
    sleep_until(begun + 5 * SECOND - 30 * MILLI).await;
    assert!(sessions.create_session().await.is_err());
    sleep_until(begun + 5 * SECOND - 10 * MILLI).await;
    // Nothing tells it that the time is over.
    sessions.create_session().await.expect("it may go");
    assert!(begun.elapsed() >= 5 * SECOND);
    assert_eq!(
        told(stream).await[0]["result"]["tools"],
        json!([]),
        "as before, its close keeps what its client has not taken"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_a_place_hears_at_once_that_the_answer_is_taken() {
    for taken in [true, false] {
        let sessions = local(|b| b.max_sessions(1));
        let (_id, mut transport, stream) = in_a_call(&sessions).await;
        transport.send(answer(1, json!({ "tools": [] }))).await.expect("takes it");
        let begun = Instant::now();
        let taking = async {
            sleep(10 * MILLI).await;
            match taken {
                true => drop(told(stream).await),
                false => drop(stream),
            }
        };
        let (created, ()) = tokio::join!(sessions.create_session(), taking);
        created.expect("it may go");
        assert_eq!(begun.elapsed(), 10 * MILLI, "taken: {taken}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_which_no_stream_is_known_keeps_its_session_until_the_inner_manager_has_it() {
    for dropped in [true, false] {
        let sessions = local(|b| b.max_sessions(1));
        let (_id, mut transport, stream) = in_a_call(&sessions).await;
        drop(stream);
        let sending = transport.send(answer(1, json!({ "tools": [] })));
        assert_eq!(sessions.list()[0].in_flight, 0);
        assert!(sessions.create_session().await.is_err());
        match dropped {
            true => drop(sending),
            false => drop(sending.await),
        }
        sessions.create_session().await.expect("it may go");
    }
}

#[tokio::test(start_paused = true)]
async fn where_busy_sessions_may_go_so_may_those_with_an_answer_that_is_not_taken() {
    use rmcp_session_policy::bounded::BoundedSessionManager;
    let sessions = BoundedSessionManager::new(Default::default(), 1);
    let (id, mut transport) = sessions.create_session().await.expect("room");
    let (initialized, ()) = tokio::join!(sessions.initialize_session(&id, crate::scripted::initialize()), async {
        assert!(transport.receive().await.is_some());
        transport
            .send(answer(
                0,
                json!({ "protocolVersion": "2025-11-25", "capabilities": {},
            "serverInfo": { "name": "test", "version": "1" } }),
            ))
            .await
            .expect("takes it");
    });
    initialized.expect("answers");
    let _stream = sessions.create_stream(&id, crate::scripted::list_tools(1)).await.expect("a call");
    assert!(transport.receive().await.is_some());
    transport.send(answer(1, json!({ "tools": [] }))).await.expect("takes it");
    sessions.create_session().await.expect("there is always room");
}

/// Calls a tool, and reads nothing of the answer.
async fn call(edge: &Edge, id: &str) -> Response<Body> {
    let call = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": { "name": "" } });
    edge.send(Method::POST, Some(id), None, Some(call)).await
}

#[tokio::test(start_paused = true)]
async fn a_session_is_not_given_up_until_its_answer_is_taken() {
    let edge = Edge::new(PolicySessionManager::local().directory(MemoryDirectory::new()));
    let id = edge.open().await;
    let response = call(&edge, &id).await;
    while edge.sessions.list()[0].in_flight > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(edge.sessions.give_up(&SessionDigest::of(&id)).await, GivenUp::Busy);
    edge.sessions.hand_over();
    // It looks at the sessions each second.
    sleep(1_500 * MILLI).await;
    assert_eq!(edge.sessions.stats().live, 1);
    let body = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    assert!(String::from_utf8_lossy(&body).contains("said"), "{body:?}");
    sleep(100 * MILLI).await;
    assert_eq!(edge.sessions.stats().live, 0, "it hears at once that the answer is taken");
}

#[tokio::test(start_paused = true)]
async fn a_restore_from_a_directory_waits_for_a_place_for_a_minute() {
    let directory = MemoryDirectory::new();
    let before = Edge::new(PolicySessionManager::local().directory(directory.clone()));
    let [alice, bob, carol] = [before.open().await, before.open().await, before.open().await];
    directory.crash();
    let edge = Edge::new(PolicySessionManager::local().directory(directory.another_server()).max_sessions(1));
    let words = ["pause"; 10].join(" ");
    let begun = Instant::now();
    let calls = async {
        let (alice, bob) = tokio::join!(edge.say_raw(&alice, &words), async {
            sleep(SECOND).await;
            let answer = edge.say_raw(&bob, &words).await;
            (answer, begun.elapsed())
        });
        assert!(alice.1.contains("said"));
        assert!(bob.0.1.contains("said"), "{}", bob.0.1);
        assert_eq!(bob.1.as_secs(), 100);
    };
    let ((), (status, body)) = tokio::join!(calls, async {
        sleep(2 * SECOND).await;
        let answer = edge.say_raw(&carol, "").await;
        assert_eq!(begun.elapsed().as_secs(), 62);
        answer
    });
    assert_eq!(status, StatusCode::OK);
    assert!(body.contains("all places (1) are taken"), "{body}");
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_restore_of_another_one_as_long_as_that_waits_for_a_place() {
    let directory = MemoryDirectory::new();
    let before = Edge::new(PolicySessionManager::local().directory(directory.clone()));
    let [alice, bob] = [before.open().await, before.open().await];
    directory.crash();
    let edge = Edge::new(PolicySessionManager::local().directory(directory.another_server()).max_sessions(1));
    let words = ["pause"; 3].join(" ");
    let later = async || {
        sleep(SECOND).await;
        let (first, second) = tokio::join!(edge.say_raw(&bob, ""), edge.say_raw(&bob, ""));
        [first.1, second.1]
    };
    let (_, answers) = tokio::join!(edge.say_raw(&alice, &words), later());
    assert!(answers.iter().all(|answer| answer.contains("said")), "{answers:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_directory_a_restore_waits_for_a_second() {
    let (_inner, sessions) = scripted(|b| b.max_sessions(1));
    let id = crate::parked::parked(&sessions).await;
    let (other, _transport) = crate::parked::ready(&sessions).await;
    let _busy = sessions.create_stream(&other, crate::scripted::list_tools(1)).await.expect("a call");
    let begun = Instant::now();
    assert!(sessions.restore_session(id).map(|restored| restored.is_err()).await);
    assert_eq!(begun.elapsed(), SECOND);
}
