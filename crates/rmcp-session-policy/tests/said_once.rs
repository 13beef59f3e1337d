//! What an operator should hear of is said once, not for each client.

use std::io::Write;
use std::sync::{Arc, Mutex};

use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp_session_policy::admission::{AdmissionPolicyExt, Concurrent};
use rmcp_session_policy::{ClientContext, PolicySessionManager};

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// How often something was said.
    fn says(&self, what: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().expect("no panic under it")).matches(what).count()
    }
}

impl Write for Log {
    fn write(&mut self, said: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic under it").write(said)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn that_clients_without_a_context_share_a_limit_is_said_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _listening = tracing::subscriber::set_default(subscriber);
    let sessions = PolicySessionManager::local().admission(Concurrent::new(9).per_client()).build().expect("valid");
    let known = ClientContext::new().with_peer([192, 0, 2, 1].into());
    let _one = known.scope(sessions.create_session()).await.expect("a place");
    assert_eq!(log.says("share one limit"), 0, "who is known shares nothing");
    for _ in 0..3 {
        sessions.create_session().await.expect("a place");
    }
    assert_eq!(log.says("share one limit"), 1);
}
