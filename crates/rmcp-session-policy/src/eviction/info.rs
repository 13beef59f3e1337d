//! What a policy sees of a session.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::context::ClientContext;
use crate::session::{Fingerprint, Phase, Record, SessionKey, SessionOrigin, Software, Stream};

/// What is known of a session at this moment. Reading it costs an atomic load at most.
///
/// It reads the session anew at each call, so two calls may differ: a request may begin or end between them.
#[derive(Clone, Copy)]
pub struct SessionInfo<'a> {
    record: &'a Record,
}

impl<'a> SessionInfo<'a> {
    pub(crate) const fn of(record: &'a Record) -> Self {
        Self { record }
    }

    /// Copies what is known of the session at this moment.
    pub(crate) fn record(&self) -> Box<Record> {
        Box::new(self.record.copy())
    }

    /// The moment of [`created`](Self::created) with its tie-breaker, so that two sessions of one microsecond have an
    /// order.
    pub(crate) const fn rank_by_age(&self) -> u64 {
        self.record.entry.created.0
    }

    /// Asks for the session to be suspended and resumed when something happens to it, such as the end of a request or a
    /// stream that opens.
    ///
    /// The next change takes the mark away, so a policy that wants to hear of the one after it asks again when the
    /// session is resumed.
    pub(crate) fn watch(&self) {
        self.record.entry.state.watch();
    }

    /// Asks for the session to be suspended and resumed at its next milestone: its first call, or a stream that opens or
    /// closes. Other things that happen to it are not told.
    ///
    /// A policy asks before it reads these facts, and again when the session is resumed.
    pub(crate) fn watch_milestones(&self) {
        self.record.entry.state.watch_milestones();
    }

    /// Whether the client has finished its handshake in this incarnation, also if the session is closing.
    pub(crate) fn finished_handshake(&self) -> bool {
        self.record.entry.state.read().was_ready()
    }

    /// The moment of [`last_used`](Self::last_used) with its tie-breaker.
    pub(crate) fn rank_by_use(&self) -> u64 {
        self.record.entry.last_used().0
    }

    /// The name of this incarnation of the session.
    #[must_use]
    pub const fn key(&self) -> SessionKey {
        self.record.entry.key
    }

    /// The name of the session, which its incarnations share.
    #[must_use]
    pub const fn origin(&self) -> SessionOrigin {
        self.record.entry.serial
    }

    /// What stands for the session's id in logs and pages.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.record.fingerprint()
    }

    /// When this incarnation was created.
    #[must_use]
    pub fn created(&self) -> Instant {
        self.record.entry.created.instant()
    }

    /// When the first incarnation was created; differs from [`created`](Self::created) if the session was restored.
    #[must_use]
    pub fn opened(&self) -> Instant {
        self.record.entry.opened.instant()
    }

    /// When the last activity began or ended that is a request other than `ping`, a message, or work of a handler.
    #[must_use]
    pub fn last_used(&self) -> Instant {
        self.record.entry.last_used().instant()
    }

    /// When anything last came from the client, `ping` included.
    #[must_use]
    pub fn last_seen(&self) -> Instant {
        self.record.last_seen().instant()
    }

    /// Requests other than `initialize` and `ping` so far, earlier incarnations included.
    #[must_use]
    pub fn uses(&self) -> u64 {
        self.record.entry.uses()
    }

    /// Whether the client has made any request, in this incarnation or an earlier one, apart from those that hosts make
    /// by themselves right after the handshake: `initialize`, `ping`, `*/list`, `logging/setLevel` and
    /// `server/discover`.
    #[must_use]
    pub fn has_called(&self) -> bool {
        self.calls() > 0
    }

    /// Requests of the client, earlier incarnations included, apart from those that hosts make by themselves right after
    /// the handshake (see [`has_called`](Self::has_called)).
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.record.calls().into()
    }

    /// How long the session was idle before its latest call: from the end of any use before it to its begin, to the
    /// millisecond. `None` before the second call.
    #[must_use]
    pub fn last_gap(&self) -> Option<Duration> {
        self.record.last_gap().duration()
    }

    /// Whether the client listens for messages of the server.
    #[must_use]
    pub fn stream(&self) -> Stream {
        self.record.stream()
    }

    /// Requests of the client that are under way, also those that hang for longer than `max_busy`, and work of handlers
    /// that keeps the session busy. For a moment also a notification being delivered, a stream being opened, or a
    /// request that has just found the session.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.record.entry.state.read().active()
    }

    /// Streams the client holds open by GET.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.record.open_streams()
    }

    /// Where the session is in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.record.entry.state.read().phase()
    }

    /// The client that opened the session, if that is known.
    #[must_use]
    pub fn context(&self) -> Option<&'a ClientContext> {
        self.record.entry.context.as_deref()
    }

    /// The name of the client's software, as `initialize` gave it (cut at 128 bytes).
    #[must_use]
    pub fn client_name(&self) -> Option<&'a str> {
        self.record.software.get().map(Software::name)
    }

    /// The version of the client's software, as `initialize` gave it (cut at 128 bytes).
    #[must_use]
    pub fn client_version(&self) -> Option<&'a str> {
        self.record.software.get().map(Software::version)
    }

    /// Whether the session was used since the mark was last [taken](Self::take_mark).
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.record.entry.is_marked()
    }

    /// Clears the mark that a use sets; returns whether it was set.
    #[expect(clippy::must_use_candidate, reason = "a policy may clear the mark without asking")]
    pub fn take_mark(&self) -> bool {
        self.record.entry.take_mark()
    }
}

impl fmt::Debug for SessionInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionInfo")
            .field("session", &self.fingerprint())
            .field("phase", &self.phase())
            .field("uses", &self.uses())
            .field("in_flight", &self.in_flight())
            .field("open_streams", &self.open_streams())
            .finish_non_exhaustive()
    }
}
