//! A victim among sessions that are drawn at random: the guard and the shares choose so.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::time::Instant;

use super::rules::Verdict;
use super::sessions::Registry;
use crate::eviction::SessionInfo;
use crate::session::{Recorded, SessionKey};

/// The number of sessions that are drawn.
pub(super) const SAMPLE: usize = 32;

impl<S: Recorded> Registry<S> {
    /// Begins the close of a session that the policy picks among those that `draw` gives and that may go.
    ///
    /// `draw` gives sessions in the policy's order. Those that may not go leave the order, as when the policy names them,
    /// and it draws again until it finds one that may go, or none at all. So the cost is O([`SAMPLE`]), amortized, however
    /// many sessions are busy.
    pub(super) fn take_drawn(
        &mut self,
        now: Instant,
        mut draw: impl FnMut(&mut Self) -> Vec<SessionKey>,
    ) -> Option<Arc<S>> {
        loop {
            let mut drawn = draw(self);
            drawn.sort_unstable();
            drawn.dedup();
            // Each round claims one of these or takes some out of the order, so this ends.
            drawn.retain(|key| self.is_listed(*key));
            if drawn.is_empty() {
                return None;
            }
            drawn.retain(|key| self.may_go_or_suspend(*key, now));
            if let Some(key) = self.pick(&drawn, now)
                && let Some(session) = self.claim_or_suspend(key, now)
            {
                return Some(session);
            }
        }
    }

    /// Whether a session in the policy's order may go; takes it out of the order if not.
    fn may_go_or_suspend(&mut self, key: SessionKey, now: Instant) -> bool {
        let Some(slot) = self.get(key) else { return false };
        let verdict = self.rules.look(slot.record(), now).1;
        if verdict != Verdict::MayGo {
            self.suspend(key);
            self.expect(key, verdict, now);
        }
        verdict == Verdict::MayGo
    }

    /// Asks the policy which of these sessions goes first. If it panics or names none of them, that is a fault, and the
    /// least recently used one goes. `None` if there are none.
    fn pick(&mut self, among: &[SessionKey], now: Instant) -> Option<SessionKey> {
        let Self { slots, policy, .. } = self;
        let sessions = among.iter().filter_map(|key| slots.get(key.index()).filter(|slot| slot.is(*key)));
        let sessions: Vec<_> = sessions.map(|slot| SessionInfo::of(slot.record())).collect();
        let oldest = sessions.iter().min_by_key(|session| session.rank_by_use())?.key();
        let picked = match policy {
            Some(told) => catch_unwind(AssertUnwindSafe(|| told.policy.pick(&sessions, now))),
            None => Ok(Some(oldest)),
        };
        let fault = match picked {
            Ok(Some(key)) if among.contains(&key) => return Some(key),
            Ok(_) => "it picked none of the sessions that it was given",
            Err(_) => "it panicked",
        };
        self.note_overruled(fault);
        Some(oldest)
    }
}
