//! The registry as one choice of a victim sees it.

use std::cell::RefCell;
use std::sync::Arc;

use slab::Slab;
use tokio::time::Instant;

use super::key::SessionKey;
use super::record::Record;
use super::rules::{Rules, Verdict};
use super::sessions::Slot;
use crate::context::ClientContext;
use crate::eviction::SessionInfo;

/// The sessions at one moment, and which of them may go.
pub(crate) struct Roster<'a> {
    pub(super) slots: &'a Slab<Slot>,
    pub(super) rules: &'a Rules,
    pub(super) now: Instant,
    pub(super) newcomer: Option<&'a ClientContext>,
    /// Sessions to look at again when their time has come.
    pub(super) again: RefCell<Vec<(Instant, SessionKey)>>,
}

impl<'a> Roster<'a> {
    pub(crate) const fn now(&self) -> Instant {
        self.now
    }

    pub(crate) const fn newcomer(&self) -> Option<&'a ClientContext> {
        self.newcomer
    }

    fn record(&self, key: SessionKey) -> Option<&'a Arc<Record>> {
        let slot = self.slots.get(key.index())?;
        (slot.record.key == key).then_some(&slot.record)
    }

    /// The session if it may go; if not, it is marked so that its change is told.
    pub(crate) fn meet(&self, key: SessionKey) -> Option<SessionInfo<'a>> {
        let record = self.record(key)?;
        if self.rules.judge(record, record.state.read(), self.now) != Verdict::MayGo {
            // Marked before it is judged again: a request that ends in between is either seen here or tells of itself.
            let seen = record.state.meet();
            if let Verdict::Not(until) = self.rules.judge(record, seen, self.now) {
                self.again.borrow_mut().extend(until.map(|until| (until, key)));
                return None;
            }
        }
        Some(SessionInfo::of(record))
    }

    /// Marks a session that may go, but that a policy's filter hides.
    pub(crate) fn look_again_soon(&self, key: SessionKey) {
        if let Some(record) = self.record(key) {
            record.state.meet();
            self.again.borrow_mut().push((Rules::look_again(self.now), key));
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = SessionInfo<'a>> {
        let (rules, now) = (self.rules, self.now);
        self.slots
            .iter()
            .map(|(_, slot)| &slot.record)
            .filter(move |record| rules.judge(record, record.state.read(), now) == Verdict::MayGo)
            .map(|record| SessionInfo::of(record))
    }
}
