//! Floods: what users at work lose when others take the places of a server.
//!
//! 500 users work on a server with 1,000 places and an idle timeout of 30 minutes. They leave their sessions behind and open
//! new ones, so the server is full without a flood. After two hours, others come for ten minutes. What users lose then and in
//! the quarter of an hour after it, the longest pause between two of their turns, is counted.
//!
//! - `workload` makes up what all of them do.
//! - `watch` sees what becomes of their sessions.

mod watch;
mod workload;

use std::time::Duration;

use rmcp_session_policy::admission::{AdmissionPolicyExt, SlidingWindow};
use rmcp_session_policy::eviction::{EvictionPolicy, Fifo, Lru, Prospects};
use serde::Serialize;

use crate::error::LabError;
use crate::flood::watch::Watch;
use crate::flood::workload::Workload;
use crate::simulator::{Idle, Settings, Simulator};

/// The places of the server.
const PLACES: usize = 1_000;
/// Its idle timeout: 30 minutes.
const IDLE: Duration = Duration::from_secs(1_800);

/// What comes over the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FloodKind {
    /// Nothing, to compare with.
    None,
    /// 10 sessions a second whose handshake is never finished.
    A,
    /// 10 sessions a second that list and are never used.
    B,
    /// 10 sessions a second of one tenant of 50, which call.
    C,
    /// 10 sessions a second from as many addresses as you say, which call.
    D,
    /// A real crowd: one user more each second.
    E,
}

/// How often a session of flood c or d calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Calls {
    /// Once.
    Once,
    /// Each 30 s in flood c, each 60 s in flood d, for ever.
    Repeated,
}

/// How the server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "lower")]
#[non_exhaustive]
pub enum Protection {
    /// The library's `Lru` alone.
    Lru,
    /// The library's `Fifo` alone.
    Fifo,
    /// What the library's README recommends: `Prospects`, the guard against surges, a share of 5 % of the places for each
    /// network, and 10 new sessions a minute for each client.
    Recommended,
    /// `Prospects` and the guard against surges, with neither shares nor a quota.
    Guarded,
}

/// A flood.
///
/// ```
/// use rmcp_session_policy_lab::flood::{Calls, Flood, FloodKind, Protection};
///
/// let flood = Flood { kind: FloodKind::A, calls: Calls::Once, addresses: 1, seed: 1 };
/// let fifo = flood.run(Protection::Fifo)?;
/// let lru = flood.run(Protection::Lru)?;
/// assert!(lru.lost < fifo.lost && fifo.lost < fifo.users);
/// # Ok::<(), rmcp_session_policy_lab::LabError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flood {
    /// What comes.
    pub kind: FloodKind,
    /// How often its sessions call.
    pub calls: Calls,
    /// From how many addresses it comes, each in a network (/24) of its own. In flood c they are in one network.
    pub addresses: u32,
    /// The seed of all random numbers.
    pub seed: u64,
}

/// What became of the sessions. The counts are of sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FloodOutcome {
    /// Users that were at work on a session when the flood began.
    pub users: u64,
    /// Those whose session lost its place during the flood or in the 15 minutes after it, and that used it again.
    pub lost: u64,
    /// Sessions that users opened during the flood; in flood e those of the crowd too.
    pub newcomers: u64,
    /// Those that got no place when they came.
    pub refused: u64,
    /// Those that had called, lost their place until then, and were used again: what their handlers kept is lost.
    pub newcomers_lost: u64,
}

impl Flood {
    /// Plays the flood.
    ///
    /// # Errors
    ///
    /// [`LabError::Argument`] if there are no addresses, or more than a million.
    pub fn run(&self, protection: Protection) -> Result<FloodOutcome, LabError> {
        if !(1..=1_000_000).contains(&self.addresses) {
            return Err(LabError::Argument(format!("{} addresses are not between 1 and 1,000,000", self.addresses)));
        }
        let policy: Box<dyn EvictionPolicy> = match protection {
            Protection::Lru => Box::new(Lru::new()),
            Protection::Fifo => Box::new(Fifo::new()),
            Protection::Recommended | Protection::Guarded => Box::new(Prospects::new()),
        };
        let workload = Workload::of(self)?;
        let settings = Settings { max_sessions: PLACES, parks: true, idle: Idle::After(IDLE), cuts_busy: false };
        let mut simulator = Simulator::new(policy, settings, &workload, Watch::new(&workload));
        simulator = match protection {
            Protection::Lru | Protection::Fifo => simulator,
            Protection::Guarded => simulator.guarded(),
            Protection::Recommended => simulator
                .guarded()
                .with_prefix_share(PLACES / 20)
                .with_admission(SlidingWindow::new(10, Duration::from_secs(60)).per_client()),
        };
        simulator.play(&workload.events);
        Ok(simulator.finish().outcome())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(kind: FloodKind, calls: Calls, protection: Protection) -> FloodOutcome {
        Flood { kind, calls, addresses: 1, seed: 1 }.run(protection).unwrap()
    }

    fn share(part: u64, whole: u64) -> u64 {
        part * 100 / whole
    }

    #[test]
    fn no_flood_takes_nothing_from_lru() {
        let lru = outcome(FloodKind::None, Calls::Once, Protection::Lru);
        assert_eq!((lru.lost, lru.refused, lru.newcomers_lost), (0, 0, 0));
        assert!(lru.users > 450 && lru.newcomers > 100, "{lru:?}");
        let fifo = outcome(FloodKind::None, Calls::Once, Protection::Fifo);
        assert!((5..25).contains(&share(fifo.lost, fifo.users)), "{fifo:?}");
    }

    #[test]
    fn unused_sessions_push_users_out() {
        for protection in [Protection::Lru, Protection::Fifo] {
            let flooded = outcome(FloodKind::B, Calls::Once, protection);
            assert!(share(flooded.lost, flooded.users) > 80, "{flooded:?}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_flood() {
        let flooded = || outcome(FloodKind::D, Calls::Repeated, Protection::Lru);
        assert_eq!(flooded(), flooded());
    }

    #[test]
    fn a_flood_comes_from_somewhere() {
        let nowhere = Flood { kind: FloodKind::A, calls: Calls::Once, addresses: 0, seed: 1 };
        assert!(nowhere.run(Protection::Lru).is_err());
    }
}
