//! Listening streams that outlive an incarnation of their session.

use std::collections::VecDeque;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use rmcp::transport::streamable_http_server::session::ServerSseMessage;

use super::held::HeldStreams;
use super::session::Session;
use super::stream::PolicyStream;
use crate::session::SessionOrigin;

/// How many messages of earlier incarnations are kept for a client that is slow to take them.
const KEPT: usize = 16;

/// The session side of a listening stream: connected to an incarnation of its session or, while the session is parked,
/// to none.
///
/// The client's end ([`Listening`]) owns it. The session and the list of held streams have weak references, so a
/// hang-up of the client leaves nothing behind.
pub(crate) struct Listener<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    stage: Stage<T>,
    /// Messages that ended incarnations had ready for the client.
    kept: VecDeque<ServerSseMessage>,
    /// Wakes the client's end at each change of the stage.
    waker: Option<Waker>,
    /// Whether the end of the session decides if the stream is held or ends.
    may_be_held: bool,
    /// Whether it came over from an earlier incarnation.
    joined: bool,
}

enum Stage<T> {
    Live(PolicyStream<T>),
    /// The session is parked.
    Held,
    Over,
}

/// What is left to do after a change of the stage, outside all locks: to drop a stream, and to wake the client's end.
#[must_use = "to be dropped when no lock is held"]
pub(super) struct Rest<T> {
    _was: Option<Stage<T>>,
    waker: Option<Waker>,
}

impl<T> Drop for Rest<T> {
    fn drop(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl<T> State<T> {
    fn change(&mut self, to: Stage<T>) -> Rest<T> {
        Rest { _was: Some(mem::replace(&mut self.stage, to)), waker: self.waker.take() }
    }
}

impl<T> Listener<T> {
    fn new(stage: Stage<T>, kept: VecDeque<ServerSseMessage>) -> Arc<Self> {
        let state = State { stage, kept, waker: None, may_be_held: true, joined: false };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Creates the listener of a parked session.
    pub(super) fn held() -> Arc<Self> {
        Self::new(Stage::Held, VecDeque::new())
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
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
    pub(super) fn hold(&self) -> Option<Rest<T>> {
        let mut state = self.lock();
        match state.stage {
            Stage::Over => None,
            Stage::Held | Stage::Live(_) => Some(state.change(Stage::Held)),
        }
    }

    /// Continues with the stream of a new incarnation. Returns that stream if this one is over.
    pub(super) fn join(&self, stream: PolicyStream<T>) -> Result<Rest<T>, PolicyStream<T>> {
        let mut state = self.lock();
        if !matches!(state.stage, Stage::Held) {
            return Err(stream);
        }
        state.joined = true;
        Ok(state.change(Stage::Live(stream)))
    }

    /// Lets the stream end with its session. If the session is parked, it ends at once.
    pub(super) fn release(&self) -> Rest<T> {
        let mut state = self.lock();
        state.may_be_held = false;
        match state.stage {
            Stage::Held => state.change(Stage::Over),
            _ => Rest { _was: None, waker: state.waker.take() },
        }
    }

    /// Ends the stream when the client has hung up. Returns whether it was held.
    fn hang_up(&self) -> (bool, Rest<T>) {
        let mut state = self.lock();
        (matches!(state.stage, Stage::Held), state.change(Stage::Over))
    }

    fn is_over(&self) -> bool {
        matches!(self.lock().stage, Stage::Over)
    }

    /// Ends the stream in favour of a newer one, which continues with its session side. `None` unless it came over from
    /// an earlier incarnation; a newer stream does not take over the messages of an older one of the same incarnation.
    fn give_way(&self) -> Option<Arc<Self>> {
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

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<ServerSseMessage>> {
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

/// The client's end of a listening stream. Its drop is the hang-up of the client.
pub(crate) struct Listening<T> {
    pub(super) listener: Arc<Listener<T>>,
    held: Arc<HeldStreams<T>>,
    session: SessionOrigin,
}

impl<T> Listening<T> {
    pub(super) const fn new(listener: Arc<Listener<T>>, held: Arc<HeldStreams<T>>, session: SessionOrigin) -> Self {
        Self { listener, held, session }
    }

    /// Opens a listening stream over a stream of a live session. When the session is parked, its newest stream is held.
    pub(crate) fn open(session: &Session<T>, stream: PolicyStream<T>, held: &Arc<HeldStreams<T>>) -> Self {
        Self::of(session, Listener::new(Stage::Live(stream), VecDeque::new()), held)
    }

    /// Takes over the stream that came to a session from its earlier incarnation, if it is still open.
    pub(crate) fn take_over(session: &Session<T>, held: &Arc<HeldStreams<T>>) -> Option<Self> {
        let newer = session.listeners().into_iter().rev().find_map(|listener| listener.give_way())?;
        Some(Self::of(session, newer, held))
    }

    fn of(session: &Session<T>, listener: Arc<Listener<T>>, held: &Arc<HeldStreams<T>>) -> Self {
        if !session.listen(&listener) {
            // The session has ended since. Its end has taken the listeners before this one was added.
            drop(listener.release());
        }
        Self::new(listener, Arc::clone(held), session.record.serial)
    }

    /// Ends the streams of a session that is not parked.
    pub(crate) fn end_all(listeners: &[Arc<Listener<T>>]) {
        listeners.iter().for_each(|listener| drop(listener.release()));
    }

    /// Whether the stream will yield nothing more.
    pub(crate) fn is_over(&self) -> bool {
        self.listener.is_over()
    }

    /// Removes the stream from the list of held streams. Returns false if it is not in the list, because it was joined
    /// or is over.
    pub(crate) fn withdraw(&self) -> bool {
        self.held.remove(self.session, &self.listener)
    }
}

impl<T> Stream for Listening<T> {
    type Item = ServerSseMessage;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.listener.poll_next(cx)
    }
}

impl<T> Drop for Listening<T> {
    fn drop(&mut self) {
        let (was_held, rest) = self.listener.hang_up();
        drop(rest);
        if was_held {
            self.held.remove(self.session, &self.listener);
        }
    }
}
