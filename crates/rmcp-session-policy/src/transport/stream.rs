//! Streams that can be dropped from outside, and whose event ids are sealed.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use rmcp::transport::streamable_http_server::session::ServerSseMessage;
use tokio::time::Instant;

use super::event_id::EventSource;
use super::listener::Listening;
use super::session::Session;

/// How many messages are kept for a client of a stream that was dropped; rmcp's own streams hold no more than 16.
const KEPT: usize = 16;

type Inner = Pin<Box<dyn Stream<Item = ServerSseMessage> + Send + Sync>>;

/// How far a client is with what a stream has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// It has taken everything, and asked for more.
    Done,
    /// It waits for what is there: its next poll takes it.
    Due,
    /// It has not asked for more since it was given something, or has never asked: it may have stopped reading.
    Stalled,
}

/// The inner stream, where the end of the session can reach it: a client that has stopped reading never polls it again,
/// and until it is dropped the inner worker waits.
pub(crate) struct Slot {
    held: Mutex<Held>,
}

struct Held {
    inner: Option<Inner>,
    /// What was ready when the inner stream was looked at or dropped, and that the client has not taken yet.
    kept: VecDeque<ServerSseMessage>,
    waker: Option<Waker>,
    /// The client has taken all there was.
    waiting: bool,
}

impl Held {
    /// Takes over what the inner stream has ready, so that it shows what the client has not taken yet.
    fn gather(&mut self) {
        // Of all wakers the inner stream keeps the last one it was polled with.
        let waker = self.waker.as_ref().unwrap_or_else(|| Waker::noop());
        let mut cx = Context::from_waker(waker);
        while self.kept.len() < KEPT
            && let Some(inner) = &mut self.inner
        {
            match inner.as_mut().poll_next(&mut cx) {
                Poll::Ready(Some(message)) => self.kept.push_back(message),
                Poll::Ready(None) => self.inner = None,
                Poll::Pending => break,
            }
        }
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_stalled(&self) -> bool {
        let held = self.lock();
        held.inner.is_some() && !held.waiting
    }

    /// How far the client is with what the stream has for it.
    pub(crate) fn delivery(&self) -> Delivery {
        let mut held = self.lock();
        held.gather();
        match (held.waiting, held.kept.is_empty()) {
            (false, _) => Delivery::Stalled,
            (true, true) => Delivery::Done,
            (true, false) => {
                let waker = held.waker.take();
                drop(held);
                if let Some(waker) = waker {
                    waker.wake();
                }
                Delivery::Due
            }
        }
    }

    /// Drops the inner stream, but keeps what it has ready: the answer may be among it.
    pub(crate) fn sever(&self) {
        let mut held = self.lock();
        held.gather();
        let (inner, waker) = (held.inner.take(), held.waker.take());
        drop(held);
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A stream of a session to its client.
pub(crate) enum PolicyStream<T> {
    /// From the inner manager, or of one message of ours.
    Live { slot: Arc<Slot>, session: Arc<Session<T>>, place: usize, listening: bool, source: EventSource },
    /// A listening stream, which may outlive its session's incarnation.
    Listening(Listening<T>),
}

impl<T> PolicyStream<T> {
    /// Wraps a stream of the inner manager. `listening`: the client opened it by GET. `source` goes into its event ids.
    pub(crate) fn live(
        session: Arc<Session<T>>,
        inner: impl Stream<Item = ServerSseMessage> + Send + Sync + 'static,
        listening: bool,
        source: EventSource,
    ) -> Self {
        let held = Held { inner: Some(Box::pin(inner)), kept: VecDeque::new(), waker: None, waiting: false };
        let slot = Arc::new(Slot { held: Mutex::new(held) });
        let place = session.add_stream(Arc::clone(&slot));
        if listening {
            session.record.stream_opened();
        }
        Self::Live { slot, session, place, listening, source }
    }

    /// A stream of one message of ours. The session has it too, so that its end waits until the client has the message.
    pub(crate) fn once(session: &Arc<Session<T>>, message: Option<ServerSseMessage>) -> Self {
        // It carries no event id.
        Self::live(Arc::clone(session), futures_util::stream::iter(message), false, EventSource::listening(0))
    }

    /// Whether what is behind it ends.
    pub(super) fn is_of_closing_session(&self) -> bool {
        matches!(self, Self::Live { session, .. } if session.is_closing())
    }

    /// Drops the inner stream, but keeps what it has ready.
    pub(super) fn sever(&self) {
        if let Self::Live { slot, .. } = self {
            slot.sever();
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
        let (slot, session, source) = match self.get_mut() {
            Self::Live { slot, session, source, .. } => (slot, session, source),
            Self::Listening(listening) => return Pin::new(listening).poll_next(cx),
        };
        let mut held = slot.lock();
        let next = match (held.kept.pop_front(), &mut held.inner) {
            (Some(message), _) => Poll::Ready(Some(message)),
            (None, Some(inner)) => inner.as_mut().poll_next(cx),
            (None, None) => Poll::Ready(None),
        };
        // Who asks for more has handed on what it was given: until then the last message may be anywhere.
        held.waiting = !matches!(next, Poll::Ready(Some(_)));
        match &next {
            Poll::Pending => match &mut held.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            },
            Poll::Ready(Some(_)) => {}
            Poll::Ready(None) => held.inner = None,
        }
        drop(held);
        if session.is_closing() {
            session.record.progress.ring();
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
            session.record.progress.ring();
        }
    }
}

impl<T> fmt::Debug for PolicyStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyStream").finish_non_exhaustive()
    }
}
