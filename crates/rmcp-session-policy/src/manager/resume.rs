//! Streams that are resumed: a client that lost one names the last event it saw.

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
use crate::transport::{EventId, EventSource, PolicyStream, Resumption, Session};

impl<I: SessionManager> ManagerInner<I> {
    /// The number in the event ids of this incarnation.
    pub(super) fn incarnation(&self, session: &Session<I::Transport>) -> u32 {
        self.incarnations.number(session.record.key)
    }

    /// Opens what a client asks for by a `Last-Event-ID`.
    ///
    /// # Errors
    ///
    /// An id of another session, or of none, and what the inner manager refuses are no failure to tell: rmcp answers with an
    /// empty stream, or the client would ask for the same event for ever.
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
        // Before the inner manager is asked: an answer that comes meanwhile is not missed.
        let answered = !source.is_listening() && is_answered(&session, &source);
        if source.is_listening() && self.inner.event_store().is_none() {
            // Ended first, so that the inner manager goes on with the one that is resumed. A store only gives what it has.
            drop(self.take_over(&session));
        }
        let stream = match self.inner.resume(&session.record.id, inner.to_owned()).await {
            Ok(stream) => stream,
            Err(_) if session.is_closing() => return Err(not_found()),
            // What keeps events keeps those of answered requests too; what does not, forgets a request with its answer.
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
        let stream = PolicyStream::live(Arc::clone(&session), stream::iter(first).chain(stream), true, source);
        Ok(if is_listening { self.listening(&session, stream) } else { stream })
    }
}

/// Whether the client of a request waits for no answer any more, and none is on its way. Other requests may be in flight.
fn is_answered<T>(session: &Session<T>, request: &EventSource) -> bool {
    // In this order: an answer is on its way before its request gives up its id.
    !session.ids.has(request) && session.is_delivered()
}

/// Nothing is left of a request's stream, and whoever answers the client is told so.
fn over<E: std::error::Error>() -> PolicyError<E> {
    record_outcome(Outcome::StreamOver);
    PolicyError::UnknownEvent
}
