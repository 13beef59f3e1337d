//! [`Return`]: a use that ended an idle period, and what was known of the session before it.

use std::time::Duration;

use super::key::SessionKey;
use super::origin::Gap;
use super::stream::Stream;

/// Idle periods that are no longer than this are not told of.
pub(crate) const SHORTEST: Duration = Duration::from_secs(1);

/// A use that ended an idle period, with the facts of the session as they were during that period.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Return {
    pub(crate) key: SessionKey,
    pub(crate) idle: Duration,
    pub(crate) calls: u32,
    pub(crate) last_gap: Gap,
    pub(crate) stream: Stream,
}
