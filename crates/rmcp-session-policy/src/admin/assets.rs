//! The files of the page, which are part of the library.

use axum::extract::OriginalUri;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

const PAGE: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");
const ICON: &str = include_str!("page/icon.svg");

/// The files that the page links to.
const LINKED: [&str; 3] = ["style.css", "script.js", "icon.svg"];

/// Answers `GET /`. The links of the page are relative. If the router is nested at `/ops/admin`, a browser takes them for
/// links beside `admin`, so they begin with its name.
pub(super) async fn page(OriginalUri(uri): OriginalUri) -> Response {
    let name = uri.path().rsplit('/').next().unwrap_or_default();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    let kind = "text/html; charset=utf-8";
    if name.is_empty() || !name.bytes().all(is_plain) {
        return file(kind, PAGE);
    }
    let page = LINKED
        .iter()
        .fold(PAGE.to_owned(), |page, link| page.replace(&format!("=\"{link}\""), &format!("=\"{name}/{link}\"")));
    ([(CONTENT_TYPE, kind)], page).into_response()
}

pub(super) async fn style() -> Response {
    file("text/css; charset=utf-8", STYLE)
}

pub(super) async fn script() -> Response {
    file("text/javascript; charset=utf-8", SCRIPT)
}

pub(super) async fn icon() -> Response {
    file("image/svg+xml", ICON)
}

fn file(kind: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, kind)], text).into_response()
}
