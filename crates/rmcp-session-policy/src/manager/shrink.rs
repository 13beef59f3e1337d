//! Evictions after the capacity was lowered: the lifecycle task makes them, in lots, until there are no more sessions than
//! places.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::manager_inner::ManagerState;
use crate::admission::ArrivalKind;
use crate::observe::CloseReason;
use crate::registry::Choice;
use crate::transport::Session;

/// How many sessions are evicted at once.
const LOT: usize = 10;

/// How long after a lot the next one is evicted: 500 sessions a second. Each eviction parks a session and closes a transport,
/// so all at once would hold up the calls of the others.
const EVERY: Duration = Duration::from_millis(20);

/// The sessions that go now, and when to look again. Their close has begun.
pub(super) struct Evicted<T> {
    /// Each with why it was chosen, and among how many sessions.
    pub(super) victims: Vec<(Arc<Session<T>>, &'static str, usize)>,
    pub(super) next: Option<Instant>,
}

impl<T> ManagerState<T> {
    /// Whether sessions are evicted because there are more than the capacity. The places of those that are closing will be
    /// withdrawn, so it is over once there are enough of them.
    pub(super) fn is_shrinking(&self) -> bool {
        self.places.over() > self.closing && self.registry.evicts()
    }

    /// Evicts some sessions if there are more than the capacity and the last lot was long enough ago. If none may go, it
    /// looks again as soon as for the next lot.
    pub(super) fn shrink(&mut self, now: Instant) -> Evicted<T> {
        let mut victims = Vec::new();
        if !self.is_shrinking() {
            return Evicted { victims, next: None };
        }
        if let Some(next) = self.next_lot.filter(|next| now < *next) {
            return Evicted { victims, next: Some(next) };
        }
        while victims.len() < LOT && self.is_shrinking() {
            let arriving = self.places.arriving_beside(None);
            // As for a restore, which takes another session where half-open ones have to be kept.
            let choice = self.registry.choose(now, ArrivalKind::Restore, None, arriving, None);
            let Choice::Victim(victim, phrase) = choice else { break };
            let among = self.registry.len();
            self.mark_closing(&victim, CloseReason::Evicted, now);
            victims.push((victim, phrase, among));
        }
        self.next_lot = Some(now + EVERY);
        Evicted { victims, next: self.next_lot.filter(|_| self.is_shrinking()) }
    }
}
