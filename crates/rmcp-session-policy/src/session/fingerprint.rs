//! [`Fingerprint`], which stands for a session id in logs.

use std::fmt;

use crate::directory::SessionDigest;

/// Eight hexadecimal digits that stand for a session id in logs, lists and events. The id itself is a credential, and
/// is never shown. It is the same in each process and in each release, and begins the
/// [digest](crate::directory::SessionDigest) of the session in a directory.
///
/// ```
/// use rmcp_session_policy::Fingerprint;
///
/// let shown = Fingerprint::of("80f04fe2-5387-4a93-9fb0-4ef1f686fd95").to_string();
/// assert_eq!(shown.len(), 8);
/// assert_eq!(shown, Fingerprint::of("80f04fe2-5387-4a93-9fb0-4ef1f686fd95").to_string());
/// assert_ne!(shown, Fingerprint::of("another id").to_string());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(u32);

impl Fingerprint {
    /// Returns the fingerprint of a session id.
    #[must_use]
    pub fn of(id: &str) -> Self {
        let [first, second, third, fourth, ..] = *SessionDigest::of(id).as_bytes();
        Self(u32::from_be_bytes([first, second, third, fourth]))
    }

    /// Reads the eight digits that `Display` writes.
    #[cfg(feature = "admin")]
    pub(crate) fn parse(digits: &str) -> Option<Self> {
        let are_digits = digits.len() == 8 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        are_digits.then(|| u32::from_str_radix(digits, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_eight_digits_and_none_of_the_id() {
        let id = "80f04fe2-5387-4a93-9fb0-4ef1f686fd95";
        let shown = Fingerprint::of(id).to_string();
        assert_eq!((shown.len(), format!("{:?}", Fingerprint::of(id))), (8, shown.clone()));
        assert!(shown.chars().all(|digit| digit.is_ascii_hexdigit()) && !id.contains(&shown));
        assert_ne!(Fingerprint::of(id), Fingerprint::of("another"));
    }
}
