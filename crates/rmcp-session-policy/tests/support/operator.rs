//! Requests to the operator's page, without a socket.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::missing_panics_doc,
    missing_docs,
    missing_debug_implementations,
    reason = "a fixture, of which each test file uses a part"
)]

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Request, StatusCode};
use serde_json::Value;
use tower::ServiceExt;

/// What the router has answered.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("JSON: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("text")
    }
}

/// A request as a client of this machine makes it, without a browser.
pub fn request(method: &str, path: &str) -> Request<Body> {
    request_from("127.0.0.1:1234", method, path)
}

pub fn request_from(peer: &str, method: &str, path: &str) -> Request<Body> {
    let peer: SocketAddr = peer.parse().expect("an address");
    let request = Request::builder().method(method).uri(path).header("host", "127.0.0.1:9000");
    request.extension(ConnectInfo(peer)).body(Body::empty()).expect("a request")
}

/// An action as the page asks for it.
pub fn action(path: &str, body: &Value) -> Request<Body> {
    let mut request = request("POST", path);
    request.headers_mut().insert("content-type", "application/json".parse().expect("valid"));
    request.headers_mut().insert("x-admin-action", "1".parse().expect("valid"));
    *request.body_mut() = Body::from(body.to_string());
    request
}

pub async fn ask(page: &Router, request: Request<Body>) -> Answer {
    let (head, body) = page.clone().oneshot(request).await.expect("never fails").into_parts();
    let body = axum::body::to_bytes(body, 16_000_000).await.expect("a body").to_vec();
    Answer { status: head.status, headers: head.headers, body }
}

/// Reads a path that answers with JSON.
pub async fn read(page: &Router, path: &str) -> Value {
    let answer = ask(page, request("GET", path)).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}
