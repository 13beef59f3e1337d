//! [`BestEffort`].

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt, stream};
use rmcp::transport::streamable_http_server::session::{
    EventId, EventStore, EventStoreError, EventStream, ServerSseMessage,
};
use tokio::time::timeout;

use super::position::{Position, StreamName, stored_id};
use super::streams::Streams;

/// How long an event waits for the store.
const WAIT: Duration = Duration::from_millis(50);

/// Wraps an event store so that it loses no message: it never fails, and no call of it takes longer than 50 ms.
///
/// An event that the store does not take within that time is sent all the same, and cannot be replayed. Its id is that of
/// the position after the last stored event, so a client that resumes there gets what was stored later. The wrapper stores
/// no event without a message: rmcp begins the stream of each request with such a priming event, for which the client would
/// wait. It gives the store hashes of stream ids, because rmcp's contain session ids, which are credentials.
///
/// Give the [local manager](crate::PolicySessionManagerBuilder::events) a store, and it is wrapped. With another inner
/// manager, wrap the store before you give it to that manager.
///
/// To resume a request's stream before its first event takes that event from the memory of this process, where some are kept
/// (4,096 streams, 16 MiB); after a restart nothing is left of such a stream.
///
/// ```
/// use std::sync::Arc;
///
/// use rmcp::transport::streamable_http_server::session::{
///     EventId, EventStore, EventStoreError, EventStream, ServerSseMessage,
/// };
/// use rmcp_session_policy::event_store::BestEffort;
///
/// /// A store that is down.
/// struct Down;
///
/// #[async_trait::async_trait]
/// impl EventStore for Down {
///     async fn store_event(&self, _: &str, _: &ServerSseMessage) -> Result<EventId, EventStoreError> {
///         Err("down".into())
///     }
///
///     async fn replay_events_after(&self, _: &str) -> Result<EventStream, EventStoreError> {
///         Err("down".into())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = BestEffort::new(Arc::new(Down));
/// let error = rmcp::model::ErrorData::internal_error("an event", None);
/// let event = ServerSseMessage::from_message(rmcp::model::ServerJsonRpcMessage::error(error, None));
/// assert!(store.store_event("a stream", &event).await.is_ok());
/// assert_eq!(store.unstored(), 1);
/// # Ok(()) }
/// ```
pub struct BestEffort {
    store: Arc<dyn EventStore>,
    streams: Mutex<Streams>,
    /// Makes the ids of events that are not stored different.
    number: AtomicU64,
    unstored: AtomicU64,
    /// Whether the latest call of the store failed.
    fails: AtomicBool,
}

impl BestEffort {
    /// Wraps a store.
    #[must_use]
    pub fn new(store: Arc<dyn EventStore>) -> Self {
        Self {
            store,
            streams: Mutex::default(),
            number: AtomicU64::new(0),
            unstored: AtomicU64::new(0),
            fails: AtomicBool::new(false),
        }
    }

    /// Returns how many events with a message the store did not take in time. Some of them may be in it nevertheless: a call
    /// that takes too long is dropped, and the store may have done its work.
    #[must_use]
    pub fn unstored(&self) -> u64 {
        self.unstored.load(Relaxed)
    }

    /// Locks what is remembered of the streams. Not held across an await.
    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for an answer of the store. `None` if it fails, panics or takes too long. Logs the first failure and the first
    /// answer after it, without the error, which may contain what clients must not see.
    async fn ask<T>(&self, call: impl Future<Output = Result<T, EventStoreError>> + Send) -> Option<T> {
        let answer = timeout(WAIT, AssertUnwindSafe(call).catch_unwind()).await;
        let (answer, why) = match answer {
            Ok(Ok(Ok(answer))) => (Some(answer), ""),
            Ok(Ok(Err(_))) => (None, "failed"),
            Ok(Err(_)) => (None, "panicked"),
            Err(_) => (None, "took too long"),
        };
        if answer.is_none() && !self.fails.swap(true, Relaxed) {
            tracing::warn!("the event store {why}; streams cannot be resumed until it is back");
        } else if answer.is_some() && self.fails.load(Relaxed) && self.fails.swap(false, Relaxed) {
            tracing::info!("the event store is back");
        }
        answer
    }

    /// What the store has after one of its events. Nothing if it fails.
    async fn after(&self, id: &str) -> EventStream {
        let Some(events) = self.ask(self.store.replay_events_after(id)).await else { return Box::pin(stream::empty()) };
        Box::pin(events.map(|mut event| {
            event.event_id = event.event_id.map(stored_id);
            event
        }))
    }
}

#[async_trait]
impl EventStore for BestEffort {
    /// Stores an event that has a message. Never fails.
    async fn store_event(&self, stream_id: &str, event: &ServerSseMessage) -> Result<EventId, EventStoreError> {
        let name = StreamName::of(stream_id);
        if event.message.is_some() {
            let text = name.text();
            if let Some(id) = self.ask(self.store.store_event(&text, event)).await {
                self.streams().stored(name, &id, event);
                return Ok(stored_id(id));
            }
            self.unstored.fetch_add(1, Relaxed);
        }
        let number = self.number.fetch_add(1, Relaxed);
        Ok(self.streams().id_here(name, number))
    }

    /// Replays what is stored after a position; nothing if the id is of no wrapper, or the store fails. Never fails.
    async fn replay_events_after(&self, last_event_id: &str) -> Result<EventStream, EventStoreError> {
        Ok(match Position::read(last_event_id) {
            Some(Position::After(id)) => self.after(id).await,
            Some(Position::Beginning(name)) => {
                let Some((id, mut first)) = self.streams().first(name) else { return Ok(Box::pin(stream::empty())) };
                let rest = self.after(&id).await;
                first.event_id = Some(stored_id(id));
                Box::pin(stream::iter([first]).chain(rest))
            }
            None => Box::pin(stream::empty()),
        })
    }
}

impl fmt::Debug for BestEffort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BestEffort").field("unstored", &self.unstored()).finish_non_exhaustive()
    }
}
