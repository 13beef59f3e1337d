//! docs/design.md, L13.
//!
//! The manager logs a warning for operators once, not for each client.

use crate::log::listen;
use crate::scripted::{Scripted, initialized};
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp_session_policy::admission::{AdmissionPolicyExt, Concurrent};
use rmcp_session_policy::eviction::victim_fn;
use rmcp_session_policy::{ClientContext, PolicySessionManager};

#[tokio::test]
async fn a_limit_shared_by_clients_without_a_context_is_logged_once() {
    let (log, _listening) = listen();
    let sessions = PolicySessionManager::local().admission(Concurrent::new(9).per_client()).build().expect("valid");
    let known = ClientContext::new().with_peer([192, 0, 2, 1].into());
    let _one = known.scope(sessions.create_session()).await.expect("a place");
    assert_eq!(log.says("share one limit"), 0, "who is known shares nothing");
    for _ in 0..3 {
        sessions.create_session().await.expect("a place");
    }
    assert_eq!(log.says("share one limit"), 1);
}

#[tokio::test]
async fn a_limit_per_client_without_a_context_is_logged_once() {
    let (log, _listening) = listen();
    let sessions = PolicySessionManager::local().per_client_max(9).build().expect("valid");
    let known = ClientContext::new().with_peer([192, 0, 2, 1].into());
    let _one = known.scope(sessions.create_session()).await.expect("a place");
    assert_eq!(log.says("have no limit"), 0, "it is known");
    for _ in 0..3 {
        sessions.create_session().await.expect("a place");
    }
    assert_eq!(log.says("have no limit"), 1);
}

#[tokio::test]
async fn an_overruled_policy_is_logged_once() {
    let (log, _listening) = listen();
    let policy = victim_fn(|_| None);
    let sessions =
        PolicySessionManager::builder(Scripted::new()).max_sessions(1).eviction(policy).build().expect("valid");
    let mut held = Vec::new();
    for newcomers in 0..4 {
        let (id, transport) = sessions.create_session().await.expect("a victim's place");
        sessions.accept_message(&id, initialized()).await.expect("accepts");
        held.push(transport);
        assert_eq!(log.says("is overruled"), usize::from(newcomers > 0));
    }
}
