//! Hyperbolic caching.

use rmcp_session_policy::SessionKey;
use rmcp_session_policy::eviction::{Candidates, EvictionPolicy, SessionInfo};

/// How many sessions are drawn for a choice.
const DRAWN: usize = 64;

/// Hyperbolic caching (Blankstein, Sen, Freedman, USENIX ATC 2017): of 64 sessions drawn at random, evicts the one with the
/// fewest uses for the time since it was opened. O(1).
#[derive(Debug, Default)]
pub struct Hyperbolic;

impl EvictionPolicy for Hyperbolic {
    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        let rate = |session: &SessionInfo<'_>| {
            let age = candidates.now().saturating_duration_since(session.opened()).as_secs_f64();
            (session.uses() as f64 + 1.0) / age.max(1e-6)
        };
        let drawn = candidates.sample(DRAWN);
        drawn.min_by(|one, other| rate(one).total_cmp(&rate(other))).map(|session| session.key())
    }
}
