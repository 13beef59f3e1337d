//! Sessions that may not go are not in the policy's order.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::rules::Verdict;
use super::sessions::{Registry, Standing};
use crate::session::{Recorded, SessionKey};
use crate::timestamp::Timestamp;

/// So many sessions whose moment has come are looked at again before the policy is asked. The others are next.
const LOOKS: usize = 1_000;

/// So many sessions that the author protects are looked at again each second: each of them every second up to this number,
/// and each of a million every hundred seconds.
const LOOKS_PER_SECOND: usize = 10_000;

impl<S: Recorded> Registry<S> {
    /// When the next suspended session is looked at again though nothing happens to it.
    pub(crate) fn next_moment(&self) -> Option<Instant> {
        self.moments.peek().map(|(at, _)| at.instant())
    }

    /// Looks at the sessions again that tell of a change.
    pub(super) fn hear(&mut self, now: Instant) {
        while let Some(key) = self.signals.changed.pop() {
            self.look_again(key, now);
        }
    }

    /// Looks at the sessions again whose moment has come; tells whether there was any.
    pub(super) fn hear_of_time(&mut self, now: Instant) -> bool {
        let mut looks = 0;
        while looks < LOOKS
            && let Some((at, key)) = self.moments.peek().filter(|(at, _)| *at <= Timestamp::at(now))
        {
            self.moments.pop();
            if let Some(slot) = self.get_mut(key).filter(|slot| slot.moment == at) {
                slot.moment = Timestamp::NEVER;
                self.look_again(key, now);
                looks += 1;
            }
        }
        looks > 0
    }

    /// Puts a session back to where it was taken from, if it may go.
    fn look_again(&mut self, key: SessionKey, now: Instant) {
        let Some(slot) = self.get_mut(key) else { return };
        let (session, standing) = (Arc::clone(&slot.session), slot.standing);
        if std::mem::take(&mut slot.answering) {
            self.opening.push(session.record().created, key);
        }
        match standing {
            Standing::Suspended => match self.rules.look(session.record(), now).1 {
                Verdict::MayGo => self.resume(key),
                verdict => self.expect(key, verdict, now),
            },
            // The policy watches it, because its place in the order depends on what happens to it.
            Standing::Listed => {
                self.suspend(key);
                self.resume(key);
            }
            Standing::Retired => {}
        }
    }

    /// Notes when to look at a session again though nothing happens to it; of two moments the earlier counts.
    pub(super) fn expect(&mut self, key: SessionKey, verdict: Verdict, now: Instant) {
        let at = match verdict {
            Verdict::Not(Some(until)) => Timestamp::at(until),
            Verdict::Protected => {
                let wait = Duration::from_secs(1 + (self.moments.len() / LOOKS_PER_SECOND) as u64);
                Timestamp::at(now + wait)
            }
            Verdict::MayGo | Verdict::Not(None) => return,
        };
        // Later than now, also where what is less than a microsecond was lost.
        let at = at.max(Timestamp(Timestamp::at(now).0 + 1));
        let Self { moments, slots, .. } = self;
        if let Some(slot) = slots.get_mut(key.index()).filter(|slot| slot.is(key) && at < slot.moment) {
            slot.moment = at;
            moments.push(at, key);
            moments.tidy(slots.len(), |at, key| {
                slots.get(key.index()).is_some_and(|slot| slot.is(key) && slot.moment == at)
            });
        }
    }

    /// Takes a session out of the policy's order.
    pub(super) fn suspend(&mut self, key: SessionKey) {
        self.stand(key, Standing::Suspended, |policy, session| policy.on_suspend(session));
    }

    /// Puts a suspended session back into the policy's order.
    fn resume(&mut self, key: SessionKey) {
        // What the policy watches from here on counts.
        if let Some(slot) = self.get(key) {
            slot.record().state.take_watched();
        }
        self.stand(key, Standing::Listed, |policy, session| policy.on_resume(session));
    }

    /// Takes a session whose end has begun from the policy.
    pub(crate) fn retire(&mut self, key: SessionKey) {
        let Some(standing) = self.get(key).map(|slot| slot.standing) else { return };
        if standing == Standing::Suspended {
            self.resume(key);
        }
        if standing != Standing::Retired {
            self.stand(key, Standing::Retired, |policy, session| policy.on_remove(session));
        }
    }
}
