//! What the history keeps of an end and of a rejection, and what operators read of it.

use rmcp::transport::streamable_http_server::session::SessionManager;
use tokio::time::Instant;

use super::PolicySessionManager;
use super::asker::Asker;
use super::chosen::{Chosen, Room};
use super::idle_timeout::IdleTimeout;
use super::manager_inner::ManagerInner;
use crate::error::Rejected;
use crate::eviction::SessionInfo;
use crate::explain::{Cause, Client, End, Eviction, Explanation, MadeRoom};
use crate::observe::CloseReason;
use crate::session::Fingerprint;
use crate::transport::{Flag, Session};

impl<I: SessionManager> PolicySessionManager<I> {
    /// Returns the last ends of sessions and rejections, `most` of them at most, newest first. How many there are, the
    /// builder's [`explanations`](crate::PolicySessionManagerBuilder::explanations) says. Cost: a copy of each under a lock of
    /// the history alone.
    ///
    /// ```
    /// use rmcp::transport::streamable_http_server::session::SessionManager;
    /// use rmcp_session_policy::PolicySessionManager;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let sessions = PolicySessionManager::local().max_sessions(1).refuse_when_full().build()?;
    /// let (_id, _transport) = sessions.create_session().await?;
    /// sessions.create_session().await.expect_err("full");
    ///
    /// let last = &sessions.recent(10)[0];
    /// assert_eq!(last.for_client(), "the server is full, come back later");
    /// let why = "rejected: a new session of an unknown client, all places (1) are taken and no session may go, may come back at any time";
    /// assert_eq!(last.for_operator(), why);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn recent(&self, most: usize) -> Vec<Explanation> {
        self.shared.history.as_ref().map_or_else(Vec::new, |history| history.recent(most))
    }

    /// Returns why the sessions with that fingerprint ended, and their restores and requests were rejected: all that is in
    /// the history, newest first. Cost: a look at each entry under a lock of the history alone.
    ///
    /// ```
    /// use rmcp::transport::streamable_http_server::session::SessionManager;
    /// use rmcp_session_policy::{Fingerprint, PolicySessionManager};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let sessions = PolicySessionManager::local().build()?;
    /// let (id, _transport) = sessions.create_session().await?;
    /// assert!(sessions.explain(Fingerprint::of(&id)).is_empty());
    /// sessions.close_session(&id).await?;
    /// assert_eq!(sessions.explain(Fingerprint::of(&id)).len(), 1);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn explain(&self, session: Fingerprint) -> Vec<Explanation> {
        self.shared.history.as_ref().map_or_else(Vec::new, |history| history.of_session(session))
    }
}

impl<I: SessionManager> ManagerInner<I> {
    /// Keeps why a session ended. `chosen`: how, if it was a victim. `waiting`: how many of its requests were not
    /// answered.
    pub(super) fn explain_end(
        &self,
        session: &Session<I::Transport>,
        (reason, at): (CloseReason, Instant),
        chosen: Option<Chosen<'_>>,
        waiting: usize,
    ) {
        let Some(history) = &self.history else { return };
        let info = SessionInfo::of(&session.record);
        let cause = match reason {
            CloseReason::Evicted => chosen.map_or(Cause::Plain, |Chosen { phrase, among, room }| {
                let room = match room {
                    Room::Arrival(kind, client) => MadeRoom::For(kind, Client::of(client)),
                    Room::OwnClient => MadeRoom::ForOwnClient,
                    Room::LowerCapacity => MadeRoom::ForNothing,
                };
                Cause::Evicted(Eviction { phrase, among, room })
            }),
            CloseReason::Idle => match self.idle_timeout() {
                IdleTimeout::After(timeout) => Cause::Timeout(timeout),
                IdleTimeout::Worth(_) => Cause::Worth,
                IdleTimeout::Never => Cause::Plain,
            },
            CloseReason::Lifetime => self.max_lifetime().map_or(Cause::Plain, Cause::Timeout),
            CloseReason::InitTimeout if session.has(Flag::Initializing) && !session.has(Flag::Initialized) => {
                Cause::Unanswered(self.max_busy())
            }
            CloseReason::InitTimeout => Cause::Timeout(self.init_timeout()),
            CloseReason::Revoked if session.has(Flag::CloseAsked) => Cause::Handler,
            _ => Cause::Plain,
        };
        let idle_since = match reason {
            CloseReason::Idle => info.last_seen(),
            _ => info.last_used(),
        };
        let age = at.saturating_duration_since(info.created());
        let idle = at.saturating_duration_since(idle_since);
        let end = End { reason, age, idle, waiting, cause };
        history.add(Explanation::of_end(info.fingerprint(), Client::of(info.context()), end));
    }

    /// Keeps why an arrival was rejected.
    pub(super) fn explain_rejection(&self, rejected: &Rejected, asker: Asker<'_>) {
        let Some(history) = &self.history else { return };
        let session = asker.session.map(Fingerprint::of);
        history.add(Explanation::of_rejection(session, Client::of(asker.context), rejected));
    }
}
