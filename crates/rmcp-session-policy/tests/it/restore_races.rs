//! docs/design.md, L10.
//!
//! Evictions and restores of the same sessions at once: no answer is lost, and the incarnations stay apart.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::by_hand::{answer, in_a_call, told};
use crate::parked::{Manager, local, park, ready, scripted};
use crate::scripted::{Call, initialized, list_tools};
use crate::server::Server;
use futures_util::StreamExt;
use rmcp::transport::Transport;
use rmcp::transport::streamable_http_server::session::{RestoreOutcome, SessionManager};
use rmcp_session_policy::eviction::SessionInfo;
use rmcp_session_policy::{CloseReason, PolicySessionManager, RejectionReason, Stats};

/// Answers other than the one asked for, and how many of each.
type Bad = BTreeMap<(u16, String), usize>;

/// Lets clients share eight sessions, in different orders: 2,400 requests.
async fn race(places: usize, clients: usize) -> (Bad, Stats) {
    let sessions = local(|b| b.max_sessions(places));
    let server = Server::with_layer(Arc::clone(&sessions)).await;
    let http = reqwest::Client::new();
    let post = |id: Option<&str>, body: serde_json::Value| {
        let post = http.post(&server.url).header("accept", "application/json, text/event-stream").json(&body);
        if let Some(id) = id { post.header("mcp-session-id", id) } else { post }.send()
    };
    let mut ids = Vec::new();
    for _ in 0..8 {
        let answer = post(None, crate::service::initialize()).await.expect("answers");
        assert_eq!(answer.status(), 200);
        let id = answer.headers()["mcp-session-id"].to_str().expect("text").to_owned();
        answer.text().await.expect("a body");
        assert_eq!(post(Some(&id), crate::service::initialized()).await.expect("answers").status(), 202);
        ids.push(id);
    }
    let requests = (0..clients).map(async |client| {
        let mut bad = Vec::new();
        for turn in 0..2_400 / clients {
            let call = serde_json::json!({ "jsonrpc": "2.0", "id": client * 10_000 + turn, "method": "tools/call",
                "params": { "name": "echo", "arguments": { "text": "here" } } });
            let answer = post(Some(&ids[(turn * (client + 1)) % ids.len()]), call).await.expect("answers");
            let status = answer.status().as_u16();
            let body = answer.text().await.unwrap_or_default();
            if status != 200 || !body.contains("\"text\":\"here\"") {
                bad.push((status, body));
            }
        }
        bad
    });
    let mut bad = Bad::new();
    for answer in futures_util::future::join_all(requests).await.into_iter().flatten() {
        *bad.entry(answer).or_default() += 1;
    }
    assert!(sessions.inner().sessions.read().await.len() <= places);
    (bad, sessions.stats())
}

/// Removes the answers with 200 and an error result that says to try again. Returns how many there were.
fn come_again(bad: &mut Bad) -> usize {
    let says_so = |(status, body): &(u16, String)| *status == 200 && body.contains(r#""code":503"#);
    let told = bad.iter().filter(|(answer, _)| says_so(answer)).map(|(_, count)| count).sum();
    bad.retain(|answer, _| !says_so(answer));
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_evictions_and_restores_lose_no_answer() {
    let (mut bad, stats) = race(4, 3).await;
    assert!(stats.restored > 100, "it was a race: {stats:?}");
    // rmcp remembers a restore for a moment after it is done, and sends a request that comes then to a session that may be
    // gone.
    let misled = come_again(&mut bad);
    assert!(bad.is_empty(), "{bad:#?} {stats:?}");
    assert!(misled <= 24, "more than one in a hundred: {misled}");
}

/// With more clients at work than places, some calls are rejected with 503, and no other error occurs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_every_place_busy_restores_are_refused_with_503_only() {
    let (mut bad, stats) = race(2, 12).await;
    let refused = come_again(&mut bad) as u64;
    assert!(bad.is_empty(), "{bad:#?} {stats:?}");
    let honest = stats.rejected(RejectionReason::ServerFull);
    assert!(honest <= refused && refused <= honest + 24, "{refused} told, {honest} counted");
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_only_when_the_inner_transport_has_the_answers_on_their_way() {
    let (inner, sessions) = scripted(|b| b.max_sessions(1));
    let (id, mut transport) = ready(&sessions).await;
    assert!(transport.receive().await.is_some(), "initialized");
    let mut stream = Box::pin(sessions.create_stream(&id, list_tools(1)).await.expect("a call"));
    assert!(futures_util::poll!(stream.next()).is_pending());
    assert!(transport.receive().await.is_some());
    let answer = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "result": { "tools": [] } });
    let sending = transport.send(serde_json::from_value(answer).expect("an answer"));
    assert_eq!(sessions.stats().busy, 0, "its client may come again before the send returns");
    let mut ending = Box::pin(sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Evicted));
    assert!(futures_util::poll!(&mut ending).is_pending());
    assert_eq!((sessions.stats().closing, inner.calls(Call::Close)), (1, 0), "its end waits for the answer");
    sending.await.expect("sends");
    assert_eq!(ending.await, 1);
    assert!(stream.next().await.is_some_and(|event| event.message.is_some()), "the answer");
}

/// Leaves the answer to a call on its way while its session is evicted. Returns what the client is told.
async fn told_of_a_lost_answer<I: SessionManager>(sessions: Manager<I>) -> Vec<serde_json::Value> {
    let (_id, mut transport, stream) = in_a_call(&sessions).await;
    let _stuck = transport.send(answer(1, serde_json::json!({ "tools": [] })));
    assert_eq!(sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Evicted).await, 1);
    told(stream).await
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_answer_never_reaches_its_stream_is_told_that_it_was_cut_off() {
    let one = local(|b| b.max_sessions(1));
    let over_another = PolicySessionManager::builder(PolicySessionManager::local().build().expect("valid"));
    let over_another = Arc::new(over_another.max_sessions(1).build().expect("valid"));
    for told in [told_of_a_lost_answer(one).await, told_of_a_lost_answer(over_another).await] {
        let [told] = &told[..] else { panic!("told once: {told:?}") };
        assert_eq!((&told["id"], &told["error"]["code"]), (&1.into(), &503.into()), "{told}");
        assert_eq!(told["error"]["data"]["reason"], "evicted", "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_its_client_has_cancelled_is_told_nothing_at_the_end_of_its_session() {
    let sessions = local(|b| b.max_sessions(1));
    let (id, mut transport, stream) = in_a_call(&sessions).await;
    let cancel =
        serde_json::json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } });
    sessions.accept_message(&id, serde_json::from_value(cancel).expect("a message")).await.expect("accepts");
    assert!(transport.receive().await.is_some(), "the cancel");
    assert_eq!(sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Evicted).await, 1);
    assert_eq!(told(stream).await, Vec::<serde_json::Value>::new());
}

#[tokio::test(start_paused = true)]
async fn a_late_reader_of_an_old_incarnation_gets_nothing_of_the_new_one() {
    let (_inner, sessions) = scripted(|b| b.max_sessions(1));
    let (id, mut old) = ready(&sessions).await;
    park(&sessions, &id).await;
    let Ok(RestoreOutcome::Restored(mut new)) = sessions.restore_session(Arc::clone(&id)).await else {
        panic!("not restored")
    };
    sessions.accept_message(&id, initialized()).await.expect("accepts");
    assert!(old.receive().await.is_none());
    assert!(new.receive().await.is_some());
    drop(old);
    assert!(sessions.has_session(&id).await.expect("asks"), "the drop of the old transport ends nothing");
}
