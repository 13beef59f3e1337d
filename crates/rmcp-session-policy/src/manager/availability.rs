//! [`Availability`]: whether the directory answers, and when to log that it does or does not.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::directory::Away;

/// How long a logged line stands at least. A directory that comes and goes more often is logged as it is after that time.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Whether the directory answers.
#[derive(Debug, Default)]
pub(super) struct Availability {
    /// Whether the latest answer was that it is away.
    is_away: AtomicBool,
    /// Notified when that changes.
    changed: Notify,
    /// Whether the latest line says so.
    said_away: AtomicBool,
    /// When the latest line was.
    said_at: Mutex<Option<Instant>>,
}

impl Availability {
    pub(super) fn is_away(&self) -> bool {
        self.is_away.load(Relaxed)
    }

    /// Waits until the directory is away, or until it is not.
    pub(super) async fn until(&self, is_away: bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.is_away() == is_away {
                return;
            }
            changed.await;
        }
    }

    /// Takes an answer, or that there was none. Logs a change, once each ten seconds at most.
    pub(super) fn note(&self, away: Option<&Away>) {
        match (self.is_news(away.is_some(), Instant::now()), away) {
            (true, Some(away)) => {
                let why = away.source().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(why, "the session directory is away");
            }
            (true, None) => tracing::info!("the session directory is back"),
            (false, _) => {}
        }
    }

    /// Records whether the directory is away. Returns whether to log that. An answer as before costs two loads.
    fn is_news(&self, is_away: bool, now: Instant) -> bool {
        if self.is_away.load(Relaxed) != is_away {
            self.is_away.store(is_away, Relaxed);
            self.changed.notify_waiters();
        }
        if self.said_away.load(Relaxed) == is_away {
            return false;
        }
        let mut said_at = self.said_at.lock().unwrap_or_else(PoisonError::into_inner);
        if said_at.is_some_and(|said_at| now < said_at + LINE_EVERY) {
            return false;
        }
        // Another task may have logged it just now.
        let is_news = self.said_away.swap(is_away, Relaxed) != is_away;
        if is_news {
            *said_at = Some(now);
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_comes_and_goes_is_logged_once_in_ten_seconds() {
        let (directory, start) = (Availability::default(), Instant::now());
        let logged = |second: u64, is_away| directory.is_news(is_away, start + Duration::from_secs(second));
        assert!(!logged(0, false), "it is expected to be there");
        assert!(logged(0, true), "the first time at once");
        for second in 0..10 {
            assert!(!logged(second, false) && !logged(second, true), "{second}");
        }
        assert!(directory.is_away());
        assert!(logged(10, false), "as it is by then");
        assert!(!logged(10, true) && !logged(19, false));
        assert!(!logged(20, false), "the line of before still says so");
        assert!(logged(21, true), "and the next change is logged at once");
    }
}
