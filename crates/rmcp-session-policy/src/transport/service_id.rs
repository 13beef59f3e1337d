//! The id under which rmcp's service sees a request. It tells when the handler of the request is done.
//!
//! rmcp's adapters for `#[tool]` and `#[prompt]` drop the request's context, and its extensions with it, before the
//! handler's future runs: only the id stays with the task until its end. So such a request gets an id that is shared
//! text, to which this side keeps a weak reference. When the last strong reference is dropped, the handler is done.

use std::sync::{Arc, Weak};

use rmcp::model::{
    CancelledNotificationParam, ClientRequest, GetExtensions, RequestId, ServerJsonRpcMessage, ServerRequest,
};
use rmcp::service::OriginatingRequestId;

/// The prefix of these ids. Ids of clients must not begin with it.
///
/// What follows is the number, or a `"` and the text, so a number and its digits as text stay two ids.
const PREFIX: &str = "request-id:";

/// How many characters a number has at most: a sign and 19 digits.
const LONGEST_NUMBER: usize = 20;

/// Whether a client's id begins with the reserved prefix.
///
/// Such a request is refused, because its answer would go to the id without the prefix.
pub(super) fn is_reserved(id: &RequestId) -> bool {
    matches!(id, RequestId::String(id) if id.starts_with(PREFIX))
}

/// Whether the service sees such an id. It does of all requests that a client may cancel, so that the id in a cancel can
/// be changed without knowing the request. rmcp writes the id of a `subscriptions/listen` into what it sends, so that one
/// stays as it is; within a session rmcp knows no such method.
pub(super) fn is_shared(request: &ClientRequest) -> bool {
    !matches!(request, ClientRequest::InitializeRequest(_)) && request.method() != "subscriptions/listen"
}

/// Gives a request the id that the service sees, unless an inner manager has done so. Returns the weak reference to it.
///
/// The caller keeps the weak reference in the request in flight. In stacked managers the second manager keeps the text
/// of the first, so both count the same references.
pub(super) fn share(id: &mut RequestId) -> Weak<str> {
    let shared: Arc<str> = match &*id {
        RequestId::String(text) if text.starts_with(PREFIX) => return Arc::downgrade(text),
        RequestId::String(text) => format!("{PREFIX}\"{text}").into(),
        RequestId::Number(number) => {
            // Written to the stack, to save an allocation.
            let mut text = [0; PREFIX.len() + LONGEST_NUMBER];
            let (prefix, rest) = text.split_at_mut(PREFIX.len());
            prefix.copy_from_slice(PREFIX.as_bytes());
            let mut digits = itoa::Buffer::new();
            let digits = digits.format(*number).as_bytes();
            rest[..digits.len()].copy_from_slice(digits);
            // Both are ASCII.
            std::str::from_utf8(&text[..PREFIX.len() + digits.len()]).unwrap_or_default().into()
        }
    };
    let weak = Arc::downgrade(&shared);
    *id = RequestId::String(shared);
    weak
}

/// Returns the id that the client gave a request, from the one that the service sees.
///
/// `None` if it is no id of this kind. The client's own id is then the one that the service sees.
pub(super) fn original(id: &RequestId) -> Option<RequestId> {
    let RequestId::String(text) = id else { return None };
    let text = text.strip_prefix(PREFIX)?;
    match text.strip_prefix('"') {
        Some(text) => Some(RequestId::String(text.into())),
        None => text.parse().ok().map(RequestId::Number),
    }
}

fn restore(id: &mut RequestId) {
    if let Some(original) = original(id) {
        *id = original;
    }
}

/// Puts the client's ids into a message from the service. Each such message comes through here, so no client sees an id
/// of this kind.
pub(super) fn restore_in(message: &mut ServerJsonRpcMessage) {
    match message {
        ServerJsonRpcMessage::Response(response) => restore(&mut response.id),
        ServerJsonRpcMessage::Error(error) => error.id.iter_mut().for_each(restore),
        ServerJsonRpcMessage::Request(request) => restore_origin(&mut request.request),
        ServerJsonRpcMessage::Notification(_) => {}
    }
}

/// Restores the id of the client request to which a server request belongs, so that the server request goes to its
/// stream.
fn restore_origin(request: &mut ServerRequest) {
    if let Some(OriginatingRequestId(id)) = request.extensions_mut().get_mut() {
        restore(id);
    }
}

/// Puts the id that the service sees into a cancel notification. Requests that were not shared get such an id here too.
pub(super) fn share_cancelled(params: &mut CancelledNotificationParam) {
    if let Some(id) = &mut params.request_id {
        drop(share(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_comes_back_as_it_was_and_no_two_are_one() {
        let ids = [0, 7, -7, i64::MIN, i64::MAX].map(RequestId::Number);
        let texts = ["7", "", "\"7", "é", "request"].map(|text| RequestId::String(text.into()));
        let mut seen = std::collections::HashSet::new();
        for id in ids.into_iter().chain(texts) {
            let mut shared = id.clone();
            let weak = share(&mut shared);
            assert_eq!(original(&shared), Some(id));
            let RequestId::String(text) = &shared else { panic!("text") };
            assert!(seen.insert(text.to_string()));
            let mut again = shared.clone();
            assert!(Weak::ptr_eq(&weak, &share(&mut again)), "a manager around keeps it");
            assert_eq!(weak.strong_count(), 2);
            drop((shared, again));
            assert_eq!(weak.strong_count(), 0);
        }
        assert_eq!(original(&RequestId::Number(7)), None);
        assert_eq!(original(&RequestId::String("7".into())), None);
    }
}
