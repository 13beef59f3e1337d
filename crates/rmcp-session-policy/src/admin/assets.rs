//! The files of the page, which are part of the library.

use axum::extract::OriginalUri;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::response::{IntoResponse, Response};

const PAGE: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");
const ICON: &str = include_str!("page/icon.svg");

/// Answers `GET /`. Its links are relative, so a router that is nested sends `/admin` on to `/admin/`.
#[expect(clippy::unused_async, reason = "a handler")]
pub(super) async fn page(OriginalUri(uri): OriginalUri) -> Response {
    match uri.path().rsplit('/').next() {
        Some(last) if !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_graphic()) => {
            (StatusCode::PERMANENT_REDIRECT, [(LOCATION, format!("{last}/"))]).into_response()
        }
        _ => file("text/html; charset=utf-8", PAGE),
    }
}

#[expect(clippy::unused_async, reason = "a handler")]
pub(super) async fn style() -> Response {
    file("text/css; charset=utf-8", STYLE)
}

#[expect(clippy::unused_async, reason = "a handler")]
pub(super) async fn script() -> Response {
    file("text/javascript; charset=utf-8", SCRIPT)
}

#[expect(clippy::unused_async, reason = "a handler")]
pub(super) async fn icon() -> Response {
    file("image/svg+xml", ICON)
}

fn file(kind: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, kind)], text).into_response()
}
