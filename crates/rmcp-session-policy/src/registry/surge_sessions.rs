//! [`SurgeSessions`]: which sessions were opened in the present surge.

use std::time::Duration;

use tokio::time::Instant;

use super::groups::Groups;
use super::surge::{BEFORE, SurgeDetector};
use crate::queue::Queue;
use crate::session::{Record, SessionKey};
use crate::timestamp::Timestamp;

/// How a session came in the present surge, in the order in which such sessions go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Rank {
    /// Opened, by a client without a principal.
    Unknown,
    /// Opened, by a client with a principal.
    Known,
    /// Restored, and opened before.
    Restored,
}

impl Rank {
    pub(super) const ALL: [Self; 3] = [Self::Unknown, Self::Known, Self::Restored];

    /// Why a session of this rank goes.
    pub(super) const fn phrase(self) -> &'static str {
        match self {
            Self::Unknown => "in a surge, one that came with it without a principal,",
            Self::Known => "in a surge, one that came with it,",
            Self::Restored => "in a surge, one that was restored in it,",
        }
    }

    fn of(record: &Record, since: Instant) -> Self {
        if record.entry.opened.instant() < since {
            return Self::Restored;
        }
        let context = record.entry.context.as_ref();
        match context.and_then(|context| context.principal()) {
            Some(_) => Self::Known,
            None => Self::Unknown,
        }
    }
}

/// The detector of surges, and the sessions of the present one which are in the policy's order.
///
/// A session belongs to the surge if its incarnation began after the surge did. A surge begins some seconds before it is
/// noticed, so the sessions of the last seconds are kept in a queue, and those join when it is noticed.
#[derive(Debug, Default)]
pub(super) struct SurgeSessions {
    detector: SurgeDetector,
    groups: Groups<Rank>,
    /// The sessions of the last seconds, oldest first. Some may have ended since.
    recent: Queue<Timestamp>,
    /// Of the sessions that were drawn in this surge those that were not used for longest. Some may have ended since.
    idlest: Vec<SessionKey>,
}

impl SurgeSessions {
    /// Counts a place that is asked for.
    pub(super) fn asked(&mut self, now: Instant) {
        self.follow(|detector| detector.asked(now));
    }

    /// Since when there is a surge.
    pub(super) fn since(&mut self, now: Instant) -> Option<Instant> {
        self.follow(|detector| detector.pass(now));
        self.detector.since()
    }

    /// Moves the detector on. The sessions of a surge that is over are none any more.
    fn follow(&mut self, step: impl FnOnce(&mut SurgeDetector)) {
        let before = self.detector.since();
        step(&mut self.detector);
        let since = self.detector.since();
        if since == before {
            return;
        }
        if before.is_some() {
            self.groups.clear();
            self.idlest.clear();
            tracing::info!("the surge is over");
        }
        if since.is_some() {
            tracing::info!("places are asked for much faster than before: sessions of this surge go first");
        }
    }

    /// Whether a session belongs to the present surge.
    pub(super) fn has(&self, record: &Record) -> bool {
        self.detector.since().is_some_and(|since| record.entry.created.instant() >= since)
    }

    /// Takes note of a session that begins. `sessions` and `is_there`: how many sessions there are, and whether this is
    /// one of them.
    pub(super) fn begins(
        &mut self,
        key: SessionKey,
        created: Timestamp,
        sessions: usize,
        is_there: impl Fn(SessionKey) -> bool,
    ) {
        self.groups.make_room(key);
        if self.detector.since().is_none() {
            self.recent.push(created, key);
            self.recent.tidy(sessions, |_, key| is_there(key));
        }
    }

    /// Takes the oldest of the last seconds' sessions out of their queue, if it joins the surge or is too old to.
    pub(super) fn pop_recent(&mut self, now: Instant) -> Option<SessionKey> {
        let (created, _) = self.recent.peek()?;
        let is_old = now.saturating_duration_since(created.instant()) > BEFORE;
        if self.detector.since().is_none() && !is_old {
            return None;
        }
        self.recent.pop().map(|(_, key)| key)
    }

    /// A session comes into the policy's order.
    pub(super) fn enlist(&mut self, record: &Record) {
        if let Some(since) = self.detector.since().filter(|_| self.has(record)) {
            self.groups.insert(record.entry.key, Rank::of(record, since));
        }
    }

    /// A session leaves the policy's order.
    pub(super) fn delist(&mut self, key: SessionKey) {
        self.groups.remove(key);
    }

    /// Draws sessions of the surge which are in the policy's order.
    pub(super) fn draw(&self, rank: Rank, count: usize, random: &mut fastrand::Rng) -> Vec<SessionKey> {
        self.groups.draw(rank, count, random)
    }

    /// Takes the idlest sessions that were kept.
    pub(super) fn take_idlest(&mut self) -> Vec<SessionKey> {
        std::mem::take(&mut self.idlest)
    }

    /// Keeps the idlest sessions for the next draw.
    pub(super) fn keep_idlest(&mut self, idlest: Vec<SessionKey>) {
        self.idlest = idlest;
    }

    /// Takes note of how long a victim of the usual choice was idle.
    pub(super) fn note_victim(&mut self, idle: Duration) {
        self.detector.note_victim(idle);
    }

    /// How long victims used to be idle before the surge.
    pub(super) fn usual_idle(&self) -> Option<Duration> {
        self.detector.usual_idle()
    }
}
