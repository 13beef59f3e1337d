//! The exchange of the eviction policy while sessions are there.
//!
//! The old policy decides until the new one has met all sessions. It meets them oldest first, some in each hold of the
//! manager's lock, and hears from then on what happens to those that it has met. So no session is told to it twice, none is
//! missing when it takes over, and a swap that is given up leaves everything as it was.

use std::collections::VecDeque;

use super::sessions::{Registry, Standing};
use super::told::{Incoming, Told};
use crate::eviction::{EvictionPolicy, SessionInfo};
use crate::session::{Recorded, SessionKey};

impl<S: Recorded> Registry<S> {
    /// Begins a swap. There must be none.
    pub(crate) fn begin_swap(&mut self, policy: Box<dyn EvictionPolicy>) {
        self.swaps = self.swaps.wrapping_add(1);
        let told = Told::new(policy);
        if told.tracks_returns {
            self.signals.comings.get_or_make();
        }
        self.incoming = Some(Incoming { told, newcomers: VecDeque::new() });
    }

    /// Ends a swap without an exchange. The caller drops what is returned when no lock is held.
    pub(crate) fn give_up_swap(&mut self) -> Option<Box<dyn EvictionPolicy>> {
        self.incoming.take().map(|incoming| incoming.told.policy)
    }

    /// Exchanges the policy for the incoming one, which has met all sessions, or for none if there is no such policy. The
    /// caller drops what is returned when no lock is held.
    pub(crate) fn finish_swap(&mut self) -> Option<Box<dyn EvictionPolicy>> {
        self.meet_newcomers(usize::MAX);
        let incoming = self.incoming.take().map(|incoming| incoming.told);
        std::mem::replace(&mut self.policy, incoming).map(|told| told.policy)
    }

    /// Whether any policy is told of each use.
    pub(crate) fn tracks_access(&self) -> bool {
        self.policy.iter().chain(self.incoming.iter().map(|incoming| &incoming.told)).any(|told| told.tracks_access)
    }

    /// The keys of some sessions from an index on, `most` at most, and the index that follows if there may be more.
    pub(crate) fn keys(&self, from: usize, most: usize) -> (Vec<SessionKey>, Option<usize>) {
        let (sessions, next) = self.some(from, most);
        (sessions.iter().map(|session| session.record().entry.key).collect(), next)
    }

    /// Has the incoming policy meet sessions that it has not met, in this order. It does not hear of those that are gone or
    /// closing.
    pub(crate) fn meet(&mut self, keys: &[SessionKey]) {
        // Returns of before are in the history of the session that the policy meets.
        self.hear_of_returns();
        for key in keys {
            self.meet_one(*key);
        }
    }

    /// Has the incoming policy meet sessions that came since, `most` at most. Returns whether there are more.
    pub(crate) fn meet_newcomers(&mut self, most: usize) -> bool {
        self.hear_of_returns();
        for _ in 0..most {
            let Some(key) = self.incoming.as_mut().and_then(|incoming| incoming.newcomers.pop_front()) else {
                return false;
            };
            self.meet_one(key);
        }
        true
    }

    fn meet_one(&mut self, key: SessionKey) {
        let number = self.swaps;
        let Some(slot) = self.get_mut(key) else { return };
        if slot.met == number || slot.standing == Standing::Retired {
            return;
        }
        slot.met = number;
        let suspended = slot.standing == Standing::Suspended;
        self.tell_incoming(key, |policy, session| policy.on_insert(session));
        if suspended {
            self.tell_incoming(key, |policy, session| policy.on_suspend(session));
        }
    }

    /// Notes a session that has come, for the incoming policy.
    pub(super) fn note_newcomer(&mut self, key: SessionKey) {
        if let Some(incoming) = &mut self.incoming {
            incoming.newcomers.push_back(key);
        }
    }

    /// Tells the incoming policy of a session that it has met.
    pub(super) fn tell_incoming(
        &mut self,
        key: SessionKey,
        call: impl FnOnce(&mut dyn EvictionPolicy, &SessionInfo<'_>),
    ) {
        let number = self.swaps;
        let Some(slot) = self.slots.get(key.index()).filter(|slot| slot.is(key) && slot.met == number) else { return };
        let Some(incoming) = &mut self.incoming else { return };
        if !incoming.told.call(|policy| call(policy, &SessionInfo::of(slot.record()))) {
            self.note_overruled("it panicked");
        }
    }
}
