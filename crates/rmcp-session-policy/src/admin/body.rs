//! The bodies of actions.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;

use super::refusal::Refusal;

/// Reads the body of an action.
pub(super) fn read_body<T: DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, Refusal> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send JSON, with content-type: application/json"));
    }
    serde_json::from_slice(body).map_err(|wrong| Refusal::bad(format!("the body is not what is expected: {wrong}")))
}
