//! What a client gets: the response, and what it tells the client.

use std::convert::Infallible;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;

/// A response whose body may still be read. To drop it is to hang up.
pub(super) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Reads a body to its end.
pub(super) async fn text(answer: Answer) -> String {
    let Ok(body) = answer.into_body().collect().await;
    String::from_utf8_lossy(&body.to_bytes()).into_owned()
}

/// What a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// What it asked for: its session, or the answer to its call.
    Answer,
    /// That it is rejected and may come back: 503, or within a session an error.
    Refused,
    /// That its session does not exist: 404.
    NotFound,
}
