//! The kinds of activity in a session, and how each counts.

/// The kind of an activity, which decides how it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ActivityKind {
    /// Any other request.
    Call,
    /// A request that hosts make by themselves right after the handshake, such as `tools/list`. It is a use, and is no
    /// call.
    List,
    /// A `ping` request, which keeps the session alive but is no use of it.
    Ping,
    /// The `initialize` of a client.
    Handshake,
    /// The `initialize` and `initialized` that a restore replays: nothing came from the client.
    Replay,
    /// A notification or an answer from the client. It is no use, but the session was used last when it came.
    Message,
    /// The opening of a stream by GET. It ends when the stream is open: an open stream is no activity.
    Listen,
    /// A request that has found its session and is not handed to it yet. It moves no moment of the session, because the
    /// request itself does.
    Hold,
    /// Background work of a handler, which keeps its session busy. The session was used last when it began or ended.
    Work,
}

impl ActivityKind {
    /// Whether it is a request of a client other than `ping` and `initialize`.
    pub(crate) const fn is_use(self) -> bool {
        matches!(self, Self::Call | Self::List)
    }

    /// Whether its begin and its end move the moment of the last use.
    pub(crate) const fn moves_last_used(self) -> bool {
        matches!(self, Self::Call | Self::List | Self::Message | Self::Handshake | Self::Work)
    }
}
