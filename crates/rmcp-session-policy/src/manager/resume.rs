//! Resumption of streams by `Last-Event-ID`.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};

use super::manager_inner::{ManagerInner, not_found};
use super::session_manager::begin_listening;
use crate::error::PolicyError;
use crate::scope::{Outcome, record_outcome};
use crate::transport::{EventId, EventSource, LiveStream, PolicyStream, Resumption, Session};

impl<I: SessionManager> ManagerInner<I> {
    /// The number of this incarnation in event ids.
    pub(super) fn incarnation(&self, session: &Session<I::Transport>) -> u32 {
        self.incarnations.number(session.record.entry.key)
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
            return match Resumption::of(last_event_id, &self.seal_root.of_session(id), None) {
                Resumption::Listen => self.listen(id, Some(reserved)).await,
                Resumption::After(_) | Resumption::Over => Err(over()),
                Resumption::Unknown => Err(PolicyError::UnknownEvent),
            };
        }
        let session = self.find_live(id)?;
        let listening = begin_listening::<I>(&session)?;
        let stream = match Resumption::of(last_event_id, session.seal_key(), Some(self.incarnation(&session))) {
            Resumption::Listen => self.open_stream(session).await,
            Resumption::After(event) => self.resume_after(session, event).await,
            Resumption::Over => Err(over()),
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
