//! The answers to requests that the layer rejects.
//!
//! The form of an answer depends on what the request is ([`RequestTarget`]) and on whether its id is known. Law L9 in
//! `docs/design.md` has the table of the statuses. Each answer is `no-store`. An answer without a JSON-RPC id is plain
//! text.

use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode, Version};
use rmcp::model::{RequestId, ServerJsonRpcMessage, ServerResult};
use rmcp::transport::streamable_http_server::session::ServerSseMessage;

use super::body::PolicyBody;
use super::request::{Envelope, RequestTarget};
use crate::admission::{ArrivalKind, Retry};
use crate::call_rejection::CallRejection;
use crate::error::Rejected;
use crate::manager::EndedStream;
use crate::observe::RejectionReason;

/// The request that an answer is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered<'a> {
    /// Where the request goes: what the body says if it was checked, else what the headers say.
    pub(super) target: RequestTarget,
    /// Its id and method. `None` if the body is no complete request, was not read to its end, or was rejected before it
    /// was read and is larger than the layer keeps. The answer is then plain text.
    pub(super) envelope: Option<&'a Envelope>,
    /// The form of the answer if the request is a `tools/call` within a session.
    pub(super) rejection: CallRejection,
    /// The HTTP version of the request: only HTTP/1 has a header that closes a connection.
    pub(super) version: Version,
    /// Whether the connection must be closed afterwards, since the body of the request was not read.
    pub(super) closes: bool,
}

/// Answers that the session was not found. The answer is the same if the session never existed, has ended, or belongs to
/// another client, so that a client cannot tell these apart.
pub(super) fn not_found<B>(version: Version, closes: bool) -> Response<PolicyBody<B>> {
    plain(StatusCode::NOT_FOUND, "Not Found: Session not found", version, closes)
}

/// Answers a GET that wants to resume a stream of which nothing is left. A client does not repeat the GET after this
/// answer; after an empty stream it would repeat it for ever.
pub(super) fn stream_over<B>(version: Version) -> Response<PolicyBody<B>> {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed: the stream is over", version, false);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST, DELETE"));
    response
}

/// Answers a GET that wants to resume the stream of a request of which only this is left: an event stream of one message.
pub(super) fn ended_stream<B>(ended: EndedStream, version: Version) -> Response<PolicyBody<B>> {
    let EndedStream::Cut(ServerSseMessage { event_id, message, .. }) = ended else { return stream_over(version) };
    // This cannot fail: the message holds only strings and numbers. JSON text has no line breaks, nor has an event id.
    let data = message.and_then(|message| serde_json::to_string(&*message).ok()).unwrap_or_default();
    let text = format!("id: {}\ndata: {data}\n\n", event_id.unwrap_or_default());
    let mut response = Response::new(PolicyBody::own(text));
    finish(&mut response, "text/event-stream");
    response
}

/// Answers a message that needs no answer, as rmcp does.
pub(super) fn accepted<B>() -> Response<PolicyBody<B>> {
    let mut response = Response::new(PolicyBody::own(""));
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

/// Answers that the client is unknown and the server rejects unknown clients.
pub(super) fn anonymous<B>(version: Version, closes: bool) -> Response<PolicyBody<B>> {
    plain(StatusCode::FORBIDDEN, "Forbidden: nothing is known of the client", version, closes)
}

/// Answers a ping with its empty result.
///
/// A parked session at a full server gets it, so that a client which only keeps its session alive does not take a place
/// from another (law L10).
pub(super) fn pong<B>(id: RequestId) -> Response<PolicyBody<B>> {
    json(&ServerJsonRpcMessage::response(ServerResult::empty(()), id))
}

/// Makes an answer in plain text, for cases in which the status says all that a client needs.
fn plain<B>(status: StatusCode, text: &'static str, version: Version, closes: bool) -> Response<PolicyBody<B>> {
    let mut response = Response::new(PolicyBody::own(text));
    *response.status_mut() = status;
    finish(&mut response, "text/plain; charset=utf-8");
    close_if(closes, version, &mut response);
    response
}

/// Makes an answer of one JSON-RPC message with status 200. [`refused`] sets another status if the request needs one.
fn json<B>(message: &ServerJsonRpcMessage) -> Response<PolicyBody<B>> {
    // This cannot fail: the message holds only strings and numbers.
    let text = serde_json::to_string(message).unwrap_or_default();
    let mut response = Response::new(PolicyBody::own(text));
    finish(&mut response, "application/json");
    response
}

/// Closes the connection after the answer, if the HTTP version has a header for that.
///
/// HTTP/2 and later have streams of their own for each request, so what is unread of one body is in the way of no other
/// request.
fn close_if<B>(closes: bool, version: Version, response: &mut Response<B>) {
    if closes && version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Sets the headers of every answer of the layer: its type, and that no cache may keep it.
fn finish<B>(response: &mut Response<B>, content_type: &'static str) {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// Answers a request that was rejected.
///
/// The caller has counted and reported the rejection; this function only makes the response:
///
/// - With an envelope, the body is a JSON-RPC answer: for a `tools/call` within a session in the form that
///   [`CallRejection`] sets, else an error. Without an envelope, it is the text of the rejection.
/// - A request within a session, with an id, gets 200. A refused listening stream gets 503. Everything else gets 429
///   if a quota of the client is used up, and 503 otherwise.
/// - `Retry-After` is left out if waiting will not help. `RateLimit` and `RateLimit-Policy` are there if the policy
///   named its limit and what remains of it.
/// - A drain closes the connection, so that the client opens its next one to another server.
pub(super) fn refused<B>(refusal: &Rejected, request: Answered<'_>) -> Response<PolicyBody<B>> {
    let mut response = match request.envelope {
        Some(envelope) => {
            let is_call = request.target == RequestTarget::Within && envelope.is_call();
            json(&refusal.answer_to(is_call, request.rejection, envelope.id.clone()))
        }
        // A strict client fails to parse `"id": null`.
        None => {
            let mut response = Response::new(PolicyBody::own(refusal.text.clone().into_owned()));
            finish(&mut response, "text/plain; charset=utf-8");
            response
        }
    };
    // Some clients fail on a status other than 200 within a session, so a request there gets 200. A listener, and a
    // message without an answer, get the status.
    *response.status_mut() = match request.target {
        RequestTarget::Within if request.envelope.is_some() => StatusCode::OK,
        RequestTarget::Listen => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
    };
    let headers = response.headers_mut();
    if let Some(seconds) = refusal.retry.seconds() {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    for (name, value) in rate_limit(refusal) {
        headers.insert(name, value);
    }
    let closes = request.closes || refusal.reason == RejectionReason::Draining;
    close_if(closes, request.version, &mut response);
    response
}

/// Makes the headers `RateLimit` and `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-10.
///
/// Returns none if the rejection has no limit or no remainder. The time `t` is there only if the policy knows it. A
/// header that would not be valid is left out.
fn rate_limit(refusal: &Rejected) -> Vec<(HeaderName, HeaderValue)> {
    let (Some(limit), Some(remaining)) = (refusal.limit, refusal.remaining) else { return Vec::new() };
    // The name goes into a structured-field string, which may hold only these characters.
    let name: String = refusal.policy.chars().filter(|c| (' '..='~').contains(c) && !matches!(c, '"' | '\\')).collect();
    let mut now = format!("\"{name}\";r={remaining}");
    if let (Retry::After(_), Some(seconds)) = (refusal.retry, refusal.retry.seconds()) {
        now.push_str(&format!(";t={seconds}"));
    }
    let fields = [("ratelimit-policy", format!("\"{name}\";q={limit}")), ("ratelimit", now)];
    fields
        .into_iter()
        .filter_map(|(name, value)| Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?)))
        .collect()
}

/// Makes the rejection for a restore that was rejected where rmcp answers 404 although the session is still parked.
///
/// The caller neither counts nor reports it: the manager has done so for the request that tried the restore.
pub(super) fn still_parked(max_sessions: usize) -> Rejected {
    Rejected {
        kind: ArrivalKind::Restore,
        reason: RejectionReason::ServerFull,
        policy: "capacity".into(),
        retry: Retry::Unknown,
        limit: Some(max_sessions as u64),
        remaining: Some(0),
        period: None,
        text: "the session could not be restored now".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn the_refusing_policy_is_the_same_in_body_and_headers() {
        let refusal = Rejected {
            kind: ArrivalKind::Create,
            reason: RejectionReason::Quota,
            policy: "sliding_window".into(),
            retry: Retry::After(Duration::from_millis(1_500)),
            limit: Some(5),
            remaining: Some(0),
            period: None,
            text: "refused".into(),
        };
        let envelope = Envelope::of(br#"{"id": 7, "method": "initialize"}"#);
        let (target, version) = (RequestTarget::Open, Version::HTTP_11);
        let rejection = CallRejection::Result;
        let request = Answered { target, envelope: envelope.as_ref(), rejection, version, closes: false };
        let response = refused::<String>(&refusal, request);
        assert_eq!(response.status(), 429);
        let header = |name| response.headers().get(name).map(|value| value.to_str().expect("text"));
        assert_eq!(header("retry-after"), Some("2"));
        assert_eq!(header("ratelimit-policy"), Some("\"sliding_window\";q=5"));
        assert_eq!(header("ratelimit"), Some("\"sliding_window\";r=0;t=2"));
        assert_eq!(header("cache-control"), Some("no-store"));
        let data = refusal.answer().data.expect("data");
        assert_eq!(data["policy"], "sliding_window");
        assert_eq!((&data["retryAfterSeconds"], &data["retryAfterMs"]), (&json!(2), &json!(1_500)));
    }
}
