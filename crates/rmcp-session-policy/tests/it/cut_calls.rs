//! docs/design.md, L9 and L17.
//!
//! A call whose process has died is answered when its client resumes the stream of the call, once, and without a restore.
//! Event ids outlive the process that made them.

use std::time::Duration;

use reqwest::{Method, Response};
use rmcp_session_policy::PolicySessionManager;
use rmcp_session_policy::testing::directory::MemoryDirectory;
use serde_json::{Value, json};

use crate::web::{Server, call};

/// An event stream that is read event by event.
struct Events {
    response: Response,
    text: String,
}

#[derive(Debug)]
struct Event {
    id: String,
    data: String,
}

impl Events {
    fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        assert!(response.headers()["content-type"].to_str().expect("text").starts_with("text/event-stream"));
        Self { response, text: String::new() }
    }

    /// The next event with an id. `None` at the end of the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((frame, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let value = frame.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                    value.map(|value| value.trim_start().to_owned())
                };
                let event = field("id").map(|id| Event { id, data: field("data").unwrap_or_default() });
                self.text = rest.to_owned();
                if event.is_some() {
                    return event;
                }
            }
            let chunk = self.response.chunk().await.expect("no error")?;
            self.text.push_str(std::str::from_utf8(&chunk).expect("text"));
        }
    }
}

/// Begins a call that takes long, and returns the id of the event before its answer.
async fn begin(server: &Server, user: &str, session: &str, request: &Value) -> String {
    let mut message = call(0, "sleep", &json!({"millis": 3_600_000}));
    message["id"] = request.clone();
    let response = server.post(Some(session), &message).header("x-user", user).send().await.expect("answers");
    Events::of(response).next().await.expect("an event with an id").id
}

async fn get(server: &Server, user: &str, session: &str, last_event_id: &str) -> Response {
    let request = server.request(Method::GET, Some(session)).header("x-user", user);
    request.header("last-event-id", last_event_id).send().await.expect("answers")
}

/// Resumes the stream of a request that was cut off, and returns the id of its last event, and whether the request is told
/// of as a `tools/call` is.
async fn is_told(server: &Server, user: &str, session: &str, last_event_id: &str, request: &Value) -> (String, bool) {
    let mut events = Events::of(get(server, user, session, last_event_id).await);
    let answer = events.next().await.expect("an answer");
    assert!(events.next().await.is_none(), "one event");
    let message: Value = serde_json::from_str(&answer.data).expect("JSON");
    assert_eq!((&message["jsonrpc"], &message["id"]), (&json!("2.0"), request));
    if message.get("error").is_some() {
        assert_eq!((&message["error"]["code"], &message["error"]["data"]["reason"]), (&json!(503), &json!("cut_off")));
        assert!(message["error"]["message"].as_str().expect("text").contains("its outcome is unknown"), "{message}");
        return (answer.id, false);
    }
    let result = &message["result"];
    let why = json!({ "reason": "cut_off", "code": 503 });
    assert_eq!((&result["isError"], &result["_meta"]["rmcp-session-policy/rejection"]), (&json!(true), &why));
    let text = result["content"][0]["text"].as_str().expect("text");
    assert!(text.contains("may or may not have had its effect"), "{message}");
    (answer.id, true)
}

async fn restarted(server: Server, directory: &MemoryDirectory) -> (Server, MemoryDirectory) {
    directory.crash();
    drop(server);
    let directory = directory.another_server();
    let server = Server::start(PolicySessionManager::local().directory(directory.clone())).await;
    (server, directory)
}

#[tokio::test]
async fn a_call_that_a_kill_has_cut_off_is_answered_once_and_without_a_restore() {
    let directory = MemoryDirectory::new();
    let server = Server::start(PolicySessionManager::local().directory(directory.clone())).await;
    let id = server.open_as("alice").await;
    let requests = [json!(7), json!(-3), json!("7"), json!("a \"quoted\"\r\nkey \u{2028} of \u{1F600}"), json!("")];
    let mut last = Vec::new();
    for request in &requests {
        last.push(begin(&server, "alice", &id, request).await);
    }
    let long = begin(&server, "alice", &id, &json!("k".repeat(64))).await;
    let (server, directory) = restarted(server, &directory).await;
    assert_eq!(get(&server, "mallory", &id, &last[0]).await.status(), 404);
    for (request, last) in requests.iter().zip(&last) {
        let (over, is_call) = is_told(&server, "alice", &id, last, request).await;
        assert!(is_call);
        assert_eq!(get(&server, "alice", &id, &over).await.status(), 405);
    }
    assert_eq!(get(&server, "alice", &id, &long).await.status(), 405, "the id of its request is not known");
    assert_eq!((directory.claims(), server.sessions.stats().restored), (0, 0));
    // The same after the session has come back.
    server.tell("alice", &id, "echo", &json!({"text": "hello"})).await;
    assert_eq!(server.sessions.stats().restored, 1);
    let (over, _) = is_told(&server, "alice", &id, &last[0], &requests[0]).await;
    assert_eq!(get(&server, "alice", &id, &over).await.status(), 405);
    assert_eq!(get(&server, "alice", &id, &long).await.status(), 405);
}

#[tokio::test]
async fn a_session_that_is_parked_here_is_not_restored_to_tell_of_a_call() {
    for directory in [false, true] {
        let builder = PolicySessionManager::local().idle_timeout(Duration::from_millis(1));
        let server = Server::start(match directory {
            true => builder.directory(MemoryDirectory::new()),
            false => builder,
        })
        .await;
        let id = server.open_as("alice").await;
        let request = json!({"jsonrpc": "2.0", "id": 9, "method": "tools/list"});
        let response = server.post(Some(&id), &request).header("x-user", "alice").send().await.expect("answers");
        let priming = Events::of(response).next().await.expect("an event with an id").id;
        while server.sessions.stats().parked == 0 {
            tokio::task::yield_now().await;
        }
        // It may have been parked and restored during the handshake.
        let restored = server.sessions.stats().restored;
        let (over, is_call) = is_told(&server, "alice", &id, &priming, &json!(9)).await;
        assert!(!is_call);
        assert_eq!(get(&server, "alice", &id, &over).await.status(), 405);
        assert_eq!(server.sessions.stats().restored, restored);
        // Here the seal is checked.
        let (rest, _) = priming.rsplit_once('.').expect("a seal");
        let made_up = format!("{rest}.AAAAAAAAAAAAAAAAAAAAAA");
        assert!(Events::of(get(&server, "alice", &id, &made_up).await).next().await.is_none());
    }
}

#[tokio::test]
async fn event_ids_are_sealed_with_the_key_of_their_session_after_each_restart() {
    let directory = MemoryDirectory::new();
    let mut server = Server::start(PolicySessionManager::local().directory(directory.clone())).await;
    let mut at = directory;
    let alice = server.open_as("alice").await;
    let bob = server.open_as("bob").await;
    let mut ids = vec![begin(&server, "alice", &alice, &json!(1)).await];
    for restart in 2..=4 {
        (server, at) = restarted(server, &at).await;
        server.tell("alice", &alice, "echo", &json!({"text": "hello"})).await;
        server.tell("bob", &bob, "echo", &json!({"text": "hello"})).await;
        for (request, id) in ids.iter().enumerate() {
            is_told(&server, "alice", &alice, id, &json!(request + 1)).await;
            let stranger = Events::of(get(&server, "bob", &bob, id).await).next().await;
            assert!(stranger.is_none(), "another session's id opens nothing: {stranger:?}");
            let (rest, _) = id.rsplit_once('.').expect("a seal");
            let made_up = format!("{rest}.AAAAAAAAAAAAAAAAAAAAAA");
            assert!(Events::of(get(&server, "alice", &alice, &made_up).await).next().await.is_none());
        }
        ids.push(begin(&server, "alice", &alice, &json!(restart)).await);
    }
    // What comes from the directory keeps its key in the parking of this server.
    let builder = PolicySessionManager::local().directory(at.another_server()).idle_timeout(Duration::from_millis(1));
    at.crash();
    drop(server);
    let server = Server::start(builder).await;
    server.tell("alice", &alice, "echo", &json!({"text": "hello"})).await;
    while server.sessions.stats().parked == 0 {
        tokio::task::yield_now().await;
    }
    is_told(&server, "alice", &alice, &ids[0], &json!(1)).await;
}

#[tokio::test]
async fn the_id_of_a_listening_stream_opens_one_after_a_restart() {
    let directory = MemoryDirectory::new();
    let server = Server::start(PolicySessionManager::local().directory(directory.clone())).await;
    let id = server.open_as("alice").await;
    let listening = server.request(Method::GET, Some(&id)).header("x-user", "alice").send().await.expect("answers");
    let mut listening = Events::of(listening);
    assert_eq!(listening.next().await.expect("rmcp's own").id, "0");
    let change = async |server: &Server| {
        server.tell("alice", &id, "notify", &json!({"of": "test:///one", "count": 1})).await;
    };
    change(&server).await;
    let heard = listening.next().await.expect("a change");
    assert!(heard.data.contains("test:///one"), "{heard:?}");
    drop(listening);
    let (server, _directory) = restarted(server, &directory).await;
    let mut listening = Events::of(get(&server, "alice", &id, &heard.id).await);
    change(&server).await;
    let heard = listening.next().await.expect("a change");
    assert!(heard.data.contains("test:///one"), "{heard:?}");
}

#[tokio::test]
async fn a_client_that_uses_the_id_of_a_request_again_is_not_told_of_the_old_one() {
    let directory = MemoryDirectory::new();
    let server = Server::start(PolicySessionManager::local().directory(directory.clone())).await;
    let id = server.open_as("alice").await;
    let old = begin(&server, "alice", &id, &json!(1)).await;
    let (server, _directory) = restarted(server, &directory).await;
    begin(&server, "alice", &id, &json!(1)).await;
    assert_eq!(get(&server, "alice", &id, &old).await.status(), 405);
}
