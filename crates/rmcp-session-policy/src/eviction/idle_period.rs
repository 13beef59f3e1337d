//! [`IdlePeriod`]: how long a session was idle before it was used again.

use std::time::Duration;

use crate::session::{Return, Stream};

/// How long a session was idle before it was used again, and what was known of it in that time.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct IdlePeriod {
    /// From the end of the last use to the begin of this one, more than a second. The time in the parking counts too.
    pub lasted: Duration,
    /// [`SessionInfo::calls`](super::SessionInfo::calls) before this use.
    pub calls: u64,
    /// [`SessionInfo::last_gap`](super::SessionInfo::last_gap) before this use.
    pub last_gap: Option<Duration>,
    /// [`SessionInfo::stream`](super::SessionInfo::stream) when the period ended.
    pub stream: Stream,
}

impl IdlePeriod {
    pub(crate) fn of(returned: &Return) -> Self {
        Self {
            lasted: returned.idle,
            calls: returned.calls.into(),
            last_gap: returned.last_gap.duration(),
            stream: returned.stream,
        }
    }
}
