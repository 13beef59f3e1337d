//! Random histories of several servers over one directory, beside a model of what should be in it.
#![expect(
    clippy::future_not_send,
    reason = "they run on the thread that checks, so what opens a directory need not be"
)]

use std::collections::HashMap;
use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use tokio::runtime::Runtime;

use super::laws::{Checked, claim, flush, id, look, must, see_parked, session};
use crate::directory::{Change, Claim, Epoch, Found, FoundState, SessionDirectory, StoredSession, Usage};

const SERVERS: usize = 3;
const SESSIONS: usize = 3;
/// Fewer than for a policy, since a backend may write to a disk.
const HISTORIES: u32 = 32;

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A server writes a change of a session under the epoch under which it last had it, if it ever did.
    Write(Kind),
    /// A server claims a session as it is.
    Claim,
    /// A server claims a session as it was seen last.
    ClaimAsSeen,
    /// A server is gone, and another one takes its place.
    Restart,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Opened,
    Ready,
    Used,
    Data,
    Parked,
    Released,
    Ending,
    Dead,
}

fn event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![
        3 => Just(Kind::Opened),
        1 => Just(Kind::Ready),
        2 => Just(Kind::Used),
        2 => Just(Kind::Data),
        3 => Just(Kind::Parked),
        1 => Just(Kind::Released),
        1 => Just(Kind::Ending),
        1 => Just(Kind::Dead),
    ];
    prop_oneof![8 => kind.prop_map(Event::Write), 4 => Just(Event::Claim), 1 => Just(Event::ClaimAsSeen), 1 => Just(Event::Restart)]
}

/// A session as it should be.
#[derive(Clone, Debug)]
struct Row {
    /// Which server has it, by its number.
    server: usize,
    epoch: Epoch,
    state: FoundState,
    uses: u64,
    /// The number that its body holds.
    body: u64,
    ready: bool,
}

/// One directory, opened by some servers, and what should be in it.
struct Play<'a, O, D> {
    open: &'a O,
    /// Each with its number, and the epochs under which it last had sessions.
    servers: Vec<(usize, D, HashMap<usize, Epoch>)>,
    opened: usize,
    rows: HashMap<usize, Row>,
    seen: HashMap<usize, Found>,
    uses: u64,
}

/// Plays random histories, and compares the directory with the model after each event.
pub(super) fn follows_the_model<O, D>(runtime: &Runtime, make: &impl AsyncFn() -> O) -> Checked
where
    O: AsyncFn() -> D,
    D: SessionDirectory,
{
    let histories = vec((event(), 0..SERVERS, 0..SESSIONS), 1..40);
    let config = Config { cases: HISTORIES, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let checked = TestRunner::new(config).run(&histories, |history| {
        let played = runtime.block_on(async { play(&make().await, &history).await });
        played.map_err(TestCaseError::fail)
    });
    match checked {
        Ok(()) => Ok(()),
        Err(TestError::Fail(law, history)) => Err(format!("{law}, after {history:?}")),
        Err(TestError::Abort(why)) => Err(format!("the test itself failed: {why}")),
    }
}

async fn play<O, D>(open: &O, history: &[(Event, usize, usize)]) -> Checked
where
    O: AsyncFn() -> D,
    D: SessionDirectory,
{
    let (rows, seen) = (HashMap::new(), HashMap::new());
    let mut play = Play { open, servers: Vec::new(), opened: 0, rows, seen, uses: 0 };
    for _ in 0..SERVERS {
        play.start(play.servers.len()).await;
    }
    for (event, server, session) in history {
        match event {
            Event::Write(kind) => play.write(*server, *session, *kind).await?,
            Event::Claim => {
                if let Some(seen) = look(&play.servers[*server].1, &id(session)).await? {
                    play.claim(*server, *session, seen).await?;
                }
            }
            Event::ClaimAsSeen => {
                if let Some(seen) = play.seen.get(session).copied() {
                    play.claim(*server, *session, seen).await?;
                }
            }
            Event::Restart => play.restart(*server).await?,
        }
        play.compare(*server).await?;
    }
    Ok(())
}

impl<O: AsyncFn() -> D, D: SessionDirectory> Play<'_, O, D> {
    /// Opens the directory as one more server.
    async fn start(&mut self, place: usize) {
        self.opened += 1;
        let directory = (self.open)().await;
        self.servers.insert(place, (self.opened, directory, HashMap::new()));
    }

    async fn restart(&mut self, place: usize) -> Checked {
        let (number, directory, _) = self.servers.remove(place);
        drop(directory);
        self.start(place).await;
        for (session, row) in &mut self.rows {
            if row.server == number && row.state == FoundState::Live {
                row.state = FoundState::Parked;
                see_parked(&self.servers[place].1, &id(session)).await?;
            }
        }
        Ok(())
    }

    /// Writes a change, and lets it have its effect on the model.
    async fn write(&mut self, place: usize, session_number: usize, kind: Kind) -> Checked {
        self.uses += 1;
        let uses = self.uses;
        let (number, directory, had) = &mut self.servers[place];
        let is_new = matches!(kind, Kind::Opened) && !self.rows.contains_key(&session_number);
        if is_new {
            had.insert(session_number, Epoch::FIRST);
        }
        let Some(epoch) = had.get(&session_number).copied() else { return Ok(()) };
        let change = match kind {
            Kind::Opened => Change::Opened(session(uses)),
            Kind::Ready => Change::Ready,
            Kind::Used => Change::Used(Usage::default().with_uses(uses)),
            Kind::Data => Change::Data(session(uses)),
            Kind::Parked => Change::Parked(session(uses)),
            Kind::Released => Change::Released,
            Kind::Ending => Change::Ending(None),
            Kind::Dead => Change::Dead,
        };
        directory.write(&id(session_number), epoch, change);
        flush(directory).await?;
        if is_new {
            let row = Row { server: *number, epoch, state: FoundState::Live, uses, body: uses, ready: false };
            self.rows.insert(session_number, row);
            return Ok(());
        }
        let Some(row) = self.rows.get_mut(&session_number) else { return Ok(()) };
        if (row.server, row.epoch) != (*number, epoch) || row.state == FoundState::Dead {
            return Ok(());
        }
        match (kind, row.state) {
            (Kind::Ending | Kind::Dead, _) => row.state = FoundState::Dead,
            (Kind::Ready, FoundState::Live) => row.ready = true,
            (Kind::Used, FoundState::Live) => (row.ready, row.uses) = (true, uses),
            (Kind::Data | Kind::Parked, FoundState::Live) => {
                (row.ready, row.uses, row.body) = (false, uses, uses);
                if matches!(kind, Kind::Parked) {
                    row.state = FoundState::Parked;
                }
            }
            (Kind::Released, FoundState::Live) => row.state = FoundState::Parked,
            _ => {}
        }
        Ok(())
    }

    async fn claim(&mut self, place: usize, session: usize, seen: Found) -> Checked {
        let (number, directory, had) = &mut self.servers[place];
        let claimed = claim(directory, &id(session), &seen).await?;
        let Some(row) = self.rows.get_mut(&session) else { return Ok(()) };
        match claimed {
            _ if row.state == FoundState::Dead => must(claimed == Claim::Gone, "a session that has ended was claimed"),
            Claim::Yours(epoch, stored) => {
                must(row.epoch == seen.epoch, "a claim with an old epoch was won")?;
                let is_free = row.state == FoundState::Parked || row.server == *number;
                must(is_free, "a session that a server has was won by another")?;
                must(epoch > row.epoch, "the epoch of a claim is not higher than the one before")?;
                must(is_stored(row, &stored), "a claim gave what was not stored")?;
                (row.server, row.epoch, row.state) = (*number, epoch, FoundState::Live);
                had.insert(session, epoch);
                Ok(())
            }
            Claim::Elsewhere(_) => must(
                row.epoch != seen.epoch || row.state == FoundState::Live && row.server != *number,
                "the claim of a session that was parked, or live at the same server, was not won",
            ),
            Claim::Gone => Err("a claim was answered Gone, but the session is there".into()),
        }
    }

    async fn compare(&mut self, place: usize) -> Checked {
        let mut servers = HashMap::new();
        for session in 0..SESSIONS {
            let found = look(&self.servers[place].1, &id(session)).await?;
            let there = found.filter(|found| found.state != FoundState::Dead);
            let row = self.rows.get(&session).filter(|row| row.state != FoundState::Dead);
            let (Some(found), Some(row)) = (there, row) else {
                must(there.is_none(), "a session is there that never was, or has ended")?;
                must(row.is_none(), "a session is not there, or has ended, though nothing ended it")?;
                continue;
            };
            let same = (found.state, found.epoch) == (row.state, row.epoch);
            must(same, &Difference { found, row: row.clone() }.to_string())?;
            let before = servers.insert(found.server, row.server);
            must(before.is_none_or(|before| before == row.server), "two servers have one name")?;
            self.seen.entry(session).or_insert(found);
        }
        Ok(())
    }
}

fn is_stored(row: &Row, stored: &StoredSession) -> bool {
    let body = row.body.to_be_bytes();
    (stored.usage.uses, stored.ready, stored.body.as_bytes()) == (row.uses, row.ready, &body)
}

/// What is in the directory, and what should be.
struct Difference {
    found: Found,
    row: Row,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { found, row } = self;
        let (state, epoch) = (found.state, found.epoch);
        write!(f, "a session is {state:?} under {epoch:?}, and should be {:?} under {:?}", row.state, row.epoch)
    }
}
