//! The client's end of a listening stream, and the slot that is reserved for one.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use rmcp::transport::streamable_http_server::session::{ServerSseMessage, SessionId};

use super::held::{HeldStreams, ParkedSession};
use super::listener::{IncarnationStream, Listener};
use super::session::Session;
use crate::session::SessionOrigin;

/// The client's end of a listening stream. Its drop is the hang-up of the client.
///
/// It owns the listener. The session and the list of held streams have it weakly.
pub(crate) struct Listening {
    /// The session side, which a newer GET may replace: then this end is over.
    pub(super) listener: Arc<Listener>,
    /// The list that has the stream while its session is parked.
    held: Arc<HeldStreams>,
    /// The session, by the name that its incarnations share.
    session: SessionOrigin,
}

impl Listening {
    const fn new(listener: Arc<Listener>, held: Arc<HeldStreams>, session: SessionOrigin) -> Self {
        Self { listener, held, session }
    }

    /// Opens a listening stream over a stream of a live session. When the session is parked, its newest stream is held.
    pub(super) fn open<T>(session: &Session<T>, stream: Box<dyn IncarnationStream>, held: &Arc<HeldStreams>) -> Self {
        Self::of(session, Listener::live(stream), held)
    }

    /// Takes over the stream that came to a session from its earlier incarnation, if it is still open.
    ///
    /// `None` if no such stream is open. The newest one gives way first. Used for a GET of the same client, which has
    /// most likely lost the older stream.
    pub(crate) fn take_over<T>(session: &Session<T>, held: &Arc<HeldStreams>) -> Option<Self> {
        let newer = session.listeners().into_iter().rev().find_map(|listener| listener.give_way())?;
        Some(Self::of(session, newer, held))
    }

    /// Makes the client's end of a listener of a live session, and tells the session of it. If the close of the session
    /// has taken its listeners already, the stream ends with the session.
    fn of<T>(session: &Session<T>, listener: Arc<Listener>, held: &Arc<HeldStreams>) -> Self {
        if !session.listen(&listener) {
            // The session has ended since. Its end has taken the listeners before this one was added.
            held.end_all(std::slice::from_ref(&listener));
        }
        held.watch(&listener, &session.record.id, session.record.entry.serial);
        Self::new(listener, Arc::clone(held), session.record.entry.serial)
    }

    /// Whether the stream will yield nothing more.
    pub(crate) fn is_over(&self) -> bool {
        self.listener.is_over()
    }

    /// Removes the stream from the list of held streams. Returns false if it is not in the list, because it was joined
    /// or is over. It stays held otherwise, so the caller drops it.
    pub(crate) fn withdraw(&self) -> bool {
        self.held.remove(self.session, &self.listener)
    }
}

impl Stream for Listening {
    type Item = ServerSseMessage;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.listener.poll_next(cx)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let (was_held, rest) = self.listener.hang_up();
        drop(rest);
        if was_held {
            self.held.remove(self.session, &self.listener);
        }
    }
}

/// A slot for the stream of a parked session; its drop gives it back.
///
/// `has_session` reserves it for a GET of a session that stays parked, and the call that opens the stream follows in
/// the same scope. In between, rmcp may still refuse the GET: the stream that the client has goes on until then.
pub(crate) struct Reserved {
    held: Arc<HeldStreams>,
    /// The session as it was parked when the slot was reserved.
    pub(crate) session: ParkedSession,
    /// Whether it counts as a slot of its own. It does not if the session's present stream has one.
    takes_slot: bool,
}

impl Reserved {
    /// Reserves a slot for the stream of a parked session. It may be the slot of its present stream.
    ///
    /// `None` if there is no room. A session that has called may take the slot of one that never has.
    pub(crate) fn reserve(held: &Arc<HeldStreams>, session: ParkedSession) -> Option<Self> {
        let takes_slot = held.take_slot(&session)?;
        Some(Self { held: Arc::clone(held), session, takes_slot })
    }

    /// Whether it is for this session of this manager. In stacked managers, the scope may hold one of another manager.
    pub(crate) fn is_of(&self, held: &Arc<HeldStreams>, id: &SessionId) -> bool {
        Arc::ptr_eq(&self.held, held) && self.session.id == *id
    }

    /// Opens the stream, in place of the session's present one. `None` if the present stream has ended meanwhile, and
    /// another session has its slot.
    ///
    /// Gives the slot back first, and takes it again for the stream. Another session may take it in between.
    pub(crate) fn open(mut self) -> Option<Listening> {
        let listener = Listener::held();
        self.give_back();
        drop(self.held.insert(&self.session, &listener, false)?);
        self.held.watch(&listener, &self.session.id, self.session.origin);
        Some(Listening::new(listener, Arc::clone(&self.held), self.session.origin))
    }

    /// Gives the slot back once, at the opening or at the drop.
    fn give_back(&mut self) {
        if std::mem::take(&mut self.takes_slot) {
            self.held.give_slot_back();
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.give_back();
    }
}
