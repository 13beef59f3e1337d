//! The streams that clients read: the streams of the inner manager, with sealed event ids.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use rmcp::transport::streamable_http_server::session::ServerSseMessage;
use tokio::time::Instant;

use super::event_id::EventSource;
use super::listener::Listening;
use super::session::Session;
use super::severable::SeverableStream;

/// A stream of a session to its client.
pub(crate) enum PolicyStream<T> {
    /// A stream of the inner manager, or of one message of this crate.
    Live { stream: Arc<SeverableStream>, session: Arc<Session<T>>, place: usize, listening: bool, source: EventSource },
    /// A listening stream, which may outlive the incarnation of its session.
    Listening(Listening<T>),
}

impl<T> PolicyStream<T> {
    /// Wraps a stream of the inner manager. `listening` says whether the client opened it by GET. `source` is written
    /// into its event ids.
    pub(crate) fn live(
        session: Arc<Session<T>>,
        inner: impl Stream<Item = ServerSseMessage> + Send + Sync + 'static,
        listening: bool,
        source: EventSource,
    ) -> Self {
        let stream = Arc::new(SeverableStream::new(inner));
        let place = session.add_stream(Arc::clone(&stream));
        if listening {
            session.record.stream_opened();
        }
        Self::Live { stream, session, place, listening, source }
    }

    /// Creates a stream of one message of this crate. The session knows the stream, so its end waits until the client
    /// has the message.
    pub(crate) fn once(session: &Arc<Session<T>>, message: Option<ServerSseMessage>) -> Self {
        // The message has no event id.
        Self::live(Arc::clone(session), futures_util::stream::iter(message), false, EventSource::listening(0))
    }

    /// Whether the session of the stream is closing.
    pub(super) fn is_of_closing_session(&self) -> bool {
        matches!(self, Self::Live { session, .. } if session.is_closing())
    }

    /// Drops the inner stream, but keeps its ready messages.
    pub(super) fn sever(&self) {
        if let Self::Live { stream, .. } = self {
            stream.sever();
        }
    }
}

/// Seals the event id of a message that has one.
fn seal<T>(message: Option<ServerSseMessage>, session: &Session<T>, source: &EventSource) -> Option<ServerSseMessage> {
    let mut message = message?;
    if let Some(id) = &mut message.event_id {
        *id = source.seal(id, session.seal_key());
    }
    Some(message)
}

impl<T> Stream for PolicyStream<T> {
    type Item = ServerSseMessage;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (stream, session, source) = match self.get_mut() {
            Self::Live { stream, session, source, .. } => (stream, session, source),
            Self::Listening(listening) => return Pin::new(listening).poll_next(cx),
        };
        let next = stream.poll_next(cx);
        if session.is_closing() {
            session.record.progress.notify_waiters();
        }
        next.map(|message| seal(message, session, source))
    }
}

impl<T> Drop for PolicyStream<T> {
    fn drop(&mut self) {
        let Self::Live { session, place, listening, .. } = self else { return };
        session.remove_stream(*place);
        if *listening {
            session.record.stream_closed(Instant::now());
        }
        if session.is_closing() {
            session.record.progress.notify_waiters();
        }
    }
}

impl<T> fmt::Debug for PolicyStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyStream").finish_non_exhaustive()
    }
}
