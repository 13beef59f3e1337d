//! Listening streams: opened by GET, held while their session is parked, joined to its next incarnation.

use std::sync::Arc;

use futures_core::Stream;
use rmcp::transport::streamable_http_server::session::{ServerSseMessage, SessionId, SessionManager};
use tokio::time::{Instant, timeout_at};

use super::manager_inner::{ManagerInner, not_found};
use super::parked::Parked;
use super::session_manager::{Abandoned, begin_listening};
use crate::error::PolicyError;
use crate::scope::{detached, hold_in_scope, is_listening, take_held};
use crate::timestamp::Timestamp;
use crate::transport::{EventSource, Listening, LiveStream, ParkedSession, PolicyStream, Reserved, Session};

type Opened<I> = PolicyStream<<I as SessionManager>::Transport>;
type Failed<I> = PolicyError<<I as SessionManager>::Error>;
type Here<I> = Arc<Session<<I as SessionManager>::Transport>>;

impl<I: SessionManager> ManagerInner<I> {
    /// Takes what `has_session` reserved in this scope for the stream of a session that stays parked.
    pub(super) fn take_reserved(&self, id: &SessionId) -> Option<Reserved> {
        take_held::<Reserved>().filter(|reserved| reserved.is_of(&self.held, id))
    }

    /// Opens a listening stream.
    pub(super) async fn listen(
        self: &Arc<Self>,
        id: &SessionId,
        reserved: Option<Reserved>,
    ) -> Result<Opened<I>, Failed<I>> {
        let was_parked = reserved.is_some();
        if let Some(reserved) = reserved
            && let Some(stream) = self.listen_parked(id, reserved).await?
        {
            return Ok(PolicyStream::Listening(stream));
        }
        let session = match self.find_live(id) {
            // The parking has forgotten it since, and the directory has not.
            Err(_) if was_parked && self.durable.is_some() => return Err(self.refuse_restore(id)),
            found => found?,
        };
        let listening = begin_listening::<I>(&session)?;
        let stream = self.open_stream(session).await;
        drop(listening);
        stream
    }

    /// Opens a listening stream of a live session. It replaces a stream that came over from an earlier incarnation.
    pub(super) async fn open_stream(&self, session: Here<I>) -> Result<Opened<I>, Failed<I>> {
        if let Some(stream) = self.take_over(&session) {
            session.record.ready();
            return Ok(PolicyStream::Listening(stream));
        }
        let stream = self.inner.create_standalone_stream(&session.record.id).await;
        let stream = stream.map_err(|error| self.failed_within(&session, error))?;
        // A client that listens has finished its handshake, even if its `initialized` never came.
        session.record.ready();
        Ok(self.listening(self.govern(&session, stream)))
    }

    /// Takes over the stream that came to a session from its earlier incarnation, for the GET of the current scope.
    pub(super) fn take_over(&self, session: &Here<I>) -> Option<Listening> {
        is_listening().then(|| Listening::take_over(session, &self.held)).flatten()
    }

    /// Wraps a listening stream of a live session. The stream may be held if the HTTP layer says that the request is a
    /// GET.
    pub(super) fn listening(&self, stream: LiveStream<I::Transport>) -> Opened<I> {
        match is_listening() {
            true => PolicyStream::Listening(stream.listen(&self.held)),
            false => PolicyStream::Live(stream),
        }
    }

    /// Wraps a listening stream of the inner manager.
    fn govern(
        &self,
        session: &Here<I>,
        stream: impl Stream<Item = ServerSseMessage> + Send + Sync + 'static,
    ) -> LiveStream<I::Transport> {
        let source = EventSource::listening(self.incarnation(session));
        LiveStream::new(Arc::clone(session), stream, true, source)
    }

    /// Reserves the stream of a session that stays parked, for the GET of the current scope. Returns false if the
    /// request is no GET, or there is no room.
    pub(super) fn reserve_stream(&self, id: &SessionId, parked: &Parked) -> bool {
        let session = ParkedSession {
            id: SessionId::clone(id),
            origin: parked.serial(),
            until: self.lifetime_ends(parked.opened()),
            called: parked.has_called(),
        };
        let reserved = is_listening().then(|| Reserved::reserve(&self.held, session)).flatten();
        let is_reserved = reserved.is_some();
        hold_in_scope(|| reserved);
        is_reserved
    }

    /// Whether the request of the current scope is a GET, and there may be room to hold its stream for a session that is
    /// about to be parked here.
    pub(super) fn may_hold_streams(&self) -> bool {
        is_listening() && self.parking.limits().entries > 0 && self.held.has_room()
    }

    pub(super) fn lifetime_ends(&self, opened: Timestamp) -> Option<Instant> {
        self.max_lifetime().map(|lifetime| opened.plus(lifetime))
    }

    /// Opens a stream of a session that was parked when its client asked. `None` if the session has been restored
    /// since.
    async fn listen_parked(
        self: &Arc<Self>,
        id: &SessionId,
        reserved: Reserved,
    ) -> Result<Option<Listening>, Failed<I>> {
        let (origin, until) = (reserved.session.origin, reserved.session.until);
        let Some(stream) = reserved.open() else { return Err(self.refuse_restore(id)) };
        // Checked after the stream is held: an end of the parking, or a restore that reaches its join, after this check
        // finds the stream.
        if let Some(parked) = self.parking.get(id, Instant::now()).filter(|parked| parked.serial() == origin) {
            // The lifetime may have changed since the slot was reserved. A change from here on finds the stream.
            let ends = self.lifetime_ends(parked.opened());
            if ends != until {
                self.held.set_until(origin, id, ends);
            }
            return Ok(Some(stream));
        }
        if !stream.withdraw() {
            return if stream.is_over() { Err(not_found()) } else { Ok(Some(stream)) };
        }
        if let Some(session) = self.find(id) {
            let deadline = Instant::now() + self.close_deadline();
            let replayed = session.until(|session| session.is_closing() || !session.is_replaying());
            // If the replay takes longer, the session is used as it is.
            timeout_at(deadline, replayed).await.ok();
        }
        Ok(None)
    }

    /// Joins the held stream of a restored session before its handler hears that it is initialized. From then on the
    /// client's stream carries the messages of the handler.
    pub(super) async fn join_held(self: &Arc<Self>, session: &Here<I>) {
        if !self.held.has(session.record.entry.serial) {
            return;
        }
        // If the client of the restoring request hangs up now, this guard gives the restore up.
        let mut abandoned = Abandoned { shared: self, session: Some(Arc::clone(session)) };
        let stream = detached(self.inner.create_standalone_stream(&session.record.id)).await;
        abandoned.session = None;
        match stream {
            Ok(stream) => self.govern(session, stream).join(&self.held),
            // The session is closing: its end decides what becomes of the stream.
            Err(_) if session.is_closing() => {}
            Err(_) => {
                tracing::warn!(session = %session.record.fingerprint(), "the inner manager opens no stream for a session that came back; its held one ends");
                self.held.end(session.record.entry.serial);
            }
        }
    }

    /// Called when a session is gone. Holds its newest stream if the session is about to be parked; the end of the
    /// parking then ends the stream.
    pub(super) fn settle_streams(&self, session: &Session<I::Transport>, is_parked: bool) {
        let listeners = session.take_listeners();
        let record = &session.record;
        if !is_parked {
            self.held.end_all(&listeners);
        } else if listeners.is_empty() {
            // The session may have been restored without reaching the join.
            self.held.stays(record.entry.serial);
        } else {
            let parked = ParkedSession {
                id: SessionId::clone(&record.id),
                origin: record.entry.serial,
                until: self.lifetime_ends(record.entry.opened),
                called: record.calls() > 0,
            };
            self.held.hold(&parked, listeners);
        }
    }

    /// Ends the parking of the sessions with a held stream that are past their lifetime. Returns when the next lifetime
    /// ends.
    pub(super) fn end_overdue_streams(&self, now: Instant) -> Option<Instant> {
        loop {
            match self.held.next_overdue(now) {
                Ok(id) => drop(self.may_come_back(&id)),
                Err(next) => return next,
            }
        }
    }
}

/// Tests of what happens between the two calls that rmcp makes for one GET.
#[cfg(test)]
#[cfg(all(feature = "http", feature = "testing"))]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll};

    use futures_util::{StreamExt, poll};
    use rmcp::model::ClientJsonRpcMessage;
    use rmcp::transport::streamable_http_server::session::SessionState;
    use serde_json::{Value, json};
    use tokio::time::sleep;

    use super::*;
    use crate::context::ClientContext;
    use crate::eviction::SessionInfo;
    use crate::testing::inner::{Line, Scripted};
    use crate::transport::PolicyTransport;
    use crate::{CloseReason, HOUR, MINUTE, PolicySessionManager, SECOND};

    type Sessions = PolicySessionManager<Scripted>;

    fn sessions() -> Sessions {
        PolicySessionManager::builder(Scripted::new()).max_sessions(1).build().unwrap()
    }

    fn message(message: Value) -> ClientJsonRpcMessage {
        serde_json::from_value(message).unwrap()
    }

    async fn open(sessions: &Sessions) -> (SessionId, PolicyTransport<Line>) {
        let params = json!({ "protocolVersion": "2025-06-18", "capabilities": {},
            "clientInfo": { "name": "test", "version": "1" } });
        let (id, transport) = sessions.create_session().await.unwrap();
        let initialize = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
        sessions.initialize_session(&id, message(initialize)).await.unwrap();
        let state = SessionState::new(serde_json::from_value(params).unwrap());
        sessions.parking().store(&id, &state).await.unwrap();
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        sessions.accept_message(&id, message(initialized)).await.unwrap();
        (id, transport)
    }

    async fn park(sessions: &Sessions, transport: PolicyTransport<Line>) {
        sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Evicted).await;
        drop(transport);
    }

    /// Returns a parked session, and the transport of the session that has its place.
    async fn parked(sessions: &Sessions) -> (SessionId, PolicyTransport<Line>) {
        let (id, transport) = open(sessions).await;
        park(sessions, transport).await;
        let (_other, other) = open(sessions).await;
        (id, other)
    }

    async fn get<T>(steps: impl Future<Output = T>) -> T {
        ClientContext::new().listening().scope(steps).await
    }

    /// A stream of an inner manager that panics in its drop.
    struct Explosive;

    impl Stream for Explosive {
        type Item = ServerSseMessage;

        fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<ServerSseMessage>> {
            Poll::Pending
        }
    }

    impl Drop for Explosive {
        fn drop(&mut self) {
            assert!(std::thread::panicking(), "as told");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_panics_when_its_client_does_not_answer_costs_other_sessions_no_deadline() {
        let builder = PolicySessionManager::builder(Scripted::new()).max_sessions(2);
        let builder = builder.probe_listeners(MINUTE, 10 * SECOND).idle_timeout(90 * SECOND);
        let sessions = builder.build().unwrap();
        let ((id, _one), (_, _other)) = (open(&sessions).await, open(&sessions).await);
        let shared = &sessions.shared;
        let stream = get(async { shared.listening(shared.govern(&shared.find(&id).unwrap(), Explosive)) }).await;
        sleep(80 * SECOND).await;
        assert_eq!((sessions.stats().dead_streams, sessions.stats().live), (1, 2));
        sleep(20 * SECOND).await;
        assert!(sessions.stats().closed(CloseReason::Idle) > 0, "{:?}", sessions.stats());
        drop(stream);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_deleted_before_its_stream_is_opened_has_none() {
        let sessions = sessions();
        let (id, _other) = parked(&sessions).await;
        get(async {
            assert!(sessions.has_session(&id).await.unwrap(), "its stream will be held");
            detached(sessions.parking().delete(&id)).await.unwrap();
            assert!(matches!(sessions.create_standalone_stream(&id).await, Err(PolicyError::NotFound)));
        })
        .await;
        assert_eq!(sessions.stats().parked_streams, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lifetime_that_changes_before_the_stream_is_opened_counts_for_the_stream() {
        let sessions = sessions();
        let (id, _other) = parked(&sessions).await;
        let _stream = get(async {
            assert!(sessions.has_session(&id).await.unwrap(), "its stream will be held");
            sessions.reconfigure(|settings| settings.max_lifetime(HOUR)).await.unwrap();
            sessions.create_standalone_stream(&id).await.unwrap()
        })
        .await;
        assert_eq!(sessions.stats().parked_streams, 1);
        sleep(2 * HOUR).await;
        assert_eq!(sessions.stats().parked_streams, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_comes_back_before_its_stream_is_opened_has_one_as_ever() {
        let sessions = sessions();
        let (id, other) = parked(&sessions).await;
        let (stream, _restored) = get(async {
            assert!(sessions.has_session(&id).await.unwrap(), "its stream will be held");
            park(&sessions, other).await;
            let restored = detached(sessions.restore_session(SessionId::clone(&id))).await.unwrap();
            (sessions.create_standalone_stream(&id).await.unwrap(), restored)
        })
        .await;
        assert_eq!((sessions.stats().parked_streams, sessions.list()[0].open_streams), (0, 1));
        drop(stream);
        assert_eq!(sessions.list()[0].open_streams, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_not_joined_to_an_incarnation_that_has_ended() {
        let sessions = sessions();
        let (id, transport) = open(&sessions).await;
        let ended = sessions.shared.find(&id).unwrap();
        let mut stream = pin!(get(sessions.create_standalone_stream(&id)).await.unwrap());
        park(&sessions, transport).await;
        // The inner manager may return a stream at the moment at which the session ends.
        let late = sessions.shared.govern(&ended, futures_util::stream::empty());
        late.join(&sessions.shared.held);
        assert!(poll!(stream.next()).is_pending());
        assert_eq!(sessions.stats().parked_streams, 1);
        detached(sessions.parking().delete(&id)).await.unwrap();
        assert!(poll!(stream.next()).is_ready());
    }
}
