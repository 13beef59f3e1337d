//! The layer logs each fault of its configuration once.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};

use crate::log::listen;
use axum::body::Body;
use axum::http::{Request, Response};
use http::request::Parts;
use http_body_util::Empty;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::PolicySessionManager;
use rmcp_session_policy::http::PolicyLayer;
use tower::{Service, service_fn};

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const FORGOTTEN: &str = "name the proxy with trusted_proxies()";

/// A layer that finds the peer among the request's extensions.
fn layer() -> PolicyLayer<LocalSessionManager> {
    let sessions = PolicySessionManager::local().build().expect("valid");
    sessions.layer().peer(|parts: &Parts| parts.extensions.get::<IpAddr>().copied())
}

/// Sends requests from a peer through one layer around a service that answers everything.
async fn send(layer: &PolicyLayer<LocalSessionManager>, requests: usize, peer: IpAddr, header: Option<&'static str>) {
    // As rmcp answers what is no request.
    let answer = |_| async {
        let mut response = Response::new(Empty::<bytes::Bytes>::new());
        *response.status_mut() = http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Ok::<_, Infallible>(response)
    };
    let mut service = layer.layer(service_fn(answer));
    for _ in 0..requests {
        let mut request = Request::post("/").extension(peer);
        if let Some(header) = header {
            request = request.header(header, "for=203.0.113.1");
        }
        let request = request.body(Body::empty()).expect("a request");
        service.call(request).await.expect("answers");
    }
}

#[tokio::test]
async fn an_unnamed_proxy_is_logged_once() {
    for header in ["x-forwarded-for", "forwarded"] {
        let (log, _listening) = listen();
        let layer = layer();
        send(&layer, 99, PROXY, Some(header)).await;
        send(&layer, 200, PROXY, None).await;
        assert_eq!(log.says(FORGOTTEN), 0, "it may be chance");
        send(&layer, 1, PROXY, Some(header)).await;
        assert_eq!((log.says(FORGOTTEN), log.says("WARN"), log.says("192.0.2.1")), (1, 1, 1));
        send(&layer.clone(), 1_000, PROXY, Some(header)).await;
        assert_eq!(log.says(FORGOTTEN), 1);
    }
}

#[tokio::test]
async fn named_proxies_and_distinct_clients_log_nothing() {
    let (log, _listening) = listen();
    let named = layer().trusted_proxies(["192.0.2.1"]).expect("an address");
    send(&named, 300, PROXY, Some("x-forwarded-for")).await;
    let several = layer();
    send(&several, 1, PROXY, Some("x-forwarded-for")).await;
    send(&several, 1, OTHER, None).await;
    send(&several, 300, PROXY, Some("x-forwarded-for")).await;
    send(&layer(), 300, PROXY, None).await;
    assert_eq!(log.says("WARN"), 0);
}
