//! The client's address and headers, as the layer finds them, and what a session keeps of them.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use bytes::Bytes;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp_session_policy::http::{ForwardedHeader, PolicyLayer};
use rmcp_session_policy::{ClientContext, PolicySessionManager};
use serde_json::json;
use tower::ServiceExt;

type Layer = PolicyLayer<LocalSessionManager>;

/// Opens a session from 10.0.0.1 with these headers; what it knows of its client.
async fn opened_with(headers: HeaderMap, set: impl FnOnce(Layer) -> Layer) -> Arc<ClientContext> {
    let sessions = Arc::new(PolicySessionManager::local().build().expect("valid"));
    let mcp = StreamableHttpService::new(
        || Ok(crate::server::Tools::default()),
        Arc::clone(&sessions),
        StreamableHttpServerConfig::default(),
    );
    let layer = set(sessions.layer().peer(|_| Some([10, 0, 0, 1].into())));
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}});
    let mut request = Request::post("/")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .body(Body::from(body.to_string()))
        .expect("a request");
    request.headers_mut().extend(headers);
    let answer = layer.layer(mcp).oneshot(request).await.expect("answers");
    assert_eq!(answer.status(), StatusCode::OK);
    sessions.list().pop().and_then(|session| session.context).expect("a context")
}

async fn peer_behind(proxies: &[&str], header: ForwardedHeader, name: &'static str, value: &[u8]) -> IpAddr {
    let mut headers = HeaderMap::new();
    headers.append(name, HeaderValue::from_bytes(value).expect("a header"));
    let set = |layer: Layer| layer.forwarded_header(header).trusted_proxies(proxies).expect("proxies");
    opened_with(headers, set).await.peer().expect("known")
}

async fn forwarded_for(value: &[u8]) -> String {
    peer_behind(&["10.0.0.0/8"], ForwardedHeader::XForwardedFor, "x-forwarded-for", value).await.to_string()
}

#[tokio::test]
async fn a_client_behind_a_proxy_cannot_choose_its_address() {
    let by_standard = peer_behind(
        &["10.0.0.1"],
        ForwardedHeader::Forwarded,
        "forwarded",
        br#"for=198.51.100.7;host="a,for=10.9.8.1""#,
    );
    assert_eq!(by_standard.await.to_string(), "198.51.100.7");
    assert_eq!(forwarded_for(b"\xff, 203.0.113.9").await, "203.0.113.9");
    assert_eq!(forwarded_for(b"203.0.113.1,").await, "203.0.113.1");
    assert_eq!(forwarded_for(b"203.0.113.1, , 10.0.0.1").await, "203.0.113.1");
}

#[tokio::test]
async fn a_proxy_is_trusted_however_its_ipv4_address_is_written() {
    let seen = async |proxy: &str| {
        let name = "x-forwarded-for";
        peer_behind(&[proxy], ForwardedHeader::XForwardedFor, name, b"203.0.113.1").await.to_string()
    };
    for proxy in ["::ffff:10.0.0.1", "::ffff:10.0.0.1/128", "::ffff:10.0.0.0/104", "::ffff:a00:1"] {
        assert_eq!(seen(proxy).await, "203.0.113.1", "{proxy}");
    }
    assert_eq!(seen("::ffff:11.0.0.0/104").await, "10.0.0.1");
}

#[tokio::test]
async fn a_header_that_is_kept_is_a_copy_and_holds_nothing_else_of_the_request() {
    let head = Bytes::from(vec![b'x'; 64 << 10]);
    let mut value = HeaderValue::from_maybe_shared(head.slice(100..110)).expect("a value");
    value.set_sensitive(true);
    let name = HeaderName::from_static("x-tenant");
    let context = opened_with(HeaderMap::from_iter([(name.clone(), value)]), |layer| layer.keep_headers([name])).await;
    let kept = context.header("x-tenant").expect("kept");
    assert_eq!(kept, "xxxxxxxxxx");
    assert!(!head.as_ptr_range().contains(&kept.as_ptr()), "a slice of the head keeps all of it");
}
