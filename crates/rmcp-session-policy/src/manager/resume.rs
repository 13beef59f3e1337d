//! Resumption of streams by `Last-Event-ID`.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use rmcp::transport::streamable_http_server::session::{ServerSseMessage, SessionId, SessionManager};
use tokio::time::Instant;

use super::manager_inner::{ManagerInner, not_found};
use super::parking_state::Parked;
use super::session_manager::begin_listening;
#[cfg(feature = "http")]
use crate::directory::{Found, FoundState};
use crate::error::PolicyError;
use crate::scope::{Outcome, record_outcome};
use crate::transport::{
    EventId, EventSource, LazySealKey, LiveStream, PolicyStream, Resumption, SealKey, Session, cut_answer,
};

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
            return match Resumption::of(last_event_id, &self.parked_seal_key(id), None) {
                Resumption::Listen => self.listen(id, Some(reserved)).await,
                Resumption::Cut(EventId { source, .. }) => Ok(PolicyStream::Over(cut(&source))),
                Resumption::After(_) | Resumption::Over => Err(over()),
                Resumption::Unknown => Err(PolicyError::UnknownEvent),
            };
        }
        let session = self.find_live(id)?;
        let listening = begin_listening::<I>(&session)?;
        let stream = match Resumption::of(last_event_id, session.seal_key(), Some(self.incarnation(&session))) {
            Resumption::Listen => self.open_stream(session).await,
            Resumption::After(event) => self.resume_after(session, event).await,
            // Not if the client uses the id again: it would take the answer for that of the request in flight.
            Resumption::Cut(EventId { source, .. }) if !session.ids.has(&source) => {
                Ok(PolicyStream::Over(cut(&source)))
            }
            Resumption::Cut(_) | Resumption::Over => Err(over()),
            Resumption::Unknown => Err(PolicyError::UnknownEvent),
        };
        drop(listening);
        stream
    }

    async fn resume_after(
        &self,
        session: Arc<Session<I::Transport>>,
        EventId { inner, source }: EventId<'_>,
    ) -> Result<PolicyStream<I::Transport>, PolicyError<I::Error>> {
        // Read before the inner manager is asked, so that an answer that comes meanwhile is not missed.
        let answered = !source.is_listening() && is_answered(&session, &source);
        if source.is_listening() && self.inner.event_store().is_none() {
            // The old stream ends first, so that the inner manager continues with the resumed one. With an event store,
            // the resumed stream has only stored events.
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
impl EndedStream {
    fn of(resumption: Resumption<'_>) -> Option<Self> {
        match resumption {
            Resumption::Cut(EventId { source, .. }) => Some(cut(&source).map_or(Self::Over, Self::Cut)),
            Resumption::Over => Some(Self::Over),
            Resumption::After(_) | Resumption::Listen | Resumption::Unknown => None,
        }
    }
}

#[cfg(feature = "http")]
impl<I: SessionManager> ManagerInner<I> {
    /// Whether a client that resumes the stream of a request asks for one that has ended, of a session that is parked
    /// here. `None` if it asks for something else, or the session is live.
    ///
    /// Costs a keyed hash. The session is not restored for it.
    pub(crate) fn ended_here(&self, id: &str, last_event_id: &str) -> Option<EndedStream> {
        if self.live.contains(id) || !self.parking.contains(id) {
            return None;
        }
        EndedStream::of(Resumption::of(last_event_id, &self.parked_seal_key(id), None))
    }

    /// The same for a session that was found in the directory, of its client. The seal of the id cannot be checked, since
    /// the key of the session comes with a claim: the client may have made the id up, and then hears of a request that
    /// it made up too.
    pub(crate) fn ended_there(&self, found: &Found, last_event_id: &str) -> Option<EndedStream> {
        let is_parked = found.state == FoundState::Parked;
        is_parked.then(|| EndedStream::of(Resumption::unsealed(last_event_id))).flatten()
    }
}

/// Makes the answer to a request that its incarnation's end has cut off, and the end of its stream. `None` if the id of the
/// request is not known.
fn cut(source: &EventSource) -> Option<ServerSseMessage> {
    Some(ServerSseMessage::new(source.over_id(), cut_answer(source.request_id()?)))
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
