//! The tools that the examples offer: `echo`, `sleep` and `count`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::ProgressNotificationParam;
use rmcp::service::RequestContext;
use rmcp::{RoleServer, schemars, tool, tool_router};

/// What `echo` gives back.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
pub struct Echo {
    /// The text to give back.
    pub text: String,
}

/// How long to sleep.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
pub struct Sleep {
    /// In milliseconds.
    pub millis: u64,
}

/// The handler of one session.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    calls: Arc<AtomicU64>,
}

#[tool_router(server_handler)]
impl Tools {
    #[tool(description = "Gives a text back")]
    fn echo(&self, Parameters(Echo { text }): Parameters<Echo>) -> String {
        text
    }

    #[tool(description = "Sleeps, and reports progress ten times on the way if asked to")]
    async fn sleep(
        &self,
        Parameters(Sleep { millis }): Parameters<Sleep>,
        context: RequestContext<RoleServer>,
    ) -> String {
        let token = context.meta.get_progress_token();
        for tenth in 1..=10 {
            tokio::time::sleep(Duration::from_micros(millis.saturating_mul(100))).await;
            if let Some(token) = &token {
                let progress = ProgressNotificationParam::new(token.clone(), f64::from(tenth) / 10.0).with_total(1.0);
                // A client that has gone does not hear of it; the sleep goes on.
                context.peer.notify_progress(progress).await.ok();
            }
        }
        format!("slept {millis} ms")
    }

    #[tool(description = "Counts the calls of `count` in this session")]
    fn count(&self) -> String {
        (self.calls.fetch_add(1, Relaxed) + 1).to_string()
    }
}
