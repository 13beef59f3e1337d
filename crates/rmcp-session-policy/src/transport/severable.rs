//! Inner streams that can be dropped from outside, and keep what their client has not taken yet.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use rmcp::transport::streamable_http_server::session::ServerSseMessage;

/// How many messages are kept for a client of a stream that was dropped; rmcp's own streams hold no more than 16.
const KEPT: usize = 16;

type Inner = Pin<Box<dyn Stream<Item = ServerSseMessage> + Send + Sync>>;

/// How far a client is with what a stream has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// It has taken everything, and asked for more.
    Done,
    /// It waits for what is there: its next poll takes it.
    Due,
    /// It has not asked for more since it was given something, or has never asked: it may have stopped reading.
    Stalled,
}

/// The inner stream, where the end of the session can reach it: a client that has stopped reading never polls it again,
/// and until it is dropped the inner worker waits.
pub(crate) struct SeverableStream {
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

impl SeverableStream {
    /// Takes the inner stream of a session.
    pub(super) fn new(inner: impl Stream<Item = ServerSseMessage> + Send + Sync + 'static) -> Self {
        let held = Held { inner: Some(Box::pin(inner)), kept: VecDeque::new(), waker: None, waiting: false };
        Self { held: Mutex::new(held) }
    }

    /// The next message for the client.
    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<ServerSseMessage>> {
        let mut held = self.lock();
        let next = match (held.kept.pop_front(), &mut held.inner) {
            (Some(message), _) => Poll::Ready(Some(message)),
            (None, Some(inner)) => inner.as_mut().poll_next(cx),
            (None, None) => Poll::Ready(None),
        };
        // A client that asks for more has handed on what it was given: until then the last message may be anywhere.
        held.waiting = !matches!(next, Poll::Ready(Some(_)));
        match &next {
            Poll::Pending => match &mut held.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            },
            Poll::Ready(Some(_)) => {}
            Poll::Ready(None) => held.inner = None,
        }
        next
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_stalled(&self) -> bool {
        let held = self.lock();
        held.inner.is_some() && !held.waiting
    }

    /// How far the client is with what the stream has for it.
    pub(super) fn delivery(&self) -> Delivery {
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
