//! [`PolicyTransport`], the wrapper of the inner manager's transport.

use std::borrow::Cow;
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, Stream};
use rmcp::RoleServer;
use rmcp::model::{ClientJsonRpcMessage, ClientNotification, ServerJsonRpcMessage};
use rmcp::transport::Transport;
use tokio::time::Instant;

use super::ids::Answered;
use super::service_id;
use super::session::{Flag, OnItsWay, Session, TransportEvents};
use crate::directory::{DIRECTORY_WAIT, InDirectory};
use crate::session::ActivityKind;

/// The transport of a session: a wrapper of the inner manager's transport.
///
/// It knows which requests of the client are in flight. When the session ends, it answers each of them with a JSON-RPC
/// error before the inner transport is dropped. The drop of the wrapper ends the session.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use rmcp::transport::streamable_http_server::session::SessionManager;
/// use rmcp_session_policy::{CloseReason, PolicySessionManager};
///
/// let sessions = PolicySessionManager::local().build()?;
/// let (id, transport) = sessions.create_session().await?;
/// assert!(sessions.has_session(&id).await?);
/// drop(transport);
/// assert!(!sessions.has_session(&id).await?);
/// assert_eq!(sessions.stats().closed(CloseReason::Ended), 1);
/// # Ok(()) }
/// ```
pub struct PolicyTransport<T> {
    /// The incarnation that this transport serves.
    session: Arc<Session<T>>,
    /// The manager.
    host: Arc<dyn TransportEvents<T>>,
    /// Errors on their way to the clients of requests that were in flight when the end began. `None` until then,
    /// because an empty queue takes memory.
    farewells: Option<Farewells>,
}

/// The sends of the farewells. They are polled in [`receive`](Transport::receive), by the service's task.
type Farewells = FuturesUnordered<BoxFuture<'static, ()>>;

impl<T> PolicyTransport<T> {
    /// Makes the transport of a session that is registered. The inner transport is in the session's slot.
    pub(crate) fn new(session: Arc<Session<T>>, host: Arc<dyn TransportEvents<T>>) -> Self {
        Self { session, host, farewells: None }
    }

    pub(crate) const fn session(&self) -> &Arc<Session<T>> {
        &self.session
    }
}

/// The inner transport while `receive` or `send` has it. The drop puts it back, or drops it if the session has hung up:
/// then it reports that step of the close.
struct CheckedOut<'a, T> {
    /// `None` only during the drop.
    transport: Option<Box<T>>,
    session: &'a Arc<Session<T>>,
    host: &'a Arc<dyn TransportEvents<T>>,
}

impl<'a, T> CheckedOut<'a, T> {
    /// Takes the transport out of its slot. `None` if it is gone.
    fn of(session: &'a Arc<Session<T>>, host: &'a Arc<dyn TransportEvents<T>>) -> Option<Self> {
        Some(Self { transport: Some(session.slot.check_out()?), session, host })
    }
}

impl<T> Drop for CheckedOut<'_, T> {
    fn drop(&mut self) {
        if let Some(transport) = self.transport.take()
            && let Some(late) = self.session.slot.check_in(transport)
        {
            drop(late);
            self.session.raise(Flag::Dropped);
            Arc::clone(self.host).on_close_step(self.session);
        }
    }
}

impl<T: Transport<RoleServer> + 'static> PolicyTransport<T> {
    /// Records the request that a message from the client begins or cancels, and gives the message the id that the
    /// service sees.
    fn note(session: &Arc<Session<T>>, host: &Arc<dyn TransportEvents<T>>, message: &mut ClientJsonRpcMessage) {
        match message {
            ClientJsonRpcMessage::Request(request) => session.ids.arrived(session, request),
            ClientJsonRpcMessage::Notification(notification) => {
                if let ClientNotification::CancelledNotification(cancelled) = &mut notification.notification
                    && let Some(id) = &cancelled.params.request_id
                {
                    // rmcp may never answer a cancelled request.
                    let known = service_id::original(id);
                    if let Some(request) = session.ids.cancel_served(known.as_ref().unwrap_or(id)) {
                        host.on_handler_left_running(request);
                    }
                    service_id::share_cancelled(&mut cancelled.params);
                }
            }
            _ => {}
        }
    }

    /// Answers every request in flight with an error, including those still queued in the inner transport, until it is
    /// told to hang up.
    ///
    /// It goes on receiving, because a request may have been handed to the inner manager before the close began. Each
    /// such request gets its farewell in place of reaching the service; other messages are dropped. A farewell ends the
    /// activity of its request when it is sent, so the close sees that the request is answered. A lease that a handler
    /// still holds is left to the manager.
    async fn say_farewell(
        session: &Arc<Session<T>>,
        host: &Arc<dyn TransportEvents<T>>,
        lent: &mut CheckedOut<'_, T>,
        farewells: &mut Farewells,
    ) {
        let mut ended = false;
        while let Some(transport) = &mut lent.transport {
            for waiting in session.ids.take_served() {
                let answer = transport.send(waiting.farewell(session.why_closed(), host.call_rejection()));
                let (guard, host) = (waiting.guard, Arc::clone(host));
                farewells.push(Box::pin(async move {
                    // The inner transport may be gone already; then the answer is dropped.
                    answer.await.ok();
                    guard.end_activity();
                    if guard.has_lease() {
                        host.on_handler_left_running(guard);
                    }
                }));
            }
            let message = {
                let mut receive = pin!(transport.receive());
                poll_fn(|cx| {
                    session.receiver.register(cx.waker());
                    if session.has(Flag::HangUp) {
                        return Poll::Ready(None);
                    }
                    while let Poll::Ready(Some(())) = std::pin::Pin::new(&mut *farewells).poll_next(cx) {}
                    if ended {
                        return Poll::Pending;
                    }
                    receive.as_mut().poll(cx)
                })
                .await
            };
            match message {
                Some(mut message) => Self::note(session, host, &mut message),
                None if session.has(Flag::HangUp) => break,
                None => ended = true,
            }
        }
    }
}

/// Waits until the session data is durable that was changed before an answer, for as long as an answer may wait.
async fn until_written<T>(session: &Session<T>, changes: u64, host: &dyn TransportEvents<T>) {
    let (Some(directory), Some(in_directory)) = (&session.record.entry.signals().directory, session.in_directory())
    else {
        return;
    };
    if directory.written(&in_directory.ownership.digest, Instant::now() + DIRECTORY_WAIT).await {
        in_directory.data_is_written(changes);
    } else {
        host.on_late_answer();
    }
}

impl<T: Transport<RoleServer> + 'static> Transport<RoleServer> for PolicyTransport<T> {
    type Error = T::Error;

    fn name() -> Cow<'static, str> {
        T::name()
    }

    /// Sends a message of the service, and ends the request that it answers.
    ///
    /// In this order:
    /// 1. The message is counted as on its way.
    /// 2. The id of the request is freed, so the client may use it again.
    /// 3. An answer counts as not taken, until the server has it from the stream of its request.
    /// 4. The inner transport takes the message, unless it must not go out: an answer to an earlier request of the same
    ///    id, or anything but an answer to a waiting client once the close has begun.
    /// 5. The request ends. If a copy of its context is left, it lingers: it keeps the session busy, and no close waits
    ///    for it.
    ///
    /// The returned future needs no access to the transport. A message that is swallowed counts as sent.
    fn send(
        &mut self,
        mut item: ServerJsonRpcMessage,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        service_id::restore_in(&mut item);
        // The end of the session waits for answers on their way. This one is counted before its id is free. So if the
        // id is free and no answer is on its way, the inner transport has the answer.
        let mut on_its_way = OnItsWay::begin(&self.session);
        let answered = match &item {
            ServerJsonRpcMessage::Response(response) => Some(&response.id),
            ServerJsonRpcMessage::Error(error) => error.id.as_ref(),
            _ => None,
        };
        let answered = answered.map(|id| self.session.ids.answer(id));
        let is_answer = answered.is_some();
        let guard = match &answered {
            Some(Answered::Waiting(guard)) => Some(guard),
            _ => None,
        };
        let is_handshake =
            guard.is_some_and(|guard| matches!(guard.kind(), ActivityKind::Handshake | ActivityKind::Replay));
        if let Some(guard) = guard.filter(|_| !is_handshake) {
            on_its_way.answers(guard);
        }
        if is_handshake && matches!(item, ServerJsonRpcMessage::Error(_)) {
            self.session.raise(Flag::InitFailed);
        }
        // The late answer to a cancelled request must not answer the request that has its id now. Once the end has
        // begun, only answers to requests that still wait are sent: a request that got its farewell must not get a
        // second answer.
        let swallow = matches!(answered, Some(Answered::Stale)) || guard.is_none() && self.session.is_closing();
        let mut sending: Option<BoxFuture<'static, _>> = None;
        if !swallow
            && let Some(mut lent) = CheckedOut::of(&self.session, &self.host)
            && let Some(transport) = &mut lent.transport
        {
            // Boxed, because the type of the future borrows from the transport, although the future is `'static`.
            sending = Some(Box::pin(transport.send(item)));
        }
        // The request is in flight no longer. Its client may get the answer before the send returns, and send the next
        // request.
        if let Some(Answered::Waiting(guard)) = answered {
            if is_handshake {
                guard.end();
            } else {
                guard.linger_if_carried();
            }
        }
        let unwritten = self.session.in_directory().filter(|_| is_answer).and_then(InDirectory::unwritten_data);
        let unwritten = unwritten.map(|changes| (changes, Arc::clone(&self.host)));
        async move {
            if let Some((changes, host)) = unwritten {
                until_written(on_its_way.session(), changes, &*host).await;
            }
            match sending {
                Some(sending) => sending.await,
                None => Ok(()),
            }
        }
    }

    /// Receives the next message of the client, and notes the request that it begins or cancels.
    ///
    /// The first call tells the manager which task serves the session. Once the close has begun, this answers the
    /// requests in flight. It returns `None` when it is told to hang up, so the service ends. If the future is dropped,
    /// the inner transport goes back into its slot.
    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        let Self { session, host, farewells } = self;
        if session.raise(Flag::Served) {
            host.on_serving(session);
        }
        let mut lent = CheckedOut::of(session, host)?;
        let mut has_ended = false;
        // The message stays in one place on its way to the service: it is large, and each move copies it.
        let mut message = {
            let mut receive = pin!(lent.transport.as_mut()?.receive());
            poll_fn(|cx| {
                session.receiver.register(cx.waker());
                if session.has(Flag::CloseAsked) && session.is_answered() {
                    Arc::clone(host).on_close_asked(session);
                }
                // The farewells name the reason, so they wait until it is known.
                has_ended = session.close_reason().is_some();
                if has_ended { Poll::Ready(None) } else { receive.as_mut().poll(cx) }
            })
            .await
        };
        if has_ended {
            Self::say_farewell(session, host, &mut lent, farewells.get_or_insert_default()).await;
        } else if let Some(message) = &mut message {
            Self::note(session, host, message);
        }
        message
    }

    /// Closes the inner transport, when the service ends in order. It begins the close of the session first, and
    /// reports the drop of the transport.
    async fn close(&mut self) -> Result<(), Self::Error> {
        // Called before the inner transport closes, because that close may wait for streams that only the end of the
        // session drops.
        Arc::clone(&self.host).on_service_ended(&self.session);
        let Some(mut transport) = self.session.slot.take() else { return Ok(()) };
        let closed = transport.close().await;
        drop(transport);
        self.session.raise(Flag::Dropped);
        Arc::clone(&self.host).on_close_step(&self.session);
        closed
    }
}

impl<T> Drop for PolicyTransport<T> {
    /// Ends the session, if no close has begun: a service that panics or is dropped calls no `close`. The flags are
    /// raised before the manager is told, because the manager settles the session if this was the last step.
    fn drop(&mut self) {
        if thread::panicking() {
            self.host.on_task_panicked(&self.session);
        } else if self.session.raise(Flag::Served) {
            self.host.on_never_served(&self.session);
        }
        self.session.ids.clear();
        self.farewells = None;
        drop(self.session.slot.take());
        self.session.raise(Flag::Dropped);
        Arc::clone(&self.host).on_service_ended(&self.session);
        Arc::clone(&self.host).on_close_step(&self.session);
    }
}

impl<T> fmt::Debug for PolicyTransport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyTransport").field("session", &self.session).finish_non_exhaustive()
    }
}
