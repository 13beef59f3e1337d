//! Sessions with a service that the test plays by hand: it receives and answers by the transport.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::missing_panics_doc,
    missing_docs,
    reason = "a fixture, of which each test file uses a part"
)]

use std::pin::Pin;

use crate::parked::Manager;
use crate::scripted::{initialize, initialized, list_tools};
use futures_util::{Stream, StreamExt};
use rmcp::model::ServerJsonRpcMessage;
use rmcp::transport::Transport;
use rmcp::transport::streamable_http_server::session::{ServerSseMessage, SessionId, SessionManager};
use rmcp_session_policy::PolicyTransport;

/// What a client reads.
pub type Events = Pin<Box<dyn Stream<Item = ServerSseMessage> + Send + Sync>>;

pub fn answer(id: u32, result: serde_json::Value) -> ServerJsonRpcMessage {
    serde_json::from_value(serde_json::json!({ "jsonrpc": "2.0", "id": id, "result": result })).expect("an answer")
}

/// A session whose service, played by hand, has call 1 and has not answered it.
pub async fn in_a_call<I: SessionManager>(sessions: &Manager<I>) -> (SessionId, PolicyTransport<I::Transport>, Events) {
    let (id, mut transport) = sessions.create_session().await.expect("a session");
    let handshake = async {
        assert!(transport.receive().await.is_some(), "initialize");
        let server = serde_json::json!({ "protocolVersion": "2025-11-25", "capabilities": {},
            "serverInfo": { "name": "test", "version": "1" } });
        assert!(transport.send(answer(0, server)).await.is_ok());
    };
    let (initialized_with, ()) = tokio::join!(sessions.initialize_session(&id, initialize()), handshake);
    initialized_with.expect("an answer");
    sessions.accept_message(&id, initialized()).await.expect("accepts");
    assert!(transport.receive().await.is_some(), "initialized");
    let stream = sessions.create_stream(&id, list_tools(1)).await.expect("a call");
    assert!(transport.receive().await.is_some(), "the call");
    (id, transport, Box::pin(stream))
}

/// The messages of a stream, without the events that have none.
pub async fn told(stream: Events) -> Vec<serde_json::Value> {
    let messages = stream.filter_map(async |event| event.message);
    messages.map(|message| serde_json::to_value(&*message).expect("JSON")).collect().await
}
