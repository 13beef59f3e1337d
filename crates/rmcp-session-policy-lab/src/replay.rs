//! Replays: a trace through several policies with several bounds at once.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::error::LabError;
use crate::event::{Event, Micros};
use crate::observer::Observer;
use crate::policies::PolicyName;
use crate::simulator::{Idle, Settings, Simulator};
use crate::survey::Survey;

/// How many chunks wait for each run.
const AHEAD: usize = 2;

/// A bound on the number of sessions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// This number of sessions.
    Sessions(usize),
    /// This share of the places that the trace needs, in percent; at least one session.
    Needed(f64),
}

impl Bound {
    /// Reads `100` or `50%`.
    ///
    /// # Errors
    ///
    /// Says what would do.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is neither a number of sessions, such as 100, nor a share of needed, such as 50%");
        let bound = match text.strip_suffix('%') {
            Some(share) => Self::Needed(share.parse().map_err(|_| wrong())?),
            None => Self::Sessions(text.parse().map_err(|_| wrong())?),
        };
        match bound {
            Self::Sessions(1..) => Ok(bound),
            Self::Needed(share) if share > 0.0 && share.is_finite() => Ok(bound),
            Self::Sessions(_) | Self::Needed(_) => Err(wrong()),
        }
    }

    /// Returns the number of sessions.
    #[must_use]
    pub fn sessions(self, needed: usize) -> usize {
        match self {
            Self::Sessions(sessions) => sessions,
            Self::Needed(share) => ((needed as f64 * share / 100.0).round() as usize).max(1),
        }
    }
}

/// An idle timeout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum IdleRule {
    /// None.
    Never,
    /// This time.
    After(Duration),
    /// The library's `Worth::keep` with this share.
    Keep(f64),
}

impl IdleRule {
    /// Reads a number of seconds, or `keep:0.95`.
    ///
    /// # Errors
    ///
    /// Says what would do.
    pub fn parse(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<f64>().ok();
        let rule = match text.strip_prefix("keep:") {
            Some(share) => number(share).filter(|share| *share > 0.0 && *share < 1.0).map(Self::Keep),
            None => number(text).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).map(|idle| {
                // What is longer is for ever, and still fits into 64 bits of microseconds.
                Self::After(idle.min(Duration::from_secs(1 << 40)))
            }),
        };
        rule.ok_or_else(|| {
            "it is neither a number of seconds nor a share of resumptions to keep, such as keep:0.95".into()
        })
    }
}

/// What to replay, and how.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The file of the trace.
    pub trace: PathBuf,
    /// The bounds.
    pub bounds: Vec<Bound>,
    /// The policies.
    pub policies: Vec<PolicyName>,
    /// Whether sessions without a place are parked.
    pub parks: bool,
    /// How long after the first event counting begins. 30 % of the span if it is not given.
    pub warm: Option<Duration>,
    /// The idle timeout.
    pub idle: IdleRule,
    /// How many runs go on at one time. The results do not depend on it.
    pub jobs: NonZeroUsize,
}

/// What came of one run. Everything is counted after the warm-up.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// The policy.
    pub policy: &'static str,
    /// The bound.
    pub max_sessions: usize,
    /// The events of the kinds list and call.
    pub requests: u64,
    /// The requests whose session had no place, those that got none included.
    pub restores: u64,
    /// `restores` for each 1,000 `requests`.
    pub restores_per_1000: f64,
    /// The sessions that lost their place to another.
    pub evictions: u64,
    /// The arrivals that got no place, new sessions and restores.
    pub refused: u64,
    /// The evictions that cut a request.
    pub busy_cut: u64,
    /// How many sessions had a place, on average over time.
    pub mean_places: f64,
    /// The requests after more than a minute in which their session was not used.
    pub resumptions: u64,
    /// Those of them whose session had a place.
    pub resumptions_kept: u64,
}

/// The outcomes of a replay: for each bound, in the order given, one for each policy.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcomes {
    /// The places that the trace needs.
    pub needed: usize,
    /// The runs.
    pub runs: Vec<Outcome>,
}

/// Counts what happens after the warm-up.
#[derive(Debug, Default)]
struct Counts {
    from: Micros,
    requests: u64,
    restores: u64,
    evictions: u64,
    refused: u64,
    busy_cut: u64,
    resumptions: u64,
    resumptions_kept: u64,
    /// Sessions times microseconds.
    lived: u128,
    until: Micros,
}

impl Observer for Counts {
    fn request(&mut self, request: &Event, has_place: bool, idle: Micros) {
        if request.at >= self.from {
            self.requests += 1;
            self.restores += u64::from(!has_place);
            let is_resumption = idle > 60_000_000;
            self.resumptions += u64::from(is_resumption);
            self.resumptions_kept += u64::from(is_resumption && has_place);
        }
    }

    fn lived(&mut self, sessions: usize, from: Micros, to: Micros) {
        self.lived += sessions as u128 * u128::from(to.saturating_sub(from.max(self.from)));
        self.until = to;
    }

    fn evicted(&mut self, _: u32, busy: bool, at: Micros) {
        if at >= self.from {
            self.evictions += 1;
            self.busy_cut += u64::from(busy);
        }
    }

    fn refused(&mut self, _: u32, at: Micros) {
        if at >= self.from {
            self.refused += 1;
        }
    }
}

impl Counts {
    fn outcome(&self, policy: PolicyName, max_sessions: usize) -> Outcome {
        let Self { requests, restores, evictions, refused, busy_cut, resumptions, resumptions_kept, lived, .. } = *self;
        let mean_places = lived as f64 / self.until.saturating_sub(self.from).max(1) as f64;
        let restores_per_1000 = if requests == 0 { 0.0 } else { restores as f64 * 1_000.0 / requests as f64 };
        let policy = policy.name();
        Outcome {
            policy,
            max_sessions,
            requests,
            restores,
            restores_per_1000,
            evictions,
            refused,
            busy_cut,
            mean_places,
            resumptions,
            resumptions_kept,
        }
    }
}

/// One policy with one bound.
#[derive(Clone, Copy, Debug)]
struct Run {
    policy: PolicyName,
    settings: Settings,
    /// When counting begins.
    from: Micros,
    /// Which share of the resumptions is kept.
    keep: Option<f64>,
}

impl Run {
    /// Plays the chunks as they come. Holds a job while it does.
    fn play(self, survey: &Survey, chunks: &Receiver<Arc<Vec<Event>>>, jobs: &Jobs) -> Outcome {
        let counts = Counts { from: self.from, ..Counts::default() };
        let (mut policy, foresight) = self.policy.make();
        if let Some(share) = self.keep {
            policy.keep_resumptions(share);
        }
        let mut simulator = Simulator::new(policy, self.settings, survey, counts);
        if let (Some(next), Some(foresight)) = (&survey.next, foresight) {
            simulator = simulator.with_foresight(Arc::clone(next), foresight);
        }
        for chunk in chunks {
            jobs.hold(|| simulator.play(&chunk));
        }
        simulator.finish().outcome(self.policy, self.settings.max_sessions)
    }
}

/// Bounds how many runs work at one time. Each has a thread of its own: moments of one microsecond are told apart by a
/// count of the thread, so two runs on one thread would not be independent.
#[derive(Debug)]
struct Jobs {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Jobs {
    const fn new(jobs: NonZeroUsize) -> Self {
        Self { free: Mutex::new(jobs.get()), freed: Condvar::new() }
    }

    fn hold(&self, act: impl FnOnce()) {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        drop(free);
        let _held = Held(self);
        act();
    }
}

/// A job that is held. Its drop frees it.
struct Held<'a>(&'a Jobs);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

impl Replay {
    /// Replays the trace. Reads it twice.
    ///
    /// # Errors
    ///
    /// [`LabError`], if the trace cannot be read or is not as the format says.
    pub fn run(&self) -> Result<Outcomes, LabError> {
        self.check()?;
        let foresight = self.policies.iter().any(|policy| policy.needs_foresight());
        let bar = progress(&self.trace)?;
        let survey = Survey::of(bar.wrap_read(open(&self.trace)?), foresight)?;
        let from = self.warm.map_or_else(|| survey.default_warm(), |warm| survey.begin + warm.as_micros() as Micros);
        let runs: Vec<_> = self
            .bounds
            .iter()
            .flat_map(|bound| self.policies.iter().map(|policy| self.one(*policy, bound.sessions(survey.needed), from)))
            .collect();
        let runs = play(&runs, &survey, bar.wrap_read(open(&self.trace)?), self.jobs)?;
        bar.finish_and_clear();
        Ok(Outcomes { needed: survey.needed, runs })
    }

    /// What a place is worth, only some policies know.
    fn check(&self) -> Result<(), LabError> {
        let ignorant = |name: &&PolicyName| !name.make().0.keep_resumptions(0.5);
        match (self.idle, self.policies.iter().find(ignorant)) {
            (IdleRule::Keep(_), Some(name)) => {
                let name = name.name();
                Err(LabError::Argument(format!("{name} does not know what a place is worth; prospects does")))
            }
            _ => Ok(()),
        }
    }

    fn one(&self, policy: PolicyName, max_sessions: usize, from: Micros) -> Run {
        let (idle, keep) = match self.idle {
            IdleRule::Never => (Idle::Always, None),
            IdleRule::After(idle) => (Idle::After(idle), None),
            IdleRule::Keep(share) => (Idle::Worth, Some(share)),
        };
        let settings = Settings { max_sessions, parks: self.parks, idle, cuts_busy: policy.cuts_busy() };
        Run { policy, settings, from, keep }
    }
}

/// Plays all runs at once: the trace is parsed once, and each run gets each chunk.
fn play(runs: &[Run], survey: &Survey, source: impl Read, jobs: NonZeroUsize) -> Result<Vec<Outcome>, LabError> {
    let jobs = &Jobs::new(jobs);
    thread::scope(|scope| {
        let (senders, threads): (Vec<SyncSender<_>>, Vec<_>) = runs
            .iter()
            .map(|run| {
                let (sender, receiver) = sync_channel(AHEAD);
                (sender, scope.spawn(move || run.play(survey, &receiver, jobs)))
            })
            .unzip();
        let read = survey.replay(source, |chunk| {
            let chunk = Arc::new(chunk);
            // A run that is gone has panicked, which its join tells.
            senders.iter().for_each(|sender| drop(sender.send(Arc::clone(&chunk))));
        });
        drop(senders);
        let panicked = |_| LabError::Argument("a policy panicked".into());
        let outcomes = threads.into_iter().map(|thread| thread.join().map_err(panicked)).collect();
        read.and(outcomes)
    })
}

fn open(path: &Path) -> Result<File, LabError> {
    File::open(path).map_err(|source| LabError::File { path: path.to_owned(), source })
}

/// Shows how much of both passes is done, if the standard error is a terminal.
fn progress(path: &Path) -> Result<ProgressBar, LabError> {
    let length = open(path)?.metadata().map_err(|source| LabError::File { path: path.to_owned(), source })?.len();
    let shown = io::stderr().is_terminal();
    let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style =
        ProgressStyle::with_template("{bar:40} {percent}% {eta}").unwrap_or_else(|_| ProgressStyle::default_bar());
    Ok(ProgressBar::with_draw_target(Some(2 * length), target).with_style(style))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_a_number_or_a_share() {
        assert_eq!(Bound::parse("100"), Ok(Bound::Sessions(100)));
        assert_eq!(Bound::parse("12.5%").map(|bound| bound.sessions(80)), Ok(10));
        assert_eq!(Bound::parse("50%").map(|bound| bound.sessions(0)), Ok(1));
        for wrong in ["0", "-1", "half", "0%", "%", "NaN%", ""] {
            assert!(Bound::parse(wrong).is_err(), "{wrong}");
        }
    }
}
