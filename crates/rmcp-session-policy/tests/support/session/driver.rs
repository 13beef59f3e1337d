//! A driver that makes the calls of rmcp's service to a manager one by one.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use futures_core::Stream;
use futures_util::StreamExt;
use rmcp::ServerHandler;
use rmcp::transport::streamable_http_server::session::{
    ServerSseMessage, SessionId, SessionManager, SessionState, SessionStore,
};
use serde_json::{Value, json};

use super::handlers::Tools;
use super::messages::{call_message, error_code, initialize_params, message};

/// What comes on a stream.
pub struct Replies {
    stream: Pin<Box<dyn Stream<Item = ServerSseMessage> + Send + Sync>>,
}

impl Replies {
    /// The next message, priming events left out; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(message) = self.stream.next().await?.message {
                return Some(serde_json::to_value(&*message).expect("serializes"));
            }
        }
    }

    /// All there is until the end of the stream.
    pub async fn rest(mut self) -> Vec<Value> {
        let mut all = Vec::new();
        while let Some(message) = self.next().await {
            all.push(message);
        }
        all
    }

    /// The answers there are until the end of the stream.
    pub async fn answers(self) -> Vec<Value> {
        self.rest().await.into_iter().filter(|message| message.get("method").is_none()).collect()
    }

    /// The text of the one result.
    pub async fn text(self) -> String {
        let answers = self.answers().await;
        assert_eq!(answers.len(), 1, "one answer: {answers:?}");
        answers[0]["result"]["content"][0]["text"]
            .as_str()
            .unwrap_or_else(|| panic!("a result: {answers:?}"))
            .to_owned()
    }

    /// The id and code of the one error, or of the one result that says that a call was refused or cut off.
    pub async fn error(self) -> (Value, i64) {
        let answers = self.answers().await;
        assert_eq!(answers.len(), 1, "one answer: {answers:?}");
        let code = error_code(&answers[0]).unwrap_or_else(|| panic!("an error: {answers:?}"));
        (answers[0]["id"].clone(), code)
    }
}

/// One client of a manager, and what rmcp's service does for it.
pub struct Driver<M> {
    pub manager: Arc<M>,
    pub id: SessionId,
    next: AtomicU64,
}

impl<M: SessionManager> Driver<M> {
    /// Creates a session and serves it, as rmcp does before it hands `initialize` in.
    pub async fn open(manager: &Arc<M>) -> Result<Self, M::Error> {
        Self::open_with(manager, Tools::default()).await
    }

    pub async fn open_with(manager: &Arc<M>, handler: impl ServerHandler) -> Result<Self, M::Error> {
        let (id, transport) = manager.create_session().await?;
        let (served, ending) = (SessionId::clone(&id), Arc::clone(manager));
        tokio::spawn(async move {
            if let Ok(service) = rmcp::service::serve_server(handler, transport).await {
                service.waiting().await.ok();
            }
            ending.close_session(&served).await.ok();
        });
        Ok(Self { manager: Arc::clone(manager), id, next: AtomicU64::new(1) })
    }

    /// Opens a session and finishes its handshake.
    pub async fn ready(manager: &Arc<M>) -> Result<Self, M::Error> {
        let driver = Self::open(manager).await?;
        driver.initialize().await?;
        driver.initialized().await?;
        Ok(driver)
    }

    pub fn next_id(&self) -> Value {
        self.next.fetch_add(1, SeqCst).into()
    }

    pub async fn initialize(&self) -> Result<Value, M::Error> {
        let request = json!({
            "jsonrpc": "2.0", "id": self.next_id(), "method": "initialize", "params": initialize_params(),
        });
        let answer = self.manager.initialize_session(&self.id, message(request)).await?;
        Ok(serde_json::to_value(&answer).expect("serializes"))
    }

    pub async fn initialized(&self) -> Result<(), M::Error> {
        self.notify("notifications/initialized", json!({})).await
    }

    pub async fn notify(&self, method: &str, params: Value) -> Result<(), M::Error> {
        let notification = message(json!({ "jsonrpc": "2.0", "method": method, "params": params }));
        self.manager.accept_message(&self.id, notification).await
    }

    pub async fn send(&self, request: Value) -> Result<Replies, M::Error> {
        let stream = self.manager.create_stream(&self.id, message(request)).await?;
        Ok(Replies { stream: Box::pin(stream) })
    }

    pub async fn call(&self, tool: &str, arguments: Value) -> Result<Replies, M::Error> {
        self.call_as(self.next_id(), tool, arguments).await
    }

    pub async fn call_as(&self, id: Value, tool: &str, arguments: Value) -> Result<Replies, M::Error> {
        self.send(call_message(&id, tool, &arguments)).await
    }

    pub async fn sleep(&self, millis: u64) -> Result<Replies, M::Error> {
        self.call("sleep", json!({ "millis": millis })).await
    }

    pub async fn echo(&self, text: &str) -> Result<String, M::Error> {
        Ok(self.call("echo", json!({ "text": text })).await?.text().await)
    }

    pub async fn ping(&self) -> Result<(), M::Error> {
        let replies = self.send(json!({ "jsonrpc": "2.0", "id": self.next_id(), "method": "ping" })).await?;
        assert_eq!(replies.answers().await.len(), 1);
        Ok(())
    }

    /// Opens the stream of a GET.
    pub async fn listen(&self) -> Result<Replies, M::Error> {
        let stream = self.manager.create_standalone_stream(&self.id).await?;
        Ok(Replies { stream: Box::pin(stream) })
    }

    /// Whether the session takes requests.
    pub async fn lives(&self) -> bool {
        self.manager.has_session(&self.id).await.expect("answers")
    }

    /// Lets the session be parked when it ends.
    pub async fn store(&self, store: &Arc<dyn SessionStore>) {
        let params = serde_json::from_value(initialize_params()).expect("params");
        store.store(&self.id, &SessionState::new(params)).await.expect("stores");
    }
}
