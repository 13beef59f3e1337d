//! [`CallRejection`]: the form of the answer to a tool call that was not served.

use rmcp::model::{CallToolResult, ContentBlock, ErrorData, MetaObject, RequestId, ServerJsonRpcMessage, ServerResult};
use serde_json::Value;

/// The key of a result's `_meta` that holds what a JSON-RPC error would have said.
const META_KEY: &str = "rmcp-session-policy/rejection";

/// Sets the form of the answer to a `tools/call` within a session that is rejected or cut off.
///
/// The default is a result: models do not see JSON-RPC errors, and some agents end their run at the first one.
///
/// ```
/// use rmcp_session_policy::CallRejection;
///
/// assert_eq!(CallRejection::default(), CallRejection::Result);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallRejection {
    /// A result with `isError: true` and one text block, which says why and when to come back. Its `_meta` holds the
    /// data of the JSON-RPC error (`code`, `reason`, `retryAfterSeconds` and so on) under
    /// `rmcp-session-policy/rejection`. It is not in `structuredContent`, which clients check against the tool's own
    /// schema.
    #[default]
    Result,
    /// A JSON-RPC error, as every other method gets.
    Error,
}

impl CallRejection {
    /// Makes the answer to a request that is rejected or cut off. A model reads `text`.
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
        // The protocol versions with sessions do not have this field.
        result.result_type = None;
        result.meta = Some(meta);
        ServerJsonRpcMessage::response(ServerResult::CallToolResult(result), id)
    }
}
