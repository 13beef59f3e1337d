//! A policy of one's own: while the server warms up, only the operator comes in.

use std::time::Duration;

use async_trait::async_trait;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp_session_policy::admission::{
    AdmissionPolicy, AdmissionPolicyExt, Arrival, Concurrent, Permit, Rejection, RejectionClass, Retry,
};
use rmcp_session_policy::{ClientContext, PolicyError, PolicySessionManager, RejectionReason};
use tokio::time::Instant;

/// Lets only the operator in until a moment.
#[derive(Debug)]
struct WarmUp {
    until: Instant,
}

#[async_trait]
impl AdmissionPolicy for WarmUp {
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        self.peek(arrival).map(|()| Permit::free())
    }

    fn peek(&self, arrival: &Arrival<'_>) -> Result<(), Rejection> {
        let operator = arrival.context().and_then(ClientContext::principal) == Some("operator");
        let left = self.until.saturating_duration_since(arrival.now());
        if operator || left.is_zero() {
            return Ok(());
        }
        Err(Rejection::new("warm_up").with_class(RejectionClass::Overload).with_retry(Retry::After(left)))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let warm_up = WarmUp { until: Instant::now() + Duration::from_millis(200) };
    // And no client has more than two sessions at once.
    let policy = warm_up.and(Concurrent::new(2).per_client());
    let sessions = PolicySessionManager::local().admission(policy).build()?;

    let operator = ClientContext::new().with_principal("operator");
    let (_operator, _transport) = operator.scope(sessions.create_session()).await?;

    let alice = || ClientContext::new().with_principal("alice");
    let Err(PolicyError::Rejected(rejection)) = alice().scope(sessions.create_session()).await else {
        panic!("too early for alice");
    };
    let Retry::After(wait) = rejection.retry() else { panic!("the policy knows when") };
    tokio::time::sleep(wait).await;

    let (_first, _transport) = alice().scope(sessions.create_session()).await?;
    let (_second, _transport) = alice().scope(sessions.create_session()).await?;
    let third = alice().scope(sessions.create_session()).await.map(drop).expect_err("one too many");
    assert_eq!(third.to_string(), "refused by concurrent");
    assert_eq!(sessions.stats().rejected(RejectionReason::Quota), 1);
    assert_eq!(sessions.stats().rejected(RejectionReason::Overload), 1);
    Ok(())
}
