//! A subscriber that records the log of one thread.

#![allow(
    unreachable_pub,
    clippy::allow_attributes,
    clippy::missing_panics_doc,
    missing_docs,
    reason = "a fixture, of which each test file uses a part"
)]

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::Subscriber;
use tracing::subscriber::DefaultGuard;

/// What was logged.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// How often something was said.
    pub fn says(&self, what: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().expect("no panic under it")).matches(what).count()
    }
}

impl Write for Log {
    fn write(&mut self, said: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic under it").write(said)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The turn of one test; its drop ends the test's subscriber.
#[must_use]
#[derive(Debug)]
pub struct Listening {
    _subscriber: Option<DefaultGuard>,
    _turn: MutexGuard<'static, ()>,
}

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the turn of this test, which listens to nothing.
pub fn alone() -> Listening {
    Listening { _turn: turn(), _subscriber: None }
}

/// Waits for the turn of this test, and has a subscriber hear what is logged on this thread.
pub fn listen_with(subscriber: impl Subscriber + Send + Sync + 'static) -> Listening {
    let turn = turn();
    Listening { _subscriber: Some(tracing::subscriber::set_default(subscriber)), _turn: turn }
}

/// Listens to what is logged on this thread, until the guard is dropped.
pub fn listen() -> (Log, Listening) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    (log, listen_with(subscriber))
}
