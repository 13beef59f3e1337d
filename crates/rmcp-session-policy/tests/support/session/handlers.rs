//! Handlers: one with tools, and two with an `initialize` of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    InitializeRequestParams, InitializeResult, ProgressNotificationParam, RequestMetaObject, ServerConfig,
};
use rmcp::service::{Peer, RequestContext};
use rmcp::{ErrorData, RoleServer, ServerHandler, schemars, tool, tool_router};

#[derive(Debug, Default, serde::Deserialize, schemars::JsonSchema)]
pub struct Millis {
    pub millis: u64,
}

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
pub struct Text {
    pub text: String,
}

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
pub struct Messages {
    pub messages: u32,
}

/// One per session.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    counter: Arc<AtomicU64>,
}

#[tool_router(server_handler)]
impl Tools {
    #[tool(description = "gives the text back")]
    fn echo(&self, Parameters(Text { text }): Parameters<Text>) -> String {
        text
    }

    #[tool(description = "waits")]
    async fn sleep(&self, Parameters(Millis { millis }): Parameters<Millis>) -> String {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        format!("slept {millis}")
    }

    #[tool(description = "counts the calls of this session")]
    fn count(&self) -> String {
        (self.counter.fetch_add(1, SeqCst) + 1).to_string()
    }

    #[tool(description = "panics")]
    fn explode(&self) -> String {
        panic!("as asked")
    }

    #[tool(description = "sends N progress notifications before it answers")]
    async fn chatter(
        &self,
        Parameters(Messages { messages }): Parameters<Messages>,
        meta: RequestMetaObject,
        client: Peer<RoleServer>,
    ) -> String {
        let token = meta.get_progress_token().expect("a progress token");
        for message in 0..messages {
            let progress = ProgressNotificationParam::new(token.clone(), f64::from(message));
            if client.notify_progress(progress).await.is_err() {
                break;
            }
        }
        "said it all".to_owned()
    }

    #[tool(description = "sends N notifications to the stream of the GET")]
    async fn announce(
        &self,
        Parameters(Messages { messages }): Parameters<Messages>,
        client: Peer<RoleServer>,
    ) -> String {
        for _ in 0..messages {
            if client.notify_resource_list_changed().await.is_err() {
                break;
            }
        }
        "announced it all".to_owned()
    }
}

/// Answers `initialize` after a while, if at all.
#[derive(Clone, Debug)]
pub struct SlowToInitialize(pub Duration);

impl ServerHandler for SlowToInitialize {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::default()
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        tokio::time::sleep(self.0).await;
        context.peer.set_peer_info(request.clone());
        self.negotiate_initialize(&request)
    }
}

/// Refuses `initialize`.
#[derive(Clone, Debug)]
pub struct Refuses;

impl ServerHandler for Refuses {
    async fn initialize(
        &self,
        _request: InitializeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        Err(ErrorData::invalid_request("not today", None))
    }
}
