//! Listening streams that outlive an incarnation of their session.
//!
//! Decision 21 says why. The client's end is a [`Listening`](super::Listening), and what it reads from is a
//! [`Listener`]. A listener goes from `Live` to `Held` when its session is parked, from `Held` to `Live` when the
//! session comes back, and from either to `Over`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use rmcp::transport::streamable_http_server::session::ServerSseMessage;
use tokio::sync::mpsc;

/// How many messages of earlier incarnations are kept for a client that is slow to take them. More are lost with the
/// incarnation.
const KEPT: usize = 16;

/// A stream of one incarnation of a session. A trait, so that a listener does not know the type of the session's
/// transport.
pub(super) trait IncarnationStream: Stream<Item = ServerSseMessage> + Send + Sync + Unpin {
    /// Whether the incarnation is closing.
    fn is_of_closing_session(&self) -> bool;
    /// Drops the inner stream, but keeps its ready messages.
    fn sever(&self);
}

/// The session side of a listening stream: connected to an incarnation of its session or, while the session is parked,
/// to none.
///
/// The client's end ([`Listening`]) owns it. The session and the list of held streams have weak references, so a
/// hang-up of the client leaves nothing behind.
pub(crate) struct Listener {
    state: Mutex<State>,
}

/// What the lock guards. The lock is held while the stream of the incarnation is polled.
struct State {
    stage: Stage,
    /// Messages that ended incarnations had ready for the client.
    kept: VecDeque<ServerSseMessage>,
    /// A `ping` that its client has not taken yet.
    probe: Option<Box<ServerSseMessage>>,
    /// Wakes the client's end at each change of the stage, and for a probe. Set by its last poll that found no message.
    waker: Option<Waker>,
    /// Whether the end of the session decides if the stream is held or ends. Until it has decided, a stream that the
    /// inner manager ended is not over for the client.
    may_be_held: bool,
    /// Whether it came over from an earlier incarnation. A newer GET takes over only such a stream.
    joined: bool,
    /// What the client hears last, if the stream ends by itself.
    last: Option<ServerSseMessage>,
    /// Dropped when the client's end has read the end of the stream, or is dropped.
    unread: Option<mpsc::Sender<Infallible>>,
}

/// What is behind the client's end.
enum Stage {
    /// A stream of the present incarnation.
    Live(Box<dyn IncarnationStream>),
    /// The session is parked. The client waits, and nothing comes but what is in `kept`.
    Held,
    /// The stream has ended. It stays so.
    Over,
}

/// What is left to do after a change of the stage, outside all locks: to drop a stream, and to wake the client's end.
///
/// A stream's drop takes the lock of its session's belongings and runs code of the inner manager.
#[must_use = "to be dropped when no lock is held"]
pub(super) struct Rest {
    _was: Option<Stage>,
    waker: Option<Waker>,
}

impl Drop for Rest {
    fn drop(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl State {
    /// Goes to another stage. The caller drops what is returned when no lock is held.
    fn change(&mut self, to: Stage) -> Rest {
        Rest { _was: Some(mem::replace(&mut self.stage, to)), waker: self.waker.take() }
    }

    /// Ends it: the client hears nothing more. Returns whether it was held.
    fn end(&mut self) -> (bool, Rest) {
        (self.unread, self.probe) = (None, None);
        (matches!(self.stage, Stage::Held), self.change(Stage::Over))
    }
}

impl Listener {
    fn new(stage: Stage, kept: VecDeque<ServerSseMessage>) -> Arc<Self> {
        let state =
            State { stage, kept, probe: None, waker: None, may_be_held: true, joined: false, last: None, unread: None };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Creates the listener of a live session.
    pub(super) fn live(stream: Box<dyn IncarnationStream>) -> Arc<Self> {
        Self::new(Stage::Live(stream), VecDeque::new())
    }

    /// Creates the listener of a parked session.
    pub(super) fn held() -> Arc<Self> {
        Self::new(Stage::Held, VecDeque::new())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the inner stream when the session has ended, but keeps the messages that are ready, at most [`KEPT`]. Does
    /// nothing if no incarnation is behind it.
    pub(super) fn sever(&self) {
        let mut state = self.lock();
        let State { stage: Stage::Live(stream), kept, .. } = &mut *state else { return };
        stream.sever();
        while kept.len() < KEPT
            && let Poll::Ready(Some(message)) =
                Pin::new(&mut *stream).poll_next(&mut Context::from_waker(Waker::noop()))
        {
            kept.push_back(message);
        }
    }

    /// Holds the stream when its ended session is parked. `None` if the stream is over.
    ///
    /// What was kept stays for the client. The drop of what is returned drops the stream of the ended incarnation.
    pub(super) fn hold(&self) -> Option<Rest> {
        let mut state = self.lock();
        match state.stage {
            Stage::Over => None,
            Stage::Held | Stage::Live(_) => Some(state.change(Stage::Held)),
        }
    }

    /// Continues with the stream of a new incarnation. Returns that stream if this one is over.
    ///
    /// # Errors
    ///
    /// Returns that stream if this one is not held: it is over, or an incarnation is behind it already.
    pub(super) fn join(&self, stream: Box<dyn IncarnationStream>) -> Result<Rest, Box<dyn IncarnationStream>> {
        let mut state = self.lock();
        if !matches!(state.stage, Stage::Held) {
            return Err(stream);
        }
        state.joined = true;
        Ok(state.change(Stage::Live(stream)))
    }

    /// Lets the stream end with its session. If the session is parked, it ends at once. A live stream ends by itself
    /// when the inner manager ends it, and the client is woken to see that. The client hears `last` before the end.
    pub(super) fn release(&self, last: Option<ServerSseMessage>) -> Rest {
        let mut state = self.lock();
        state.may_be_held = false;
        if last.is_some() && !matches!(state.stage, Stage::Over) {
            state.last = last;
        }
        match state.stage {
            Stage::Held => state.change(Stage::Over),
            _ => Rest { _was: None, waker: state.waker.take() },
        }
    }

    /// Keeps a sender until the client has read the end of the stream, or has hung up. Does nothing if it has.
    pub(super) fn note_unread(&self, unread: &mpsc::Sender<Infallible>) {
        self.lock().unread = Some(unread.clone());
    }

    /// Puts a `ping` on the stream, after what is kept and before what comes. Does nothing if the stream is over.
    pub(super) fn probe(&self, ping: ServerSseMessage) -> Rest {
        let mut state = self.lock();
        if !matches!(state.stage, Stage::Over) {
            state.probe = Some(Box::new(ping));
        }
        Rest { _was: None, waker: state.waker.take() }
    }

    /// Ends the stream when the client is taken for gone. Returns whether it was held, as [`hang_up`](Self::hang_up).
    /// `None` if the stream is over already.
    pub(super) fn give_up(&self) -> Option<(bool, Rest)> {
        let mut state = self.lock();
        (!matches!(state.stage, Stage::Over)).then(|| state.end())
    }

    /// Ends the stream when the client has hung up. Returns whether it was held, so that the caller takes it off the
    /// list of held streams.
    pub(super) fn hang_up(&self) -> (bool, Rest) {
        self.lock().end()
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.lock().stage, Stage::Over)
    }

    /// Ends the stream in favour of a newer one, which continues with its session side. `None` unless it came over from
    /// an earlier incarnation; a newer stream does not take over the messages of an older one of the same incarnation.
    ///
    /// The newer listener gets the stream of the incarnation and the messages that the client has not taken. The
    /// client's older end finds that it is over.
    pub(super) fn give_way(&self) -> Option<Arc<Self>> {
        let mut state = self.lock();
        if !state.joined || !matches!(state.stage, Stage::Live(_)) {
            return None;
        }
        let kept = mem::take(&mut state.kept);
        let stage = mem::replace(&mut state.stage, Stage::Over);
        let waker = state.waker.take();
        drop(state);
        let newer = Self::new(stage, kept);
        waker.into_iter().for_each(Waker::wake);
        Some(newer)
    }

    /// Polls for the next message: first what was kept, then a probe, then the stream of the incarnation. In a closing session the
    /// end of that stream is not passed on unless the stream was released: the client waits until its session is parked
    /// or gone.
    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<ServerSseMessage>> {
        let mut state = self.lock();
        let State { stage, kept, probe, waker, may_be_held, last, unread, .. } = &mut *state;
        if let Some(message) = kept.pop_front() {
            return Poll::Ready(Some(message));
        }
        if let Some(probe) = probe.take()
            && !matches!(stage, Stage::Over)
        {
            return Poll::Ready(Some(*probe));
        }
        let next = match stage {
            Stage::Live(stream) => match Pin::new(&mut *stream).poll_next(cx) {
                Poll::Ready(None) if *may_be_held && stream.is_of_closing_session() => Poll::Pending,
                next => next,
            },
            Stage::Held => Poll::Pending,
            Stage::Over => Poll::Ready(None),
        };
        match &next {
            Poll::Pending => match waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            },
            Poll::Ready(Some(_)) => {}
            Poll::Ready(None) => {
                let (was, last) = (mem::replace(stage, Stage::Over), last.take());
                if last.is_none() {
                    *unread = None;
                }
                drop(state);
                drop(was);
                return Poll::Ready(last);
            }
        }
        next
    }
}
