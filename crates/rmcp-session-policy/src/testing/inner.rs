//! [`Scripted`]: an inner session manager that succeeds, fails, delays, hangs or panics as a test sets it, and counts
//! its calls.
//!
//! ```
//! use rmcp::transport::streamable_http_server::session::SessionManager;
//! use rmcp_session_policy::PolicySessionManager;
//! use rmcp_session_policy::testing::inner::{Act, Call, Scripted};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let inner = Scripted::new();
//! let sessions = PolicySessionManager::builder(inner.clone()).max_sessions(1).build()?;
//! inner.set(Call::Create, Act::Error);
//! assert!(sessions.create_session().await.is_err());
//! inner.set(Call::Create, Act::Ok);
//! assert!(sessions.create_session().await.is_ok(), "the place was given back");
//! assert_eq!((inner.calls(Call::Create), inner.most()), (2, 1));
//! # Ok(()) }
//! ```
//!
//! It keeps account of what exists, which is what law L1 is about: [`existing`](Scripted::existing) and
//! [`most`](Scripted::most) count a session from the end of its creation until it is both off the list and without a
//! transport. So a test sees a session that the manager has forgotten without ending it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use rmcp::RoleServer;
use rmcp::model::{ClientJsonRpcMessage, RequestId, ServerJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::streamable_http_server::session::{
    EventStore, RestoreOutcome, ServerSseMessage, SessionId, SessionManager,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Names a method of the inner manager.
///
/// `has_session` and `event_store` have no name here: they always succeed, and are not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// `create_session`
    Create,
    /// `initialize_session`
    Initialize,
    /// `close_session`
    Close,
    /// `create_stream`
    Stream,
    /// `accept_message`
    Accept,
    /// `create_standalone_stream`, and `resume`
    Listen,
    /// `restore_session`
    Restore,
}

/// Says what a method does. Its effect comes at the end, so dropping its future before has no effect.
///
/// The exception is `close_session`: it takes the session off the list when it ends, whatever it does, and also if its
/// future is dropped. Only the transport then keeps the session in existence.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Act {
    /// It succeeds.
    Ok,
    /// It fails.
    Error,
    /// It succeeds after this time.
    Slow(Duration),
    /// It never returns.
    Never,
    /// It panics.
    Panic,
}

/// The error of a method that is set to fail, or that is called with an unknown session.
#[derive(Debug, thiserror::Error)]
#[error("the inner manager fails, as told")]
pub struct Failed;

/// One incarnation: it exists while it is in the manager's list or its transport lives.
///
/// The id does not name it, because a restored session has the same id again.
#[derive(Clone, Copy, Debug)]
struct Life {
    /// Whether the manager has it: from its creation or restore to the end of `close_session`.
    listed: bool,
    /// Whether its transport was not dropped yet.
    transport: bool,
}

/// Holds the script and the account, behind one lock that every clone shares.
#[derive(Default)]
struct State {
    /// What each method does. One that is not here succeeds.
    script: HashMap<Call, Act>,
    /// How often each method was called, failed calls included.
    calls: HashMap<Call, usize>,
    /// The sessions that the methods find.
    listed: HashMap<SessionId, Entry>,
    /// The incarnations that exist, by number. Closed ones whose transport lives are among them.
    lives: HashMap<u64, Life>,
    /// The largest size that `lives` ever had.
    most: usize,
    /// How many incarnations there ever were, which is the number of the last one.
    sessions_made: u64,
}

/// A listed session: which incarnation it is, and the way to its transport.
struct Entry {
    life: u64,
    wire: Arc<Wire>,
}

/// Implements an inner manager with methods that act as a test sets them. Clones share one state. Every method begins
/// with [`Act::Ok`].
#[derive(Clone, Default)]
pub struct Scripted {
    state: Arc<Mutex<State>>,
    /// Whether `initialize` goes to the service too, or is answered here.
    relaying: bool,
}

impl Scripted {
    /// Makes a manager that answers `initialize` by itself, and leaves other requests unanswered.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a manager that passes on the messages of the service, so a service must serve its sessions.
    #[must_use]
    pub fn relaying() -> Self {
        Self { relaying: true, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what a method does from now on. Defaults to [`Act::Ok`].
    pub fn set(&self, call: Call, act: Act) {
        self.lock().script.insert(call, act);
    }

    /// Returns the number of calls of a method.
    #[must_use]
    pub fn calls(&self, call: Call) -> usize {
        self.lock().calls.get(&call).copied().unwrap_or(0)
    }

    /// Returns the number of sessions that exist now: in the manager's list, or with a transport that lives.
    #[must_use]
    pub fn existing(&self) -> usize {
        self.lock().lives.len()
    }

    /// Returns the largest number of sessions that existed at one time.
    #[must_use]
    pub fn most(&self) -> usize {
        self.lock().most
    }

    /// Has [`most`](Self::most) count from now on.
    pub fn forget_most(&self) {
        let mut state = self.lock();
        state.most = state.lives.len();
    }

    /// Counts a call, and then does what the script says. The lock is not held while it waits.
    ///
    /// The script is read at the begin of the call, so a later change of it does not concern calls under way.
    async fn act(&self, call: Call) -> Result<(), Failed> {
        let act = {
            let mut state = self.lock();
            *state.calls.entry(call).or_default() += 1;
            state.script.get(&call).copied().unwrap_or(Act::Ok)
        };
        match act {
            Act::Ok => Ok(()),
            Act::Error => Err(Failed),
            Act::Slow(how) => {
                tokio::time::sleep(how).await;
                Ok(())
            }
            Act::Never => std::future::pending().await,
            Act::Panic => panic!("as told"),
        }
    }

    /// Makes an incarnation that is listed and has a transport, and returns the transport. The id must not be listed
    /// yet.
    fn open(&self, id: SessionId) -> Line {
        let (to_service, inbox) = unbounded_channel();
        let wire = Arc::new(Wire { to_service, waiting: Mutex::default() });
        let mut state = self.lock();
        state.sessions_made += 1;
        let life = state.sessions_made;
        state.listed.insert(id, Entry { life, wire: Arc::clone(&wire) });
        state.lives.insert(life, Life { listed: true, transport: true });
        state.most = state.most.max(state.lives.len());
        Line { inbox, wire, life, manager: self.clone() }
    }

    /// Changes one incarnation, and removes it from the account if it exists no more. An incarnation that is gone
    /// already stays gone.
    fn part(&self, life: u64, part: impl FnOnce(&mut Life)) {
        let mut state = self.lock();
        if let Some(entry) = state.lives.get_mut(&life) {
            part(entry);
            if !entry.listed && !entry.transport {
                state.lives.remove(&life);
            }
        }
    }

    /// Finds the way to the transport of a listed session. Fails if the session is not listed.
    fn wire(&self, id: &SessionId) -> Result<Arc<Wire>, Failed> {
        self.lock().listed.get(id).map(|entry| Arc::clone(&entry.wire)).ok_or(Failed)
    }
}

/// Between the manager's methods and a session's transport: requests go one way, answers come back by their ids.
struct Wire {
    /// To the inbox of the transport. If the transport is dropped, messages are lost without an error.
    to_service: UnboundedSender<ClientJsonRpcMessage>,
    /// Where the answers go. An answer takes its entry out; one that is not waited for is dropped.
    waiting: Mutex<Waiting>,
}

/// The receivers of the answers, by request.
type Waiting = HashMap<RequestId, UnboundedSender<ServerSseMessage>>;

impl Wire {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a message to the service, and returns the stream of its answer. The stream of anything but a request ends
    /// at once.
    fn ask(&self, message: ClientJsonRpcMessage) -> Answers {
        let (sender, answers) = unbounded_channel();
        if let ClientJsonRpcMessage::Request(request) = &message {
            self.lock().insert(request.id.clone(), sender);
        }
        self.to_service.send(message).ok();
        Answers(answers)
    }
}

/// The stream of one request: it yields the answer and ends. A listening stream yields nothing, since notifications of
/// the server are dropped.
#[derive(Debug)]
pub struct Answers(UnboundedReceiver<ServerSseMessage>);

impl Stream for Answers {
    type Item = ServerSseMessage;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<ServerSseMessage>> {
        self.0.poll_recv(cx)
    }
}

/// The transport of a session. Its drop ends the life of the session, if the session is off the list.
pub struct Line {
    inbox: UnboundedReceiver<ClientJsonRpcMessage>,
    /// The way back for the answers of the service.
    wire: Arc<Wire>,
    /// The incarnation whose transport this is.
    life: u64,
    /// Told of the drop, for its account of what exists.
    manager: Scripted,
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted").field("existing", &self.existing()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

impl Transport<RoleServer> for Line {
    type Error = Failed;

    /// Sends an answer or an error to the call that waits for it. Everything else is dropped without an error.
    fn send(&mut self, item: ServerJsonRpcMessage) -> impl Future<Output = Result<(), Failed>> + Send + 'static {
        let id = match &item {
            ServerJsonRpcMessage::Response(response) => Some(response.id.clone()),
            ServerJsonRpcMessage::Error(error) => error.id.clone(),
            _ => None,
        };
        let wire = Arc::clone(&self.wire);
        async move {
            let waiting = id.and_then(|id| wire.lock().remove(&id));
            if let Some(waiting) = waiting {
                waiting.send(ServerSseMessage::from_message(item)).ok();
            }
            Ok(())
        }
    }

    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        self.inbox.recv().await
    }

    async fn close(&mut self) -> Result<(), Failed> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.manager.part(self.life, |life| life.transport = false);
    }
}

impl SessionManager for Scripted {
    type Error = Failed;
    type Transport = Line;

    /// Ids are unique over all managers of the process, so managers may stack or stand side by side in one test.
    async fn create_session(&self) -> Result<(SessionId, Line), Failed> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        self.act(Call::Create).await?;
        let id: SessionId = format!("session-{}", NEXT.fetch_add(1, SeqCst)).into();
        let line = self.open(Arc::clone(&id));
        Ok((id, line))
    }

    /// If it relays, it waits for the answer of the service. It fails if the session ends before.
    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Failed> {
        self.act(Call::Initialize).await?;
        if !self.relaying {
            return initialized_answer(&message);
        }
        let mut answers = self.wire(id)?.ask(message);
        let answer = answers.0.recv().await.ok_or(Failed)?.message.ok_or(Failed)?;
        Ok((*answer).clone())
    }

    /// Looks only at the list. A test cannot make it fail.
    async fn has_session(&self, id: &SessionId) -> Result<bool, Failed> {
        Ok(self.lock().listed.contains_key(id))
    }

    /// Ends a session for the list; its transport is the caller's to drop. A session that is not listed only counts as
    /// a call.
    ///
    /// The list forgets the incarnation that was there when the call began, so a late close does not hit a restored
    /// one.
    async fn close_session(&self, id: &SessionId) -> Result<(), Failed> {
        let Some(life) = self.lock().listed.get(id).map(|entry| entry.life) else {
            return self.act(Call::Close).await;
        };
        /// Takes the session off the list when the call ends, also if it ends by a drop.
        struct Unlist<'a>(&'a Scripted, &'a SessionId, u64);
        impl Drop for Unlist<'_> {
            fn drop(&mut self) {
                let mut state = self.0.lock();
                if state.listed.get(self.1).is_some_and(|entry| entry.life == self.2) {
                    state.listed.remove(self.1);
                }
                drop(state);
                self.0.part(self.2, |life| life.listed = false);
            }
        }
        let _unlist = Unlist(self, id, life);
        self.act(Call::Close).await
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Failed> {
        self.act(Call::Stream).await?;
        Ok(self.wire(id)?.ask(message))
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Failed> {
        self.act(Call::Accept).await?;
        self.wire(id)?.to_service.send(message).ok();
        Ok(())
    }

    /// Makes the stream in place of the one before, which ends then.
    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Failed> {
        self.act(Call::Listen).await?;
        let (sender, answers) = unbounded_channel();
        self.wire(id)?.lock().insert(RequestId::String("listener".into()), sender);
        Ok(Answers(answers))
    }

    async fn resume(
        &self,
        id: &SessionId,
        _last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Failed> {
        self.create_standalone_stream(id).await
    }

    /// Restores any id that is not listed, also one that it never had. An id that is listed is already present.
    async fn restore_session(&self, id: SessionId) -> Result<RestoreOutcome<Line>, Failed> {
        self.act(Call::Restore).await?;
        if self.lock().listed.contains_key(&id) {
            return Ok(RestoreOutcome::AlreadyPresent);
        }
        Ok(RestoreOutcome::Restored(self.open(id)))
    }

    fn event_store(&self) -> Option<Arc<dyn EventStore>> {
        None
    }
}

/// Makes the answer of a server without any capability. Fails if the message is no request.
fn initialized_answer(message: &ClientJsonRpcMessage) -> Result<ServerJsonRpcMessage, Failed> {
    let ClientJsonRpcMessage::Request(request) = message else { return Err(Failed) };
    let answer = serde_json::json!({ "jsonrpc": "2.0", "id": request.id, "result": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": { "name": "scripted", "version": "1" }
    } });
    serde_json::from_value(answer).map_err(|_| Failed)
}
