//! [`SessionDataError`]: why a value cannot be read from a session, or kept in it.

use std::error::Error;

use rmcp::model::ErrorData;

/// Says why a value cannot be read from a session, or kept in it. The session and its other values are as before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionDataError {
    /// The session has ended, or belongs to another server now.
    #[error("the session has ended")]
    Ended,
    /// The values of the session would be larger than
    /// [`max_session_data_bytes`](crate::PolicySessionManagerBuilder::max_session_data_bytes) allows.
    #[error("the session's data would be {bytes} bytes, and {limit} are allowed")]
    #[non_exhaustive]
    TooLarge {
        /// What the values would be, in bytes.
        bytes: usize,
        /// What is allowed, in bytes.
        limit: usize,
    },
    /// The value of a registered type cannot be turned into JSON.
    #[error("the value cannot be stored")]
    Encode(#[source] Box<dyn Error + Send + Sync>),
    /// What is stored under the name and version of the type is not a value of it.
    #[error("what is stored is not a value of the type")]
    Decode(#[source] Box<dyn Error + Send + Sync>),
}

impl From<SessionDataError> for ErrorData {
    fn from(error: SessionDataError) -> Self {
        Self::internal_error(error.to_string(), None)
    }
}
