//! What clients send, and what errors they get.

use rmcp::model::ClientJsonRpcMessage;
use serde_json::{Value, json};

pub fn message(json: Value) -> ClientJsonRpcMessage {
    serde_json::from_value(json).expect("a message of a client")
}

pub fn initialize_params() -> Value {
    json!({
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": { "name": "driver", "version": "1.0" },
    })
}

pub fn call_message(id: &Value, tool: &str, arguments: &Value) -> Value {
    json!({
        "jsonrpc": "2.0", "id": id, "method": "tools/call",
        "params": { "name": tool, "arguments": arguments, "_meta": { "progressToken": format!("p{id}") } },
    })
}

/// The code of a JSON-RPC error, or of a result that says that a call was refused or cut off.
pub fn error_code(answer: &Value) -> Option<i64> {
    let rejection = &answer["result"]["_meta"]["rmcp-session-policy/rejection"]["code"];
    let rejection = Some(rejection).filter(|_| answer["result"]["isError"] == true);
    answer["error"]["code"].as_i64().or_else(|| rejection?.as_i64())
}
