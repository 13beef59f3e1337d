//! The rows of a directory in memory: what they hold, and which changes apply. No lock, and no clock.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use hashlink::LinkedHashMap;
use tokio::time::Instant;

use crate::directory::{Change, Claim, Due, Epoch, Found, FoundState, ServerId, SessionDigest, StoredSession};

/// One session.
#[derive(Debug)]
struct Row {
    server: ServerId,
    epoch: Epoch,
    stage: Stage,
    session: StoredSession,
    /// The moment that the durations of the session are of.
    at: Instant,
    /// Its place in the order in which sessions are forgotten.
    rank: Rank,
}

/// Where a session is that is not dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its server has it.
    Live,
    Parked,
    /// It has ended, and its server has not said yet that nothing more is to be done.
    Ending,
}

/// In which order sessions are forgotten: those that are not ready first, then those without a call, and within each the
/// one whose latest change is the oldest.
type Rank = (u8, u64);

/// How many sessions that are to be ended are taken at once.
const MOST_DUE: usize = 100;

/// A change that waits in a queue.
#[derive(Clone, Debug)]
pub(super) struct Queued {
    pub(super) epoch: Epoch,
    pub(super) change: Change,
    /// When it was written.
    pub(super) at: Instant,
}

/// The sessions, and the digests of those that have ended for good.
#[derive(Debug)]
pub(super) struct Rows {
    most: usize,
    rows: HashMap<SessionDigest, Row>,
    order: BTreeMap<Rank, SessionDigest>,
    changes: u64,
    /// Oldest first.
    dead: LinkedHashMap<SessionDigest, (ServerId, Epoch)>,
}

impl Rows {
    pub(super) fn new(most: usize) -> Self {
        Self { most, rows: HashMap::new(), order: BTreeMap::new(), changes: 0, dead: LinkedHashMap::new() }
    }

    /// How many sessions there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is such a session, dead or not.
    pub(super) fn find(&self, id: &SessionDigest, now: Instant, is_alive: impl Fn(&ServerId) -> bool) -> Option<Found> {
        if let Some((server, epoch)) = self.dead.get(id) {
            return Some(Found::new(FoundState::Dead, *server, *epoch));
        }
        let row = self.rows.get(id)?;
        let state = match row.stage {
            Stage::Ending => FoundState::Dead,
            Stage::Live if is_alive(&row.server) => FoundState::Live,
            Stage::Live | Stage::Parked => FoundState::Parked,
        };
        let age = row.session.age.saturating_add(now.saturating_duration_since(row.at));
        Some(Found::new(state, row.server, row.epoch).with_owner(row.session.owner).with_age(age))
    }

    /// Claims a session for a server. Returns the answer, and the server and epoch that have lost it.
    pub(super) fn claim(
        &mut self,
        id: &SessionDigest,
        seen: Epoch,
        server: ServerId,
        now: Instant,
        is_alive: impl Fn(&ServerId) -> bool,
    ) -> (Claim, Option<(ServerId, Epoch)>) {
        let row = self.rows.get_mut(id).filter(|row| row.stage != Stage::Ending);
        let Some(row) = row else { return (Claim::Gone, None) };
        let is_elsewhere = row.stage == Stage::Live && row.server != server && is_alive(&row.server);
        if row.epoch != seen || is_elsewhere {
            return (Claim::Elsewhere(row.server), None);
        }
        let before = (row.server, row.epoch);
        row.set(now, |session| session);
        (row.server, row.epoch, row.stage) = (server, row.epoch.next(), Stage::Live);
        let claimed = Claim::Yours(row.epoch, row.session.clone());
        self.moved(id);
        (claimed, Some(before))
    }

    /// Takes some sessions that are to be ended.
    pub(super) fn take_due(
        &mut self,
        lifetime: Option<Duration>,
        server: ServerId,
        now: Instant,
        is_alive: impl Fn(&ServerId) -> bool,
    ) -> Vec<Due> {
        let mut taken = Vec::new();
        for (id, row) in &mut self.rows {
            let was_ending = row.stage == Stage::Ending;
            let is_free = row.stage == Stage::Parked || !is_alive(&row.server);
            let age = row.session.age.saturating_add(now.saturating_duration_since(row.at));
            if !is_free || !was_ending && lifetime.is_none_or(|lifetime| age < lifetime) {
                continue;
            }
            row.set(now, |session| session);
            (row.server, row.epoch, row.stage) = (server, row.epoch.next(), Stage::Ending);
            taken.push(Due::new(*id, row.epoch, row.session.clone()).with_ending(was_ending));
            if taken.len() == MOST_DUE {
                break;
            }
        }
        taken
    }

    /// Applies a change, unless it comes too late.
    pub(super) fn apply(&mut self, id: SessionDigest, server: ServerId, queued: Queued) {
        let Queued { epoch, change, at } = queued;
        let Some(row) = self.rows.get_mut(&id) else {
            match change {
                Change::Opened(session) | Change::Data(session) if epoch == Epoch::FIRST => {
                    self.insert(id, server, session, at, Stage::Live)
                }
                Change::Parked(session) if epoch == Epoch::FIRST => self.insert(id, server, session, at, Stage::Parked),
                Change::Ending(Some(session)) if epoch == Epoch::FIRST => {
                    self.insert(id, server, session, at, Stage::Ending)
                }
                _ => {}
            }
            return;
        };
        if row.epoch != epoch || row.server != server {
            return;
        }
        match change {
            Change::Dead => {
                self.remove(&id);
                self.dead.insert(id, (server, epoch));
                while self.dead.len() > self.most {
                    self.dead.pop_front();
                }
                return;
            }
            _ if row.stage == Stage::Ending => return,
            Change::Ending(session) => {
                if let Some(session) = session {
                    row.set(at, |before| StoredSession { owner: before.owner, ..session });
                }
                row.stage = Stage::Ending;
            }
            _ if row.stage == Stage::Parked => return,
            Change::Ready => row.session.ready = true,
            Change::Used(usage) => row.set(at, |session| StoredSession { usage, ..session.with_ready(true) }),
            Change::Parked(session) => {
                row.set(at, |before| StoredSession { owner: before.owner, ..session });
                row.stage = Stage::Parked;
            }
            Change::Data(session) => row.set(at, |before| StoredSession { owner: before.owner, ..session }),
            Change::Released => row.stage = Stage::Parked,
            Change::Opened(_) => return,
        }
        self.moved(&id);
    }

    fn insert(&mut self, id: SessionDigest, server: ServerId, session: StoredSession, at: Instant, stage: Stage) {
        if self.dead.contains_key(&id) {
            return;
        }
        let rank = (0, 0);
        self.rows.insert(id, Row { server, epoch: Epoch::FIRST, stage, session, at, rank });
        self.moved(&id);
        while self.rows.len() > self.most {
            let Some((_, oldest)) = self.order.first_key_value() else { break };
            let oldest = *oldest;
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, id: &SessionDigest) {
        if let Some(row) = self.rows.remove(id) {
            self.order.remove(&row.rank);
        }
    }

    /// Moves a session to the end of its part of the order.
    fn moved(&mut self, id: &SessionDigest) {
        self.changes += 1;
        let Some(row) = self.rows.get_mut(id) else { return };
        self.order.remove(&row.rank);
        let class = match &row.session {
            session if !session.ready => 0,
            session if session.usage.calls == 0 => 1,
            _ => 2,
        };
        row.rank = (class, self.changes);
        self.order.insert(row.rank, *id);
    }
}

impl Row {
    /// Changes the session, as of this moment.
    fn set(&mut self, at: Instant, change: impl FnOnce(StoredSession) -> StoredSession) {
        let passed: Duration = at.saturating_duration_since(self.at);
        self.session = change(self.session.clone().aged(passed));
        self.at = self.at.max(at);
    }
}
