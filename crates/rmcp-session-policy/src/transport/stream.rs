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

/// The inner stream, where the end of the session can reach it: a client that has stopped reading never polls it again,
/// and until it is dropped the inner worker waits.
pub(crate) struct Slot {
    held: Mutex<Held>,
}

struct Held {
    inner: Option<Inner>,
    /// What was ready when the inner stream was dropped, for a client that is only slow.
    kept: VecDeque<ServerSseMessage>,
    waker: Option<Waker>,
    /// The client has taken all there was.
    waiting: bool,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_stalled(&self) -> bool {
        let held = self.lock();
        held.inner.is_some() && !held.waiting
    }

    /// Drops the inner stream, but keeps what it has ready: the answer may be among it.
    pub(crate) fn sever(&self) {
        let mut held = self.lock();
        let (mut inner, waker) = (held.inner.take(), held.waker.take());
        while let Some(inner) = &mut inner
            && held.kept.len() < KEPT
            && let Poll::Ready(Some(message)) = inner.as_mut().poll_next(&mut Context::from_waker(Waker::noop()))
        {
            held.kept.push_back(message);
        }
        drop(held);
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A stream of a session to its client.
pub(crate) enum GovernedStream<T> {
    /// From the inner manager.
    Live { slot: Arc<Slot>, session: Arc<Session<T>>, place: usize, listening: bool, source: EventSource },
    /// A listening stream, which may outlive its session's incarnation.
    Listening(Listening<T>),
    /// One message of ours.
    Once(Option<ServerSseMessage>),
}

impl<T> GovernedStream<T> {
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

impl<T> Stream for GovernedStream<T> {
    type Item = ServerSseMessage;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (slot, session, source) = match self.get_mut() {
            Self::Live { slot, session, source, .. } => (slot, session, source),
            Self::Listening(listening) => return Pin::new(listening).poll_next(cx),
            Self::Once(message) => return Poll::Ready(message.take()),
        };
        let mut held = slot.lock();
        let Some(inner) = &mut held.inner else {
            let kept = held.kept.pop_front();
            drop(held);
            return Poll::Ready(seal(kept, session, source));
        };
        let next = inner.as_mut().poll_next(cx);
        held.waiting = next.is_pending();
        match next {
            Poll::Pending => match &mut held.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            },
            Poll::Ready(message @ Some(_)) => {
                drop(held);
                return Poll::Ready(seal(message, session, source));
            }
            Poll::Ready(None) => held.inner = None,
        }
        drop(held);
        if session.is_closing() {
            session.record.progress.ring();
        }
        next
    }
}

impl<T> Drop for GovernedStream<T> {
    fn drop(&mut self) {
        if let Self::Live { session, place, listening, .. } = self {
            session.remove_stream(*place);
            if *listening {
                session.record.stream_closed(Instant::now());
            }
            if session.is_closing() {
                session.record.progress.ring();
            }
        }
    }
}

impl<T> fmt::Debug for GovernedStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GovernedStream").finish_non_exhaustive()
    }
}
