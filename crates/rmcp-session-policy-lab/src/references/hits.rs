//! [`Hits`]: the requests of a session apart from the one that brought it.

use rmcp_session_policy::eviction::SessionInfo;

/// Counts the requests of a session since it came, without the one that restored it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hits {
    /// The uses that are no hits, or were counted before.
    counted: u64,
}

impl Hits {
    /// Begins with the arrival of a session.
    pub(super) fn from(session: &SessionInfo<'_>) -> Self {
        let is_restored = session.created() > session.opened();
        Self { counted: session.uses() + u64::from(is_restored) }
    }

    /// Begins again with a session that was suspended: what kept it was a hit, which is not counted yet.
    pub(super) fn resumed(session: &SessionInfo<'_>) -> Self {
        Self { counted: session.uses().saturating_sub(1) }
    }

    /// Returns the hits since this was asked last, without counting them.
    pub(super) fn new_ones(self, session: &SessionInfo<'_>) -> u64 {
        session.uses().saturating_sub(self.counted)
    }

    /// Returns the hits since this was asked last.
    pub(super) fn take(&mut self, session: &SessionInfo<'_>) -> u64 {
        let hits = self.new_ones(session);
        self.counted += hits;
        hits
    }
}
