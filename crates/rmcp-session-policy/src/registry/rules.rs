//! Which sessions may go.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::record::Record;
use super::state::{Phase, Reading};
use crate::eviction::SessionInfo;

/// A question about a session.
pub(crate) type Predicate = Arc<dyn Fn(&SessionInfo<'_>) -> bool + Send + Sync>;

/// How long a restored session is kept for the request that brought it back.
const RESTORE_GRACE: Duration = Duration::from_secs(5);

/// How soon a session is looked at again that an author's predicate kept from going: nothing tells when the answer
/// changes.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Who is never a victim.
#[derive(Clone)]
pub(crate) struct Rules {
    pub(crate) min_idle: Duration,
    pub(crate) max_busy: Duration,
    pub(crate) protect: Option<Predicate>,
}

/// Whether a session may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    MayGo,
    /// Until something happens to it, or until this moment.
    Not(Option<Instant>),
}

impl Rules {
    /// Judges a session by one reading of its state.
    pub(crate) fn judge(&self, record: &Record, seen: Reading, now: Instant) -> Verdict {
        match seen.phase() {
            Phase::Closing => return Verdict::Not(None),
            Phase::Opening if !record.restored => return Verdict::Not(None),
            Phase::Opening => {
                let until = record.instant(record.created) + RESTORE_GRACE;
                if now < until {
                    return Verdict::Not(Some(until));
                }
            }
            Phase::Ready => {}
        }
        if seen.active() > 0 {
            let Some(newest) = record.newest_request(seen) else { return Verdict::Not(None) };
            let until = record.instant(newest) + self.max_busy;
            if now < until {
                return Verdict::Not(Some(until));
            }
        }
        let until = record.instant(record.last_used()) + self.min_idle;
        if now < until {
            return Verdict::Not(Some(until));
        }
        if self.protect.as_ref().is_some_and(|protects| protects(&SessionInfo::of(record))) {
            return Verdict::Not(Some(now + LOOK_AGAIN));
        }
        Verdict::MayGo
    }

    /// When a session is looked at again that a policy's own filter hid.
    pub(crate) fn look_again(now: Instant) -> Instant {
        now + LOOK_AGAIN
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("min_idle", &self.min_idle)
            .field("max_busy", &self.max_busy)
            .field("protect", &self.protect.is_some())
            .finish()
    }
}
