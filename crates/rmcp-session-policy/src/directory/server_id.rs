//! [`ServerId`]: the name of a server in a directory.

use std::fmt;

/// Names one server of a directory: one process, from its start to its end. A process that is started again has another
/// name.
///
/// The backend chooses it, for instance at random when it opens the directory. The manager does not read it.
///
/// ```
/// use rmcp_session_policy::directory::ServerId;
///
/// let server = ServerId::from_bytes([7; 16]);
/// assert_eq!(server.as_bytes(), &[7; 16]);
/// assert_eq!(server.to_string().len(), 32);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId([u8; 16]);

impl ServerId {
    /// Returns the id with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes, for a backend to store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// 32 hexadecimal digits.
impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
