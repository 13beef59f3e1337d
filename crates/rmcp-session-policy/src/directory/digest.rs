//! [`SessionDigest`] and [`OwnerDigest`]: the names of sessions and of their owners in a directory.

use std::fmt;

use super::hash::{DIGEST_BYTES, digest};
use crate::context::ClientContext;

/// Names a session in a directory: 16 bytes of the SHA-256 of its id.
///
/// A session id is a credential, and its digest is none: a copy of a directory opens no session. The digest of an id is
/// the same in each process and in each release.
///
/// ```
/// use rmcp_session_policy::Fingerprint;
/// use rmcp_session_policy::directory::SessionDigest;
///
/// let digest = SessionDigest::of("80f04fe2-5387-4a93-9fb0-4ef1f686fd95");
/// assert_eq!(SessionDigest::from_bytes(*digest.as_bytes()), digest);
/// // Its first digits are the fingerprint that logs show.
/// let fingerprint = Fingerprint::of("80f04fe2-5387-4a93-9fb0-4ef1f686fd95").to_string();
/// assert!(digest.to_string().starts_with(&fingerprint));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionDigest([u8; DIGEST_BYTES]);

impl SessionDigest {
    /// Returns the digest of a session id. Costs one or two blocks of SHA-256.
    #[must_use]
    pub fn of(id: &str) -> Self {
        Self(digest("session", &[Some(id)]))
    }

    /// Returns the digest with these bytes, as a backend has stored them.
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

/// Names the owner of a session in a directory: 16 bytes of the SHA-256 of the principal and of the service's name.
///
/// A session that was opened without either has no owner, and its id is all that a client needs. The address of a client
/// does not count, because it changes. The digest is the same in each process and in each release.
///
/// ```
/// use rmcp_session_policy::ClientContext;
/// use rmcp_session_policy::directory::OwnerDigest;
///
/// let of = |principal: &'static str| OwnerDigest::of(&ClientContext::new().with_principal(principal));
/// assert_eq!(of("alice"), of("alice"));
/// assert_ne!(of("alice"), of("mallory"));
/// assert_eq!(OwnerDigest::of(&ClientContext::new().with_peer([192, 0, 2, 7].into())), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerDigest([u8; DIGEST_BYTES]);

impl OwnerDigest {
    /// Returns the digest of the owner of what this client opens. `None` if neither its principal nor the name of the
    /// service is known.
    #[must_use]
    pub fn of(client: &ClientContext) -> Option<Self> {
        let (service, principal) = client.owner()?;
        Some(Self(digest("owner", &[service, principal])))
    }

    /// Returns the digest with these bytes, as a backend has stored them.
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

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// 32 hexadecimal digits.
impl fmt::Display for SessionDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for SessionDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

/// 32 hexadecimal digits.
impl fmt::Display for OwnerDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for OwnerDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A release that computes other digests would not find the sessions of the release before it.
    #[test]
    fn digests_are_those_of_the_first_release() {
        let session = SessionDigest::of("80f04fe2-5387-4a93-9fb0-4ef1f686fd95");
        assert_eq!(session.to_string(), "1962feafdd46bfbf85849c7cd70b1079");
        let client = ClientContext::new().with_principal("alice");
        let owner = |client: &ClientContext| OwnerDigest::of(client).map(|digest| digest.to_string());
        assert_eq!(owner(&client).as_deref(), Some("1bd506603b5683a998f047f0d4affc19"));
        let named = ClientContext::new().with_service("search".into());
        assert_eq!(owner(&named).as_deref(), Some("6898e5e146715d87669ba72c8a0a56b2"));
        assert_eq!(owner(&client.with_service("search".into())).as_deref(), Some("df3b00ad71b20f8566396dba676c2516"));
    }

    #[test]
    fn a_service_and_a_principal_of_one_name_are_two_owners() {
        let principal = OwnerDigest::of(&ClientContext::new().with_principal("search"));
        let service = OwnerDigest::of(&ClientContext::new().with_service("search".into()));
        assert_ne!(principal, service);
        let empty = OwnerDigest::of(&ClientContext::new().with_principal(""));
        assert!(empty.is_some(), "an empty principal is one");
    }
}
