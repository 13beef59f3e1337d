//! The layer under other servers and versions of HTTP, and with request bodies that stall or break off.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp_session_policy::admission::SlidingWindow;
use rmcp_session_policy::{PolicySessionManager, PolicySessionManagerBuilder, RejectionReason};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Sessions = PolicySessionManager<LocalSessionManager>;
type Mcp = StreamableHttpService<crate::server::Tools, Sessions>;

fn mcp(builder: PolicySessionManagerBuilder<LocalSessionManager>) -> (Arc<Sessions>, Mcp) {
    let sessions = Arc::new(builder.build().expect("valid"));
    let mut config = StreamableHttpServerConfig::default();
    config.session_store = Some(sessions.parking());
    let mcp = StreamableHttpService::new(|| Ok(crate::server::Tools::default()), Arc::clone(&sessions), config);
    (sessions, mcp)
}

fn once_a_minute() -> PolicySessionManagerBuilder<LocalSessionManager> {
    PolicySessionManager::local().admission(SlidingWindow::new(1, Duration::from_secs(60)))
}

/// Serves anything on a free port, without axum, HTTP/1 and HTTP/2.
async fn hyper<S, B>(service: S) -> String
where
    S: tower_service::Service<http::Request<hyper::body::Incoming>, Response = http::Response<B>>,
    S: Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: axum::body::HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tcp.set_nodelay(true).expect("nodelay");
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                // A client may hang up at any time.
                server.serve_connection(TokioIo::new(tcp), service).await.ok();
            });
        }
    });
    url
}

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}})
}

async fn post(client: &reqwest::Client, url: &str) -> reqwest::Response {
    let request = client.post(url).header("accept", "application/json, text/event-stream").json(&initialize());
    request.send().await.expect("answers")
}

/// One comes in, the next is refused with all that belongs to it.
async fn one_comes_in_and_the_next_is_told_when(client: &reqwest::Client, url: &str) -> reqwest::Response {
    let first = post(client, url).await;
    assert_eq!(first.status(), 200);
    assert!(first.headers().contains_key("mcp-session-id"));
    let second = post(client, url).await;
    assert_eq!(second.status(), 429);
    assert!(second.headers().contains_key("retry-after"));
    second
}

#[tokio::test]
async fn the_layer_works_under_bare_hyper() {
    let (sessions, mcp) = mcp(once_a_minute());
    let url = hyper(sessions.layer().layer(mcp)).await;
    one_comes_in_and_the_next_is_told_when(&reqwest::Client::new(), &url).await;
}

#[tokio::test]
async fn the_layer_works_over_http_2_and_a_drain_sends_no_connection_header() {
    let (sessions, mcp) = mcp(once_a_minute());
    let url = hyper(sessions.layer().layer(mcp)).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
    let second = one_comes_in_and_the_next_is_told_when(&client, &url).await;
    assert_eq!(second.version(), reqwest::Version::HTTP_2);
    sessions.drain(Duration::ZERO).await;
    let drained = post(&client, &url).await;
    assert_eq!(drained.status(), 503);
    assert!(!drained.headers().contains_key("connection"));
    let body: Value = drained.json().await.expect("json");
    assert_eq!(body["error"]["data"]["reason"], "draining");
}

#[tokio::test]
async fn the_layer_works_with_a_buffer_before_the_service() {
    let (sessions, mcp) = mcp(once_a_minute());
    let url = hyper(sessions.layer().layer(tower::buffer::Buffer::new(mcp, 8))).await;
    one_comes_in_and_the_next_is_told_when(&reqwest::Client::new(), &url).await;
}

#[tokio::test]
async fn the_layer_works_in_a_service_builder() {
    let (sessions, mcp) = mcp(once_a_minute());
    let service = tower::ServiceBuilder::new().layer(sessions.layer()).service(mcp);
    one_comes_in_and_the_next_is_told_when(&reqwest::Client::new(), &hyper(service).await).await;
}

#[tokio::test]
async fn a_body_that_never_comes_holds_no_place_and_no_quota() {
    let (sessions, mcp) = mcp(once_a_minute().max_sessions(1));
    let url = hyper(sessions.layer().layer(mcp)).await;
    let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut tcp = TcpStream::connect(&address).await.expect("connects");
        let head = format!(
            "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\ncontent-length: 500\r\n\r\n{}",
            &initialize().to_string()[..40]
        );
        tcp.write_all(head.as_bytes()).await.expect("sends");
        slow.push(tcp);
    }
    let client = reqwest::Client::new();
    one_comes_in_and_the_next_is_told_when(&client, &url).await;
    assert_eq!((sessions.stats().live, sessions.stats().reserved), (1, 0));
}

#[tokio::test]
async fn a_client_that_hangs_up_in_its_body_leaves_nothing_behind() {
    let (sessions, mcp) = mcp(once_a_minute().max_sessions(1));
    let url = hyper(sessions.layer().layer(mcp)).await;
    let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    for _ in 0..20 {
        let mut tcp = TcpStream::connect(&address).await.expect("connects");
        tcp.write_all(
            b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
              accept: application/json, text/event-stream\r\ncontent-length: 500\r\n\r\n{",
        )
        .await
        .expect("sends");
        tcp.shutdown().await.expect("hangs up");
        // The server has seen it once it hangs up too.
        let mut rest = Vec::new();
        tcp.read_to_end(&mut rest).await.ok();
    }
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.reserved, stats.opened), (0, 0, 0), "{stats:?}");
    one_comes_in_and_the_next_is_told_when(&reqwest::Client::new(), &url).await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_waited_for_briefly() {
    let (sessions, mcp) = mcp(once_a_minute());
    let url = hyper(sessions.layer().discard(4 << 20, Duration::from_millis(50)).layer(mcp)).await;
    assert_eq!(post(&reqwest::Client::new(), &url).await.status(), 200);
    let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let mut tcp = TcpStream::connect(&address).await.expect("connects");
    tcp.write_all(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 500\r\n\r\n{\"jsonrpc\"")
        .await
        .expect("sends");
    let mut head = [0; 12];
    tcp.read_exact(&mut head).await.expect("answers though the body has not come");
    assert_eq!(&head, b"HTTP/1.1 429");
    assert_eq!(sessions.stats().rejected(RejectionReason::Quota), 1);
}

#[tokio::test]
async fn requests_that_are_not_mcp_are_answered_by_the_service() {
    let (sessions, mcp) = mcp(PolicySessionManager::local());
    let url = hyper(sessions.layer().layer(mcp)).await;
    let client = reqwest::Client::new();
    let status = |method: &'static str| {
        let request = client.request(method.parse().expect("a method"), &url).body("x");
        async move { request.send().await.expect("answers").status().as_u16() }
    };
    let methods = ["HEAD", "OPTIONS", "PUT", "BREW"];
    for method in methods {
        assert_eq!(status(method).await, 405, "{method}");
    }
    let bad = |name: &'static str, value: &'static [u8]| {
        let value = reqwest::header::HeaderValue::from_bytes(value).expect("bytes");
        client.post(&url).header("accept", "application/json, text/event-stream").header(name, value)
    };
    let unreadable = bad("mcp-session-id", b"\xff\xfe").json(&initialize()).send().await.expect("answers");
    assert!(unreadable.status().is_success(), "rmcp takes an unreadable id for none");
    let large = bad("content-type", b"application/json").body(vec![b' '; 5 << 20]).send().await.expect("answers");
    assert_eq!(large.status(), 413);
    assert_eq!(sessions.stats().reserved, 0);
}
