//! Classification of client requests by the kind of their activity.

use rmcp::model::ClientRequest;

use crate::session::ActivityKind;

/// Returns the kind of activity of a request. An `initialize` counts as that of a client, also when a restore replays
/// it.
pub(crate) fn kind_of(request: &ClientRequest) -> ActivityKind {
    match request {
        ClientRequest::CallToolRequest(_) => ActivityKind::Call,
        ClientRequest::InitializeRequest(_) => ActivityKind::Handshake,
        // rmcp parses a request with unknown parameters as a custom one, so the method decides.
        request if request.method() == "ping" => ActivityKind::Ping,
        request if is_of_hosts(request.method()) => ActivityKind::List,
        _ => ActivityKind::Call,
    }
}

/// Whether a request is a `server/discover`, which is refused for no quota.
pub(crate) fn is_discover(request: &ClientRequest) -> bool {
    request.method() == "server/discover"
}

/// Whether hosts send requests of this method by themselves, without an action of a user.
fn is_of_hosts(method: &str) -> bool {
    method.ends_with("/list") || matches!(method, "logging/setLevel" | "server/discover" | "initialize")
}

#[cfg(test)]
mod tests {
    use rmcp::model::ClientJsonRpcMessage;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_hosts_do_not_do_by_themselves_is_a_call() {
        let kind = |method: &str, params: serde_json::Value| {
            let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
            match serde_json::from_value(request).unwrap() {
                ClientJsonRpcMessage::Request(request) => kind_of(&request.request),
                other => panic!("no request: {other:?}"),
            }
        };
        let lists = ["tools/list", "prompts/list", "resources/list", "resources/templates/list", "of/a/server/list"];
        for method in lists.into_iter().chain(["logging/setLevel", "server/discover"]) {
            for params in [json!({}), json!({ "level": "info" }), json!({ "surprise": [] })] {
                assert_eq!(kind(method, params), ActivityKind::List, "{method}");
            }
        }
        for params in [json!({}), json!({ "surprise": [] })] {
            assert_eq!(kind("ping", params), ActivityKind::Ping);
        }
        let calls = ["tools/call", "resources/read", "prompts/get", "completion/complete", "of/a/server", "list"];
        for method in calls {
            assert_eq!(kind(method, json!({ "name": "echo", "uri": "a:b" })), ActivityKind::Call, "{method}");
        }
    }
}
