//! [`Refusal`]: an answer that says what is wrong with a request.

use std::borrow::Cow;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::rows::cut;

/// The longest sentence, in bytes. What says what is wrong with a question may quote it.
const LONGEST: usize = 500;

/// A status and a sentence.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) text: Cow<'static, str>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self { status, text: text.into() }
    }

    pub(super) fn bad(text: impl Into<Cow<'static, str>>) -> Self {
        let text = match text.into() {
            Cow::Owned(text) => Cow::Owned(cut(&text, LONGEST).to_owned()),
            text => text,
        };
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(super) fn forbidden(text: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, text)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.text }))).into_response()
    }
}
