//! docs/design.md, L10.
//!
//! A listening stream is probed, and ends if its client does not answer. An answer is no use of its session, and restores
//! nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::edge::{Ear, Edge, ended, heard};
use crate::events::Events;
use crate::server::Server;
use crate::web;
use axum::http::{Method, StatusCode};
use rmcp::service::RequestContext;
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::{ClientHandler, ErrorData, RoleClient, ServiceExt};
use rmcp_session_policy::eviction::{Lru, SessionInfo};
use rmcp_session_policy::testing::directory::MemoryDirectory;
use rmcp_session_policy::{
    CloseReason, HOUR, MINUTE, PolicySessionManager, PolicySessionManagerBuilder, SECOND, Stream,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

type Builder = PolicySessionManagerBuilder<LocalSessionManager>;

const EVERY: Duration = MINUTE;
const WITHIN: Duration = Duration::from_secs(10);

/// Probes every minute, and waits ten seconds.
fn probing(configure: impl FnOnce(Builder) -> Builder) -> Edge {
    Edge::local(|b| configure(b.probe_listeners(EVERY, WITHIN)))
}

/// The ids of the pings in what a stream has said.
fn pings(text: &str) -> Vec<String> {
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data:")?).ok());
    let pings = messages.filter(|message| message["method"] == "ping");
    pings.map(|ping| ping["id"].as_str().expect("no number").to_owned()).collect()
}

/// Waits until a stream is probed. Returns the id.
async fn probed(ear: &mut Ear) -> String {
    sleep(EVERY).await;
    let text = ear.hear_raw().await;
    let pings = pings(&text);
    assert_eq!(pings.len(), 1, "{text}");
    pings.into_iter().next().expect("one")
}

fn pong(probe: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": probe, "result": {} })
}

async fn answer<I: SessionManager>(edge: &Edge<I>, session: &str, body: Value) {
    let answer = edge.send(Method::POST, Some(session), None, Some(body)).await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
}

async fn listen<I: SessionManager>(edge: &Edge<I>) -> (String, Ear) {
    let id = edge.open().await;
    let mut ear = edge.listen(&id).await.keep_reading();
    assert_eq!(ear.hear().await, heard("hello"));
    (id, ear)
}

async fn park<I: SessionManager>(edge: &Edge<I>) {
    edge.sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Evicted).await;
}

// Live sessions

#[tokio::test(start_paused = true)]
async fn a_stream_without_an_answer_ends_and_counts_as_lost_but_its_session_goes_on() {
    let edge = probing(|b| b);
    let (id, mut ear) = listen(&edge).await;
    probed(&mut ear).await;
    assert_eq!((edge.sessions.list()[0].stream, edge.sessions.stats().dead_streams), (Stream::Open, 0));
    sleep(WITHIN).await;
    assert_eq!(ear.hear().await, ended(""));
    let session = edge.sessions.list().remove(0);
    assert!(matches!(session.stream, Stream::Lost(_)), "{session:?}");
    assert_eq!((session.open_streams, edge.sessions.stats().dead_streams), (0, 1));
    assert!(edge.say(&id, "1").await);
    assert_eq!(edge.listen(&id).await.hear().await, heard("hello 1"), "the next stream has all of it");
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_answers_stays_open() {
    let edge = probing(|b| b);
    let (id, mut ear) = listen(&edge).await;
    let mut probes = Vec::new();
    for round in 0..20 {
        let probe = probed(&mut ear).await;
        let error = json!({ "code": -32601, "message": "Method not found" });
        let body = match round % 4 {
            0 => pong(&probe),
            1 => json!({ "jsonrpc": "2.0", "id": probe, "error": error }),
            2 => json!({ "jsonrpc": "2.0", "result": "no object", "id": probe }),
            // A large one, and one with more than its result.
            _ => json!({ "jsonrpc": "2.0", "id": probe, "result": { "_meta": { "x": "y".repeat(100_000) } } }),
        };
        answer(&edge, &id, body).await;
        probes.push(probe);
    }
    probes.sort();
    probes.dedup();
    assert_eq!((probes.len(), edge.sessions.stats().dead_streams), (20, 0));
    assert!(edge.say(&id, "1").await);
    assert_eq!(ear.hear().await, heard("1"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_no_use_of_its_session() {
    let edge = probing(|b| b.max_sessions(2).eviction(Lru::new()));
    let (alice, mut ear) = listen(&edge).await;
    let of_alice = || edge.sessions.list().into_iter().find(|session| session.open_streams > 0).expect("is there");
    let requests = edge.sessions.stats().requests;
    for round in 1..=3 {
        let probe = probed(&mut ear).await;
        answer(&edge, &alice, pong(&probe)).await;
        assert_eq!((of_alice().uses, edge.sessions.stats().requests), (0, requests));
        assert!(of_alice().idle >= round * EVERY, "{:?}", of_alice().idle);
    }
    let bob = edge.open().await;
    let probe = probed(&mut ear).await;
    answer(&edge, &alice, pong(&probe)).await;
    edge.open().await;
    assert!(ear.hear().await.1, "alice is parked, and her stream is held");
    assert_eq!(edge.parked_streams(), 1);
    assert!(edge.say(&bob, "").await);
    assert_eq!(edge.sessions.stats().restored, 0, "bob has his place");
}

#[tokio::test(start_paused = true)]
async fn the_idle_timeout_comes_although_clients_answered() {
    let edge = probing(|b| b.idle_timeout(90 * SECOND));
    let (id, mut ear) = listen(&edge).await;
    let first = probed(&mut ear).await;
    answer(&edge, &id, pong(&first)).await;
    // Its client is gone, which the server does not see.
    let second = probed(&mut ear).await;
    sleep(WITHIN).await;
    assert_eq!(ear.hear().await, ended(""));
    sleep(60 * SECOND).await;
    answer(&edge, &id, pong(&second)).await;
    sleep(30 * SECOND).await;
    assert_eq!((edge.sessions.stats().live, edge.sessions.stats().closed(CloseReason::Idle)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_late_or_doubled_or_of_other_sessions_do_nothing() {
    let edge = probing(|b| b);
    let ((alice, mut hers), (bob, mut his)) = (listen(&edge).await, listen(&edge).await);
    let probe = probed(&mut hers).await;
    // Both hear theirs at the same time.
    let his_probe = pings(&his.hear_raw().await).remove(0);
    answer(&edge, &bob, pong(&his_probe)).await;
    for _ in 0..2 {
        answer(&edge, &bob, pong(&probe)).await;
        answer(&edge, &bob, pong(&his_probe)).await;
        answer(&edge, &alice, pong(&his_probe)).await;
    }
    sleep(WITHIN).await;
    assert_eq!((hers.hear().await, his.hear().await), (ended(""), heard("")));
    for late in [&probe, &his_probe] {
        answer(&edge, &alice, pong(late)).await;
    }
    let idle = edge.sessions.list().iter().map(|session| session.idle).min().expect("two");
    assert!(idle >= EVERY, "{idle:?}");
    // One answer, one probe.
    sleep(EVERY - WITHIN).await;
    assert_eq!(pings(&his.hear_raw().await).len(), 1);
    assert_eq!(edge.sessions.stats().dead_streams, 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_or_notification_that_has_the_id_of_a_probe_is_served_and_is_no_answer() {
    let edge = probing(|b| b);
    let (id, mut ear) = listen(&edge).await;
    let probe = probed(&mut ear).await;
    let call = json!({ "jsonrpc": "2.0", "id": probe, "method": "tools/call", "params": { "name": "1" } });
    assert_eq!(edge.send(Method::POST, Some(&id), None, Some(call)).await.status(), StatusCode::OK);
    assert_eq!(ear.hear().await, heard("1"));
    let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": probe } });
    answer(&edge, &id, cancel).await;
    sleep(WITHIN).await;
    assert_eq!(ear.hear().await, ended(""));
}

#[tokio::test(start_paused = true)]
async fn answers_that_come_past_the_layer_are_taken_too() {
    let edge = probing(|b| b);
    let (id, mut ear) = listen(&edge).await;
    for _ in 0..3 {
        let probe = probed(&mut ear).await;
        let message = serde_json::from_value(pong(&probe)).expect("a message");
        edge.sessions.accept_message(&id.as_str().into(), message).await.expect("accepts");
        assert!(edge.sessions.list()[0].idle >= EVERY);
    }
    assert_eq!((ear.hear().await, edge.sessions.stats().dead_streams), (heard(""), 0));
}

#[tokio::test(start_paused = true)]
async fn each_of_several_streams_is_probed_and_ends_alone() {
    let edge = probing(|b| b);
    let id = edge.open().await;
    let mut older = edge.listen(&id).await.keep_reading();
    sleep(20 * SECOND).await;
    let mut newer = edge.listen(&id).await.keep_reading();
    sleep(EVERY - 20 * SECOND).await;
    assert_eq!((pings(&older.hear_raw().await).len(), newer.hear().await), (1, heard("")));
    sleep(20 * SECOND).await;
    let probe = pings(&newer.hear_raw().await).remove(0);
    answer(&edge, &id, pong(&probe)).await;
    assert_eq!((older.hear().await.1, newer.hear().await.1), (false, true));
    assert_eq!((edge.sessions.list()[0].stream, edge.sessions.list()[0].open_streams), (Stream::Open, 1));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hung_up_is_not_counted_as_dead() {
    let edge = probing(|b| b);
    let (alice, bob) = (edge.open().await, edge.open().await);
    drop(edge.listen(&alice).await);
    let mut ear = edge.listen(&bob).await;
    probed(&mut ear).await;
    drop(ear);
    sleep(EVERY).await;
    assert_eq!(edge.sessions.list().iter().map(|session| session.open_streams).sum::<usize>(), 0);
    assert_eq!(edge.sessions.stats().dead_streams, 0);
}

#[tokio::test(start_paused = true)]
async fn without_the_setting_no_stream_is_probed_and_answers_are_messages() {
    let edge = Edge::local(|b| b);
    let (id, mut ear) = listen(&edge).await;
    sleep(HOUR).await;
    assert_eq!(ear.hear_raw().await, "");
    assert!(edge.sessions.list()[0].idle >= HOUR);
    answer(&edge, &id, pong("listener-probe-1")).await;
    assert!(edge.sessions.list()[0].idle < SECOND);
}

// Parked sessions

#[tokio::test(start_paused = true)]
async fn a_held_stream_is_probed_and_its_session_stays_parked() {
    let edge = probing(|b| b);
    let (id, mut ear) = listen(&edge).await;
    park(&edge).await;
    for _ in 0..3 {
        let probe = probed(&mut ear).await;
        answer(&edge, &id, pong(&probe)).await;
        let stats = edge.sessions.stats();
        assert_eq!((stats.live, stats.parked, stats.restored, stats.parked_streams), (0, 1, 0, 1));
    }
    let probe = probed(&mut ear).await;
    sleep(WITHIN).await;
    assert_eq!(ear.hear().await, ended(""));
    answer(&edge, &id, pong(&probe)).await;
    let stats = edge.sessions.stats();
    assert_eq!((stats.live, stats.parked, stats.parked_streams, stats.dead_streams), (0, 1, 0, 1));
    assert!(edge.say(&id, "1").await, "it is restored by its next call");
}

#[tokio::test(start_paused = true)]
async fn answers_do_not_keep_a_parked_session_from_its_age() {
    let edge = probing(|b| b.max_parked_age(5 * MINUTE));
    let (id, mut ear) = listen(&edge).await;
    park(&edge).await;
    for _ in 0..4 {
        let probe = probed(&mut ear).await;
        answer(&edge, &id, pong(&probe)).await;
    }
    sleep(MINUTE).await;
    assert_eq!((edge.sessions.stats().parked, ear.hear().await.1), (0, false));
}

#[tokio::test(start_paused = true)]
async fn a_dead_held_stream_frees_its_slot_for_another() {
    let edge = probing(|b| b.max_parked_streams(1));
    let (_dead, mut ear) = listen(&edge).await;
    park(&edge).await;
    probed(&mut ear).await;
    sleep(WITHIN).await;
    let (_alive, mut other) = listen(&edge).await;
    park(&edge).await;
    assert_eq!((edge.parked_streams(), other.hear().await), (1, heard("")));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_opened_while_its_session_was_parked_is_probed() {
    let edge = probing(|b| b.max_sessions(1));
    let id = edge.open().await;
    let _other = edge.open().await;
    let mut ear = edge.listen(&id).await.keep_reading();
    probed(&mut ear).await;
    sleep(WITHIN).await;
    assert_eq!((ear.hear().await, edge.parked_streams()), (ended(""), 0));
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_probed_across_incarnations_and_take_overs() {
    let edge = probing(|b| b);
    let (id, mut ear) = listen(&edge).await;
    park(&edge).await;
    let probe = probed(&mut ear).await;
    assert!(edge.say(&id, "1").await, "restores it before the answer");
    answer(&edge, &id, pong(&probe)).await;
    assert_eq!(ear.hear().await, heard("hello 1"));
    probed(&mut ear).await;
    // The client has lost its stream, and opens another before the answer is due.
    let mut newer = edge.listen(&id).await.keep_reading();
    assert!(!ear.hear().await.1);
    sleep(WITHIN).await;
    assert_eq!((newer.hear().await, edge.sessions.stats().dead_streams), (heard(""), 0));
    sleep(EVERY - WITHIN).await;
    assert_eq!(pings(&newer.hear_raw().await).len(), 1);
    sleep(WITHIN).await;
    assert_eq!((newer.hear().await, edge.sessions.stats().dead_streams), (ended(""), 1));
}

/// The server after a restart knows the session by the directory alone.
#[tokio::test(start_paused = true)]
async fn an_answer_to_a_probe_of_the_server_before_restores_nothing() {
    let directory = MemoryDirectory::new();
    let over = |directory| Edge::local(|b| b.directory(directory).max_sessions(1).probe_listeners(EVERY, WITHIN));
    let first = over(directory.clone());
    let (id, mut ear) = listen(&first).await;
    let probe = probed(&mut ear).await;
    first.sessions.drain(SECOND).await;
    drop((ear, first));
    let second = over(directory.another_server());
    answer(&second, &id, pong(&probe)).await;
    let stats = second.sessions.stats();
    assert_eq!((stats.live, stats.parked, stats.restored), (0, 0, 0));
    assert!(second.say(&id, "1").await, "by its next call");
    // Of a live session it may be the answer to an inner manager, so it is passed on.
    sleep(MINUTE).await;
    answer(&second, &id, pong(&probe)).await;
    assert!(second.sessions.list()[0].idle < SECOND);
}

#[tokio::test(start_paused = true)]
async fn of_stacked_managers_each_gets_the_answers_to_its_probes() {
    let inner = PolicySessionManager::local().probe_listeners(EVERY, WITHIN).build().expect("valid");
    let edge = Edge::new(PolicySessionManager::builder(inner).probe_listeners(EVERY, WITHIN));
    let (id, mut ear) = listen(&edge).await;
    for _ in 0..3 {
        sleep(EVERY).await;
        let probes = pings(&ear.hear_raw().await);
        assert_eq!(probes.len(), 2);
        for probe in probes {
            answer(&edge, &id, pong(&probe)).await;
        }
    }
    sleep(WITHIN).await;
    let dead = [edge.sessions.stats().dead_streams, edge.sessions.inner().stats().dead_streams];
    assert_eq!((ear.hear().await, dead), (heard(""), [0, 0]));
}

// Events

#[tokio::test(start_paused = true)]
async fn a_probe_has_no_event_id_is_not_stored_and_does_not_disturb_resumption() {
    let store = Arc::new(Events::default());
    let edge = probing(|b| b.events(Arc::clone(&store) as Arc<_>));
    let id = edge.open().await;
    let mut ear = edge.listen(&id).await.keep_reading();
    assert!(edge.say(&id, "1").await);
    let text = ear.hear_raw().await;
    let last = text.lines().filter_map(|line| line.strip_prefix("id:")).next_back().expect("an id").trim().to_owned();
    let stored = store.streams().len();
    sleep(EVERY).await;
    let text = ear.hear_raw().await;
    assert_eq!((pings(&text).len(), text.contains("id:")), (1, false), "{text}");
    assert_eq!(store.streams().len(), stored);
    assert!(edge.say(&id, "2").await);
    drop(ear);
    let mut resumed = edge.get_after(&id, Some(&last)).await.expect("resumes").keep_reading();
    let text = resumed.hear_raw().await;
    assert_eq!((pings(&text).len(), text.matches("\"uri\":\"2\"").count()), (0, 1), "{text}");
    assert_eq!(text.matches("\"uri\"").count(), 1, "and nothing before it");
    probed(&mut resumed).await;
}

// Real connections

/// A client of rmcp that counts the pings of its server.
#[derive(Clone, Default)]
struct Counting(Arc<AtomicUsize>);

impl ClientHandler for Counting {
    async fn ping(&self, _context: RequestContext<RoleClient>) -> Result<(), ErrorData> {
        self.0.fetch_add(1, SeqCst);
        Ok(())
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waits = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(Duration::from_secs(60), waits).await.is_ok(), "{what}");
}

#[tokio::test]
async fn a_client_of_rmcp_answers_live_and_parked() {
    let builder = PolicySessionManager::local().probe_listeners(2 * SECOND, 2 * SECOND);
    let sessions = Arc::new(builder.build().expect("valid"));
    let server = Server::with_layer(Arc::clone(&sessions)).await;
    let client = Counting::default();
    let transport = StreamableHttpClientTransport::from_uri(server.url.clone());
    let service = client.clone().serve(transport).await.expect("connects");
    until("it listens", || sessions.list().iter().any(|session| session.open_streams == 1)).await;
    // Each probe but the first comes after an answer.
    until("it is probed twice", || client.0.load(SeqCst) >= 2).await;
    assert_eq!(sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Idle).await, 1);
    until("it is probed twice more", || client.0.load(SeqCst) >= 4).await;
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.parked_streams, stats.restored, stats.dead_streams), (0, 1, 0, 0));
    service.cancel().await.expect("ends");
}

/// Passes a connection on. When the client goes, the connection to the server stays open, and what comes is read.
async fn swallow(from: TcpStream, to: TcpStream) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (from.into_split(), to.into_split());
    let requests = async {
        copy(&mut from_client, &mut to_server).await.ok();
    };
    let responses = async {
        let mut bytes = [0; 1_024];
        while let Ok(1..) = from_server.read(&mut bytes).await {
            to_client.write_all(&bytes).await.ok();
        }
    };
    // Both halves live until the server ends the connection.
    tokio::join!(requests, responses);
}

#[tokio::test]
async fn a_client_that_goes_behind_a_proxy_which_tells_nobody_is_lost() {
    let server = web::Server::start(PolicySessionManager::local().probe_listeners(SECOND / 4, SECOND / 4)).await;
    let proxy = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let proxy_url = format!("http://{}/mcp", proxy.local_addr().expect("bound"));
    let address = server.url.trim_start_matches("http://").trim_end_matches("/mcp").to_owned();
    let proxying = tokio::spawn(async move {
        while let Ok((client, _)) = proxy.accept().await {
            tokio::spawn(swallow(client, TcpStream::connect(&address).await.expect("connects")));
        }
    });
    let id = server.open().await;
    let client = reqwest::Client::new();
    let stream = client.get(&proxy_url).header("accept", "text/event-stream").header("mcp-session-id", &id);
    let stream = stream.send().await.expect("answers");
    assert_eq!((stream.status(), server.sessions.list()[0].stream), (StatusCode::OK, Stream::Open));
    drop((stream, client));
    until("the stream is lost", || matches!(server.sessions.list()[0].stream, Stream::Lost(_))).await;
    assert_eq!(server.sessions.stats().dead_streams, 1);
    proxying.abort();
}

#[tokio::test]
async fn nobody_else_keeps_the_stream_of_a_client_open() {
    let server = web::Server::start(PolicySessionManager::local().probe_listeners(SECOND / 4, SECOND / 4)).await;
    let (alice, bob) = (server.open_as("alice").await, server.open_as("bob").await);
    let stream = server.request(Method::GET, Some(&alice)).header("x-user", "alice");
    let mut stream = stream.send().await.expect("answers");
    let mut text = String::new();
    while pings(&text).is_empty() {
        text += &String::from_utf8_lossy(&stream.chunk().await.expect("reads").expect("goes on"));
    }
    let body = pong(&pings(&text)[0]);
    let mut statuses = Vec::new();
    for session in [&alice, &bob] {
        let answer = server.post(Some(session), &body).header("x-user", "bob").send().await.expect("answers");
        statuses.push(answer.status().as_u16());
    }
    assert_eq!(statuses, [404, 202]);
    until("the stream is lost", || server.sessions.stats().dead_streams == 1).await;
}
