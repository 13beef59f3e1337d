//! The answers to a request that its session's end has cut off.

use rmcp::model::{ErrorCode, ErrorData, RequestId, ServerJsonRpcMessage};

use crate::call_rejection::CallRejection;
use crate::observe::{CloseReason, RejectionReason};

/// Makes the answer to a request that was in flight when its session ended.
///
/// After a reason that parks the session the client is told to try again, and otherwise that it needs a new session.
/// `is_call` and `rejection` decide the form: a `tools/call` gets a result with `isError`, unless the server's author
/// wants an error, and each other request gets an error.
///
/// The transport sends it for requests that the service has. [`LiveStream`](super::LiveStream) ends with it where the
/// inner manager has dropped the answer.
pub(super) fn farewell(
    reason: CloseReason,
    id: RequestId,
    is_call: bool,
    rejection: CallRejection,
) -> ServerJsonRpcMessage {
    // MCP reserves -32000..=-32099, so the codes are those of HTTP: 503 to try again, 404 to start anew.
    let code = if reason.is_restorable() { 503 } else { 404 };
    let text = format!("the session was closed while this request was in flight: {reason}");
    let data = serde_json::json!({ "reason": reason.as_str() });
    let error = ErrorData::new(ErrorCode(code), text, Some(data));
    let next = if reason.is_restorable() { "Try again." } else { "It needs a new session." };
    let told = || {
        format!(
            "This call was cut off and may or may not have had its effect: the session was closed ({reason}). {next}"
        )
    };
    rejection.answer(is_call, id, error, told)
}

/// Makes the answer to a request of an incarnation that has ended, for a client that asks for the rest of its stream.
///
/// The incarnation may have answered it, or said farewell, to a client that did not hear it; its process may have died
/// before. The form is that of [`farewell`].
pub(crate) fn cut_answer(id: RequestId, is_call: bool, rejection: CallRejection) -> ServerJsonRpcMessage {
    let text =
        "the session was closed, or its server restarted, while this request was in flight: its outcome is unknown";
    let data = serde_json::json!({ "reason": RejectionReason::CutOff.as_str() });
    let error = ErrorData::new(ErrorCode(503), text, Some(data));
    let told = "This call was cut off and may or may not have had its effect: the session was closed, or its server restarted.";
    rejection.answer(is_call, id, error, || told.to_owned())
}
