//! [`PolicyError`] and [`ServerFull`], the errors of a manager, and what the answer to a rejected arrival needs.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use rmcp::model::{ErrorCode, ErrorData, RequestId, ServerJsonRpcMessage};

use crate::admission::{ArrivalKind, Rejection, Retry};
use crate::call_rejection::CallRejection;
use crate::observe::RejectionReason;

/// Says why a call of the manager failed. `E` is the error of the inner session manager.
///
/// Its text reaches clients and logs, so it holds no session id. The text of the inner manager is only in the source.
///
/// ```
/// use rmcp::transport::streamable_http_server::session::SessionManager;
/// use rmcp_session_policy::admission::{Arrival, Rejection, admit_fn};
/// use rmcp_session_policy::{PolicyError, PolicySessionManager};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), rmcp_session_policy::ConfigError> {
/// let closed = admit_fn(|_: &Arrival<'_>| Err(Rejection::new("closed")));
/// let sessions = PolicySessionManager::local().admission(closed).build()?;
/// match sessions.create_session().await {
///     Err(PolicyError::Rejected(rejection)) => assert_eq!(rejection.policy(), "closed"),
///     _ => unreachable!("the policy rejects every session"),
/// }
/// # Ok(()) }
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError<E: std::error::Error + 'static> {
    /// An admission policy rejected it.
    #[error("{0}")]
    Rejected(Rejection),
    /// Every place is taken and no session may go.
    #[error("{0}")]
    ServerFull(ServerFull),
    /// The server is about to stop and takes no newcomers.
    #[error("the server is draining")]
    Draining,
    /// There is no such session (any more). It is also the error of an `initialize` whose session ended before the
    /// answer.
    #[error("session not found")]
    NotFound,
    /// The session has no event with that id, or no event after it.
    #[error("no such event")]
    UnknownEvent,
    /// The [directory](crate::directory) that outlives the process does not answer, and the session is in it.
    #[error("the session directory is away")]
    Away,
    /// Another server has the session.
    #[error("another server has the session")]
    Elsewhere,
    /// The inner session manager gave a new session the id of a live one.
    #[error("the inner session manager gave one id to two sessions")]
    DuplicateId,
    /// The inner session manager failed.
    #[error("the inner session manager failed")]
    Inner(#[source] E),
}

/// Leaves the inner error out, since it may name the session.
impl<E: std::error::Error + 'static> fmt::Debug for PolicyError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(rejection) => f.debug_tuple("Rejected").field(rejection).finish(),
            Self::ServerFull(full) => f.debug_tuple("ServerFull").field(full).finish(),
            Self::Draining => f.write_str("Draining"),
            Self::NotFound => f.write_str("NotFound"),
            Self::UnknownEvent => f.write_str("UnknownEvent"),
            Self::Away => f.write_str("Away"),
            Self::Elsewhere => f.write_str("Elsewhere"),
            Self::DuplicateId => f.write_str("DuplicateId"),
            Self::Inner(_) => f.write_str("Inner(..)"),
        }
    }
}

/// Holds what the answer to a rejected arrival needs.
///
/// The manager or the layer makes it, counts it, and reports it to the observer once. Then the layer, or the manager on
/// the stream of the request, answers with it. Its text reaches clients, so it holds no session id.
#[derive(Clone, Debug)]
pub(crate) struct Rejected {
    /// What was rejected. It decides which count the rejection goes to; clients do not see it.
    pub(crate) kind: ArrivalKind,
    /// Why it was rejected, which decides the status.
    pub(crate) reason: RejectionReason,
    /// The name of the policy, or of the part of the manager, that rejected it.
    pub(crate) policy: Cow<'static, str>,
    pub(crate) retry: Retry,
    /// The limit that was reached, if the policy names one.
    pub(crate) limit: Option<u64>,
    /// What is left of the limit. The headers about rate limits need both.
    pub(crate) remaining: Option<u64>,
    /// The period that the limit is for, if the policy names one.
    pub(crate) period: Option<Duration>,
    /// Why, in one sentence for people. The sentence of a policy may end with when to come back.
    pub(crate) text: Cow<'static, str>,
}

impl Rejected {
    /// Makes the rejection by an admission policy.
    pub(crate) fn by_policy(kind: ArrivalKind, rejection: &Rejection) -> Self {
        Self {
            kind,
            reason: rejection.class().into(),
            policy: rejection.policy_name(),
            retry: rejection.retry(),
            limit: rejection.limit(),
            remaining: rejection.remaining(),
            period: rejection.period(),
            text: rejection.to_string().into(),
        }
    }

    /// Makes the rejection for lack of a place.
    pub(crate) fn at_capacity(kind: ArrivalKind, full: &ServerFull) -> Self {
        Self {
            kind,
            reason: RejectionReason::ServerFull,
            policy: "capacity".into(),
            retry: full.retry,
            limit: Some(full.max_sessions as u64),
            remaining: Some(0),
            period: None,
            text: full.to_string().into(),
        }
    }

    /// Returns the HTTP status, which is also the code of the JSON-RPC error, since MCP reserves -32000..=-32099.
    pub(crate) const fn status(&self) -> u16 {
        match self.reason {
            RejectionReason::Quota => 429,
            _ => 503,
        }
    }

    /// Returns the rejection as a JSON-RPC error.
    ///
    /// Its data says the same for programs. The wait is there in whole seconds and in milliseconds, both rounded up;
    /// milliseconds only if the policy knows the wait.
    pub(crate) fn answer(&self) -> ErrorData {
        let millis = match self.retry {
            Retry::After(wait) => Some(wait.as_nanos().div_ceil(1_000_000) as u64),
            Retry::Unknown | Retry::Never => None,
        };
        let data = serde_json::json!({
            "reason": self.reason.as_str(),
            "policy": self.policy,
            "retryAfterSeconds": self.retry.seconds(),
            "retryAfterMs": millis,
            "limit": self.limit,
            "remaining": self.remaining,
        });
        ErrorData::new(ErrorCode(i32::from(self.status())), self.text.clone(), Some(data))
    }

    /// Makes the answer to a request with this id within a session.
    ///
    /// A `tools/call` gets the form that `rejection` sets, and every other request an error.
    pub(crate) fn answer_to(&self, is_call: bool, rejection: CallRejection, id: RequestId) -> ServerJsonRpcMessage {
        rejection.answer(is_call, id, self.answer(), || self.told_to_a_model())
    }

    /// Returns the rejection of a `tools/call` in two sentences: why, and when to come back.
    fn told_to_a_model(&self) -> String {
        let mut why = &*self.text;
        let when = match (self.retry, self.retry.seconds()) {
            (Retry::After(_), Some(seconds)) => {
                // The text of a policy repeats the wait.
                why = why.strip_suffix(&format!(": retry after {seconds} s")).unwrap_or(why);
                format!("Try again in {seconds} s.")
            }
            (Retry::Never, _) => {
                why = why.strip_suffix(": for good").unwrap_or(why);
                "Do not try again.".to_owned()
            }
            _ => "Try again later.".to_owned(),
        };
        format!("The tool was not called: {why}. {when}")
    }

    /// Makes the rejection for too many requests of one session in flight.
    ///
    /// The wait is unknown, since a request ends when its handler does.
    pub(crate) const fn too_many_in_flight(limit: usize) -> Self {
        Self {
            kind: ArrivalKind::Request,
            reason: RejectionReason::Quota,
            policy: Cow::Borrowed("in_flight"),
            retry: Retry::Unknown,
            limit: Some(limit as u64),
            remaining: Some(0),
            period: None,
            text: Cow::Borrowed("too many requests of this session are in flight"),
        }
    }

    /// Makes the rejection for too many listening streams without a session.
    #[cfg(feature = "http")]
    pub(crate) fn too_many_listeners(most: usize) -> Self {
        Self {
            kind: ArrivalKind::Request,
            reason: RejectionReason::ServerFull,
            policy: Cow::Borrowed("listeners"),
            retry: Retry::Unknown,
            limit: Some(most as u64),
            remaining: Some(0),
            period: None,
            text: Cow::Owned(format!("all {most} listening streams without a session are taken")),
        }
    }

    /// Makes the rejection for a failure of the store that keeps the sessions: the inner manager. Its own error may
    /// name the session and is left out.
    pub(crate) fn backend(kind: ArrivalKind) -> Self {
        Self {
            reason: RejectionReason::Backend,
            policy: Cow::Borrowed("backend"),
            text: Cow::Borrowed("the server cannot reach its sessions now"),
            ..Self::draining(kind)
        }
    }

    /// Makes the rejection for a session that may be in the directory, which does not answer.
    pub(crate) fn away(kind: ArrivalKind) -> Self {
        Self { policy: Cow::Borrowed("directory"), ..Self::backend(kind) }
    }

    /// Makes the rejection for a session that another server has.
    pub(crate) fn elsewhere(kind: ArrivalKind) -> Self {
        Self { text: Cow::Borrowed("another server has the session now"), ..Self::away(kind) }
    }

    /// Makes the rejection for a session that ended while `initialize` was being answered.
    pub(crate) fn cut_off(kind: ArrivalKind) -> Self {
        Self {
            reason: RejectionReason::CutOff,
            policy: Cow::Borrowed("cut_off"),
            text: Cow::Borrowed("the session was closed before this request was answered"),
            ..Self::draining(kind)
        }
    }

    /// Makes the rejection for a server that is about to stop.
    pub(crate) const fn draining(kind: ArrivalKind) -> Self {
        Self {
            kind,
            reason: RejectionReason::Draining,
            policy: Cow::Borrowed("draining"),
            retry: Retry::Unknown,
            limit: None,
            remaining: None,
            period: None,
            text: Cow::Borrowed("the server is draining"),
        }
    }
}

/// Says that every place is taken and no session may be evicted.
///
/// ```
/// use rmcp::transport::streamable_http_server::session::SessionManager;
/// use rmcp_session_policy::{PolicyError, PolicySessionManager, ServerFull};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = PolicySessionManager::local().max_sessions(1).refuse_when_full().build()?;
/// let _session = sessions.create_session().await?;
/// match sessions.create_session().await {
///     Err(PolicyError::ServerFull(ServerFull { max_sessions, .. })) => assert_eq!(max_sessions, 1),
///     _ => unreachable!("the manager evicts no session"),
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all places ({max_sessions}) are taken and no session may go")]
#[non_exhaustive]
pub struct ServerFull {
    /// The capacity that is used up.
    pub max_sessions: usize,
    /// When to come back.
    pub retry: Retry,
}
