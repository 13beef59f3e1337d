//! The streams that clients read: the streams of the inner manager, with sealed event ids.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use rmcp::model::RequestId;
use rmcp::transport::streamable_http_server::session::{EventStream, ServerSseMessage};
use tokio::time::Instant;

use super::event_id::EventSource;
use super::farewell::farewell;
use super::held::HeldStreams;
use super::in_flight::InFlight;
use super::listener::IncarnationStream;
use super::listening::Listening;
use super::session::{Flag, Session};
use super::severable::{Polled, SeverableStream};
use crate::call_rejection::CallRejection;

/// A stream of a session to its client: what `create_standalone_stream` and `resume` return.
pub(crate) enum PolicyStream<T> {
    /// A stream that ends with the incarnation.
    Live(LiveStream<T>),
    /// A listening stream, which may outlive the incarnation of its session.
    Listening(Listening),
    /// What is left of a stream of an incarnation that has ended, and what comes after it.
    Rest(EventStream),
}

/// A stream of the inner manager, or of one message of this crate.
pub(crate) struct LiveStream<T> {
    /// The inner stream, which the close of the session may drop.
    stream: Arc<SeverableStream>,
    session: Arc<Session<T>>,
    /// Its index among the streams of the session.
    place: usize,
    /// Whether the client opened it by GET, so that it counts among the open streams of the session.
    listening: bool,
    /// What the event ids of this stream say of it.
    source: EventSource,
    /// The request that the stream answers. `None` for other streams.
    request: Option<StreamRequest>,
}

/// The request of a stream. It is what a farewell is made of.
pub(crate) struct StreamRequest {
    pub(crate) id: RequestId,
    /// Whether it is a `tools/call`.
    pub(crate) is_call: bool,
    /// How the server answers a `tools/call` that is cut off.
    pub(crate) rejection: CallRejection,
}

impl<T> LiveStream<T> {
    /// Wraps a stream of the inner manager. `listening` says whether the client opened it by GET. `source` is written
    /// into its event ids.
    ///
    /// The session knows the stream from here until the drop: its close waits for the client to read, and drops the
    /// inner stream of a client that does not.
    pub(crate) fn new(
        session: Arc<Session<T>>,
        inner: impl Stream<Item = ServerSseMessage> + Send + Sync + 'static,
        listening: bool,
        source: EventSource,
    ) -> Self {
        let stream = SeverableStream::new(inner);
        let place = session.add_stream(Arc::clone(&stream));
        if listening {
            session.record.stream_opened();
        }
        Self { stream, session, place, listening, source, request: None }
    }

    /// Makes it the stream of a request. If the session ends and the inner manager drops the answer, the stream says
    /// so, unless the client gives the request up before.
    pub(crate) fn answering(mut self, request: StreamRequest, in_flight: &InFlight<Session<T>>) -> Self {
        in_flight.answers_on(&self.stream);
        self.request = Some(request);
        self
    }

    /// Makes the last message of a stream that has ended without the answer to its request, because its session did.
    ///
    /// `None` if the client waits for no answer. A stream that ends in a live session says nothing, nor does one that an
    /// outer manager of this crate ends: that manager knows the reason.
    fn farewell(&mut self) -> Option<ServerSseMessage> {
        let StreamRequest { id, is_call, rejection } = self.request.take()?;
        if !self.stream.take_owed() || !self.session.is_closing() || self.session.has(Flag::ByOuter) {
            return None;
        }
        let message = farewell(self.session.why_closed(), id, is_call, rejection);
        Some(ServerSseMessage::from_message(message))
    }

    /// Creates a stream of one message of this crate. The session knows the stream, so its end waits until the client
    /// has the message.
    pub(crate) fn once(session: &Arc<Session<T>>, message: Option<ServerSseMessage>) -> Self {
        // The message has no event id.
        Self::new(Arc::clone(session), futures_util::stream::iter(message), false, EventSource::listening(0))
    }

    /// Seals the event id of a message that has one.
    fn seal(&self, mut message: ServerSseMessage) -> ServerSseMessage {
        if let Some(id) = &mut message.event_id {
            *id = self.source.seal(id, self.session.seal_key());
        }
        message
    }
}

impl<T: Send + 'static> LiveStream<T> {
    /// Makes it a listening stream. When the session is parked, the client's end is held, and this stream is dropped.
    pub(crate) fn listen(self, held: &Arc<HeldStreams>) -> Listening {
        let session = Arc::clone(&self.session);
        Listening::open(&session, Box::new(self), held)
    }

    /// Joins it to the held stream of its session, if there is one.
    ///
    /// If there is none, or the session has ended, the stream is dropped.
    pub(crate) fn join(self, held: &HeldStreams) {
        let session = Arc::clone(&self.session);
        held.join(&session, Box::new(self));
    }
}

impl<T> Stream for LiveStream<T> {
    type Item = ServerSseMessage;

    /// A poll in a closing session wakes its close: the client may have taken the last message, or ask for more.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Polled { next, took } = self.stream.poll_next(cx);
        if took {
            self.session.record.entry.answer_taken();
        }
        if self.session.is_closing() {
            self.session.record.progress.notify_waiters();
        }
        next.map(|message| match message {
            Some(message) => Some(self.seal(message)),
            None => self.farewell(),
        })
    }
}

impl<T: Send + 'static> IncarnationStream for LiveStream<T> {
    fn is_of_closing_session(&self) -> bool {
        self.session.is_closing()
    }

    /// Keeps what is ready: the listener takes it over by further polls.
    fn sever(&self) {
        self.stream.sever();
    }
}

impl<T> Drop for LiveStream<T> {
    /// Takes the stream out of its session. A close may be waiting for that.
    fn drop(&mut self) {
        self.session.remove_stream(self.place);
        if self.stream.forsake() {
            self.session.record.entry.answer_taken();
        }
        if self.listening {
            self.session.record.stream_closed(Instant::now());
        }
        if self.session.is_closing() {
            self.session.record.progress.notify_waiters();
        }
    }
}

impl<T> Stream for PolicyStream<T> {
    type Item = ServerSseMessage;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.get_mut() {
            Self::Live(stream) => Pin::new(stream).poll_next(cx),
            Self::Listening(stream) => Pin::new(stream).poll_next(cx),
            Self::Rest(stream) => stream.as_mut().poll_next(cx),
        }
    }
}

impl<T> fmt::Debug for PolicyStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyStream").finish_non_exhaustive()
    }
}
