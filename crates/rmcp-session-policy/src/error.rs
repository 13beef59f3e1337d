//! What can go wrong.

use std::borrow::Cow;
use std::fmt;

use rmcp::model::{ErrorCode, ErrorData};

use crate::admission::{ArrivalKind, InvalidSetting, Rejection, Retry};
use crate::observe::RefusalReason;

/// Why the manager did not do what it was asked for. `E` is the error of the inner session manager.
///
/// Its text reaches clients and logs, so it holds no session id; the inner manager's own text is only in the source.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError<E: std::error::Error + 'static> {
    /// An admission policy refused.
    #[error("{0}")]
    Refused(Rejection),
    /// Every place is taken and no session may go.
    #[error("{0}")]
    AtCapacity(AtCapacity),
    /// The server is about to stop and takes no newcomers.
    #[error("the server is draining")]
    Draining,
    /// There is no such session (any more).
    #[error("session not found")]
    NotFound,
    /// The session has no event of that id, or nothing comes after it.
    #[error("no such event")]
    UnknownEvent,
    /// The inner session manager gave a new session the id of one that lives.
    #[error("the inner session manager gave one id to two sessions")]
    DuplicateId,
    /// The inner session manager failed.
    #[error("the inner session manager failed")]
    Inner(#[source] E),
}

/// The inner error stays out: it may name the session.
impl<E: std::error::Error + 'static> fmt::Debug for PolicyError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(rejection) => f.debug_tuple("Refused").field(rejection).finish(),
            Self::AtCapacity(full) => f.debug_tuple("AtCapacity").field(full).finish(),
            Self::Draining => f.write_str("Draining"),
            Self::NotFound => f.write_str("NotFound"),
            Self::UnknownEvent => f.write_str("UnknownEvent"),
            Self::DuplicateId => f.write_str("DuplicateId"),
            Self::Inner(_) => f.write_str("Inner(..)"),
        }
    }
}

/// A refusal, as whoever answers the client needs it.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) kind: ArrivalKind,
    pub(crate) reason: RefusalReason,
    pub(crate) policy: Cow<'static, str>,
    pub(crate) retry: Retry,
    pub(crate) limit: Option<u64>,
    pub(crate) remaining: Option<u64>,
    pub(crate) text: Cow<'static, str>,
}

impl Refusal {
    /// By an admission policy.
    pub(crate) fn rejected(kind: ArrivalKind, rejection: &Rejection) -> Self {
        Self {
            kind,
            reason: rejection.class().into(),
            policy: rejection.policy().to_owned().into(),
            retry: rejection.retry(),
            limit: rejection.limit(),
            remaining: rejection.remaining(),
            text: rejection.to_string().into(),
        }
    }

    /// For want of a place.
    pub(crate) fn at_capacity(kind: ArrivalKind, full: &AtCapacity) -> Self {
        Self {
            kind,
            reason: RefusalReason::AtCapacity,
            policy: "capacity".into(),
            retry: full.retry,
            limit: Some(full.max_sessions as u64),
            remaining: Some(0),
            text: full.to_string().into(),
        }
    }

    /// The HTTP status, which is also the code of the JSON-RPC error: MCP keeps -32000..=-32099 for itself.
    pub(crate) const fn status(&self) -> u16 {
        match self.reason {
            RefusalReason::Quota => 429,
            _ => 503,
        }
    }

    /// The refusal as a JSON-RPC error.
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

    /// Because there are as many listening streams without a session as there may be.
    #[cfg(feature = "http")]
    pub(crate) fn too_many_listeners(most: usize) -> Self {
        Self {
            kind: ArrivalKind::Request,
            reason: RefusalReason::AtCapacity,
            policy: Cow::Borrowed("listeners"),
            retry: Retry::Unknown,
            limit: Some(most as u64),
            remaining: Some(0),
            text: Cow::Owned(format!("all {most} listening streams without a session are taken")),
        }
    }

    /// Because what keeps the sessions failed.
    pub(crate) fn backend(kind: ArrivalKind) -> Self {
        Self {
            reason: RefusalReason::Backend,
            policy: Cow::Borrowed("backend"),
            text: Cow::Borrowed("the server cannot reach its sessions now"),
            ..Self::draining(kind)
        }
    }

    /// Because the session ended while `initialize` was being answered.
    pub(crate) fn cut_off(kind: ArrivalKind) -> Self {
        Self {
            reason: RefusalReason::CutOff,
            policy: Cow::Borrowed("cut_off"),
            text: Cow::Borrowed("the session was closed before this request was answered"),
            ..Self::draining(kind)
        }
    }

    /// Because the server is about to stop.
    pub(crate) const fn draining(kind: ArrivalKind) -> Self {
        Self {
            kind,
            reason: RefusalReason::Draining,
            policy: Cow::Borrowed("draining"),
            retry: Retry::Unknown,
            limit: None,
            remaining: None,
            text: Cow::Borrowed("the server is draining"),
        }
    }
}

/// Every place is taken and no session may go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {max_sessions} places are taken and no session may go")]
#[non_exhaustive]
pub struct AtCapacity {
    /// The capacity that is used up.
    pub max_sessions: usize,
    /// When to come back.
    pub retry: Retry,
}

/// A setting that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {value}: {remedy}")]
#[non_exhaustive]
pub struct ConfigError {
    /// The name of the setting, as the builder or the policy calls it.
    pub setting: String,
    /// The value it was given.
    pub value: String,
    /// What would do.
    pub remedy: String,
}

impl ConfigError {
    pub(crate) fn new(setting: &str, value: impl fmt::Debug, remedy: &str) -> Self {
        Self { setting: setting.to_owned(), value: format!("{value:?}"), remedy: remedy.to_owned() }
    }
}

impl From<InvalidSetting> for ConfigError {
    fn from(invalid: InvalidSetting) -> Self {
        Self {
            setting: invalid.setting.to_string(),
            value: invalid.value.to_string(),
            remedy: invalid.remedy.to_string(),
        }
    }
}
