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

/// The bytes that are kept of a policy's name, and shown of its phrase. Authors may make names of what strangers send.
pub(super) const LONGEST_NAME: usize = 64;

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
    /// Requests that were not answered yet.
    pub(crate) waiting: usize,
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
    pub(crate) room: MadeRoom,
}

/// What a victim made room for.
#[derive(Clone, Debug)]
pub(crate) enum MadeRoom {
    /// An arrival of a client.
    For(ArrivalKind, Client),
    /// Another session of its own client, which may have no more than `among`.
    ForOwnClient,
    /// Nothing: the capacity was lowered.
    ForNothing,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{self, RejectionClass};
    use crate::context::ClientContext;
    use crate::error::ServerFull;
    use crate::time::{HOUR, MINUTE, SECOND};

    /// The table of all sentences.
    const PAGE: &str = include_str!("../../docs/explanations.md");

    fn client() -> Client {
        Client::of(Some(&ClientContext::new().with_peer([10, 1, 2, 3].into())))
    }

    fn end(reason: CloseReason, cause: Cause) -> Explanation {
        let end = End { reason, age: 3 * HOUR, idle: 42 * MINUTE, waiting: 0, cause };
        Explanation::of_end(Fingerprint::of("an id"), client(), end)
    }

    fn evicted(phrase: &'static str, among: usize, room: MadeRoom) -> Explanation {
        end(CloseReason::Evicted, Cause::Evicted(Eviction { phrase, among, room }))
    }

    fn rejection(rejected: &Rejected) -> Explanation {
        Explanation::of_rejection(None, client(), rejected)
    }

    fn by_policy(kind: ArrivalKind, rejected: admission::Rejection) -> Explanation {
        rejection(&Rejected::by_policy(kind, &rejected))
    }

    /// An example of each sentence, by the reason.
    fn examples() -> Vec<(&'static str, Explanation)> {
        use ArrivalKind::{Create, Request, Restore};
        let full = ServerFull { max_sessions: 1_000, retry: Retry::Unknown };
        let window = |times| {
            let rejected = admission::Rejection::new("sliding_window").with_limit(20, 0).with_period(MINUTE);
            let mut explanation = by_policy(Create, rejected.with_retry(Retry::After(12 * SECOND)));
            (0..times).for_each(|_| {
                let before = explanation.clone();
                assert!(explanation.replaces(&before));
            });
            explanation
        };
        let of_class =
            |class| admission::Rejection::new("load").with_class(class).with_retry(Retry::After(150 * SECOND));
        let mut drained = end(CloseReason::Drained, Cause::Plain);
        let Facts::Ended(facts) = &mut drained.facts else { panic!("an end") };
        facts.waiting = 2;
        vec![
            ("client", end(CloseReason::Client, Cause::Plain)),
            ("evicted", evicted("least likely to return", 1_000, MadeRoom::For(Create, client()))),
            ("evicted", evicted("least recently used", 1_000, MadeRoom::For(Restore, client()))),
            ("evicted", evicted("least recently used", 5, MadeRoom::ForOwnClient)),
            ("evicted", evicted("least recently used", 1_000, MadeRoom::ForNothing)),
            ("idle", end(CloseReason::Idle, Cause::Timeout(42 * MINUTE))),
            ("idle", end(CloseReason::Idle, Cause::Timeout(30 * MINUTE))),
            ("idle", end(CloseReason::Idle, Cause::Worth)),
            ("lifetime", end(CloseReason::Lifetime, Cause::Timeout(24 * HOUR))),
            ("init_timeout", end(CloseReason::InitTimeout, Cause::Timeout(30 * SECOND))),
            ("init_timeout", end(CloseReason::InitTimeout, Cause::Unanswered(10 * MINUTE))),
            ("init_failed", end(CloseReason::InitFailed, Cause::Plain)),
            ("ended", end(CloseReason::Ended, Cause::Plain)),
            ("revoked", end(CloseReason::Revoked, Cause::Plain)),
            ("revoked", end(CloseReason::Revoked, Cause::Handler)),
            ("drained", drained),
            ("moved", end(CloseReason::Moved, Cause::Plain)),
            ("quota", window(0)),
            ("quota", window(2)),
            ("quota", by_policy(Create, admission::Rejection::new("per_client_max").with_limit(5, 0))),
            ("quota", by_policy(Restore, admission::Rejection::new("members_only").with_retry(Retry::Never))),
            ("quota", rejection(&Rejected::too_many_in_flight(1_024))),
            ("capacity", by_policy(Create, of_class(RejectionClass::NoCapacity))),
            ("overload", by_policy(Request, of_class(RejectionClass::Overload))),
            ("backend", by_policy(Restore, of_class(RejectionClass::Backend))),
            ("backend", rejection(&Rejected::backend(Create))),
            ("backend", rejection(&Rejected::elsewhere(Restore))),
            ("at_capacity", rejection(&Rejected::at_capacity(Create, &full))),
            #[cfg(feature = "http")]
            ("at_capacity", rejection(&Rejected::too_many_listeners(1_000))),
            ("draining", rejection(&Rejected::draining(Create))),
            ("cut_off", rejection(&Rejected::cut_off(Create))),
        ]
    }

    fn reason(explanation: &Explanation) -> &'static str {
        match explanation.what() {
            Explained::Ended(reason) => reason.as_str(),
            Explained::Rejected { reason, .. } => reason.as_str(),
        }
    }

    #[test]
    fn the_page_has_the_sentences_of_each_reason() {
        let examples = examples();
        let row = |(name, example): &(&str, Explanation)| {
            assert_eq!(*name, reason(example));
            format!("| {name} | {} | {} |\n", example.for_operator(), example.for_client())
        };
        let rows: Vec<_> = examples.iter().map(row).collect();
        let missing: String = rows.iter().filter(|row| !PAGE.contains(&***row)).map(String::as_str).collect();
        assert!(missing.is_empty(), "not in docs/explanations.md:\n{missing}");
        let reasons = CloseReason::ALL.iter().map(|reason| reason.as_str());
        for reason in reasons.chain(RejectionReason::ALL.iter().map(|reason| reason.as_str())) {
            assert!(examples.iter().any(|(name, _)| *name == reason), "{reason} has no example");
        }
    }

    /// Every end and rejection there can be, of clients and policies whose names are `name` or hold it.
    fn all(name: &'static str) -> Vec<Explanation> {
        let client = || Client::of(Some(&ClientContext::new().with_principal(name)));
        let causes = || {
            let eviction = |room| Cause::Evicted(Eviction { phrase: name, among: usize::MAX, room });
            let times = [Duration::ZERO, Duration::MAX];
            let timeouts = times.map(|time| [Cause::Timeout(time), Cause::Unanswered(time)]).into_iter().flatten();
            let arrivals = [ArrivalKind::Create, ArrivalKind::Restore, ArrivalKind::Request];
            let rooms = arrivals.map(|kind| MadeRoom::For(kind, client())).into_iter();
            let evictions = rooms.chain([MadeRoom::ForOwnClient, MadeRoom::ForNothing]).map(eviction);
            let others = [Cause::Plain, Cause::Worth, Cause::Handler];
            evictions.chain(timeouts).chain(others).collect::<Vec<_>>()
        };
        let mut all = Vec::new();
        for reason in CloseReason::ALL {
            for cause in causes() {
                for (time, waiting) in [(Duration::ZERO, 0), (Duration::MAX, usize::MAX)] {
                    let end = End { reason: *reason, age: time, idle: time, waiting, cause: cause.clone() };
                    all.push(Explanation::of_end(Fingerprint::of(name), client(), end));
                }
            }
        }
        for reason in RejectionReason::ALL {
            for kind in [ArrivalKind::Create, ArrivalKind::Restore, ArrivalKind::Request] {
                for retry in [Retry::Unknown, Retry::Never, Retry::After(Duration::MAX)] {
                    for (limit, text) in
                        [(None, Cow::Borrowed("a note")), (Some(u64::MAX), Cow::Owned(name.to_owned()))]
                    {
                        let rejected = Rejected {
                            kind,
                            reason: *reason,
                            policy: name.into(),
                            retry,
                            limit,
                            remaining: limit,
                            period: limit.map(|_| Duration::MAX),
                            text,
                        };
                        let mut explanation = Explanation::of_rejection(None, client(), &rejected);
                        let Facts::Rejected(rejection) = &mut explanation.facts else { panic!("a rejection") };
                        rejection.times = u64::MAX;
                        all.push(explanation);
                    }
                }
            }
        }
        all
    }

    #[test]
    fn a_sentence_is_one_bounded_line_whatever_strangers_and_authors_name_things() {
        let evil = [
            "a\r\nSet-Cookie: b\u{1b}[2J\u{202e}\u{2028}\u{0}\u{85}\u{feff}\"'`",
            "\u{7f}".repeat(64).leak(),
            "\u{10ffff}".repeat(1_000).leak(),
            "é".repeat(1_000).leak(),
            "",
        ];
        let breaks =
            |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{feff}');
        for name in evil {
            for explanation in all(name) {
                let texts =
                    [explanation.for_operator(), explanation.for_client(), explanation.client().unwrap_or_default()];
                for text in texts {
                    assert!(!text.contains(breaks), "{text:?}");
                    assert!(text.len() <= 1_024 && !text.ends_with('.'), "{} bytes: {text}", text.len());
                }
                assert!(!explanation.for_operator().is_empty() && !explanation.for_client().is_empty());
            }
        }
    }

    #[test]
    fn a_client_hears_of_no_client_no_policy_and_no_phrase() {
        for explanation in all("mallory") {
            assert!(!explanation.for_client().contains("mallory"), "{}", explanation.for_client());
        }
        for (_, example) in examples() {
            assert!(!example.for_client().contains("10.1.2"), "{}", example.for_client());
        }
    }

    #[test]
    fn what_is_kept_of_names_is_bounded() {
        let long: &'static str = "x".repeat(1_000).leak();
        for explanation in all(long) {
            match &explanation.facts {
                Facts::Rejected(rejection) => assert!(rejection.policy.len() <= LONGEST_NAME),
                Facts::Ended(_) => {}
            }
            assert!(explanation.client().unwrap().len() <= 70);
        }
        assert!(size_of::<Explanation>() <= 200, "{} bytes", size_of::<Explanation>());
    }
}
