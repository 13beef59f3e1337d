//! The manager under test behind rmcp's service and the layer, and the requests that clients make to it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::{Value, json};
use tokio::time::timeout;
use tower_service::Service;

use super::answer::{Answer, Told, text};
use super::model::{IDLE, INIT, LIFETIME, Order, PARKED, PLACES};
use super::witnesses::{Ends, Leases, Tools};
use crate::PolicySessionManager;
use crate::eviction::EvictionPolicy;
use crate::session::Fingerprint;
use crate::testing::inner::Scripted;
use crate::time::HOUR;

/// The real thing: a manager behind rmcp's service and the layer.
pub(super) struct Server {
    /// The inner manager, to make it fail and to count what exists.
    pub(super) inner: Scripted,
    /// The manager under test.
    pub(super) sessions: Arc<PolicySessionManager<Scripted>>,
    /// The admission policy, to count what is held.
    pub(super) leases: Leases,
    /// The observer, to find events that are wrong.
    pub(super) ends: Ends,
    /// The id of the last call. Ids differ over all sessions.
    numbers: u64,
}

impl Server {
    /// Makes the manager with the settings that the model knows. Busy and parked sessions have limits of 1,000 hours,
    /// so that the model need not know them.
    pub(super) fn new(policy: impl EvictionPolicy, order: Order) -> Result<Self, String> {
        let (inner, leases, ends) = (Scripted::relaying(), Leases::default(), Ends::default());
        let sessions = PolicySessionManager::builder(inner.clone())
            .max_sessions(PLACES)
            .max_parked(PARKED)
            .admission(leases.clone())
            .eviction(policy)
            // After an hour without events each burst is a surge, in which the guard has an order of its own.
            .surge_guard(order.is_none())
            .idle_timeout(IDLE)
            .init_timeout(INIT)
            .max_lifetime(LIFETIME)
            .max_busy(1_000 * HOUR)
            .max_parked_age(1_000 * HOUR)
            .observer(ends.clone())
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { inner, sessions: Arc::new(sessions), leases, ends, numbers: 0 })
    }

    /// Returns the sessions that the manager lists as live, closing ones included.
    pub(super) fn here(&self) -> Vec<Fingerprint> {
        self.sessions.list().into_iter().map(|session| session.fingerprint).collect()
    }

    /// Sends one request, and returns the response with its body unread. Each request gets a service and a layer of its
    /// own; the manager is what they share.
    pub(super) async fn send(&self, method: Method, session: Option<&str>, message: &Value) -> Result<Answer, String> {
        let mut config = StreamableHttpServerConfig::default();
        config.session_store = Some(self.sessions.parking());
        config.sse_keep_alive = None;
        let mcp = StreamableHttpService::new(|| Ok(Tools), Arc::clone(&self.sessions), config);
        let request = Request::builder().method(method).uri("/").header("host", "localhost");
        let request = request.header("content-type", "application/json");
        let mut request = request.header("accept", "application/json, text/event-stream");
        if let Some(id) = session {
            request = request.header("mcp-session-id", id);
        }
        let request = request.body(Full::new(Bytes::from(message.to_string()))).map_err(|error| error.to_string())?;
        let Ok(answer) = self.sessions.layer().layer(mcp).call(request).await;
        Ok(answer.map(BodyExt::boxed_unsync))
    }

    /// Sends `initialize`, and reads the answer to its end. Returns the id of the session, empty if the newcomer was
    /// rejected.
    pub(super) async fn initialize(&self) -> Result<(Told, String), String> {
        let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "model", "version": "1"}}});
        let answer = self.send(Method::POST, None, &message).await?;
        let id = answer.headers().get("mcp-session-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        let told = match answer.status() {
            StatusCode::OK => Told::Answer,
            StatusCode::SERVICE_UNAVAILABLE => Told::Refused,
            other => return Err(format!("a newcomer was answered with {other}")),
        };
        text(answer).await;
        Ok((told, id))
    }

    /// Says something that has no answer.
    pub(super) async fn notify(&self, id: &str, message: &Value) -> Result<(), String> {
        let status = self.send(Method::POST, Some(id), message).await?.status();
        hold!(status == 202, "a notification was answered with {status}");
        Ok(())
    }

    /// Finishes a handshake.
    pub(super) async fn initialized(&self, id: &str) -> Result<(), String> {
        self.notify(id, &json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await
    }

    /// Sends a request with an id of its own, and returns that id and the response, unread.
    async fn begin(&mut self, id: &str, method: &str, params: Value) -> Result<(u64, Answer), String> {
        self.numbers += 1;
        let call = json!({"jsonrpc": "2.0", "id": self.numbers, "method": method, "params": params});
        Ok((self.numbers, self.send(Method::POST, Some(id), &call).await?))
    }

    /// Makes a call that is answered at once.
    pub(super) async fn call(&mut self, id: &str) -> Result<Told, String> {
        let (_, answer) = self.begin(id, "tools/list", json!({})).await?;
        let status = answer.status();
        if status == 404 {
            return Ok(Told::NotFound);
        }
        let text = text(answer).await;
        match (text.contains("\"tools\":"), text.contains("\"code\":503")) {
            (true, false) if status == 200 => Ok(Told::Answer),
            (false, true) if status == 200 => Ok(Told::Refused),
            _ => Err(format!("a call was answered with {status} and {text}")),
        }
    }

    /// Makes a call that is never answered, and returns its response. It reads the first events of the stream, to see
    /// whether the call was rejected.
    pub(super) async fn hang(&mut self, id: &str) -> Result<(Told, u64, Answer), String> {
        let (number, mut answer) = self.begin(id, "tools/call", json!({"name": "any", "arguments": {}})).await?;
        if answer.status() == 404 {
            return Ok((Told::NotFound, number, answer));
        }
        // A refusal is answered at once; a call that hangs says nothing but the first event of its stream.
        let mut head = String::new();
        while let Ok(Some(Ok(frame))) = timeout(Duration::from_millis(1), answer.frame()).await {
            head.push_str(&String::from_utf8_lossy(frame.data_ref().map_or(&[], |data| data)));
        }
        let told = if head.contains("\"code\":503") { Told::Refused } else { Told::Answer };
        Ok((told, number, answer))
    }
}
