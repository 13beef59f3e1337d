//! The thread that writes: commits changes in groups, claims sessions, removes what is too old, and finds what is lost.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use rmcp_session_policy::directory::{Away, Change, Claim, Due, Epoch, ServerId, SessionDigest};
use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use crate::builder::Bounds;
use crate::claiming::ClaimRequest;
use crate::clock::{Clock, Machine};
use crate::due::{DueRequest, Taking};
use crate::forgetting::{self, AT_ONCE};
use crate::health::Health;
use crate::log;
use crate::queue::{Queue, Work};
use crate::room;
use crate::row::{self, Moment, Queued};
use crate::schema;
use crate::server::{ServerLock, Servers};
use crate::store;
use crate::tidying;

/// How often the thread looks for sessions that others have claimed.
const LOOK_FOR_LOST: Duration = Duration::from_millis(100);

/// How often it removes what is too old, and saves the clock.
const TIDY: Duration = Duration::from_secs(60);

/// How long it waits after a commit that failed, at first and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long it waits after a commit that met the lock of another process. SQLite has waited before that, and gives the lock
/// to any that comes in time: with a longer wait, a process that commits all the time would keep others from it.
const LOCKED_AGAIN: Duration = Duration::from_millis(5);

/// How long the lock of another process may last until the file counts as away. Each process commits for some milliseconds.
const LOCKED: Duration = Duration::from_millis(200);

/// How often a server that ends tries to write what waits.
const LAST_TRIES: u32 = 3;

/// What the thread needs.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) connection: Connection,
    pub(crate) queue: Arc<Queue>,
    pub(crate) health: Arc<Health>,
    pub(crate) servers: Servers,
    pub(crate) bounds: Bounds,
    pub(crate) clock: Clock,
    pub(crate) machine: Machine,
    /// When this server has started.
    pub(crate) started: Moment,
    pub(crate) times: Times,
    /// Asks for the log to be copied into the file.
    pub(crate) checkpoints: SyncSender<()>,
    /// Freed at the end, after the last write. The directory holds it too: if this thread should panic, the sessions that
    /// its process has are still its own.
    pub(crate) lock: Arc<ServerLock>,
}

/// What a commit of changes has done.
#[derive(Debug)]
enum Written {
    /// It has written all of them, but of some sessions that the file has forgotten.
    All { but: Vec<SessionDigest> },
    /// There was no room for them, but some was made.
    Room,
}

/// When the thread did what last.
#[derive(Debug)]
pub(crate) struct Times {
    tidied: Option<Instant>,
    looked: Instant,
    /// Since when another process has the lock.
    locked: Option<Instant>,
    /// When it failed last, and how long to wait since.
    failed: Option<(Instant, Duration)>,
    /// The `data_version` of the last look for losses.
    version: Option<i64>,
    tries: u32,
}

impl Default for Times {
    fn default() -> Self {
        Self { tidied: None, looked: Instant::now(), locked: None, failed: None, version: None, tries: 0 }
    }
}

impl Writer {
    /// Runs until the queue stops.
    pub(crate) fn run(mut self) {
        loop {
            let clock = self.clock;
            match self.queue.next(LOOK_FOR_LOST, self.holds_back(), move || clock.now()) {
                Work::Claims(claims) => self.claim(claims),
                Work::Changes => self.commit(),
                Work::Due(request) => self.take_due(request),
                Work::Rest => {}
                Work::Stop => return,
            }
            if self.gives_up() {
                return;
            }
            if self.times.looked.elapsed() >= LOOK_FOR_LOST && !self.holds_back() {
                self.times.looked = Instant::now();
                self.look_for_lost();
                self.tidy();
            }
        }
    }

    fn me(&self) -> ServerId {
        self.lock.id()
    }

    /// Whether a commit has failed a moment ago.
    fn holds_back(&self) -> bool {
        self.times.failed.is_some_and(|(failed, wait)| failed.elapsed() < wait)
    }

    /// Whether the server ends, and what waits could not be written.
    const fn gives_up(&self) -> bool {
        self.times.tries >= LAST_TRIES
    }

    /// Commits the next changes, or what was forgotten to make room for them.
    fn commit(&mut self) {
        let batch = self.queue.take_batch();
        let needed = room::needed_by(&batch);
        let written = self.write(&batch, needed).or_else(|error| self.make_more_room(error, needed));
        let written = self.came_out(written);
        if let Some(Written::All { but }) = written {
            self.queue.committed(&but);
            return;
        }
        self.queue.put_back();
        if written.is_none() && self.queue.stops() {
            self.times.tries += 1;
        }
    }

    /// Writes changes.
    fn write(&mut self, batch: &[(SessionDigest, Queued)], needed: u64) -> rusqlite::Result<Written> {
        self.shorten_log()?;
        let me = self.me();
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let fits = room::make(&transaction, &self.bounds, &self.servers, needed, batch.len())?;
        let mut forgotten = Vec::new();
        for (id, queued) in batch.iter().filter(|_| fits) {
            if !store::apply(&transaction, &self.bounds, &self.servers, me, id, queued)? {
                forgotten.push(*id);
            }
        }
        transaction.commit()?;
        Ok(if fits { Written::All { but: forgotten } } else { Written::Room })
    }

    fn shorten_log(&self) -> rusqlite::Result<()> {
        if log::shorten(&self.connection, &self.bounds)? {
            // One that runs will be enough.
            self.checkpoints.try_send(()).ok();
        }
        Ok(())
    }

    /// Forgets some sessions if a commit failed because the file is at its limit. Gives the error back if it did not.
    fn make_more_room(&mut self, error: rusqlite::Error, needed: u64) -> rusqlite::Result<Written> {
        let is_full = error.sqlite_error_code() == Some(ErrorCode::DiskFull);
        if !is_full || !room::is_scarce(&self.connection, &self.bounds, needed)? {
            return Err(error);
        }
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let forgotten = forgetting::forget_first(&transaction, &self.bounds, &self.servers, AT_ONCE)?;
        transaction.commit()?;
        if forgotten > 0 { Ok(Written::Room) } else { Err(error) }
    }

    /// Answers claims, after one commit for all.
    fn claim(&mut self, claims: Vec<ClaimRequest>) {
        let won = self.write_claims(&claims);
        if won.as_ref().is_err_and(is_locked) && !claims.iter().any(ClaimRequest::has_begun) {
            self.came_out(won);
            // They wait on, each until its time is over.
            self.queue.claim_again(claims.into_iter().filter(ClaimRequest::is_waited_for).collect());
            return;
        }
        let reason = won.as_ref().err().map(ToString::to_string);
        let Some((won, forgotten)) = self.came_out(won) else {
            self.queue.put_back();
            for claim in claims {
                let away = Away::because(reason.clone().unwrap_or_default());
                claim.answer(Err(away)).ok();
            }
            return;
        };
        self.queue.committed(&forgotten);
        for (claim, won) in claims.into_iter().zip(won) {
            // A task that gave it up does not listen.
            let Some(won) = won else { continue };
            let id = claim.id;
            if let Err(Ok(Claim::Yours(epoch, _))) = claim.answer(Ok(won)) {
                self.queue.write(id, Queued { epoch, change: Change::Released, at: self.clock.now() });
            }
        }
    }

    /// Writes what this server has queued of the sessions, and claims them. Returns also which of them the file had forgotten
    /// before it could write that.
    fn write_claims(&mut self, claims: &[ClaimRequest]) -> rusqlite::Result<(Vec<Option<Claim>>, Vec<SessionDigest>)> {
        self.shorten_log()?;
        let (me, now) = (self.me(), self.clock.now());
        let waiting: Vec<_> = claims.iter().filter_map(|claim| self.queue.waiting(&claim.id)[1].take()).collect();
        let needed = room::needed(waiting.iter().map(|queued| &queued.change));
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        room::make(&transaction, &self.bounds, &self.servers, needed, claims.len())?;
        let (mut won, mut forgotten) = (Vec::with_capacity(claims.len()), Vec::new());
        for claim in claims {
            if !claim.begin() {
                won.push(None);
                continue;
            }
            if let Some(queued) = self.queue.take_one(&claim.id)
                && !store::apply(&transaction, &self.bounds, &self.servers, me, &claim.id, &queued)?
            {
                forgotten.push(claim.id);
            }
            won.push(Some(store::claim(&transaction, &self.servers, me, &claim.id, claim.seen, now)?));
        }
        transaction.commit()?;
        Ok((won, forgotten))
    }

    /// Takes what is due, and answers.
    fn take_due(&mut self, request: DueRequest) {
        // Its task is gone: what it would not hear of stays for another call.
        if request.answer.is_closed() {
            return;
        }
        let due = self.write_due(request.lifetime);
        let reason = due.as_ref().err().map(ToString::to_string);
        let is_locked = due.as_ref().is_err_and(is_locked);
        match self.came_out(due) {
            Some(due) => drop(request.answer.send(Ok(due))),
            // Soon again.
            None if is_locked && !self.health.is_away() => drop(self.queue.take_due(request)),
            None => drop(request.answer.send(Err(Away::because(reason.unwrap_or_default())))),
        }
    }

    fn write_due(&mut self, lifetime: Option<Duration>) -> rusqlite::Result<Vec<Due>> {
        self.shorten_log()?;
        let (me, now) = (self.me(), self.clock.now());
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let before = |duration| now.saturating_sub(row::millis(duration));
        let taking = Taking {
            connection: &transaction,
            servers: &self.servers,
            me,
            now,
            oldest: before(self.bounds.age),
            opened: lifetime.map(before),
            bytes: self.bounds.bodies(),
            waits: |id: &SessionDigest| self.queue.has(id),
        };
        let due = taking.take()?;
        transaction.commit()?;
        Ok(due)
    }

    /// Finds sessions that others have claimed, if some other connection has written since the last look.
    fn look_for_lost(&mut self) {
        if !self.queue.wants_lost() {
            return;
        }
        let lost = self.take_lost();
        // Only a commit shows that the file can be written.
        if lost.as_ref().is_ok_and(Vec::is_empty) {
            return;
        }
        if let Some(lost) = self.came_out(lost) {
            self.queue.tell_lost(lost);
        }
    }

    fn take_lost(&mut self) -> rusqlite::Result<Vec<(SessionDigest, Epoch)>> {
        let me = self.me();
        let version = self.connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
        if self.times.version == Some(version) {
            return Ok(Vec::new());
        }
        let mut lost = Vec::new();
        if store::has_lost(&self.connection, me)? {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            lost = store::take_lost(&transaction, me)?;
            transaction.commit()?;
        }
        // There may be more.
        self.times.version = lost.is_empty().then_some(version);
        Ok(lost)
    }

    /// Removes some of what is too old or too much, and saves the clock.
    fn tidy(&mut self) {
        if self.times.tidied.is_some_and(|tidied| tidied.elapsed() < TIDY) {
            return;
        }
        let more = self.forget();
        let is_locked = more.as_ref().is_err_and(is_locked);
        match self.came_out(more) {
            Some(true) => {}
            None if is_locked => {}
            _ => self.times.tidied = Some(Instant::now()),
        }
    }

    fn forget(&mut self) -> rusqlite::Result<bool> {
        let now = self.clock.now();
        if let Ok(machine) = Machine::read() {
            self.machine = machine;
        }
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let more = tidying::tidy(&transaction, &self.bounds, &self.servers, self.started, now)?;
        schema::save_clock(&transaction, self.clock, &self.machine)?;
        transaction.commit()?;
        Ok(more)
    }

    /// Notes whether a transaction came out. `None` if it did not.
    fn came_out<T>(&mut self, result: rusqlite::Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                (self.times.failed, self.times.locked) = (None, None);
                self.health.works();
                Some(value)
            }
            Err(error) => {
                let is_locked = is_locked(&error);
                let longer = |(_, wait): (_, Duration)| (wait * 2).clamp(BACK_OFF.0, BACK_OFF.1);
                let wait = if is_locked { LOCKED_AGAIN } else { self.times.failed.map_or(BACK_OFF.0, longer) };
                self.times.failed = Some((Instant::now(), wait));
                let since = self.times.locked.get_or_insert_with(Instant::now);
                if !is_locked || since.elapsed() >= LOCKED {
                    self.health.failed(&error);
                }
                None
            }
        }
    }
}

/// Whether another process has the lock.
fn is_locked(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}
