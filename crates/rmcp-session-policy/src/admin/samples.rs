//! [`Samples`]: what there was in the last ten minutes, for the charts.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::rows::millis;
use crate::observe::{CloseReason, RejectionReason, Stats};

/// How often a sample is taken.
pub(super) const EVERY: Duration = Duration::from_secs(5);

/// Samples of ten minutes.
const KEPT: usize = 120;

/// The numbers of one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    live: usize,
    busy: usize,
    opening: usize,
    parked: usize,
    parked_streams: usize,
    opened: u64,
    closed: u64,
    rejected: u64,
}

/// The samples, oldest first.
#[derive(Debug, Default)]
pub(super) struct Samples(Mutex<VecDeque<Sample>>);

impl Samples {
    pub(super) fn add(&self, stats: &Stats, at: Instant) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back(Sample {
            at,
            live: stats.live,
            busy: stats.busy,
            opening: stats.opening,
            parked: stats.parked,
            parked_streams: stats.parked_streams,
            opened: stats.opened + stats.restored,
            closed: CloseReason::ALL.iter().map(|reason| stats.closed(*reason)).sum(),
            rejected: RejectionReason::ALL.iter().map(|reason| stats.rejected(*reason)).sum(),
        });
    }

    pub(super) fn history(&self, now: Instant) -> History {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = || samples.iter();
        History {
            every_ms: millis(EVERY),
            ago_ms: all().map(|sample| millis(now.saturating_duration_since(sample.at))).collect(),
            live: all().map(|sample| sample.live).collect(),
            busy: all().map(|sample| sample.busy).collect(),
            opening: all().map(|sample| sample.opening).collect(),
            parked: all().map(|sample| sample.parked).collect(),
            parked_streams: all().map(|sample| sample.parked_streams).collect(),
            opened: all().map(|sample| sample.opened).collect(),
            closed: all().map(|sample| sample.closed).collect(),
            rejected: all().map(|sample| sample.rejected).collect(),
        }
    }
}

/// The samples as the API gives them: one list for each number, oldest first.
#[derive(Debug, Serialize)]
pub(super) struct History {
    every_ms: u64,
    ago_ms: Vec<u64>,
    live: Vec<usize>,
    busy: Vec<usize>,
    opening: Vec<usize>,
    parked: Vec<usize>,
    parked_streams: Vec<usize>,
    /// Sessions opened or restored since the start.
    opened: Vec<u64>,
    closed: Vec<u64>,
    rejected: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_ten_minutes_are_kept() {
        let samples = Samples::default();
        let begin = Instant::now();
        for number in 0..200 {
            let mut stats = Stats::empty(1_000);
            stats.live = number;
            samples.add(&stats, begin + EVERY * number as u32);
        }
        let history = samples.history(begin + EVERY * 200);
        assert_eq!(history.live, (80..200).collect::<Vec<_>>());
        assert_eq!((history.ago_ms[0], history.ago_ms[119]), (600_000, 5_000));
    }
}
