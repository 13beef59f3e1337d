//! Changes of the settings while the manager runs.
//!
//! A change is checked as a whole, and then put in force as a whole under the manager's lock. What remains of it (sessions to
//! evict, deadlines to look at again) is done by the lifecycle task.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rmcp::transport::streamable_http_server::session::SessionManager;
use tokio::time::Instant;

use super::PolicySessionManager;
use super::client_limits::ClientLimit;
use super::idle_timeout::IdleTimeout;
use super::in_force::InForce;
use super::live_settings::LiveSettings;
use super::manager_inner::{ManagerInner, ManagerState};
use super::parking_state::Limits;
use super::setting_checks;
use super::settings_in_force::SettingsInForce;
use super::swap::Swap;
use crate::call_rejection::CallRejection;
use crate::config_error::ConfigError;
use crate::eviction::EvictionPolicy;
use crate::transport::Session;

/// How many sessions are looked at in one hold of the manager's lock.
const AT_ONCE: usize = 1_000;

impl<I: SessionManager> PolicySessionManager<I> {
    /// Changes settings while the manager runs: all of the change, or nothing of it if it makes no sense.
    ///
    /// `change` gets the [settings](LiveSettings) in force and returns those that should be. They are checked together,
    /// as [`build`](crate::PolicySessionManagerBuilder::build) does. When this returns they are in force, for the
    /// sessions there are too: what each setting then does with those is said at its setter. For a lower capacity no
    /// session is cut off; a shorter `max_lifetime` ends busy ones too. Changes that come at the same time follow one
    /// another. Cost: O(1), and a look at each session if the limits of clients tell them apart in another way, by
    /// 1,000 in one hold of the lock.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first invalid setting, its value, and a remedy. Nothing has changed then.
    ///
    /// ```
    /// use rmcp_session_policy::{PolicySessionManager, SECOND};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let sessions = PolicySessionManager::local().max_sessions(100).build()?;
    /// sessions.reconfigure(|settings| settings.max_sessions(50).min_idle(10 * SECOND)).await?;
    /// assert_eq!(sessions.settings().max_sessions, 50);
    ///
    /// let error = sessions.reconfigure(|settings| settings.max_sessions(0)).await.unwrap_err();
    /// assert_eq!(error.to_string(), "max_sessions is 0: allow at least 1 session");
    /// assert_eq!(sessions.settings().max_sessions, 50);
    /// # Ok(()) }
    /// ```
    pub async fn reconfigure(&self, change: impl FnOnce(LiveSettings) -> LiveSettings) -> Result<(), ConfigError> {
        let shared = &self.shared;
        let _one_at_a_time = shared.reconfiguring.lock().await;
        let before = shared.in_force.load_full();
        let LiveSettings { given, eviction, admission, requests } = change(LiveSettings::new(before.given.clone()));
        let after = Arc::new(InForce::check(given, Some(&before))?);
        for policy in [&admission, &requests].into_iter().flatten() {
            policy.validate()?;
        }
        let swap = match eviction {
            None => None,
            Some(mut policy) => {
                if let Some(policy) = &mut policy {
                    setting_checks::keep_resumptions(after.given.idle_timeout, &mut **policy)?;
                }
                Some(Swap::meet(shared, policy).await)
            }
        };
        shared.put_in_force(&before, &after, swap)?;
        if shared.change_admission(admission, requests) {
            shared.each_lot(|sessions| sessions.iter().for_each(|session| shared.adopt(session)));
        }
        tracing::info!(changes = after.changes, "the settings were changed");
        Ok(())
    }

    /// Returns the settings in force that [`reconfigure`](Self::reconfigure) can change, and since when they are.
    #[must_use]
    pub fn settings(&self) -> SettingsInForce {
        SettingsInForce::of(&self.shared.in_force.load())
    }
}

impl<T> ManagerState<T> {
    /// Puts settings in force that the lock guards. `swapped`: another eviction policy has just been put in force.
    fn apply(&mut self, before: &InForce, after: &InForce, busy_may_go: bool, swapped: bool) {
        let registry = &mut self.registry;
        // Each session is looked at again for other rules, and for other times: not for any change.
        if after.given.has_other_rules(&before.given) {
            registry.set_rules(after.given.rules(busy_may_go));
        }
        registry.set_max_opening(after.max_opening);
        registry.guard_surges(after.given.surge_guard);
        let (clients, old) = (&after.clients, &before.clients);
        let (share, max) = (clients.share.as_ref(), clients.max.as_ref());
        registry.share_places(share.map(|share| share.sessions), !ClientLimit::is_like(share, old.share.as_ref()));
        registry.limit_clients(max.map(|max| max.sessions), !ClientLimit::is_like(max, old.max.as_ref()));
        self.places.resize(after.given.max_sessions);
        // Under a `Worth`, the policy says when sessions are idle for too long.
        let judges = swapped && matches!(after.given.idle_timeout, IdleTimeout::Worth(_));
        if judges || after.given.has_other_times(&before.given) {
            self.deadlines.revisit();
        }
    }
}

impl<I: SessionManager> ManagerInner<I> {
    /// Puts checked settings in force. It does not await, so it cannot be dropped halfway.
    fn put_in_force(
        self: &Arc<Self>,
        before: &InForce,
        after: &Arc<InForce>,
        swap: Option<Swap<'_, I>>,
    ) -> Result<(), ConfigError> {
        let given = &after.given;
        // Dropped when the lock is not held, as it may take long.
        let mut _old_policy = None;
        {
            let mut core = self.lock();
            let swapped = swap.is_some();
            if let Some(swap) = swap {
                _old_policy = swap.finish(&mut core);
            } else if given.idle_timeout != before.given.idle_timeout {
                // The policy in force is asked last of all that may say no.
                let keeps =
                    |policy: &mut dyn EvictionPolicy| setting_checks::keep_resumptions(given.idle_timeout, policy);
                core.registry.ask_policy(keeps).unwrap_or_else(|| setting_checks::no_worth(given.idle_timeout))?;
            }
            core.apply(before, after, self.settings.busy_may_go, swapped);
            self.in_force.store(Arc::clone(after));
        }
        self.rejects_with_errors.store(given.call_rejection == CallRejection::Error, Relaxed);
        self.leases.set_max_busy(given.max_busy);
        self.handlers.set_max_busy(given.max_busy);
        self.serving_tasks.set_max_sessions(given.max_sessions);
        self.durable.iter().for_each(|durable| durable.set_places(given.max_sessions));
        self.settings.data_types.max_bytes.store(after.max_data_bytes, Relaxed);
        self.parking.final_ends().set_deadline(given.final_end_deadline);
        if given.limits != before.given.limits {
            self.set_parking_limits(given.limits, Instant::now());
        }
        while !self.held.set_limits(after.max_parked_streams, given.max_sessions) {}
        if given.max_lifetime != before.given.max_lifetime {
            self.change_lifetimes_of_streams();
        }
        if after.clients.version != before.clients.version {
            self.own_all();
        }
        // What waits for a place looks again.
        self.lock().places.wake_first();
        self.signals.evictable.notify_waiters();
        self.sooner.notify_one();
        Ok(())
    }

    /// Sets the limits of the parking, which forgets some sessions in each hold of the locks.
    fn set_parking_limits(&self, limits: Limits, now: Instant) {
        loop {
            let (fits, gone) = {
                // Under the lock, so that no session comes into a place that is counted as free.
                let core = self.lock();
                self.parking.set_limits(limits, core.places_without_session(), now)
            };
            drop(gone);
            if fits {
                return;
            }
        }
    }

    /// Tells the list of held streams when the lifetimes of their sessions end.
    fn change_lifetimes_of_streams(&self) {
        if self.held.len() == 0 {
            return;
        }
        let parked = self.parking.map(|(id, parked)| Some((parked.serial(), Arc::clone(id), parked.opened())));
        for (session, id, opened) in parked {
            self.held.set_until(session, &id, self.lifetime_ends(opened));
        }
    }

    /// Says of each session which client it belongs to, since clients are told apart in another way. Sessions that come
    /// meanwhile say so themselves.
    fn own_all(&self) {
        self.each_lot(|sessions| self.own(sessions));
    }

    /// Does something with all sessions, some at a time and without the lock.
    fn each_lot(&self, mut act: impl FnMut(&[Arc<Session<I::Transport>>])) {
        let mut from = Some(0);
        while let Some(index) = from {
            let (sessions, next) = self.lock().registry.some(index, AT_ONCE);
            act(&sessions);
            from = next;
        }
    }

    /// Says of some sessions which client they belong to, for the limits in force.
    pub(super) fn own(&self, sessions: &[Arc<Session<I::Transport>>]) {
        loop {
            let in_force = self.in_force.load_full();
            // Outside the lock: this may run code of the server's author.
            let ids = |session: &Arc<Session<I::Transport>>| {
                let entry = &session.record.entry;
                (entry.key, in_force.clients.ids(entry.context.as_deref()))
            };
            let owners: HashMap<_, _> = sessions.iter().map(ids).collect();
            let mut core = self.lock();
            if self.in_force.load().clients.version == in_force.clients.version {
                owners.into_iter().for_each(|(key, clients)| core.registry.owned_too(key, clients));
                return;
            }
        }
    }
}
