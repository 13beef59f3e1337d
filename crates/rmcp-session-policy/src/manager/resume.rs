//! Resumption of streams by `Last-Event-ID`.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use rmcp::model::ServerJsonRpcMessage;
use rmcp::transport::streamable_http_server::session::{EventStream, ServerSseMessage, SessionId, SessionManager};
use tokio::time::{Instant, timeout};

use super::manager_inner::{ManagerInner, not_found};
use super::parked::Parked;
use super::session_manager::begin_listening;
#[cfg(feature = "http")]
use crate::directory::{Found, FoundState};
use crate::error::PolicyError;
use crate::scope::{Outcome, detached, record_outcome};
use crate::transport::{
    EventId, EventSource, LazySealKey, LiveStream, PolicyStream, Replayed, Resumption, SealKey, Session, cut_answer,
};

/// How long the rest of a stream of an incarnation that has ended waits for the next stored event. A store may keep its stream open for
/// events that no one will write.
const STORED_WITHIN: Duration = Duration::from_millis(50);

impl<I: SessionManager> ManagerInner<I> {
    /// The number of this incarnation in event ids.
    pub(super) fn incarnation(&self, session: &Session<I::Transport>) -> u32 {
        self.incarnations.number(session.record.entry.key)
    }

    /// The key of a session's event ids: that of what is parked, if another server has made it, or one of this manager.
    pub(super) fn lazy_seal_key(&self, parked: Option<&Parked>) -> LazySealKey {
        let root = Arc::clone(&self.seal_root);
        match parked.and_then(|parked| parked.seal_key.as_deref()) {
            Some(key) => LazySealKey::given(root, key.clone()),
            None => LazySealKey::new(root),
        }
    }

    /// The key of the event ids of a parked session.
    fn parked_seal_key(&self, id: &str) -> SealKey {
        let parked = self.parking.get(id, Instant::now());
        self.lazy_seal_key(parked.as_ref()).get(|root| root.of_session(id)).clone()
    }

    /// Opens the stream that a client asks for by a `Last-Event-ID`.
    ///
    /// # Errors
    ///
    /// Fails for an id of another session, for an unknown id, and if the inner manager refuses. The failures are not
    /// reported as those of the inner manager. rmcp answers them with an empty stream; otherwise the client would ask
    /// for the same event for ever.
    pub(super) async fn resume(
        self: &Arc<Self>,
        id: &SessionId,
        last_event_id: &str,
    ) -> Result<PolicyStream<I::Transport>, PolicyError<I::Error>> {
        if let Some(reserved) = self.take_reserved(id) {
            let key = self.parked_seal_key(id);
            return match Resumption::of(last_event_id, &key, None) {
                Resumption::Listen => self.listen(id, Some(reserved)).await,
                Resumption::ListenAfter(event) => {
                    let source = event.source.clone();
                    let stored = self.stored_after(id, &event).await;
                    Ok(match self.listen(id, Some(reserved)).await? {
                        PolicyStream::Listening(live) if stored.is_some() => {
                            PolicyStream::Rest(Box::pin(rest(stored, source, key, None).chain(live)))
                        }
                        // It is not parked any more.
                        stream => stream,
                    })
                }
                Resumption::Cut(event) => Ok(PolicyStream::Rest(self.rest_of_cut(id, event, key).await)),
                Resumption::After(_) | Resumption::Over => Err(over()),
                Resumption::Unknown => Err(PolicyError::UnknownEvent),
            };
        }
        let session = self.find_live(id)?;
        let listening = begin_listening::<I>(&session)?;
        let has_store = self.inner.event_store().is_some();
        let stream = match Resumption::of(last_event_id, session.seal_key(), Some(self.incarnation(&session))) {
            Resumption::Listen => self.open_stream(session).await,
            Resumption::ListenAfter(event) if has_store => self.listen_after(session, event.inner).await,
            Resumption::ListenAfter(_) => self.open_stream(session).await,
            Resumption::After(event) if has_store && event.source.is_listening() => {
                self.listen_after(session, event.inner).await
            }
            Resumption::After(event) => self.resume_after(session, event).await,
            // Not if the client uses the id again: it would take the answer for that of the request in flight.
            Resumption::Cut(event) if !session.ids.has(&event.source) => {
                let key = session.seal_key().clone();
                Ok(PolicyStream::Rest(self.rest_of_cut(id, event, key).await))
            }
            Resumption::Cut(_) | Resumption::Over => Err(over()),
            Resumption::Unknown => Err(PolicyError::UnknownEvent),
        };
        drop(listening);
        stream
    }

    /// Opens a listening stream that begins with what an event store has after an event. If the store fails, it begins with
    /// what comes next.
    async fn listen_after(
        &self,
        session: Arc<Session<I::Transport>>,
        event: &str,
    ) -> Result<PolicyStream<I::Transport>, PolicyError<I::Error>> {
        // The stream of the same client ends first, so that the inner manager continues with this one.
        drop(self.take_over(&session));
        let live = self.inner.create_standalone_stream(&session.record.id).await;
        let live = live.map_err(|error| self.failed_within(&session, error))?;
        let stored: EventStream = match self.inner.resume(&session.record.id, event.to_owned()).await {
            Ok(stored) => Box::pin(stored),
            Err(_) => Box::pin(stream::empty()),
        };
        session.record.ready();
        let source = EventSource::listening(self.incarnation(&session));
        Ok(self.listening(LiveStream::new(session, Replayed::new(stored, live), true, source)))
    }

    /// What is left of the stream of a request whose incarnation has ended: what an event store has after an event, and the
    /// answer that the request was cut off, unless the store has another one.
    async fn rest_of_cut(&self, id: &SessionId, event: EventId<'_>, key: SealKey) -> EventStream {
        let (stored, last) = (self.stored_after(id, &event).await, self.cut(&event.source));
        rest(stored, event.source, key, last)
    }

    /// Makes the answer to a request that its incarnation's end has cut off, and the end of its stream. `None` if the id of
    /// the request is not known.
    fn cut(&self, source: &EventSource) -> Option<ServerSseMessage> {
        let answer = cut_answer(source.request_id()?, source.is_call(), self.call_rejection());
        Some(ServerSseMessage::new(source.over_id(), answer))
    }

    /// What an event store has after an event of an incarnation that has ended. `None` without one.
    async fn stored_after(&self, id: &SessionId, event: &EventId<'_>) -> Option<EventStream> {
        self.inner.event_store()?;
        // An inner manager of this crate does not know the session while it is parked. That is not the answer.
        let stored = detached(self.inner.resume(id, event.inner.to_owned())).await.ok()?;
        Some(Box::pin(stored))
    }

    async fn resume_after(
        &self,
        session: Arc<Session<I::Transport>>,
        EventId { inner, source }: EventId<'_>,
    ) -> Result<PolicyStream<I::Transport>, PolicyError<I::Error>> {
        // Read before the inner manager is asked, so that an answer that comes meanwhile is not missed.
        let answered = !source.is_listening() && is_answered(&session, &source);
        if source.is_listening() {
            // The old stream ends first, so that the inner manager continues with the resumed one.
            drop(self.take_over(&session));
        }
        let stream = match self.inner.resume(&session.record.id, inner.to_owned()).await {
            Ok(stream) => stream,
            Err(_) if session.is_closing() => return Err(not_found()),
            // An inner manager with an event store keeps the events of answered requests too. One without forgets a
            // request with its answer.
            Err(_) if answered || (!source.is_listening() && self.inner.event_store().is_none()) => return Err(over()),
            Err(error) => return Err(PolicyError::Inner(error)),
        };
        let mut stream = Box::pin(stream.fuse());
        let first = match poll_fn(|cx| Poll::Ready(stream.as_mut().poll_next(cx))).await {
            Poll::Ready(None) if answered => return Err(over()),
            Poll::Ready(first) => first,
            Poll::Pending => None,
        };
        let is_listening = source.is_listening();
        session.record.ready();
        let stream = LiveStream::new(Arc::clone(&session), stream::iter(first).chain(stream), true, source);
        Ok(if is_listening { self.listening(stream) } else { PolicyStream::Live(stream) })
    }
}

/// What is left of the stream of a request whose incarnation has ended, where the session is not restored for it.
#[cfg(feature = "http")]
#[derive(Debug)]
pub(crate) enum EndedStream {
    /// One message. It is the answer to the request.
    Cut(ServerSseMessage),
    /// Nothing, and the client should not ask again.
    Over,
}

#[cfg(feature = "http")]
impl<I: SessionManager> ManagerInner<I> {
    /// Whether a client that resumes the stream of a request asks for one that has ended, of a session that is parked
    /// here. `None` if it asks for something else, or the session is live.
    ///
    /// Costs a keyed hash. The session is not restored for it. With an event store, which may have the answer, the manager
    /// has to be asked.
    pub(crate) fn ended_here(&self, id: &str, last_event_id: &str) -> Option<EndedStream> {
        if self.live.contains(id) || !self.parking.contains(id) || self.has_event_store() {
            return None;
        }
        self.ended(Resumption::of(last_event_id, &self.parked_seal_key(id), None))
    }

    /// The same for a session that was found in the directory, of its client. The seal of the id cannot be checked, since
    /// the key of the session comes with a claim: the client may have made the id up, and then hears of a request that
    /// it made up too.
    pub(crate) fn ended_there(&self, found: &Found, last_event_id: &str) -> Option<EndedStream> {
        let is_parked = found.state == FoundState::Parked && !self.has_event_store();
        is_parked.then(|| self.ended(Resumption::unsealed(last_event_id))).flatten()
    }

    fn ended(&self, resumption: Resumption<'_>) -> Option<EndedStream> {
        match resumption {
            Resumption::Cut(event) => Some(self.cut(&event.source).map_or(EndedStream::Over, EndedStream::Cut)),
            Resumption::Over => Some(EndedStream::Over),
            _ => None,
        }
    }
}

/// The events of a stream that are stored, sealed as before, and then `last`, unless they end with the answer to a request. A
/// store that goes on without an event has no more of them.
fn rest(stored: Option<EventStream>, source: EventSource, key: SealKey, last: Option<ServerSseMessage>) -> EventStream {
    Box::pin(stream::unfold((stored, last), move |(mut stored, mut last)| {
        let (source, key) = (source.clone(), key.clone());
        async move {
            if let Some(events) = &mut stored
                && let Ok(Some(mut event)) = timeout(STORED_WITHIN, events.next()).await
            {
                event.event_id = event.event_id.map(|id| source.seal(&id, &key));
                if event.message.as_deref().is_some_and(is_answer) {
                    (stored, last) = (None, None);
                }
                return Some((event, (stored, last)));
            }
            last.take().map(|last| (last, (None, None)))
        }
    }))
}

/// Whether it is the last message on the stream of a request.
const fn is_answer(message: &ServerJsonRpcMessage) -> bool {
    matches!(message, ServerJsonRpcMessage::Response(_) | ServerJsonRpcMessage::Error(_))
}

/// Whether a request was answered and the answer is delivered. Other requests of the session may be in flight.
fn is_answered<T>(session: &Session<T>, request: &EventSource) -> bool {
    // The order matters: an answer counts as on its way before its request gives up its id.
    !session.ids.has(request) && session.is_delivered()
}

/// Records for the layer that nothing is left of a request's stream, and returns the error.
fn over<E: std::error::Error>() -> PolicyError<E> {
    record_outcome(Outcome::StreamOver);
    PolicyError::UnknownEvent
}
