//! What can go wrong.

use std::fmt;

use crate::admission::{InvalidSetting, Rejection, Retry};

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
            Self::DuplicateId => f.write_str("DuplicateId"),
            Self::Inner(_) => f.write_str("Inner(..)"),
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
