//! One row of the file, and what a change does to it. No queries, no clock.

use std::time::Duration;

use rmcp_session_policy::directory::{
    Change, Epoch, Found, FoundState, OwnerDigest, ServerId, StoredBody, StoredSession, Usage,
};
use rusqlite::Row as SqlRow;

/// A moment on the clock of the file, in milliseconds.
pub(crate) type Moment = i64;

/// The ranks of sessions.
pub(crate) const RANKS: std::ops::RangeInclusive<i64> = 0..=2;

/// What the file says of a session, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) server: ServerId,
    pub(crate) epoch: Epoch,
    pub(crate) stage: Stage,
    pub(crate) owner: Option<OwnerDigest>,
    pub(crate) ready: bool,
    pub(crate) opened_at: Moment,
    pub(crate) used_at: Moment,
    pub(crate) changed_at: Moment,
    pub(crate) uses: u64,
    pub(crate) calls: u32,
    pub(crate) last_gap: Option<Duration>,
}

/// Where a session is of which there is a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No server has it.
    Parked,
    /// Its server has it.
    Live,
    /// It has ended, and what is stored of it is still needed by its server.
    Ending,
    /// The same, and that server is gone.
    LeftEnding,
}

/// What the file says of a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Session(Row),
    /// A tombstone.
    Ended(ServerId, Epoch),
}

/// A change that waits to be written.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    pub(crate) epoch: Epoch,
    pub(crate) change: Change,
    /// When it was queued.
    pub(crate) at: Moment,
}

/// What a change does to the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Effect<'a> {
    Nothing,
    Insert(Row, &'a StoredBody),
    Update(Row, Option<&'a StoredBody>),
    /// The session ends, and a tombstone is kept.
    End,
    /// None: the file has forgotten the session, and what it would have to store anew is not what was opened. It does not
    /// store that: another server may have claimed the session and ended it, and its tombstone may be forgotten too.
    Forgotten,
}

/// Says what a change of a server does, as the table of [`Change`] has it.
///
/// A `Dead` of a session that is not there leaves a tombstone too: its `Opened` was merged into it, or it was forgotten. So
/// does an `Ending` that cannot store the session.
pub(crate) fn effect<'a>(before: Option<&Entry>, server: ServerId, queued: &'a Queued) -> Effect<'a> {
    let Queued { epoch, change, at } = queued;
    let row = match before {
        Some(Entry::Ended(..)) => return Effect::Nothing,
        Some(Entry::Session(row)) => row,
        None => return first_effect(server, *epoch, change, *at),
    };
    if (row.server, row.epoch) != (server, *epoch) {
        return Effect::Nothing;
    }
    let changed = Row { changed_at: row.changed_at.max(*at), ..row.clone() };
    match change {
        Change::Dead => Effect::End,
        _ if row.stage.is_ending() => Effect::Nothing,
        Change::Ending(None) => Effect::Update(Row { stage: Stage::Ending, ..changed }, None),
        Change::Ending(Some(session)) => restated(changed, Stage::Ending, session, *at),
        _ if row.stage != Stage::Live => Effect::Nothing,
        Change::Ready => Effect::Update(Row { ready: true, ..changed }, None),
        Change::Used(usage) => Effect::Update(Row { ready: true, ..changed }.used(usage, *at), None),
        Change::Data(session) => restated(changed, Stage::Live, session, *at),
        Change::Parked(session) => restated(changed, Stage::Parked, session, *at),
        Change::Released => Effect::Update(Row { stage: Stage::Parked, ..changed }, None),
        _ => Effect::Nothing,
    }
}

/// The effect of a change that says all of a session but its owner.
fn restated(changed: Row, stage: Stage, session: &StoredSession, at: Moment) -> Effect<'_> {
    let stored = Row::new(changed.server, changed.epoch, stage, session, at);
    Effect::Update(Row { owner: changed.owner, changed_at: changed.changed_at, ..stored }, Some(&session.body))
}

/// The effect of a change of a session that is not there.
fn first_effect(server: ServerId, epoch: Epoch, change: &Change, at: Moment) -> Effect<'_> {
    match change {
        Change::Dead => Effect::End,
        Change::Opened(session) | Change::Data(session) if epoch == Epoch::FIRST => {
            Effect::Insert(Row::new(server, epoch, Stage::Live, session, at), &session.body)
        }
        Change::Parked(session) if epoch == Epoch::FIRST => {
            Effect::Insert(Row::new(server, epoch, Stage::Parked, session, at), &session.body)
        }
        Change::Ending(Some(session)) if epoch == Epoch::FIRST => {
            Effect::Insert(Row::new(server, epoch, Stage::Ending, session, at), &session.body)
        }
        Change::Ending(_) => Effect::End,
        Change::Data(_) | Change::Parked(_) => Effect::Forgotten,
        _ => Effect::Nothing,
    }
}

/// What the file will say of a session after a change that is not written yet. A change that is written already has no
/// effect once more.
pub(crate) fn after(before: Option<Entry>, server: ServerId, queued: &Queued) -> Option<Entry> {
    match effect(before.as_ref(), server, queued) {
        Effect::Nothing | Effect::Forgotten => before,
        Effect::Insert(row, _) | Effect::Update(row, _) => Some(Entry::Session(row)),
        Effect::End => Some(Entry::Ended(server, queued.epoch)),
    }
}

impl Stage {
    /// The number in the file.
    pub(crate) const fn number(self) -> i64 {
        match self {
            Self::Parked => 0,
            Self::Live => 1,
            Self::Ending => 2,
            Self::LeftEnding => 3,
        }
    }

    /// Whether the session has ended.
    pub(crate) const fn is_ending(self) -> bool {
        matches!(self, Self::Ending | Self::LeftEnding)
    }

    /// The stage with this number.
    pub(crate) const fn of(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self::Parked),
            1 => Some(Self::Live),
            2 => Some(Self::Ending),
            3 => Some(Self::LeftEnding),
            _ => None,
        }
    }
}

impl Row {
    fn new(server: ServerId, epoch: Epoch, stage: Stage, session: &StoredSession, at: Moment) -> Self {
        let row = Self {
            server,
            epoch,
            stage,
            owner: session.owner,
            ready: session.ready,
            opened_at: before(at, session.age),
            used_at: at,
            changed_at: at,
            uses: 0,
            calls: 0,
            last_gap: None,
        };
        row.used(&session.usage, at)
    }

    fn used(self, usage: &Usage, at: Moment) -> Self {
        let (used_at, last_gap) = (before(at, usage.idle), usage.last_gap);
        Self { used_at, uses: usage.uses, calls: usage.calls, last_gap, ..self }
    }

    /// In which order sessions are forgotten: those that are not ready first, then those without a call. One of [`RANKS`].
    pub(crate) const fn rank(&self) -> i64 {
        match (self.ready, self.calls) {
            (false, _) => 0,
            (true, 0) => 1,
            (true, _) => 2,
        }
    }

    /// The session as of this moment.
    pub(crate) fn session(&self, body: StoredBody, now: Moment) -> StoredSession {
        let usage = Usage::default().with_idle(since(self.used_at, now)).with_uses(self.uses);
        let usage = usage.with_calls(self.calls, self.last_gap);
        StoredSession::new(self.owner, since(self.opened_at, now), usage, body).with_ready(self.ready)
    }
}

impl Entry {
    /// What a look-up finds.
    pub(crate) fn found(&self, now: Moment, is_live: impl Fn(&Row) -> bool) -> Found {
        match self {
            Self::Ended(server, epoch) => Found::new(FoundState::Dead, *server, *epoch),
            Self::Session(row) if row.stage.is_ending() => Found::new(FoundState::Dead, row.server, row.epoch),
            Self::Session(row) => {
                let state = if is_live(row) { FoundState::Live } else { FoundState::Parked };
                let found = Found::new(state, row.server, row.epoch);
                found.with_owner(row.owner).with_age(since(row.opened_at, now))
            }
        }
    }
}

/// The bytes of the body of a change.
pub(crate) fn bytes(change: &Change) -> usize {
    match change {
        Change::Opened(session) | Change::Data(session) | Change::Parked(session) | Change::Ending(Some(session)) => {
            session.body.as_bytes().len()
        }
        _ => 0,
    }
}

/// An epoch in a column.
pub(crate) fn epoch(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<Epoch> {
    let number = row.get::<_, i64>(column)?;
    let epoch = u64::try_from(number).ok().and_then(Epoch::new);
    epoch.ok_or(rusqlite::Error::IntegralValueOutOfRange(column, number))
}

/// A number as a column holds it.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The length of a duration, in milliseconds.
pub(crate) fn millis(duration: Duration) -> i64 {
    // A quarter of the range, so that sums of a few do not overflow.
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).min(i64::MAX / 4)
}

fn before(moment: Moment, duration: Duration) -> Moment {
    moment.saturating_sub(millis(duration))
}

/// How long a moment has passed. Zero for one to come.
fn since(moment: Moment, now: Moment) -> Duration {
    Duration::from_millis(u64::try_from(now.saturating_sub(moment)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: ServerId = ServerId::from_bytes([1; 16]);

    fn session(uses: u64) -> StoredSession {
        let usage = Usage::default().with_uses(uses).with_idle(Duration::from_secs(1));
        StoredSession::new(None, Duration::from_secs(60), usage, StoredBody::from_bytes([]))
    }

    fn queued(change: Change, at: Moment) -> Queued {
        Queued { epoch: Epoch::FIRST, change, at }
    }

    #[test]
    fn ages_go_on_and_a_clock_that_goes_back_counts_as_zero() {
        let opened = queued(Change::Opened(session(1)), 100_000);
        let Some(Entry::Session(row)) = after(None, SERVER, &opened) else { panic!("it was opened") };
        assert_eq!((row.opened_at, row.used_at), (40_000, 99_000));
        let later = row.session(StoredBody::from_bytes([]), 101_000);
        assert_eq!((later.age, later.usage.idle), (Duration::from_secs(61), Duration::from_secs(2)));
        let back = row.session(StoredBody::from_bytes([]), 10);
        assert_eq!((back.age, back.usage.idle), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn a_change_that_was_written_has_no_effect_once_more() {
        let ending = || Change::Ending(Some(session(2)));
        let first = [Change::Opened(session(1)), Change::Data(session(2)), Change::Parked(session(2)), ending()];
        for change in first.into_iter().chain([Change::Ending(None), Change::Dead]) {
            let change = queued(change, 5);
            let once = after(None, SERVER, &change);
            assert_eq!(after(once.clone(), SERVER, &change), once);
        }
    }

    #[test]
    fn data_replaces_what_is_stored_but_the_owner_and_only_of_a_session_that_is_live_here() {
        let owner = OwnerDigest::from_bytes([3; 16]);
        let opened = StoredSession::new(Some(owner), Duration::ZERO, Usage::default(), StoredBody::from_bytes([]));
        let before = after(None, SERVER, &queued(Change::Opened(opened), 100_000));
        let body = StoredBody::from_bytes(b"data".as_slice());
        let mut changed = session(5).with_ready(true);
        changed.body = body.clone();
        let data = queued(Change::Data(changed), 101_000);
        let Effect::Update(row, written) = effect(before.as_ref(), SERVER, &data) else { panic!("it is live here") };
        assert_eq!((row.owner, row.stage, row.ready, row.uses), (Some(owner), Stage::Live, true, 5));
        assert_eq!((row.opened_at, row.used_at, row.changed_at), (41_000, 100_000, 101_000));
        assert_eq!(written, Some(&body));
        assert_eq!(effect(before.as_ref(), ServerId::from_bytes([2; 16]), &data), Effect::Nothing);
        let parked = after(before, SERVER, &queued(Change::Released, 100_500));
        assert_eq!(effect(parked.as_ref(), SERVER, &data), Effect::Nothing, "it is parked");
    }

    #[test]
    fn a_session_that_ended_before_it_was_written_leaves_a_tombstone() {
        let dead = queued(Change::Dead, 5);
        assert_eq!(after(None, SERVER, &dead), Some(Entry::Ended(SERVER, Epoch::FIRST)));
    }

    #[test]
    fn durations_do_not_overflow() {
        let oldest = StoredSession::new(None, Duration::MAX, Usage::default(), StoredBody::from_bytes([]));
        let Some(Entry::Session(row)) = after(None, SERVER, &queued(Change::Opened(oldest), i64::MIN / 2)) else {
            panic!("it was opened")
        };
        assert!(row.session(StoredBody::from_bytes([]), i64::MAX).age > Duration::from_secs(1 << 40));
    }
}
