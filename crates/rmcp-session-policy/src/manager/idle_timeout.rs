//! [`IdleTimeout`]: how long a session may be idle.

use std::time::Duration;

/// How long a session may be idle before it is closed and parked; for
/// [`idle_timeout`](crate::PolicySessionManagerBuilder::idle_timeout).
///
/// A [`Duration`] makes one, as does `None` for no limit, and [`Worth`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum IdleTimeout {
    /// For ever.
    Never,
    /// For this time, in which it receives nothing from its client, not even a ping, and has no open stream.
    After(Duration),
    /// For as long as its place is worth a price.
    Worth(Worth),
}

impl From<Duration> for IdleTimeout {
    fn from(timeout: Duration) -> Self {
        Self::After(timeout)
    }
}

impl From<Option<Duration>> for IdleTimeout {
    fn from(timeout: Option<Duration>) -> Self {
        timeout.map_or(Self::Never, Self::After)
    }
}

impl From<Worth> for IdleTimeout {
    fn from(worth: Worth) -> Self {
        Self::Worth(worth)
    }
}

/// An idle timeout that the eviction policy learns for each kind of session.
///
/// A fixed timeout that is long enough for people who come back after an hour also keeps, for an hour, each session that
/// listed the tools and never called. This one keeps a session for as long as its place is worth a price: the policy's
/// index of the session, as in [`Prospects`](crate::eviction::Prospects). The price follows from the share of resumptions
/// that is to be kept. A resumption is a use after more than a minute of idleness; it is kept if the session still has its
/// place then. The others are restored.
///
/// - No session is closed in its first idle minute, and until 100 resumptions have been seen the timeout is 30 minutes.
/// - Neither pings nor an open stream keep a session: the policy knows that a client listens, and has seen what such
///   clients do. The stream of a parked session is held as after an eviction
///   ([`max_parked_streams`](crate::PolicySessionManagerBuilder::max_parked_streams)).
/// - It needs parking and a `session_store` that restores, since it learns from the sessions that it closed too early. When
///   2,000 sessions have gone with no restore in between, the timeout is 30 minutes until there is one. `build` refuses it with
///   [`max_parked(0)`](crate::PolicySessionManagerBuilder::max_parked), and with an eviction policy that knows no worth.
///
/// ```
/// use rmcp_session_policy::{PolicySessionManager, Worth};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let builder = PolicySessionManager::local().max_sessions(1_000);
/// builder.idle_timeout(Worth::keep(0.95)).build()?;
///
/// let refused = PolicySessionManager::local().idle_timeout(Worth::keep(1.0)).build();
/// assert_eq!(refused.unwrap_err().setting, "idle_timeout");
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Worth {
    pub(crate) keep: f64,
}

impl Worth {
    /// Keeps this share of the resumptions: more than 0 and less than 1, such as 0.95.
    #[must_use]
    pub const fn keep(share: f64) -> Self {
        Self { keep: share }
    }
}
