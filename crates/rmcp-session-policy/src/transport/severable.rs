//! Streams of the inner manager that can be dropped from outside, and keep the messages that their client has not
//! taken.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use rmcp::model::ServerJsonRpcMessage;
use rmcp::transport::streamable_http_server::session::ServerSseMessage;

/// How many messages are kept for a client of a stream that was dropped; rmcp's own streams hold no more than 16.
const KEPT: usize = 16;

/// A stream of the inner manager.
type Inner = Pin<Box<dyn Stream<Item = ServerSseMessage> + Send + Sync>>;

/// How far a client is in reading a stream. A close waits, for a time, until all streams of the session are at
/// [`Done`](Self::Done).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The client has taken everything, and polled for more.
    Done,
    /// The client waits, and its next poll takes a message.
    Due,
    /// The client has not polled since it was given a message, or has never polled. It may have stopped reading.
    Stalled,
}

/// Shares an inner stream with the end of the session. A client that has stopped reading never polls the stream again,
/// and the inner worker waits until the stream is dropped.
///
/// [`LiveStream`](super::LiveStream) polls it for the client, and the session has a reference to it for its close. The
/// lock is held while the inner stream is polled.
pub(crate) struct SeverableStream {
    held: Mutex<Held>,
}

/// What the lock guards.
struct Held {
    /// `None` once the inner stream has ended or was dropped by the close.
    inner: Option<Inner>,
    /// Messages taken from the inner stream that the client has not taken yet, at most [`KEPT`]. The client gets them
    /// first.
    kept: VecDeque<ServerSseMessage>,
    /// The waker of the client's last poll that found no message. A close wakes the client with it.
    waker: Option<Waker>,
    /// Whether the client has taken all messages and polled for more.
    waiting: bool,
    /// Whether the client waits for the answer to a request, which has not come.
    owes: bool,
    /// Whether the session counts that answer among those that were handed over and are not taken.
    untaken: bool,
}

/// What a poll has found.
pub(super) struct Polled {
    pub(super) next: Poll<Option<ServerSseMessage>>,
    /// Whether an answer is to be counted out of those that are not taken.
    pub(super) took: bool,
}

impl Held {
    /// Moves the ready messages of the inner stream to `kept`, to show what the client has not taken.
    ///
    /// More than [`KEPT`] messages stay in the inner stream.
    fn gather(&mut self) {
        // The inner stream keeps only the last waker, so it is polled with that of the client.
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

impl SeverableStream {
    /// Wraps an inner stream of a session.
    pub(super) fn new(inner: impl Stream<Item = ServerSseMessage> + Send + Sync + 'static) -> Arc<Self> {
        let inner: Option<Inner> = Some(Box::pin(inner));
        let held = Held { inner, kept: VecDeque::new(), waker: None, waiting: false, owes: false, untaken: false };
        Arc::new(Self { held: Mutex::new(held) })
    }

    /// Polls for the next message for the client: first what was kept, then the inner stream. After a close has dropped
    /// the inner stream it ends with the last message that was kept.
    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Polled {
        let mut held = self.lock();
        let next = match (held.kept.pop_front(), &mut held.inner) {
            (Some(message), _) => Poll::Ready(Some(message)),
            (None, Some(inner)) => inner.as_mut().poll_next(cx),
            (None, None) => Poll::Ready(None),
        };
        // A client that polls again has passed the last message on. Before that, the message may still be in its hands.
        held.waiting = !matches!(next, Poll::Ready(Some(_)));
        let mut took = false;
        if let Poll::Ready(Some(message)) = &next
            && message.message.as_deref().is_some_and(is_answer)
        {
            held.owes = false;
            took = std::mem::take(&mut held.untaken);
        }
        match &next {
            Poll::Pending => match &mut held.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            },
            Poll::Ready(Some(_)) => {}
            Poll::Ready(None) => {
                held.inner = None;
                took = std::mem::take(&mut held.untaken);
            }
        }
        Polled { next, took }
    }

    /// Records whether the client waits for an answer on this stream. The answer settles it.
    pub(super) fn owe(&self, owes: bool) {
        self.lock().owes = owes;
    }

    /// Tells once whether the stream has ended without the answer for which the client waits.
    pub(super) fn take_owed(&self) -> bool {
        std::mem::take(&mut self.lock().owes)
    }

    /// Records that the answer for which the client waits was handed over to the inner transport. Returns false if the client
    /// does not wait for it any more. Otherwise a poll or [`forsake`](Self::forsake) reports once that it is taken.
    pub(super) fn hand_over(&self) -> bool {
        let mut held = self.lock();
        held.untaken = held.owes;
        held.owes
    }

    /// Records that the client has dropped the stream. Returns whether an answer is to be counted out of those that are not
    /// taken.
    pub(super) fn forsake(&self) -> bool {
        let mut held = self.lock();
        held.owes = false;
        std::mem::take(&mut held.untaken)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the client may have stopped reading a stream that is still open.
    pub(super) fn is_stalled(&self) -> bool {
        let held = self.lock();
        held.inner.is_some() && !held.waiting
    }

    /// Returns how far the client is in reading the stream.
    ///
    /// Takes the ready messages of the inner stream first, so that they count as not taken. A client that waits while a
    /// message is there is woken.
    pub(super) fn delivery(&self) -> Delivery {
        let mut held = self.lock();
        held.gather();
        // A client that is owed an answer is told so after the last message.
        let is_empty = held.kept.is_empty() && !(held.owes && held.inner.is_none());
        match (held.waiting, is_empty) {
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

    /// Drops the inner stream, but keeps its ready messages, and wakes the client. The answer may be among them. The
    /// inner stream is dropped after the lock, since its drop runs code of the inner manager.
    pub(super) fn sever(&self) {
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

/// Whether a message ends the request of its stream. On a request's stream the service sends one such message.
const fn is_answer(message: &ServerJsonRpcMessage) -> bool {
    matches!(message, ServerJsonRpcMessage::Response(_) | ServerJsonRpcMessage::Error(_))
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn poll(stream: &SeverableStream) -> Poll<Option<ServerSseMessage>> {
        stream.poll_next(&mut Context::from_waker(Waker::noop())).next
    }

    #[test]
    fn a_stream_that_ended_without_its_answer_is_due_until_its_client_is_told() {
        let stream = SeverableStream::new(stream::pending());
        stream.owe(true);
        assert!(poll(&stream).is_pending());
        assert_eq!(stream.delivery(), Delivery::Done, "the answer may still come");
        stream.sever();
        assert_eq!(stream.delivery(), Delivery::Due);
        assert!(matches!(poll(&stream), Poll::Ready(None)));
        assert!(stream.take_owed(), "the client is told now");
        assert_eq!(stream.delivery(), Delivery::Done);
        assert!(!stream.take_owed(), "and once");
    }

    #[test]
    fn a_stream_that_ended_is_not_due_after_its_answer_or_if_its_client_has_given_up() {
        let answer = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "result": {} });
        let answer = ServerSseMessage::from_message(serde_json::from_value(answer).unwrap());
        let answered = SeverableStream::new(stream::iter([answer]));
        answered.owe(true);
        assert!(matches!(poll(&answered), Poll::Ready(Some(_))));
        assert!(matches!(poll(&answered), Poll::Ready(None)));
        let given_up = SeverableStream::new(stream::empty());
        given_up.owe(true);
        assert!(matches!(poll(&given_up), Poll::Ready(None)));
        given_up.owe(false);
        for stream in [answered, given_up] {
            assert_eq!((stream.delivery(), stream.take_owed()), (Delivery::Done, false));
        }
    }
}
