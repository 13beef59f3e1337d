//! What the operator's calls take with 100,000 sessions over the stub: each holds the manager's lock for 1,000 records at a time.

use std::io::Write;
use std::time::{Duration, Instant};

use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp_session_policy::eviction::SessionInfo;
use rmcp_session_policy::{CloseReason, Metrics, PolicySessionManager};
use rmcp_session_policy_benches::service::exporter;
use rmcp_session_policy_benches::stub::StubManager;

const SESSIONS: usize = 100_000;
const TIMES: usize = 51;

/// The median of some runs.
fn median(mut run: impl FnMut()) -> Duration {
    let mut took: Vec<_> = (0..TIMES)
        .map(|_| {
            let began = Instant::now();
            run();
            began.elapsed()
        })
        .collect();
    took.sort_unstable();
    took[TIMES / 2]
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let exporter = exporter();
    let sessions =
        PolicySessionManager::builder(StubManager::<rmcp_session_policy_benches::stub::StubTransport>::default())
            .max_sessions(SESSIONS)
            .max_opening(SESSIONS)
            .metrics(Metrics::new().clients(["claude-code", "cursor-vscode"]))
            .build()
            .expect("valid");
    let mut held = Vec::with_capacity(SESSIONS);
    for _ in 0..SESSIONS {
        held.push(sessions.create_session().await.expect("a place"));
    }
    let mut out = std::io::stdout();
    let mut page = String::new();
    let scrape = median(|| {
        sessions.publish_metrics();
        page = exporter.render();
    });
    writeln!(out, "a scrape, gauges set and rendered   {scrape:?}, {} bytes", page.len())?;
    writeln!(out, "publish_metrics()                   {:?}", median(|| sessions.publish_metrics()))?;
    writeln!(out, "stats()                             {:?}", median(|| drop(sessions.stats())))?;
    writeln!(out, "list()                              {:?}", median(|| drop(sessions.list())))?;
    let began = Instant::now();
    let none = sessions.terminate(|_: &SessionInfo<'_>| false, CloseReason::Revoked).await;
    writeln!(out, "terminate(..), which selects {none}      {:?}", began.elapsed())?;
    Ok(())
}
