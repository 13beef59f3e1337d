//! [`Explanation`]: one end or one rejection, and what is known of it.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime};

use super::client::{Client, cut};
use super::{for_client, for_operator};
use crate::admission::{ArrivalKind, Retry};
use crate::error::Rejected;
use crate::observe::{CloseReason, RejectionReason};
use crate::session::Fingerprint;

/// The bytes that are kept of a policy's name. Authors may make names of what strangers send.
const LONGEST_NAME: usize = 64;

/// Says what an [`Explanation`] explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Explained<'a> {
    /// A session ended.
    Ended(CloseReason),
    /// An arrival was rejected.
    #[non_exhaustive]
    Rejected {
        /// What it asked for.
        kind: ArrivalKind,
        /// Why it was rejected.
        reason: RejectionReason,
        /// The name of the policy that rejected it, or of the part of the manager (cut at 64 bytes). What authors name
        /// policies after may come from strangers, so escape it where you show it.
        policy: &'a str,
    },
}

/// Explains one end of a session or one rejection, in a sentence for its client and in one for the operator.
///
/// [`PolicySessionManager::recent`](crate::PolicySessionManager::recent) and
/// [`PolicySessionManager::explain`](crate::PolicySessionManager::explain) return them. A sentence is one line of at most
/// 1,024 bytes, without a full stop, and holds no session id; what clients name is escaped, not for HTML.
///
/// ```
/// use rmcp::transport::streamable_http_server::session::SessionManager;
/// use rmcp_session_policy::{CloseReason, Explained, Fingerprint, PolicySessionManager};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = PolicySessionManager::local().build()?;
/// let (id, _transport) = sessions.create_session().await?;
/// sessions.close_session(&id).await?;
///
/// let explanations = sessions.explain(Fingerprint::of(&id));
/// assert_eq!(explanations[0].what(), Explained::Ended(CloseReason::Client));
/// assert_eq!(explanations[0].for_client(), "the session was closed by its client");
/// assert!(explanations[0].for_operator().starts_with("closed by its client after "));
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct Explanation {
    pub(super) when: SystemTime,
    /// Numbers the entries of a history in the order in which they came.
    pub(super) number: u64,
    pub(super) session: Option<Fingerprint>,
    /// The client that opened the session, or that was rejected.
    pub(super) client: Client,
    pub(super) facts: Facts,
}

/// What the sentences are made of.
#[derive(Clone, Debug)]
pub(super) enum Facts {
    Ended(End),
    Rejected(Rejection),
}

/// How a session ended.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) reason: CloseReason,
    /// How long this incarnation lived.
    pub(crate) age: Duration,
    /// Since when nothing of its client counted: the last use, or for an idle timeout whatever came last.
    pub(crate) idle: Duration,
    /// Requests of its client, and work of handlers, that were under way.
    pub(crate) in_flight: usize,
    pub(crate) cause: Cause,
}

/// What is known of an end beside its reason.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// The reason says all.
    Plain,
    Evicted(Eviction),
    /// The time that had passed.
    Timeout(Duration),
    /// The time that its handler had to answer `initialize`.
    Unanswered(Duration),
    /// Its place was worth more without it: an idle timeout by worth.
    Worth,
    /// Its handler asked for its end.
    Handler,
}

/// Why a session was the victim, and for what.
#[derive(Clone, Debug)]
pub(crate) struct Eviction {
    /// Why it was chosen, before the number of sessions: "least recently used".
    pub(crate) phrase: &'static str,
    /// Among how many sessions.
    pub(crate) among: usize,
    /// What needed the place. `None` if it was another session of its client, which may have no more than `among`.
    pub(crate) arrival: Option<(ArrivalKind, Client)>,
}

/// What was rejected, and why.
#[derive(Clone, Debug)]
pub(super) struct Rejection {
    pub(super) kind: ArrivalKind,
    pub(super) reason: RejectionReason,
    pub(super) policy: Cow<'static, str>,
    pub(super) retry: Retry,
    pub(super) limit: Option<u64>,
    pub(super) period: Option<Duration>,
    /// What the manager says of it, if no policy rejected it.
    pub(super) note: Option<&'static str>,
    /// How often in a row.
    pub(super) times: u64,
}

impl Rejection {
    fn of(rejected: &Rejected) -> Self {
        let policy = match &rejected.policy {
            Cow::Borrowed(name) => Cow::Borrowed(cut(name, LONGEST_NAME)),
            Cow::Owned(name) => Cow::Owned(cut(name, LONGEST_NAME).to_owned()),
        };
        let note = match &rejected.text {
            Cow::Borrowed(text) => Some(*text),
            Cow::Owned(_) => None,
        };
        let Rejected { kind, reason, retry, limit, period, .. } = *rejected;
        Self { kind, reason, policy, retry, limit, period, note, times: 1 }
    }

    /// Whether it is the same again. When it may come back may differ.
    fn repeats(&self, before: &Self) -> bool {
        (self.kind, self.reason, self.limit, self.period) == (before.kind, before.reason, before.limit, before.period)
            && self.policy == before.policy
            && self.note == before.note
    }
}

impl Explanation {
    /// Makes the explanation of an end.
    pub(crate) fn of_end(session: Fingerprint, client: Client, end: End) -> Self {
        Self { when: SystemTime::now(), number: 0, session: Some(session), client, facts: Facts::Ended(end) }
    }

    /// Makes the explanation of a rejection. `session`: the session that it was about, if there is one.
    pub(crate) fn of_rejection(session: Option<Fingerprint>, client: Client, rejected: &Rejected) -> Self {
        let facts = Facts::Rejected(Rejection::of(rejected));
        Self { when: SystemTime::now(), number: 0, session, client, facts }
    }

    /// Takes the place of an earlier one that says the same. Returns whether it does.
    pub(super) fn replaces(&mut self, before: &Self) -> bool {
        let (Facts::Rejected(now), Facts::Rejected(earlier)) = (&mut self.facts, &before.facts) else { return false };
        let is_same = self.session == before.session && self.client == before.client && now.repeats(earlier);
        if is_same {
            now.times = earlier.times.saturating_add(1);
        }
        is_same
    }

    /// Returns when it happened. If it happened [several times](Self::times) in a row, the last of them.
    #[must_use]
    pub const fn when(&self) -> SystemTime {
        self.when
    }

    /// Returns what happened.
    #[must_use]
    pub fn what(&self) -> Explained<'_> {
        match &self.facts {
            Facts::Ended(end) => Explained::Ended(end.reason),
            Facts::Rejected(Rejection { kind, reason, policy, .. }) => {
                Explained::Rejected { kind: *kind, reason: *reason, policy }
            }
        }
    }

    /// Returns the fingerprint of the session that ended, or that the rejected request or restore was for.
    #[must_use]
    pub const fn fingerprint(&self) -> Option<Fingerprint> {
        self.session
    }

    /// Returns the client that opened the session, or that was rejected, as operators may see it: its principal in quotes
    /// (up to 64 bytes, escaped), or its network (/24 of IPv4, /48 of IPv6). `None` if neither is known.
    #[must_use]
    pub fn client(&self) -> Option<String> {
        (self.client != Client::Unknown).then(|| self.client.to_string())
    }

    /// Returns how often it happened in a row: rejections that say the same of the same client are one entry. 1 for an end.
    #[must_use]
    pub const fn times(&self) -> u64 {
        match &self.facts {
            Facts::Ended(_) => 1,
            Facts::Rejected(rejection) => rejection.times,
        }
    }

    /// Returns one sentence for the client: without a name of a policy, of another client, or an address.
    #[must_use]
    pub fn for_client(&self) -> String {
        for_client::sentence(self)
    }

    /// Returns one sentence for the operator, with the names of policies, and clients by principal or network.
    #[must_use]
    pub fn for_operator(&self) -> String {
        for_operator::sentence(self)
    }
}

/// Shows the sentence for the operator.
impl fmt::Debug for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Explanation")
            .field("when", &self.when)
            .field("session", &self.session)
            .field("client", &self.client.to_string())
            .field("sentence", &self.for_operator())
            .finish_non_exhaustive()
    }
}
