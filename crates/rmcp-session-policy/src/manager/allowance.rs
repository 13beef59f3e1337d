//! [`Allowance`]: one session more of a client that may have a number of them.
//!
//! A client at its limit makes room for itself: its least recently used session that may go is closed, and the newcomer
//! waits until that session is gone. So the sessions of a client in the inner manager, closing ones included, are never more
//! than its limit.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::select;
use rmcp::transport::streamable_http_server::session::SessionManager;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::chosen::{Chosen, Room};
use super::manager_inner::{ManagerInner, ManagerState};
use super::place_search::{IDLE_GRACE, MAX_VICTIMS, VICTIM_TIMEOUT};
use crate::admission::Rejection;
use crate::observe::CloseReason;
use crate::registry::{Allowed, ClientId};
use crate::transport::Session;

/// How often a newcomer looks before the end of its wait whether a session of its client may go. It is woken by sessions
/// of other clients too.
const LOOKS: usize = 4;

/// How many sessions of a client begin to close in one hold of the manager's lock, if its limit was lowered. Each is the
/// least recently used one of up to 128, so this bounds the hold to about 2,000 looks at sessions.
const AT_ONCE: usize = 16;

impl<T> ManagerState<T> {
    /// Begins the close of sessions of a client that has more than its limit, `most` at most.
    fn surplus_of(&mut self, client: ClientId, most: usize, now: Instant) -> Vec<Arc<Session<T>>> {
        let surplus: Vec<_> = std::iter::from_fn(|| self.registry.surplus_of(client, now)).take(most).collect();
        surplus.iter().for_each(|victim| self.mark_closing(victim, CloseReason::Evicted, now));
        surplus
    }
}

/// Takes back what a newcomer was allowed.
trait Clients: Send + Sync {
    fn take_back(&self, client: ClientId, entered: bool);
}

impl<I: SessionManager> Clients for ManagerInner<I> {
    fn take_back(&self, client: ClientId, entered: bool) {
        self.lock().registry.allowed_came(client, entered);
    }
}

/// One session more that a client may have; its drop gives it back. It must not be dropped under the manager's lock.
pub(super) struct Allowance {
    /// `None` if the client has no limit.
    of: Option<(Arc<dyn Clients>, ClientId)>,
    /// Whether it counts as a session already.
    entered: bool,
}

impl Allowance {
    /// The allowance of a client without a limit.
    pub(super) const fn unlimited() -> Self {
        Self { of: None, entered: false }
    }

    /// Passes the allowance to the session.
    pub(super) fn settle<T>(mut self, core: &mut ManagerState<T>) {
        if let Some((_, client)) = self.of.take() {
            core.registry.allowed_came(client, self.entered);
        }
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        if let Some((clients, client)) = self.of.take() {
            clients.take_back(client, self.entered);
        }
    }
}

impl fmt::Debug for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allowance").field("entered", &self.entered).finish_non_exhaustive()
    }
}

impl<I: SessionManager> ManagerInner<I> {
    /// Allows a client one session more. `None` if it is at its limit and `only_free` says that no session may make room.
    ///
    /// # Errors
    ///
    /// The rejection, if none of the client's sessions may go for 20 ms, or the one that does is not gone within 300 ms.
    pub(super) async fn allow(
        self: &Arc<Self>,
        client: Option<ClientId>,
        only_free: bool,
    ) -> Result<Option<Allowance>, Rejection> {
        let Some(client) = client else { return Ok(Some(Allowance::unlimited())) };
        if only_free {
            let mut core = self.lock();
            let enters = core.registry.allow_below(client);
            let entered = enters && core.registry.allowed_enters(client);
            drop(core);
            let allowance = enters.then(|| self.allowance(client, entered));
            return Ok(allowance.filter(|allowance| allowance.entered));
        }
        let allowance = self.wait_for_room(client).await.ok_or_else(|| self.over_client_max())?;
        self.wait_until_entered(client, allowance).await.map(Some).ok_or_else(|| self.over_client_max())
    }

    fn allowance(self: &Arc<Self>, client: ClientId, entered: bool) -> Allowance {
        let clients: Arc<dyn Clients> = Arc::<Self>::clone(self);
        Allowance { of: Some((clients, client)), entered }
    }

    fn over_client_max(&self) -> Rejection {
        let limit = self.in_force.load().clients.max.as_ref().map_or(0, |max| max.sessions);
        Rejection::new("per_client_max").with_limit(limit as u64, 0)
    }

    /// Waits until the client is below its limit, or one of its sessions has begun to close for this newcomer.
    async fn wait_for_room(self: &Arc<Self>, client: ClientId) -> Option<Allowance> {
        let mut now = Instant::now();
        let until = now + IDLE_GRACE;
        for look in 0.. {
            let mut change = pin!(self.signals.evictable.notified());
            change.as_mut().enable();
            let fewer = {
                let mut core = self.lock();
                match core.registry.allow(client, now) {
                    Allowed::Yes => {
                        drop(core);
                        return Some(self.allowance(client, false));
                    }
                    Allowed::Instead(victim) => {
                        core.mark_closing(&victim, CloseReason::Evicted, now);
                        let mut victims = vec![victim];
                        // More than one if its limit was lowered.
                        victims.extend(core.surplus_of(client, AT_ONCE - 1, now));
                        drop(core);
                        let allowance = self.allowance(client, false);
                        self.close_least_recently_used(victims);
                        return Some(allowance);
                    }
                    Allowed::No => core.registry.has_fewer(client)?,
                }
            };
            if now >= until {
                return None;
            }
            if look < LOOKS {
                timeout_at(until, select(change, pin!(fewer))).await.ok();
            } else {
                sleep_until(until).await;
            }
            now = Instant::now();
        }
        None
    }

    /// Waits until so many of the client's sessions are gone that one more may exist.
    async fn wait_until_entered(self: &Arc<Self>, client: ClientId, mut allowance: Allowance) -> Option<Allowance> {
        let until = Instant::now() + VICTIM_TIMEOUT * MAX_VICTIMS;
        loop {
            let (fewer, lot) = {
                let mut core = self.lock();
                if core.registry.allowed_enters(client) {
                    allowance.entered = true;
                    return Some(allowance);
                }
                // The next lot, once the lot before has begun to go.
                let lot = core.surplus_of(client, AT_ONCE, Instant::now());
                (core.registry.has_fewer(client), lot)
            };
            self.close_least_recently_used(lot);
            let fewer = fewer?;
            timeout_at(until, fewer).await.ok()?;
        }
    }

    /// Closes sessions that were chosen for a newcomer of their own client.
    fn close_least_recently_used(self: &Arc<Self>, victims: impl IntoIterator<Item = Arc<Session<I::Transport>>>) {
        let among = self.in_force.load().clients.max.as_ref().map_or(0, |max| max.sessions);
        for victim in victims {
            self.close_victim(victim, Chosen { phrase: "least recently used", among, room: Room::OwnClient });
        }
    }
}
