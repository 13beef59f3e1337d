//! [`SessionName`]: what the API names a session by.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

use crate::observe::SessionSnapshot;
use crate::session::{Fingerprint, SessionOrigin};

/// The number of a session in this process, and its fingerprint.
///
/// Each alone could name another session: two may share a fingerprint, and a number is given again by the next process, while
/// a page of the one before is still open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionName {
    number: u64,
    fingerprint: Fingerprint,
}

impl SessionName {
    pub(super) const fn new(origin: SessionOrigin, fingerprint: Fingerprint) -> Self {
        Self { number: origin.number(), fingerprint }
    }

    pub(super) const fn of(session: &SessionSnapshot) -> Self {
        Self::new(session.origin, session.fingerprint)
    }

    fn parse(text: &str) -> Option<Self> {
        let (number, fingerprint) = text.split_once('-')?;
        Some(Self { number: number.parse().ok()?, fingerprint: Fingerprint::parse(fingerprint)? })
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.number, self.fingerprint)
    }
}

impl<'de> Deserialize<'de> for SessionName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("session is written as in the list: 12-1a2b3c4d"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written() {
        let name = SessionName { number: 12, fingerprint: Fingerprint::of("an id") };
        assert_eq!(SessionName::parse(&name.to_string()), Some(name));
        for wrong in ["", "12", "12-", "-1a2b3c4d", "12-1a2b3c4", "12-1a2b3c4d5", "12-+1a2b3c4", "x-1a2b3c4d"] {
            assert_eq!(SessionName::parse(wrong), None, "{wrong}");
        }
    }
}
