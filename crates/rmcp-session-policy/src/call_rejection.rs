//! How a client is told that its call of a tool was not served.

use rmcp::model::{CallToolResult, ContentBlock, ErrorData, MetaObject, RequestId, ServerJsonRpcMessage, ServerResult};
use serde_json::Value;

/// The key of a result's `_meta` that holds what a JSON-RPC error would have said.
const META_KEY: &str = "rmcp-session-policy/rejection";

/// How a refused or cut-off `tools/call` within a session is answered.
///
/// A model never sees a JSON-RPC error; some agents end their run at the first. So the default is a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallRejection {
    /// A result with `isError: true` and one text block, which says why and when to come back. What a JSON-RPC error would
    /// have said (`code`, `reason`, `retryAfterSeconds` and so on) is in its `_meta`, under
    /// `rmcp-session-policy/rejection`. It is not in `structuredContent`, which clients hold to the tool's own schema.
    #[default]
    Result,
    /// A JSON-RPC error, as every other method gets.
    Error,
}

impl CallRejection {
    /// The answer to a request that is refused or cut off. `text` is what a model reads.
    pub(crate) fn answer(
        self,
        is_call: bool,
        id: RequestId,
        error: ErrorData,
        text: impl FnOnce() -> String,
    ) -> ServerJsonRpcMessage {
        if !is_call || self == Self::Error {
            return ServerJsonRpcMessage::error(error, Some(id));
        }
        let mut rejection = match error.data {
            Some(Value::Object(data)) => data,
            _ => serde_json::Map::new(),
        };
        rejection.insert("code".to_owned(), error.code.0.into());
        let mut meta = MetaObject::new();
        meta.0.insert(META_KEY.to_owned(), Value::Object(rejection));
        let mut result = CallToolResult::error(vec![ContentBlock::text(text())]);
        // Sessions speak a protocol that does not have this field yet.
        result.result_type = None;
        result.meta = Some(meta);
        ServerJsonRpcMessage::response(ServerResult::CallToolResult(result), id)
    }
}
