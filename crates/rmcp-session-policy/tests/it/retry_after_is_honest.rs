//! docs/design.md, L9.
//!
//! A client that waits for `Retry-After` is admitted. A client that waits one second less is not.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp_session_policy::PolicySessionManager;
use rmcp_session_policy::admission::{AdmissionPolicy, AdmissionPolicyExt, SlidingWindow, TokenBucket};
use tower_service::Service;

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25",
    "capabilities":{},"clientInfo":{"name":"raw","version":"1"}}}"#;

/// Uses the policy up, then waits as told, less `early` seconds.
async fn comes_back(policy: impl AdmissionPolicy, early: u64) -> StatusCode {
    let sessions = Arc::new(PolicySessionManager::local().admission(policy).build().expect("valid"));
    let mcp = StreamableHttpService::new(
        || Ok(crate::server::Tools::default()),
        Arc::clone(&sessions),
        StreamableHttpServerConfig::default(),
    );
    let mut service = sessions.layer().layer(mcp);
    let mut ask = async || {
        let request = Request::post("/")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        let Ok(answer) = service.call(request.body(Body::from(INITIALIZE)).expect("a request")).await;
        let retry = answer.headers().get("retry-after").map(|value| value.to_str().expect("text").to_owned());
        (answer.status(), retry.map(|seconds| seconds.parse::<u64>().expect("seconds")))
    };
    let wait = loop {
        tokio::time::sleep(Duration::from_millis(130)).await;
        if let (StatusCode::TOO_MANY_REQUESTS, Some(wait)) = ask().await {
            break wait;
        }
    };
    tokio::time::sleep(Duration::from_secs(wait - early)).await;
    ask().await.0
}

#[tokio::test(start_paused = true)]
async fn retry_after_of_a_sliding_window_is_exact() {
    let policy = || SlidingWindow::new(3, Duration::from_millis(10_400));
    assert_eq!(comes_back(policy(), 0).await, 200);
    assert_eq!(comes_back(policy(), 1).await, 429);
}

#[tokio::test(start_paused = true)]
async fn retry_after_of_a_token_bucket_is_exact() {
    let policy = || TokenBucket::new(1, Duration::from_millis(7_300)).burst(4);
    assert_eq!(comes_back(policy(), 0).await, 200);
    assert_eq!(comes_back(policy(), 1).await, 429);
}

#[tokio::test(start_paused = true)]
async fn retry_after_of_two_policies_is_that_of_the_stricter() {
    let policy =
        || TokenBucket::per_second(1).burst(2).per_client().and(SlidingWindow::new(2, Duration::from_secs(30)));
    assert_eq!(comes_back(policy(), 0).await, 200);
}
