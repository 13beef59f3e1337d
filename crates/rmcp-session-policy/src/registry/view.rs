//! The registry as a policy sees it.

use slab::Slab;
use tokio::time::Instant;

use super::rules::{Rules, Verdict};
use super::sessions::{Slot, Standing};
use crate::eviction::View;
use crate::session::{Record, Recorded, SessionKey};

/// All sessions at the moment of a choice. It borrows the slots beside the policy, so that the policy can be called
/// with it.
pub(super) struct SlotsView<'a, S> {
    pub(super) slots: &'a Slab<Slot<S>>,
    pub(super) rules: &'a Rules,
    /// The moment of the choice, rounded down to a microsecond.
    pub(super) now: Instant,
}

impl<S: Recorded> View for SlotsView<'_, S> {
    /// One look in a slot. A closing session is not shown, so a policy that asks does not name it.
    fn get(&self, key: SessionKey) -> Option<&Record> {
        #[cfg(any(test, feature = "testing"))]
        super::test_registry::note_look();
        self.slots.get(key.index()).filter(|slot| slot.is(key) && slot.standing != Standing::Retired).map(Slot::record)
    }

    /// Judges each session in the policy's order, without watching it. The judgement may be out of date when the policy
    /// returns a key; the claim notices that.
    fn candidates(&self) -> Box<dyn Iterator<Item = &Record> + '_> {
        let listed = self.slots.iter().filter(|(_, slot)| slot.standing == Standing::Listed);
        Box::new(listed.map(|(_, slot)| slot.record()).filter(|record| {
            #[cfg(any(test, feature = "testing"))]
            super::test_registry::note_look();
            self.rules.judge(record, record.entry.state.read(), self.now) == Verdict::MayGo
        }))
    }
}
