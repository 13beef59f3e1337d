//! Listening streams: opened by GET, held while their session is parked, joined to its next incarnation.

use std::sync::Arc;

use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use tokio::time::{Instant, timeout_at};

use super::session_manager::Abandoned;
use super::shared::{Shared, not_found};
use crate::context::{apart, is_listening, keep_for_scope, take_kept};
use crate::error::PolicyError;
use crate::registry::{Activity, Kind};
use crate::transport::{GovernedStream, Listening, Reserved, Session};

type Opened<I> = GovernedStream<<I as SessionManager>::Transport>;
type Failed<I> = PolicyError<<I as SessionManager>::Error>;
type Here<I> = Arc<Session<<I as SessionManager>::Transport>>;

impl<I: SessionManager> Shared<I> {
    /// Opens a listening stream.
    pub(super) async fn listen(self: &Arc<Self>, id: &SessionId) -> Result<Opened<I>, Failed<I>> {
        let reserved = take_kept::<Reserved<I::Transport>>().filter(|reserved| reserved.is_of(&self.held, id));
        if let Some(reserved) = reserved
            && let Some(stream) = self.listen_parked(id, reserved).await?
        {
            return Ok(GovernedStream::Listening(stream));
        }
        let session = self.find_live(id)?;
        let listening = begin_listening::<I>(&session)?;
        if is_listening()
            && let Some(stream) = Listening::take_over(&session, &self.held)
        {
            return Ok(GovernedStream::Listening(stream));
        }
        let stream = self.inner.create_standalone_stream(id).await;
        let stream = stream.map_err(|error| self.failed_within(&session, error))?;
        let stream = self.listening(&session, GovernedStream::live(Arc::clone(&session), stream, true));
        drop(listening);
        Ok(stream)
    }

    /// A listening stream of a live session. Behind the HTTP layer, which knows a GET, it may be held.
    pub(super) fn listening(&self, session: &Here<I>, stream: Opened<I>) -> Opened<I> {
        match is_listening() {
            true => GovernedStream::Listening(Listening::open(session, stream, &self.held)),
            false => stream,
        }
    }

    /// Reserves the stream of a session that stays parked, for the GET of the scope that is running; false if it is none, or
    /// there is no room.
    pub(super) fn reserve_stream(&self, id: &SessionId) -> bool {
        let Some(reserved) = is_listening().then(|| self.held.reserve(id)).flatten() else { return false };
        keep_for_scope(|| Some(reserved));
        true
    }

    /// Opens a stream of a session that was parked when its client asked. `None` if it is back.
    async fn listen_parked(
        self: &Arc<Self>,
        id: &SessionId,
        reserved: Reserved<I::Transport>,
    ) -> Result<Option<Listening<I::Transport>>, Failed<I>> {
        let Some(stream) = reserved.open() else { return Err(self.refuse_restore()) };
        // Looked at only now: a parking that ends, or a restore that comes to its join, after this finds the stream.
        if let Some(until) = self.parked_until(id) {
            self.held.set_deadline(id, until);
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

    /// When the parking of a session ends by itself; `None` if it is not parked.
    fn parked_until(&self, id: &SessionId) -> Option<Instant> {
        let parked = self.parked(id)?;
        let age = self.parking.until(&parked);
        let lifetime = self.settings.max_lifetime.map(|lifetime| parked.opened().instant() + lifetime);
        Some(lifetime.map_or(age, |lifetime| lifetime.min(age)))
    }

    /// Joins the held stream of a session that comes back, before its handler hears that it is initialized: what the handler
    /// says from then on, the client's stream carries.
    pub(super) async fn join_held(self: &Arc<Self>, session: &Here<I>) {
        let id = &session.record.id;
        if !self.held.contains(id) {
            return;
        }
        // If the client of the request that restores the session hangs up now, nobody finishes the restore.
        let mut abandoned = Abandoned { shared: self, session: Some(Arc::clone(session)) };
        let stream = apart(self.inner.create_standalone_stream(id)).await;
        abandoned.session = None;
        match stream {
            Ok(stream) => self.held.join(session, GovernedStream::live(Arc::clone(session), stream, true)),
            // If the session ends, that end decides.
            Err(_) if session.is_closing() => {}
            Err(_) => {
                tracing::warn!(session = %session.record.fingerprint(), "the inner manager opens no stream for a session that came back; its held one ends");
                self.held.end(id);
            }
        }
    }

    /// The session is gone: holds its stream if it is parked, and ends it if it is not.
    pub(super) fn settle_streams(&self, session: &Session<I::Transport>, parked: bool) {
        let id = &session.record.id;
        let listeners = session.take_listeners();
        if parked {
            self.held.hold(id, listeners);
        } else {
            Listening::end_all(listeners);
        }
        // Looked at only now: a parking that ends after this finds the stream.
        match parked.then(|| self.parked_until(id)).flatten() {
            Some(until) => self.held.set_deadline(id, until),
            None => self.held.end(id),
        }
    }

    /// Ends the streams whose sessions were parked for too long; tells when the next one is due.
    pub(super) fn end_overdue_streams(&self, now: Instant) -> Option<Instant> {
        loop {
            let id = match self.held.next_deadline(now) {
                Ok(id) => id,
                Err(next) => return next,
            };
            match self.parked_until(&id) {
                Some(until) => self.held.set_deadline(&id, until),
                // If it comes back this moment, its join or its end decides.
                None if self.find(&id).is_some() => {}
                None => self.held.end(&id),
            }
        }
    }
}

pub(super) fn begin_listening<I: SessionManager>(
    session: &Here<I>,
) -> Result<Activity<Session<I::Transport>>, Failed<I>> {
    let activity = Activity::begin(session, Kind::Listen, Instant::now()).ok_or_else(not_found)?;
    if session.record.restored {
        session.record.ready();
    }
    Ok(activity)
}
