//! The answers to requests that the layer rejects.

use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode, Version};
use rmcp::model::{RequestId, ServerJsonRpcMessage, ServerResult};

use super::body::PolicyBody;
use super::request::{Envelope, RequestTarget};
use crate::admission::{ArrivalKind, Retry};
use crate::call_rejection::CallRejection;
use crate::error::Rejected;
use crate::observe::RejectionReason;

/// The request that an answer is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered<'a> {
    pub(super) target: RequestTarget,
    /// Its id and method, if they are known.
    pub(super) envelope: Option<&'a Envelope>,
    /// The form of the answer if the request is a `tools/call` within a session.
    pub(super) rejection: CallRejection,
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

/// Answers that the client is unknown and the server rejects unknown clients.
pub(super) fn anonymous<B>(version: Version, closes: bool) -> Response<PolicyBody<B>> {
    plain(StatusCode::FORBIDDEN, "Forbidden: nothing is known of the client", version, closes)
}

/// Answers a ping with its empty result.
pub(super) fn pong<B>(id: RequestId) -> Response<PolicyBody<B>> {
    json(&ServerJsonRpcMessage::response(ServerResult::empty(()), id))
}

fn plain<B>(status: StatusCode, text: &'static str, version: Version, closes: bool) -> Response<PolicyBody<B>> {
    let mut response = Response::new(PolicyBody::own(text));
    *response.status_mut() = status;
    finish(&mut response, "text/plain; charset=utf-8");
    close_if(closes, version, &mut response);
    response
}

fn json<B>(message: &ServerJsonRpcMessage) -> Response<PolicyBody<B>> {
    // This cannot fail: the message holds only strings and numbers.
    let text = serde_json::to_string(message).unwrap_or_default();
    let mut response = Response::new(PolicyBody::own(text));
    finish(&mut response, "application/json");
    response
}

/// Closes the connection after the answer, if the HTTP version has a header for that.
fn close_if<B>(closes: bool, version: Version, response: &mut Response<B>) {
    if closes && version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

fn finish<B>(response: &mut Response<B>, content_type: &'static str) {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// Answers a request that was rejected.
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
pub(super) fn still_parked(max_sessions: usize) -> Rejected {
    Rejected {
        kind: ArrivalKind::Restore,
        reason: RejectionReason::ServerFull,
        policy: "capacity".into(),
        retry: Retry::Unknown,
        limit: Some(max_sessions as u64),
        remaining: Some(0),
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
