//! [`ConfigError`]: the error of a setting that makes no sense.

use std::borrow::Cow;
use std::fmt;

/// Names a setting of a manager, a layer or a policy that makes no sense.
///
/// ```
/// use rmcp_session_policy::PolicySessionManager;
///
/// let error = PolicySessionManager::local().max_sessions(0).build().unwrap_err();
/// assert_eq!(error.setting, "max_sessions");
/// assert_eq!(error.value, "0");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {value}: {remedy}")]
#[non_exhaustive]
pub struct ConfigError {
    /// The name of the setting, as the builder or the policy calls it.
    pub setting: Cow<'static, str>,
    /// The value it was given.
    pub value: Cow<'static, str>,
    /// A value that would do.
    pub remedy: Cow<'static, str>,
}

impl ConfigError {
    /// Creates the error from a setting, its value, and a value that would do.
    #[must_use]
    pub fn new(
        setting: impl Into<Cow<'static, str>>,
        value: impl fmt::Debug,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { setting: setting.into(), value: format!("{value:?}").into(), remedy: remedy.into() }
    }
}
