//! A directory in memory that writes down what a manager writes to it, and that a test can hold back.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::missing_panics_doc,
    missing_docs,
    missing_debug_implementations,
    reason = "a fixture, of which each test file uses a part"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rmcp_session_policy::directory::{Away, Change, Claim, Due, Epoch, Found, SessionDigest, SessionDirectory};
use rmcp_session_policy::testing::directory::MemoryDirectory;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// Clones are one.
#[derive(Clone, Debug)]
pub struct Recorder {
    pub memory: MemoryDirectory,
    notes: Arc<Mutex<Notes>>,
    told: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Notes {
    writes: Vec<(SessionDigest, Epoch, Change)>,
    lost: Vec<(SessionDigest, Epoch)>,
    claims_take: Duration,
    is_awaited: bool,
    /// What is written only when an answer waits for it.
    unwritten: Vec<(SessionDigest, Epoch, Change)>,
    keeps_losses: bool,
}

impl Recorder {
    pub fn new(memory: MemoryDirectory) -> Self {
        Self { memory, notes: Arc::default(), told: Arc::default() }
    }

    /// What was written of a session until now, as the names of the changes with their epochs.
    pub fn of(&self, id: &str) -> Vec<(&'static str, u64)> {
        let (digest, notes) = (SessionDigest::of(id), self.notes.lock().expect("no panic"));
        let writes = notes.writes.iter().filter(|(written, _, _)| *written == digest);
        writes.map(|(_, epoch, change)| (name(change), epoch.get())).collect()
    }

    /// All that was written until now.
    pub fn writes(&self) -> Vec<(SessionDigest, Epoch, Change)> {
        self.notes.lock().expect("no panic").writes.clone()
    }

    /// Tells the manager that another server has claimed a session.
    pub fn lose(&self, id: &str, epoch: u64) {
        let lost = (SessionDigest::of(id), Epoch::new(epoch).expect("not zero"));
        self.notes.lock().expect("no panic").lost.push(lost);
        self.told.notify_one();
    }

    /// Does not tell the manager any more of what others have claimed.
    pub fn keep_losses(&self) {
        self.notes.lock().expect("no panic").keeps_losses = true;
    }

    /// Answers wait for what they acknowledge, and nothing is written before one waits, or a request asks.
    pub fn before_answers(self) -> Self {
        self.notes.lock().expect("no panic").is_awaited = true;
        self
    }

    fn write_all(&self) {
        let unwritten = std::mem::take(&mut self.notes.lock().expect("no panic").unwritten);
        unwritten.into_iter().for_each(|(id, epoch, change)| self.memory.write(&id, epoch, change));
    }

    /// Delays claims, and not look-ups.
    pub fn delay_claims(&self, delay: Duration) {
        self.notes.lock().expect("no panic").claims_take = delay;
    }
}

fn name(change: &Change) -> &'static str {
    match change {
        Change::Opened(_) => "opened",
        Change::Ready => "ready",
        Change::Used(_) => "used",
        Change::Data(_) => "data",
        Change::Parked(_) => "parked",
        Change::Released => "released",
        Change::Ending(_) => "ending",
        Change::Dead => "dead",
        _ => "new",
    }
}

#[async_trait]
impl SessionDirectory for Recorder {
    async fn look(&self, id: &SessionDigest) -> Result<Option<Found>, Away> {
        self.write_all();
        self.memory.look(id).await
    }

    async fn claim(&self, id: &SessionDigest, seen: &Found) -> Result<Claim, Away> {
        let delay = self.notes.lock().expect("no panic").claims_take;
        sleep(delay).await;
        self.write_all();
        self.memory.claim(id, seen).await
    }

    fn write(&self, id: &SessionDigest, epoch: Epoch, change: Change) {
        let mut notes = self.notes.lock().expect("no panic");
        notes.writes.push((*id, epoch, change.clone()));
        if notes.is_awaited {
            notes.unwritten.push((*id, epoch, change));
        } else {
            self.memory.write(id, epoch, change);
        }
    }

    async fn written(&self, id: &SessionDigest, until: Instant) -> bool {
        self.write_all();
        self.memory.written(id, until).await
    }

    fn leave(&self) {
        self.memory.leave();
    }

    fn is_awaited(&self) -> bool {
        self.notes.lock().expect("no panic").is_awaited
    }

    async fn lost(&self) -> Vec<(SessionDigest, Epoch)> {
        loop {
            let lost = std::mem::take(&mut self.notes.lock().expect("no panic").lost);
            if !lost.is_empty() {
                return lost;
            }
            tokio::select! {
                lost = self.memory.lost() => {
                    if !self.notes.lock().expect("no panic").keeps_losses {
                        return lost;
                    }
                }
                () = self.told.notified() => {}
            }
        }
    }

    async fn take_due(&self, lifetime: Option<Duration>) -> Result<Vec<Due>, Away> {
        self.write_all();
        self.memory.take_due(lifetime).await
    }

    async fn flush(&self, until: Instant) -> usize {
        self.write_all();
        self.memory.flush(until).await
    }
}
