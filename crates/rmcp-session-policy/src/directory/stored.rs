//! [`StoredSession`]: what a directory stores of a session.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::digest::OwnerDigest;

/// Holds what a directory stores of a session, as of the moment of the call that carries it.
///
/// A backend that returns one later adds the time that has passed to [`age`](Self::age) and to
/// [`Usage::idle`]. All durations are whole microseconds or rounded to them; a backend may store whole milliseconds.
///
/// ```
/// use std::time::Duration;
///
/// use rmcp_session_policy::directory::{StoredBody, StoredSession, Usage};
///
/// let body = StoredBody::from_bytes(b"of the manager".as_slice());
/// let stored = StoredSession::new(None, Duration::from_secs(60), Usage::default(), body);
/// let hour = Duration::from_secs(3_600);
/// let later = stored.aged(hour);
/// assert_eq!((later.age, later.usage.idle), (hour + Duration::from_secs(60), hour));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredSession {
    /// The owner. `None` if the session has none. It does not change.
    pub owner: Option<OwnerDigest>,
    /// How long ago the session was opened, its earlier incarnations included.
    pub age: Duration,
    /// Whether the handshake is finished. A backend that has to forget sessions should forget those first that are not
    /// ready, and next those without a call.
    pub ready: bool,
    /// How it was used.
    pub usage: Usage,
    /// What backends do not read.
    pub body: StoredBody,
}

/// Says how a session was used in all its incarnations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// How long ago it was last used.
    pub idle: Duration,
    /// How many requests its client has made, without `initialize` and `ping`.
    pub uses: u64,
    /// How many of them hosts do not make by themselves.
    pub calls: u32,
    /// How long the session was idle before its latest call. `None` before its second call.
    pub last_gap: Option<Duration>,
}

/// What backends do not read of a session: the parameters of its `initialize`, the protocol version, and the context of
/// its client. The manager encodes and decodes it.
///
/// It holds no session id. It holds the principal of the client, and the headers that the layer was told to keep. Its
/// length is at most about that of a [parked](crate::PolicySessionManagerBuilder::max_parked_entry_bytes) session.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredBody(Arc<[u8]>);

impl StoredSession {
    /// Creates one whose handshake is not finished.
    #[must_use]
    pub const fn new(owner: Option<OwnerDigest>, age: Duration, usage: Usage, body: StoredBody) -> Self {
        Self { owner, age, ready: false, usage, body }
    }

    /// Sets whether the handshake is finished. Defaults to no.
    #[must_use]
    pub const fn with_ready(mut self, ready: bool) -> Self {
        self.ready = ready;
        self
    }

    /// Returns it as it is after some time.
    #[must_use]
    pub const fn aged(mut self, passed: Duration) -> Self {
        self.age = self.age.saturating_add(passed);
        self.usage = self.usage.aged(passed);
        self
    }
}

impl Usage {
    /// Sets how long ago the session was last used. Defaults to zero.
    #[must_use]
    pub const fn with_idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Sets the number of requests. Defaults to zero.
    #[must_use]
    pub const fn with_uses(mut self, uses: u64) -> Self {
        self.uses = uses;
        self
    }

    /// Sets the number of calls, and how long the session was idle before the latest one. Defaults to none.
    #[must_use]
    pub const fn with_calls(mut self, calls: u32, last_gap: Option<Duration>) -> Self {
        self.calls = calls;
        self.last_gap = last_gap;
        self
    }

    /// Returns it as it is after some time without a use.
    #[must_use]
    pub const fn aged(mut self, passed: Duration) -> Self {
        self.idle = self.idle.saturating_add(passed);
        self
    }
}

impl StoredBody {
    /// Returns the body with these bytes, as a backend has stored them. Bytes that no manager has encoded are found when
    /// they are decoded; the session then does not come back.
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// Returns the bytes, for a backend to store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Shows the length alone: the body holds headers, which may be credentials.
impl fmt::Debug for StoredBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredBody({} bytes)", self.0.len())
    }
}
