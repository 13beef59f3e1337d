//! [`Change`]: what a server writes of a session.

use std::time::Duration;

use super::stored::{StoredSession, Usage};

/// A change of a session that a server has, for its directory.
///
/// | change | has an effect if | afterwards |
/// |---|---|---|
/// | `Opened` | the directory has no session of that digest, and the epoch is [`FIRST`](super::Epoch::FIRST) | live at this server |
/// | `Ready`, `Used` | the session is live at this server under this epoch | as before |
/// | `Data` | the same; or the condition of `Opened`, since that may have been lost or merged | live at this server, with what it carries |
/// | `Parked` | as for `Data` | parked, with what it carries |
/// | `Released` | the session is live at this server under this epoch | parked, as it was stored before |
/// | `Ending` | as for `Dead`; or the condition of `Opened`, if it carries a session | ending, with what it carries, or as it was stored before |
/// | `Dead` | the session is live or ending at this server, or was parked by it, under this epoch | dead |
///
/// In each other case it comes too late, and has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The session was opened: its `initialize` was answered.
    Opened(StoredSession),
    /// The handshake of the session is finished. `Used` says so too.
    Ready,
    /// The session was used. The manager writes this for the sessions used in the last seconds together.
    Used(Usage),
    /// The data that handlers keep in the session has changed. The session is as of now, which includes what `Ready` and
    /// `Used` would say.
    Data(StoredSession),
    /// The session lost its place, and its next request may restore it at any server.
    Parked(StoredSession),
    /// The session was claimed and not restored.
    Released,
    /// The session has ended for good, and must not come back; what is stored of it is still needed, for what its end is to
    /// do ([`on_final_end`](crate::PolicySessionManagerBuilder::on_final_end)). Look-ups say that it is dead, and no claim is
    /// won. [`Dead`](Self::Dead) follows. If the server is gone before that,
    /// [`take_due`](super::SessionDirectory::take_due) gives the session to another one.
    ///
    /// The manager writes it with `None`. It carries a session once it is [merged](Self::after) into a change that does.
    Ending(Option<StoredSession>),
    /// The session has ended for good, and must not come back.
    Dead,
}

impl Change {
    /// Merges this change into an earlier one of the same session and epoch that waits in the queue of a backend, `passed`
    /// after it. The result has the effect of both, as of the moment of this change. So a queue holds one change for each
    /// session.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use rmcp_session_policy::directory::{Change, StoredBody, StoredSession, Usage};
    ///
    /// let opened = StoredSession::new(None, Duration::ZERO, Usage::default(), StoredBody::from_bytes([]));
    /// let used = Usage::default().with_uses(3);
    /// let second = Duration::from_secs(1);
    /// let merged = Change::Used(used).after(Change::Opened(opened.clone()), second);
    /// let Change::Opened(merged) = merged else { unreachable!("it is still to be created") };
    /// assert_eq!((merged.age, merged.usage.uses, merged.ready), (second, 3, true));
    /// assert_eq!(Change::Dead.after(Change::Opened(opened), second), Change::Dead);
    /// ```
    #[must_use]
    pub fn after(self, earlier: Self, passed: Duration) -> Self {
        match (earlier.aged(passed), self) {
            (Self::Dead, _) | (_, Self::Dead) => Self::Dead,
            (ending @ Self::Ending(_), _) => ending,
            (Self::Opened(session) | Self::Data(session) | Self::Parked(session), Self::Ending(None)) => {
                Self::Ending(Some(session))
            }
            (_, ending @ Self::Ending(_)) => ending,
            // What is parked is not this server's to change any more.
            (parked @ (Self::Parked(_) | Self::Released), _) => parked,
            (_, parked @ Self::Parked(_)) => parked,
            (Self::Opened(session), later) => Self::opened_and(session, later),
            (Self::Data(session), later) => Self::data_and(session, later),
            (_, Self::Released) => Self::Released,
            (Self::Used(usage), Self::Ready) => Self::Used(usage),
            (_, later) => later,
        }
    }

    /// Merges a change into one that creates the session.
    fn opened_and(session: StoredSession, later: Self) -> Self {
        match later {
            Self::Ready => Self::Opened(session.with_ready(true)),
            Self::Used(usage) => Self::Opened(StoredSession { usage, ..session.with_ready(true) }),
            Self::Data(later) => Self::Opened(later),
            Self::Released => Self::Parked(session),
            later => later,
        }
    }

    /// Merges a change into one that replaces what is stored of a live session.
    fn data_and(session: StoredSession, later: Self) -> Self {
        match later {
            Self::Ready => Self::Data(session.with_ready(true)),
            Self::Used(usage) => Self::Data(StoredSession { usage, ..session.with_ready(true) }),
            Self::Released => Self::Parked(session),
            later => later,
        }
    }

    /// Returns the change as of some time later.
    fn aged(self, passed: Duration) -> Self {
        match self {
            Self::Opened(session) => Self::Opened(session.aged(passed)),
            Self::Used(usage) => Self::Used(usage.aged(passed)),
            Self::Data(session) => Self::Data(session.aged(passed)),
            Self::Parked(session) => Self::Parked(session.aged(passed)),
            Self::Ending(session) => Self::Ending(session.map(|session| session.aged(passed))),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::StoredBody;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn session(uses: u64) -> StoredSession {
        let usage = Usage::default().with_uses(uses);
        StoredSession::new(None, Duration::ZERO, usage, StoredBody::from_bytes([]))
    }

    #[test]
    fn two_changes_have_the_effect_of_both() {
        let used = |uses| Change::Used(Usage::default().with_uses(uses));
        let (opened, parked) = (|| Change::Opened(session(1)), || Change::Parked(session(2)));
        let merged = |earlier: Change, later: Change| later.after(earlier, SECOND);
        let aged = |session: StoredSession| session.aged(SECOND);
        assert_eq!(merged(opened(), Change::Ready), Change::Opened(aged(session(1)).with_ready(true)));
        let used_then = StoredSession { usage: Usage::default().with_uses(7), ..aged(session(1)).with_ready(true) };
        assert_eq!(merged(opened(), used(7)), Change::Opened(used_then), "the usage is as of now");
        assert_eq!(merged(opened(), Change::Released), Change::Parked(aged(session(1))));
        assert_eq!(merged(opened(), parked()), parked());
        assert_eq!(merged(opened(), Change::Data(session(3))), Change::Opened(session(3)));
        let data = || Change::Data(session(4));
        assert_eq!(merged(data(), Change::Ready), Change::Data(aged(session(4)).with_ready(true)));
        let used_then = StoredSession { usage: Usage::default().with_uses(7), ..aged(session(4)).with_ready(true) };
        assert_eq!(merged(data(), used(7)), Change::Data(used_then), "the body stays to be written");
        assert_eq!(merged(data(), Change::Released), Change::Parked(aged(session(4))));
        assert_eq!(merged(data(), Change::Data(session(5))), Change::Data(session(5)));
        assert_eq!(merged(data(), parked()), parked());
        assert_eq!(merged(used(7), data()), data());
        assert_eq!(merged(Change::Ready, used(7)), used(7));
        assert_eq!(merged(used(7), Change::Ready), Change::Used(Usage::default().with_uses(7).with_idle(SECOND)));
        assert_eq!(merged(used(7), used(8)), used(8));
        assert_eq!(merged(used(7), parked()), parked());
        assert_eq!(merged(Change::Ready, Change::Released), Change::Released);
        for late in [Change::Ready, used(7), data(), Change::Released, opened()] {
            assert_eq!(merged(parked(), late.clone()), Change::Parked(aged(session(2))), "{late:?} is late");
            assert_eq!(merged(Change::Released, late), Change::Released);
        }
        let ending = |uses| Change::Ending(Some(aged(session(uses))));
        assert_eq!(
            [opened(), data(), parked()].map(|before| merged(before, Change::Ending(None))),
            [1, 4, 2].map(ending)
        );
        for before in [Change::Ready, used(7), Change::Released] {
            assert_eq!(merged(before, Change::Ending(None)), Change::Ending(None), "it is as it was stored");
        }
        for late in [Change::Ready, used(7), data(), parked(), Change::Released, opened(), Change::Ending(None)] {
            assert_eq!(merged(Change::Ending(None), late), Change::Ending(None));
        }
        for other in
            [opened(), Change::Ready, used(7), data(), parked(), Change::Released, Change::Ending(None), Change::Dead]
        {
            assert_eq!(merged(other.clone(), Change::Dead), Change::Dead);
            assert_eq!(merged(Change::Dead, other), Change::Dead);
        }
    }
}
