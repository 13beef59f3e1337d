//! The parked sessions, in the order in which they go when there are too many.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use hashlink::LinkedHashMap;
use rmcp::transport::streamable_http_server::session::SessionId;
use tokio::time::Instant;

use crate::context::ClientContext;
use crate::registry::{Origin, Record, SessionOrigin};
use crate::stamp::Stamp;

/// How much may be parked.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) entries: usize,
    pub(super) bytes: usize,
    pub(super) entry_bytes: usize,
    pub(super) age: Duration,
}

/// What is kept of a session without a place. A copy of it keeps nothing alive: the session is parked as long as the
/// lot has it.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    /// What `initialize` said.
    pub(super) parcel: Arc<[u8]>,
    context: Option<Arc<ClientContext>>,
    serial: SessionOrigin,
    opened: Stamp,
    last_used: Stamp,
    last_seen: Stamp,
    uses: u64,
    /// From when its age counts.
    since: Stamp,
    /// Tells this parking from another one of the same session.
    stay: u64,
    called: bool,
    /// Whether it was ended for good while it was being restored.
    barred: bool,
}

impl Parked {
    pub(super) fn of(record: &Record, parcel: Arc<[u8]>, now: Instant) -> Self {
        Self {
            parcel,
            context: record.context.clone(),
            serial: record.serial,
            opened: record.opened,
            last_used: record.last_used(),
            last_seen: record.last_seen(),
            uses: record.uses(),
            since: Stamp::at(now),
            stay: 0,
            called: record.has_called(),
            barred: false,
        }
    }

    /// Where a new incarnation comes from.
    pub(super) fn origin(&self, id: SessionId) -> Origin {
        Origin {
            id,
            serial: self.serial,
            context: self.context.clone(),
            opened: self.opened,
            last_used: self.last_used,
            last_seen: self.last_seen,
            uses: self.uses,
            called: self.called,
            restored: true,
        }
    }

    pub(super) const fn serial(&self) -> SessionOrigin {
        self.serial
    }

    pub(super) const fn opened(&self) -> Stamp {
        self.opened
    }

    pub(super) fn context(&self) -> Option<&ClientContext> {
        self.context.as_deref()
    }

    fn bytes(&self, id: &str) -> usize {
        entry_bytes(id, self.parcel.len(), self.context())
    }
}

/// What a parked session takes of memory: what `initialize` said, its id, the context of its client, and its entry.
pub(super) fn entry_bytes(id: &str, said: usize, context: Option<&ClientContext>) -> usize {
    /// Two links of its queue, its place in the queue's table, and the counters of its id and of what was said.
    const LINKS: usize = 2 * size_of::<usize>() + 2 * size_of::<usize>() + 4 * size_of::<usize>();
    const ENTRY: usize = size_of::<SessionId>() + size_of::<Parked>() + LINKS;
    ENTRY + id.len() + said + context.map_or(0, ClientContext::bytes)
}

/// Oldest first.
type Queue = LinkedHashMap<SessionId, Parked>;

/// The parked sessions.
///
/// A session whose restore is under way is *pinned*: it keeps its room, and neither its age nor others push it out. When
/// the lot is full and a session must be parked that made a place free, a pinned one makes room for it: it is in transit
/// then and counts against the places. So live sessions, parked ones and those in transit are never more than the
/// places and the room of the lot together.
#[derive(Default)]
pub(super) struct Lot {
    /// Sessions whose clients have called.
    called: Queue,
    /// Sessions whose clients never have: the first to go.
    uncalled: Queue,
    /// Pinned sessions that count.
    pinned: Queue,
    /// Pinned sessions that count against the places.
    transit: Queue,
    /// What those hold that count.
    bytes: usize,
    stays: u64,
}

impl Lot {
    /// How many count, and what they hold in bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.called.len() + self.uncalled.len() + self.pinned.len(), self.bytes)
    }

    pub(super) fn get(&self, id: &str) -> Option<&Parked> {
        let queues = [&self.called, &self.uncalled, &self.pinned, &self.transit];
        let parked = queues.into_iter().filter(|queue| !queue.is_empty()).find_map(|queue| queue.get(id));
        parked.filter(|parked| !parked.barred)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&SessionId, &Parked)> {
        let Self { called, uncalled, pinned, transit, .. } = self;
        [called, uncalled, pinned, transit].into_iter().flatten().filter(|(_, parked)| !parked.barred)
    }

    const fn queue(&mut self, called: bool) -> &mut Queue {
        if called { &mut self.called } else { &mut self.uncalled }
    }

    /// Puts a session at the end of its queue, and gives the one of the same id that it replaces.
    fn push(&mut self, id: SessionId, parked: Parked) -> Option<Parked> {
        self.bytes += parked.bytes(&id);
        let before = self.queue(parked.called).insert(SessionId::clone(&id), parked)?;
        self.bytes -= before.bytes(&id);
        Some(before)
    }

    /// Parks a session that has left its place, of which now so many are without a session. What has to go for it, perhaps
    /// itself, is put with `gone`.
    pub(super) fn park(
        &mut self,
        id: SessionId,
        mut parked: Parked,
        limits: &Limits,
        places: usize,
        gone: &mut Vec<Parked>,
    ) {
        self.stays += 1;
        parked.stay = self.stays;
        gone.extend(self.remove_unpinned(&id));
        gone.extend(self.push(id, parked));
        while self.is_over(limits) && self.transit.len() < places {
            let Some((id, parked)) = self.pinned.pop_front() else { break };
            self.bytes -= parked.bytes(&id);
            self.transit.insert(id, parked);
        }
        self.shrink(limits, gone);
    }

    fn is_over(&self, limits: &Limits) -> bool {
        let (entries, bytes) = self.size();
        entries > limits.entries || bytes > limits.bytes
    }

    fn shrink(&mut self, limits: &Limits, gone: &mut Vec<Parked>) {
        while self.is_over(limits) {
            // If all others are pinned, the last to come is the first to go.
            let Some((id, parked)) = self.uncalled.pop_front().or_else(|| self.called.pop_front()) else { break };
            self.bytes -= parked.bytes(&id);
            gone.push(parked);
        }
    }

    /// Notes that a session has come into a place, of which now so many are without one. If it was pinned, tells whether it
    /// must go again.
    pub(super) fn arrive(
        &mut self,
        id: &str,
        pin: Option<&Parked>,
        limits: &Limits,
        places: usize,
        gone: &mut Vec<Parked>,
    ) -> bool {
        let barred = pin.and_then(|pin| self.remove_pinned(id, pin)).is_some_and(|parked| parked.barred);
        while self.transit.len() > places {
            let Some((id, parked)) = self.transit.pop_back() else { break };
            self.bytes += parked.bytes(&id);
            self.pinned.insert(id, parked);
        }
        self.shrink(limits, gone);
        barred
    }

    /// Pins a session that is not pinned.
    pub(super) fn pin(&mut self, id: &str) -> Option<Parked> {
        let (id, parked) = self.called.remove_entry(id).or_else(|| self.uncalled.remove_entry(id))?;
        self.pinned.insert(id, parked.clone());
        Some(parked)
    }

    /// Takes the pin of a session away that did not come back. It was heard of, so its age counts from now.
    pub(super) fn unpin(
        &mut self,
        id: &SessionId,
        pin: &Parked,
        now: Instant,
        limits: &Limits,
        gone: &mut Vec<Parked>,
    ) {
        let Some(mut parked) = self.remove_pinned(id, pin) else { return };
        if parked.barred {
            gone.push(parked);
            return;
        }
        parked.seen(now);
        gone.extend(self.push(SessionId::clone(id), parked));
        self.shrink(limits, gone);
    }

    fn remove_pinned(&mut self, id: &str, pin: &Parked) -> Option<Parked> {
        let is_this = |queue: &Queue| queue.get(id).is_some_and(|parked| parked.stay == pin.stay);
        if is_this(&self.transit) {
            return self.transit.remove(id);
        }
        let parked = if is_this(&self.pinned) { self.pinned.remove(id) } else { None }?;
        self.bytes -= parked.bytes(id);
        Some(parked)
    }

    fn remove_unpinned(&mut self, id: &str) -> Option<Parked> {
        let parked = self.called.remove(id).or_else(|| self.uncalled.remove(id))?;
        self.bytes -= parked.bytes(id);
        Some(parked)
    }

    /// Takes a session out that must not come back; true for the one caller that did. One that is pinned goes once its
    /// restore is done.
    pub(super) fn take(&mut self, id: &str, gone: &mut Vec<Parked>) -> bool {
        if let Some(parked) = self.remove_unpinned(id) {
            gone.push(parked);
            return true;
        }
        let pinned = self.pinned.get_mut(id).or_else(|| self.transit.get_mut(id));
        pinned.is_some_and(|parked| !mem::replace(&mut parked.barred, true))
    }

    /// Notes that a parked session was heard of.
    pub(super) fn touch(&mut self, id: &str, now: Instant) -> bool {
        for queue in [&mut self.called, &mut self.uncalled] {
            if let Some(parked) = queue.to_back(id) {
                parked.seen(now);
                return true;
            }
        }
        let pinned = self.pinned.get_mut(id).or_else(|| self.transit.get_mut(id));
        pinned.filter(|parked| !parked.barred).map(|parked| parked.seen(now)).is_some()
    }

    /// Forgets what was parked too long ago.
    pub(super) fn expire(&mut self, now: Instant, age: Duration, gone: &mut Vec<Parked>) {
        for queue in [&mut self.called, &mut self.uncalled] {
            while let Some((_, oldest)) = queue.front()
                && oldest.since.instant() + age <= now
                && let Some((id, parked)) = queue.pop_front()
            {
                self.bytes -= parked.bytes(&id);
                gone.push(parked);
            }
        }
    }

    /// From when the age of the oldest counts.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let fronts = [self.called.front(), self.uncalled.front()];
        fronts.into_iter().flatten().map(|(_, parked)| parked.since).min().map(Stamp::instant)
    }
}

impl Parked {
    fn seen(&mut self, now: Instant) {
        let now = Stamp::at(now);
        self.since = self.since.max(now);
        self.last_seen = self.last_seen.max(now);
    }
}
