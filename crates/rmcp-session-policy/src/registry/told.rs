//! [`Told`]: the eviction policy in the registry, and [`Incoming`], which is about to take its place.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::eviction::EvictionPolicy;
use crate::session::SessionKey;

/// A policy, and what it wants to hear.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) policy: Box<dyn EvictionPolicy>,
    pub(super) tracks_access: bool,
    pub(super) tracks_returns: bool,
}

impl Told {
    pub(super) fn new(policy: Box<dyn EvictionPolicy>) -> Self {
        let (tracks_access, tracks_returns) = (policy.tracks_access(), policy.tracks_returns());
        Self { policy, tracks_access, tracks_returns }
    }

    /// Calls the policy. Returns false if it panicked.
    pub(super) fn call(&mut self, call: impl FnOnce(&mut dyn EvictionPolicy)) -> bool {
        catch_unwind(AssertUnwindSafe(|| call(&mut *self.policy))).is_ok()
    }
}

/// A policy that is about to take over.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) told: Told,
    /// Sessions that came since the swap began, which it meets last.
    pub(super) newcomers: VecDeque<SessionKey>,
}
