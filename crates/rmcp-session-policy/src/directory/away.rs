//! [`Away`]: the error of a directory that does not answer.

use std::error::Error;
use std::fmt;

/// Says that the directory cannot answer now. Requests that need it are refused with 503, and others go on.
///
/// It should name no session id: its source may be logged.
///
/// ```
/// use std::error::Error;
/// use std::io;
///
/// use rmcp_session_policy::directory::Away;
///
/// let away = Away::because(io::Error::other("the disk is full"));
/// assert_eq!(away.to_string(), "the session directory is away");
/// assert_eq!(away.source().map(ToString::to_string).as_deref(), Some("the disk is full"));
/// assert!(Away::new().source().is_none());
/// ```
#[derive(Default, thiserror::Error)]
#[error("the session directory is away")]
pub struct Away {
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Away {
    /// Creates the error without a cause.
    #[must_use]
    pub const fn new() -> Self {
        Self { source: None }
    }

    /// Creates the error with a cause, which is its source.
    #[must_use]
    pub fn because(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: Some(cause.into()) }
    }
}

impl fmt::Debug for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Away").field("source", &self.source).finish()
    }
}
