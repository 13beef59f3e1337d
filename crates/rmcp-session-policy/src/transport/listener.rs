//! Listening streams that outlive an incarnation of their session.

use std::collections::VecDeque;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use rmcp::transport::streamable_http_server::session::ServerSseMessage;

/// How many messages of earlier incarnations are kept for a client that is slow to take them.
const KEPT: usize = 16;

/// A stream of one incarnation of a session.
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

struct State {
    stage: Stage,
    /// Messages that ended incarnations had ready for the client.
    kept: VecDeque<ServerSseMessage>,
    /// Wakes the client's end at each change of the stage.
    waker: Option<Waker>,
    /// Whether the end of the session decides if the stream is held or ends.
    may_be_held: bool,
    /// Whether it came over from an earlier incarnation.
    joined: bool,
}

enum Stage {
    Live(Box<dyn IncarnationStream>),
    /// The session is parked.
    Held,
    Over,
}

/// What is left to do after a change of the stage, outside all locks: to drop a stream, and to wake the client's end.
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
    fn change(&mut self, to: Stage) -> Rest {
        Rest { _was: Some(mem::replace(&mut self.stage, to)), waker: self.waker.take() }
    }
}

impl Listener {
    fn new(stage: Stage, kept: VecDeque<ServerSseMessage>) -> Arc<Self> {
        let state = State { stage, kept, waker: None, may_be_held: true, joined: false };
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

    /// Drops the inner stream when the session has ended, but keeps the messages that are ready.
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
    pub(super) fn hold(&self) -> Option<Rest> {
        let mut state = self.lock();
        match state.stage {
            Stage::Over => None,
            Stage::Held | Stage::Live(_) => Some(state.change(Stage::Held)),
        }
    }

    /// Continues with the stream of a new incarnation. Returns that stream if this one is over.
    pub(super) fn join(&self, stream: Box<dyn IncarnationStream>) -> Result<Rest, Box<dyn IncarnationStream>> {
        let mut state = self.lock();
        if !matches!(state.stage, Stage::Held) {
            return Err(stream);
        }
        state.joined = true;
        Ok(state.change(Stage::Live(stream)))
    }

    /// Lets the stream end with its session. If the session is parked, it ends at once.
    pub(super) fn release(&self) -> Rest {
        let mut state = self.lock();
        state.may_be_held = false;
        match state.stage {
            Stage::Held => state.change(Stage::Over),
            _ => Rest { _was: None, waker: state.waker.take() },
        }
    }

    /// Ends the stream when the client has hung up. Returns whether it was held.
    pub(super) fn hang_up(&self) -> (bool, Rest) {
        let mut state = self.lock();
        (matches!(state.stage, Stage::Held), state.change(Stage::Over))
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.lock().stage, Stage::Over)
    }

    /// Ends the stream in favour of a newer one, which continues with its session side. `None` unless it came over from
    /// an earlier incarnation; a newer stream does not take over the messages of an older one of the same incarnation.
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

    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<ServerSseMessage>> {
        let mut state = self.lock();
        let State { stage, kept, waker, may_be_held, .. } = &mut *state;
        if let Some(message) = kept.pop_front() {
            return Poll::Ready(Some(message));
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
                let was = mem::replace(stage, Stage::Over);
                drop(state);
                drop(was);
            }
        }
        next
    }
}
