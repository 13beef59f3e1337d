//! rmcp's trait [`SessionManager`] for the manager.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use futures_core::Stream;
use futures_util::FutureExt;
use rmcp::model::{ClientJsonRpcMessage, ClientNotification, ClientRequest, GetExtensions, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_server::session::{
    EventStore, RestoreOutcome, ServerSseMessage, SessionId, SessionManager, SessionRestoreMarker,
};
use tokio::time::Instant;

use super::PolicySessionManager;
use super::asker::Asker;
use super::asking::Asking;
use super::current_session::CurrentSession;
use super::lookup::Entered;
use super::manager_inner::{ManagerInner, not_found};
use crate::admission::{Arrival, ArrivalKind, Lease};
use crate::context::ClientContext;
use crate::error::{PolicyError, Rejected};
use crate::observe::CloseReason;
use crate::scope::{Outcome, clear_held, is_detached, record_outcome, take_found};
use crate::session::{Activity, ActivityKind, Software};
use crate::transport::{
    EventSource, Flag, IdRefused, LiveStream, MAX_IN_FLIGHT, PolicyTransport, Seat, Session, StreamRequest, is_call,
    is_discover, kind_of,
};

#[deny(clippy::missing_trait_methods)]
impl<I: SessionManager> SessionManager for PolicySessionManager<I> {
    type Error = PolicyError<I::Error>;
    type Transport = PolicyTransport<I::Transport>;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        self.shared.create().await
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        mut message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        let kind = if is_replay(&message) { ActivityKind::Replay } else { ActivityKind::Handshake };
        let session = self.shared.find(id).ok_or_else(|| self.shared.cut_off(id, kind, None))?;
        let cut_off = || self.shared.cut_off(id, kind, session.close_reason().map(|(reason, _)| reason));
        let activity = Activity::begin(&session, kind, Instant::now()).ok_or_else(cut_off)?;
        self.shared.note_software(&session, &message);
        session.raise(Flag::Initializing);
        session.record.progress.notify_waiters();
        let mut abandoned = Abandoned { shared: &self.shared, session: Some(Arc::clone(&session)) };
        let answer = match self.shared.take_seat(&session, &message) {
            Err(refused) => Ok(*refused),
            Ok(seat) => {
                if let Some(seat) = seat {
                    seat.attach(&mut message, activity, None);
                }
                self.shared.inner.initialize_session(id, message).await
            }
        };
        abandoned.session = None;
        let is_other = answer.as_ref().is_ok_and(|answer| !self.shared.speaks_the_same(&session, answer));
        let failed = is_other || !matches!(answer, Ok(ServerJsonRpcMessage::Response(_)));
        if is_other {
            self.shared.release_unservable(&session);
        }
        match failed {
            false => drop(session.raise(Flag::Initialized)),
            // No answer of its handler, or the farewell of the closing session: the server may be stopping.
            true if session.in_directory().is_some() && (answer.is_err() || session.is_closing()) => {}
            true => drop(session.raise(Flag::InitFailed)),
        }
        let answer = match (answer, session.close_reason()) {
            // The error may be the farewell of the closing session.
            (Ok(ServerJsonRpcMessage::Error(_)), Some((reason, _))) if !is_of_service(reason) => Err(cut_off()),
            (Ok(_), _) if is_other => Err(cut_off()),
            (Ok(answer), _) => Ok(answer),
            (Err(_), _) if session.is_closing() => Err(cut_off()),
            (Err(error), _) => Err(self.shared.failed_opening(id, kind, error)),
        };
        if failed {
            self.shared.close(&session, CloseReason::InitFailed);
        }
        answer
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        self.shared.find_and_hold(id).await
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        clear_held();
        let found = take_found();
        // rmcp closes a session once more when its service ends. An outer manager closes it when it ends the session.
        let served = self.shared.serving_tasks.take(id);
        let for_good = served.is_none() && !is_detached();
        if for_good {
            self.shared.restores.bar(id, CloseReason::Client);
        }
        let session = match self.shared.find(id) {
            Some(session) => session,
            None if !for_good => return Ok(()),
            None => match self.shared.end_parked(id, found).await? {
                Some(session) => session,
                None => return Ok(()),
            },
        };
        if served.is_some_and(|served| served != session.record.entry.key) {
            return Ok(());
        }
        let reason = if for_good { CloseReason::Client } else { CloseReason::Ended };
        if is_detached() {
            session.raise(Flag::ByOuter);
        }
        if !self.shared.begin_close(&session, reason) {
            if for_good {
                self.shared.forbid_restore(&session);
                self.shared.deletion_written(&session).await;
            }
            return Ok(());
        }
        let ended = self.shared.close_and_wait(Arc::clone(&session)).await;
        if for_good {
            self.shared.deletion_written(&session).await;
        }
        ended.map_err(|error| self.shared.failed(ArrivalKind::Request, Some(id), error))
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        mut message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        let Entered { session, held } = self.shared.enter(id)?;
        let (kind, is_discover) = match &message {
            ClientJsonRpcMessage::Request(request) => (kind_of(&request.request), is_discover(&request.request)),
            _ => (ActivityKind::Message, false),
        };
        let seat = match self.shared.take_seat(&session, &message) {
            Ok(seat) => seat,
            Err(refused) => {
                return Ok(LiveStream::once(&session, Some(ServerSseMessage::from_message(*refused))));
            }
        };
        let (lease, now) = match self.shared.admit_request(&session, kind, is_discover).await {
            Ok(admitted) => admitted,
            Err(refusal) => return Ok(LiveStream::once(&session, self.shared.refused(&refusal, message))),
        };
        let activity = begin(&session, held, kind, now).ok_or_else(not_found)?;
        #[cfg(feature = "metrics")]
        if kind.is_use() {
            self.shared.measure(|metrics| metrics.request(true));
        }
        if kind.is_use() && self.shared.tracks_access.load(Relaxed) {
            self.shared.lock().registry.used(&session.record);
        }
        CurrentSession::attach(&mut message, &session);
        let is_leased = lease.is_some();
        let request = seat.and_then(|seat| seat.attach(&mut message, activity, lease));
        // Not held across the await: a request ends with its last holder.
        let request = request.map(|request| {
            if is_leased {
                self.shared.leases.watch(now, &request);
            }
            Arc::downgrade(&request)
        });
        let incarnation = self.shared.incarnation(&session);
        let (source, answered) = match &message {
            ClientJsonRpcMessage::Request(request) => {
                let (id, is_call) = (request.id.clone(), is_call(&request.request));
                let rejection = self.shared.call_rejection();
                (EventSource::request(incarnation, &id, is_call), Some(StreamRequest { id, is_call, rejection }))
            }
            _ => (EventSource::listening(incarnation), None),
        };
        let stream = self.shared.inner.create_stream(id, message).await;
        let stream = stream.map_err(|error| self.shared.failed_within(&session, error))?;
        let stream = LiveStream::new(session, stream, false, source);
        Ok(match answered.zip(request.and_then(|request| request.upgrade())) {
            Some((answered, request)) => stream.answering(answered, &request),
            None => stream,
        })
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        if self.shared.take_probe_answer(id, &message) {
            clear_held();
            return Ok(());
        }
        let replay = is_replay(&message);
        // The replay must not take what is held for the restoring request. That is kept until rmcp hands the request
        // over.
        let Entered { session, held } = match replay {
            true => Entered { session: self.shared.find_live(id)?, held: None },
            false => self.shared.enter(id)?,
        };
        let kind = if replay { ActivityKind::Replay } else { ActivityKind::Message };
        let activity = begin(&session, held, kind, Instant::now()).ok_or_else(not_found)?;
        let initialized = matches!(&message, ClientJsonRpcMessage::Notification(notification)
            if matches!(notification.notification, ClientNotification::InitializedNotification(_)));
        if !replay && (initialized || session.record.restored) {
            session.record.ready();
            self.shared.ready_in_directory(&session);
        }
        if let ClientJsonRpcMessage::Notification(notification) = &message
            && let ClientNotification::CancelledNotification(cancelled) = &notification.notification
            && let Some(request) = &cancelled.params.request_id
        {
            // Done before the notification is passed on: once the client hears that it was, the client may use the id
            // again.
            if let Some(request) = session.ids.cancel(request) {
                self.shared.handlers.watch(request);
            }
        }
        if replay && initialized {
            self.shared.join_held(&session).await;
        }
        let accepted = self.shared.inner.accept_message(id, message).await;
        if replay && initialized && accepted.is_ok() {
            session.raise(Flag::Replayed);
            session.record.progress.notify_waiters();
        }
        drop(activity);
        accepted.map_err(|error| self.shared.failed_within(&session, error))
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.shared.listen(id, self.shared.take_reserved(id)).await
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.shared.resume(id, &last_event_id).await
    }

    async fn restore_session(&self, id: SessionId) -> Result<RestoreOutcome<Self::Transport>, Self::Error> {
        self.shared.restore(id).await
    }

    fn event_store(&self) -> Option<Arc<dyn EventStore>> {
        self.shared.events()
    }
}

/// Ends a session if the request that initializes it is dropped: the client was never told its id.
pub(super) struct Abandoned<'a, I: SessionManager> {
    pub(super) shared: &'a Arc<ManagerInner<I>>,
    pub(super) session: Option<Arc<Session<I::Transport>>>,
}

impl<I: SessionManager> Drop for Abandoned<'_, I> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.shared.close(&session, CloseReason::InitFailed);
        }
    }
}

/// Whether a session ended because its service ended.
const fn is_of_service(reason: CloseReason) -> bool {
    matches!(reason, CloseReason::Ended | CloseReason::InitFailed)
}

pub(super) fn begin_listening<I: SessionManager>(
    session: &Arc<Session<I::Transport>>,
) -> Result<Activity<Session<I::Transport>>, PolicyError<I::Error>> {
    let activity = Activity::begin(session, ActivityKind::Listen, Instant::now()).ok_or_else(not_found)?;
    if session.record.restored {
        session.record.ready();
    }
    Ok(activity)
}

type SeatOf<'a, I> = Seat<'a, Session<<I as SessionManager>::Transport>>;

/// Begins the activity of a request, in place of the hold for it if there is one.
fn begin<T>(
    session: &Arc<Session<T>>,
    held: Option<Activity<Session<T>>>,
    kind: ActivityKind,
    now: Instant,
) -> Option<Activity<Session<T>>> {
    match held {
        Some(held) => held.turn_into(kind, now),
        None => Activity::begin(session, kind, now),
    }
}

/// Whether a message is part of the handshake that rmcp replays to restore a session.
fn is_replay(message: &ClientJsonRpcMessage) -> bool {
    let extensions = match message {
        ClientJsonRpcMessage::Request(request) => request.request.extensions(),
        ClientJsonRpcMessage::Notification(notification) => notification.notification.extensions(),
        _ => return false,
    };
    extensions.get::<SessionRestoreMarker>().is_some()
}

impl<I: SessionManager> ManagerInner<I> {
    fn note_software(&self, session: &Session<I::Transport>, message: &ClientJsonRpcMessage) {
        if let ClientJsonRpcMessage::Request(request) = message
            && let ClientRequest::InitializeRequest(initialize) = &request.request
        {
            let client = &initialize.params.client_info;
            session.record.software.get_or_init(|| Software::new(&client.name, &client.version));
            #[cfg(feature = "metrics")]
            self.measure_software(session, &client.name);
        }
    }

    /// Enters the id of a request among those in flight. Returns the answer to the request if its id is not allowed.
    fn take_seat<'a>(
        &self,
        session: &'a Session<I::Transport>,
        message: &ClientJsonRpcMessage,
    ) -> Result<Option<SeatOf<'a, I>>, Box<ServerJsonRpcMessage>> {
        let ClientJsonRpcMessage::Request(request) = message else { return Ok(None) };
        let is_call = is_call(&request.request);
        Seat::take(&session.ids, &request.id, is_call).map(Some).map_err(|refused: IdRefused| {
            if let Some(error) = refused.error() {
                tracing::debug!(session = %session.record.fingerprint(), ?refused, "refused the id of a request");
                return Box::new(ServerJsonRpcMessage::error(error, Some(request.id.clone())));
            }
            let current = ClientContext::current();
            let context = current.as_deref().or(session.record.entry.context.as_deref());
            let asker = Asker { context, session: Some(&session.record.id) };
            let refusal = self.turn_away_request(Rejected::too_many_in_flight(MAX_IN_FLIGHT), asker);
            Box::new(refusal.answer_to(is_call, self.call_rejection(), request.id.clone()))
        })
    }

    /// Returns the answer to a rejected request.
    fn refused(&self, refusal: &Rejected, message: ClientJsonRpcMessage) -> Option<ServerSseMessage> {
        let (request, id) = message.into_request()?;
        let answer = refusal.answer_to(is_call(&request), self.call_rejection(), id);
        Some(ServerSseMessage::from_message(answer))
    }

    /// Counts and reports the rejection of a request within a session.
    fn turn_away_request(&self, refusal: Rejected, asker: Asker<'_>) -> Rejected {
        #[cfg(feature = "metrics")]
        self.measure(|metrics| metrics.request(false));
        self.turn_away(refusal, asker)
    }

    /// Returns the error for an `initialize` if its session ended before the answer. The client does not have the
    /// session id yet, so it is told to try again, not that the session is unknown.
    fn cut_off(&self, id: &str, kind: ActivityKind, reason: Option<CloseReason>) -> PolicyError<I::Error> {
        let draining = reason == Some(CloseReason::Drained) || self.stops_taking(ArrivalKind::Create);
        let refusal = match kind {
            // For the request that restores its session, the session does not exist.
            ActivityKind::Replay => return not_found(),
            _ if draining => Rejected::draining(ArrivalKind::Create),
            _ => Rejected::cut_off(ArrivalKind::Create),
        };
        let error = if draining { PolicyError::Draining } else { PolicyError::NotFound };
        let context = ClientContext::current();
        let asker = Asker { context: context.as_deref(), session: Some(id) };
        record_outcome(Outcome::Rejected(Box::new(self.turn_away(refusal, asker))));
        error
    }

    /// Returns the error for a failed call of the inner manager. If the session has ended meanwhile, that is no failure
    /// of the inner manager.
    pub(super) fn failed_within(&self, session: &Session<I::Transport>, error: I::Error) -> PolicyError<I::Error> {
        if session.is_closing() {
            return not_found();
        }
        self.failed(ArrivalKind::Request, Some(&session.record.id), error)
    }

    /// Returns the error for a failed handshake or replay. It counts as the rejection of the creation or restore.
    fn failed_opening(&self, id: &str, kind: ActivityKind, error: I::Error) -> PolicyError<I::Error> {
        let kind = if kind == ActivityKind::Replay { ArrivalKind::Restore } else { ArrivalKind::Create };
        self.failed(kind, Some(id), error)
    }

    /// Asks the policy about a request within a session. Returns the lease of the request, and the moment of its
    /// admission.
    async fn admit_request(
        &self,
        session: &Session<I::Transport>,
        kind: ActivityKind,
        is_discover: bool,
    ) -> Result<(Option<Lease>, Instant), Rejected> {
        let now = Instant::now();
        if !kind.is_use() {
            return Ok((None, now));
        }
        let current = ClientContext::current();
        let context = current.as_deref().or(session.record.entry.context.as_deref());
        let asker = Asker { context, session: Some(&session.record.id) };
        if self.stops_taking(ArrivalKind::Request) {
            return Err(self.turn_away_request(Rejected::draining(ArrivalKind::Request), asker));
        }
        // A client that is refused `server/discover` takes the server for one of an older revision.
        let Some(policy) = self.requests().filter(|_| !is_discover) else { return Ok((None, now)) };
        let record = &session.record;
        let arrival =
            Arrival::new(now, ArrivalKind::Request).with_session(record.entry.key).with_origin(record.entry.serial);
        let arrival = match context {
            Some(context) => arrival.with_context(context),
            None => arrival,
        };
        let asking = Asking { shared: self, session };
        let mut asked = policy.admit(&arrival);
        // Most policies answer at once, so the clock is not read again.
        let (mut admitted, now) = match (&mut asked).now_or_never() {
            Some(admitted) => (admitted, now),
            None => (asked.await, Instant::now()),
        };
        // Handlers that are done without an answer are polled only now and then, so their leases may be free by now.
        if admitted.is_err() && (self.handlers.end_done() | session.ids.end_panicked()) {
            admitted = policy.admit(&arrival).await;
        }
        drop(asking);
        match admitted {
            Ok(permit) => Ok((Some(permit.commit()).filter(|lease| !lease.is_free()), now)),
            Err(rejection) => Err(self.turn_away_request(Rejected::by_policy(ArrivalKind::Request, &rejection), asker)),
        }
    }
}
