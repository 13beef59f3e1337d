//! The registry as a policy sees it.

use slab::Slab;
use tokio::time::Instant;

use super::rules::{Rules, Verdict};
use super::sessions::{Slot, Standing};
use crate::eviction::View;
use crate::session::{Record, Recorded, SessionKey};

/// All sessions at the moment of a choice.
pub(super) struct SlotsView<'a, S> {
    pub(super) slots: &'a Slab<Slot<S>>,
    pub(super) rules: &'a Rules,
    pub(super) now: Instant,
}

impl<S: Recorded> View for SlotsView<'_, S> {
    fn get(&self, key: SessionKey) -> Option<&Record> {
        #[cfg(any(test, feature = "testing"))]
        super::test_registry::note_look();
        self.slots.get(key.index()).filter(|slot| slot.is(key) && slot.standing != Standing::Retired).map(Slot::record)
    }

    fn candidates(&self) -> Box<dyn Iterator<Item = &Record> + '_> {
        let listed = self.slots.iter().filter(|(_, slot)| slot.standing == Standing::Listed);
        Box::new(listed.map(|(_, slot)| slot.record()).filter(|record| {
            #[cfg(any(test, feature = "testing"))]
            super::test_registry::note_look();
            self.rules.judge(record, record.state.read(), self.now) == Verdict::MayGo
        }))
    }
}
