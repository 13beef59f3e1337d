//! [`Event`]: one line of a trace, as small as it is kept in memory.

use std::time::Duration;

/// A moment of a trace, in microseconds.
pub type Micros = u64;

/// Returns the duration of a number of microseconds.
pub(crate) const fn duration(micros: Micros) -> Duration {
    Duration::from_micros(micros)
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// It sends `initialize`, which opens its session.
    Init,
    /// It sends `notifications/initialized`, which ends the handshake.
    Ready,
    /// It sends a request that hosts make by themselves, such as `tools/list`.
    List,
    /// It sends any other request.
    Call,
    /// It sends a `ping`.
    Ping,
    /// It opens a listening stream by GET.
    Open,
    /// A listening stream of it ends.
    Close,
    /// It sends DELETE, which ends its session.
    Delete,
}

impl Kind {
    /// All kinds, in the order in which a session may first meet them.
    pub const ALL: [Self; 8] =
        [Self::Init, Self::Ready, Self::List, Self::Call, Self::Ping, Self::Open, Self::Close, Self::Delete];

    /// Returns its name in a trace.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Ready => "ready",
            Self::List => "list",
            Self::Call => "call",
            Self::Ping => "ping",
            Self::Open => "open",
            Self::Close => "close",
            Self::Delete => "delete",
        }
    }

    /// Returns the kind of this name.
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().as_bytes() == name)
    }

    /// Whether it is a request for the policies: such an event restores a session that has no place.
    #[must_use]
    pub const fn is_request(self) -> bool {
        matches!(self, Self::List | Self::Call)
    }
}

/// One line of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it begins.
    pub at: Micros,
    /// How long it lasts.
    pub lasts: Micros,
    /// The number of its session: 0 for the session that comes first in the trace, and so on.
    pub session: u32,
    /// What the client does.
    pub kind: Kind,
    /// Whether no later event is of this session. A simulator forgets the session then.
    pub is_last: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_takes_24_bytes() {
        assert_eq!(size_of::<Event>(), 24);
    }

    #[test]
    fn a_kind_has_one_name() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.name().as_bytes()), Some(kind));
        }
        assert_eq!(Kind::of(b"close "), None);
    }
}
