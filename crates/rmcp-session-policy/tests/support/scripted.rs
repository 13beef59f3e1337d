//! The kit's scripted inner manager, and the messages that clients send to it.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::allow_attributes,
    clippy::missing_panics_doc,
    missing_docs,
    reason = "a fixture, of which each test file uses a part"
)]

use rmcp::model::ClientJsonRpcMessage;
pub use rmcp_session_policy::testing::inner::{Act, Call, Failed, Line, Scripted};

fn message(value: serde_json::Value) -> ClientJsonRpcMessage {
    serde_json::from_value(value).expect("a message")
}

pub fn initialize_params() -> serde_json::Value {
    serde_json::json!({
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" }
    })
}

pub fn initialize() -> ClientJsonRpcMessage {
    message(serde_json::json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": initialize_params() }))
}

pub fn initialized() -> ClientJsonRpcMessage {
    message(serde_json::json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))
}

pub fn list_tools(id: u32) -> ClientJsonRpcMessage {
    message(serde_json::json!({ "jsonrpc": "2.0", "id": id, "method": "tools/list" }))
}

pub fn ping(id: u32) -> ClientJsonRpcMessage {
    message(serde_json::json!({ "jsonrpc": "2.0", "id": id, "method": "ping" }))
}
