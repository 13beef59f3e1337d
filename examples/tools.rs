//! The tools that the examples offer: `echo`, `sleep`, `count`, `notify` and `close`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::ProgressNotificationParam;
use rmcp::service::{Peer, RequestContext};
use rmcp::{ErrorData, RoleServer, schemars, tool, tool_router};
use rmcp_session_policy::CurrentSession;

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

/// How often `count` was called in a session. It is session data, so it outlives the handler.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize, serde::Serialize)]
pub struct Count(pub u64);

/// The handler of one session.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    /// Counts the calls that belong to no session, as those of protocol 2026-07-28 do.
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
    fn count(&self, context: RequestContext<RoleServer>) -> Result<String, ErrorData> {
        let Ok(session) = CurrentSession::of(&context) else {
            return Ok((self.calls.fetch_add(1, Relaxed) + 1).to_string());
        };
        let count = session.data::<Count>().update(|count| {
            count.0 += 1;
            count.0
        })?;
        Ok(count.to_string())
    }

    #[tool(description = "Tells the listening stream of the session that the list of tools may have changed")]
    async fn notify(&self, client: Peer<RoleServer>) -> String {
        // A client that does not listen does not hear of it.
        client.notify_tool_list_changed().await.ok();
        "notified".to_owned()
    }

    #[tool(description = "Ends this session for good, once this call is answered")]
    fn close(&self, context: RequestContext<RoleServer>) -> Result<String, ErrorData> {
        CurrentSession::of(&context)?.close();
        Ok("closes".to_owned())
    }
}
