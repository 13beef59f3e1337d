//! Listening streams: opened by GET, held while their session is parked, joined to its next incarnation.

use std::sync::Arc;

use futures_core::Stream;
use rmcp::transport::streamable_http_server::session::{ServerSseMessage, SessionId, SessionManager};
use tokio::time::{Instant, timeout_at};

use super::lot::Parked;
use super::session_manager::{Abandoned, begin_listening};
use super::shared::{Shared, not_found};
use crate::context::{apart, is_listening, keep_for_scope, take_kept};
use crate::error::PolicyError;
use crate::stamp::Stamp;
use crate::transport::{EventSource, GovernedStream, Listening, ParkedSession, Reserved, Session};

type Opened<I> = GovernedStream<<I as SessionManager>::Transport>;
type Failed<I> = PolicyError<<I as SessionManager>::Error>;
type Here<I> = Arc<Session<<I as SessionManager>::Transport>>;

impl<I: SessionManager> Shared<I> {
    /// What `has_session` reserved for the stream of a session that stays parked.
    pub(super) fn take_reserved(&self, id: &SessionId) -> Option<Reserved<I::Transport>> {
        take_kept::<Reserved<I::Transport>>().filter(|reserved| reserved.is_of(&self.held, id))
    }

    /// Opens a listening stream.
    pub(super) async fn listen(
        self: &Arc<Self>,
        id: &SessionId,
        reserved: Option<Reserved<I::Transport>>,
    ) -> Result<Opened<I>, Failed<I>> {
        if let Some(reserved) = reserved
            && let Some(stream) = self.listen_parked(id, reserved).await?
        {
            return Ok(GovernedStream::Listening(stream));
        }
        let session = self.find_live(id)?;
        let listening = begin_listening::<I>(&session)?;
        let stream = self.open_stream(session).await;
        drop(listening);
        stream
    }

    /// Opens a listening stream of a live session. If it has one from its earlier incarnation, that one gives way.
    pub(super) async fn open_stream(&self, session: Here<I>) -> Result<Opened<I>, Failed<I>> {
        if let Some(stream) = self.take_over(&session) {
            return Ok(GovernedStream::Listening(stream));
        }
        let stream = self.inner.create_standalone_stream(&session.record.id).await;
        let stream = stream.map_err(|error| self.failed_within(&session, error))?;
        Ok(self.listening(&session, self.govern(&session, stream)))
    }

    /// Takes over what came to a session from its earlier incarnation, for the GET of the scope that is running.
    pub(super) fn take_over(&self, session: &Here<I>) -> Option<Listening<I::Transport>> {
        is_listening().then(|| Listening::take_over(session, &self.held)).flatten()
    }

    /// A listening stream of a live session. Behind the HTTP layer, which knows a GET, it may be held.
    pub(super) fn listening(&self, session: &Here<I>, stream: Opened<I>) -> Opened<I> {
        match is_listening() {
            true => GovernedStream::Listening(Listening::open(session, stream, &self.held)),
            false => stream,
        }
    }

    /// Wraps a listening stream of the inner manager.
    fn govern(
        &self,
        session: &Here<I>,
        stream: impl Stream<Item = ServerSseMessage> + Send + Sync + 'static,
    ) -> Opened<I> {
        let source = EventSource::listening(self.incarnation(session));
        GovernedStream::live(Arc::clone(session), stream, true, source)
    }

    /// Reserves the stream of a session that stays parked, for the GET of the scope that is running; false if it is none, or
    /// there is no room.
    pub(super) fn reserve_stream(&self, id: &SessionId, parked: &Parked) -> bool {
        let session = ParkedSession {
            id: SessionId::clone(id),
            origin: parked.serial(),
            until: self.lifetime_ends(parked.opened()),
        };
        let reserved = is_listening().then(|| self.held.reserve(session)).flatten();
        let is_reserved = reserved.is_some();
        keep_for_scope(|| reserved);
        is_reserved
    }

    fn lifetime_ends(&self, opened: Stamp) -> Option<Instant> {
        self.settings.max_lifetime.map(|lifetime| opened.instant() + lifetime)
    }

    /// Opens a stream of a session that was parked when its client asked. `None` if it is back.
    async fn listen_parked(
        self: &Arc<Self>,
        id: &SessionId,
        reserved: Reserved<I::Transport>,
    ) -> Result<Option<Listening<I::Transport>>, Failed<I>> {
        let origin = reserved.session.origin;
        let Some(stream) = reserved.open() else { return Err(self.refuse_restore()) };
        // Looked at only now: a parking that ends, or a restore that comes to its join, after this finds the stream.
        if self.parking.get(id, Instant::now()).is_some_and(|parked| parked.serial() == origin) {
            return Ok(Some(stream));
        }
        if !stream.withdraw() {
            return if stream.is_over() { Err(not_found()) } else { Ok(Some(stream)) };
        }
        if let Some(session) = self.find(id) {
            let deadline = Instant::now() + self.settings.close_deadline;
            let replayed = session.until(|session| session.is_closing() || !session.is_replaying());
            // Should it take longer, the session is asked as it is.
            timeout_at(deadline, replayed).await.ok();
        }
        Ok(None)
    }

    /// Joins the held stream of a session that comes back, before its handler hears that it is initialized: what the handler
    /// says from then on, the client's stream carries.
    pub(super) async fn join_held(self: &Arc<Self>, session: &Here<I>) {
        if !self.held.has(session.record.serial) {
            return;
        }
        // If the client of the request that restores the session hangs up now, nobody finishes the restore.
        let mut abandoned = Abandoned { shared: self, session: Some(Arc::clone(session)) };
        let stream = apart(self.inner.create_standalone_stream(&session.record.id)).await;
        abandoned.session = None;
        match stream {
            Ok(stream) => self.held.join(session, self.govern(session, stream)),
            // If the session ends, that end decides.
            Err(_) if session.is_closing() => {}
            Err(_) => {
                tracing::warn!(session = %session.record.fingerprint(), "the inner manager opens no stream for a session that came back; its held one ends");
                self.held.end(session.record.serial);
            }
        }
    }

    /// The session is gone: holds its newest stream if it is about to be parked. Whatever ends the parking ends the stream.
    pub(super) fn settle_streams(&self, session: &Session<I::Transport>, is_parked: bool) {
        let listeners = session.take_listeners();
        let record = &session.record;
        if !is_parked {
            Listening::end_all(&listeners);
        } else if listeners.is_empty() {
            // It may have come from the parking, and not come to the join.
            self.held.stays(record.serial);
        } else {
            let parked = ParkedSession {
                id: SessionId::clone(&record.id),
                origin: record.serial,
                until: self.lifetime_ends(record.opened),
            };
            self.held.hold(&parked, listeners);
        }
    }

    /// Ends the parking of sessions with a stream whose lifetime has ended; tells when the next one's ends.
    pub(super) fn end_overdue_streams(&self, now: Instant) -> Option<Instant> {
        loop {
            match self.held.next_overdue(now) {
                Ok(id) => drop(self.may_come_back(&id)),
                Err(next) => return next,
            }
        }
    }
}
