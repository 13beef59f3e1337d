//! The policies by the names that the command line takes.

use std::time::Duration;

use rmcp_session_policy::eviction::{
    AbandonedFirst, EvictionPolicy, Fifo, Lfu, Lru, Prospects, Random, Scored, SessionInfo,
};
use tokio::time::Instant;

use crate::references::{Belady, Clock, Foresight, Hyperbolic, Lhd, Lru2, S3Fifo, Sieve, Slru};

/// A policy that a trace can be replayed through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
#[value(rename_all = "lower")]
#[non_exhaustive]
pub enum PolicyName {
    /// What a manager has by default: the library's `Prospects`.
    Default,
    /// The library's `AbandonedFirst`: stream lost, then never called, then least recently used.
    Abandoned,
    /// The library's `Fifo`: the oldest session that may go.
    Fifo,
    /// The library's `Lru`: the least recently used one.
    Lru,
    /// The library's `Lfu`: the one with the fewest uses, old uses counting less.
    Lfu,
    /// The library's `Prospects`, which learns which sessions come back.
    Prospects,
    /// The library's `Random`: a session at random.
    Random,
    /// The library's `Scored`, with the score of its example: idle time, weighed by the number of calls.
    Scored,
    /// Reference: the oldest session, busy or not, as the crate mcp-session 0.2 has it.
    #[value(name = "mcp-session")]
    McpSession,
    /// Reference: CLOCK.
    Clock,
    /// Reference: SIEVE.
    Sieve,
    /// Reference: segmented LRU.
    Slru,
    /// Reference: S3-FIFO.
    S3fifo,
    /// Reference: LRU-2.
    Lru2,
    /// Reference: least hit density.
    Lhd,
    /// Reference: hyperbolic caching.
    Hyperbolic,
    /// Reference: Belady's algorithm, which knows the future.
    Belady,
}

impl PolicyName {
    /// Returns the name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Abandoned => "abandoned",
            Self::Fifo => "fifo",
            Self::Lru => "lru",
            Self::Lfu => "lfu",
            Self::Prospects => "prospects",
            Self::Random => "random",
            Self::Scored => "scored",
            Self::McpSession => "mcp-session",
            Self::Clock => "clock",
            Self::Sieve => "sieve",
            Self::Slru => "slru",
            Self::S3fifo => "s3fifo",
            Self::Lru2 => "lru2",
            Self::Lhd => "lhd",
            Self::Hyperbolic => "hyperbolic",
            Self::Belady => "belady",
        }
    }

    /// Returns whether it evicts busy sessions too.
    #[must_use]
    pub fn cuts_busy(self) -> bool {
        self == Self::McpSession
    }

    /// Returns whether it wants to be told of the future.
    #[must_use]
    pub fn needs_foresight(self) -> bool {
        self == Self::Belady
    }

    /// Creates the policy, and what tells it of the future, if it wants to know.
    #[must_use]
    pub fn make(self) -> (Box<dyn EvictionPolicy>, Option<Foresight>) {
        let policy: Box<dyn EvictionPolicy> = match self {
            Self::Default | Self::Prospects => Box::new(Prospects::new()),
            Self::Abandoned => Box::new(AbandonedFirst::new()),
            Self::Fifo | Self::McpSession => Box::new(Fifo::new()),
            Self::Lru => Box::new(Lru::new()),
            Self::Lfu => Box::new(Lfu::new()),
            Self::Random => Box::new(Random::new()),
            Self::Scored => Box::new(Scored::sample(32, idle_by_calls)),
            Self::Clock => Box::<Clock>::default(),
            Self::Sieve => Box::<Sieve>::default(),
            Self::Slru => Box::<Slru>::default(),
            Self::S3fifo => Box::<S3Fifo>::default(),
            Self::Lru2 => Box::<Lru2>::default(),
            Self::Lhd => Box::<Lhd>::default(),
            Self::Hyperbolic => Box::<Hyperbolic>::default(),
            Self::Belady => {
                let belady = Belady::default();
                let foresight = belady.foresight();
                return (Box::new(belady), Some(foresight));
            }
        };
        (policy, None)
    }
}

/// The idle time of a session, which weighs more the fewer calls it made.
fn idle_by_calls(session: &SessionInfo<'_>, now: Instant) -> f64 {
    let idle = now.saturating_duration_since(session.last_used()) + Duration::from_secs(5);
    let weight = match session.calls() {
        0 => 30.0,
        1 => 6.0,
        2..=3 => 3.0,
        4..=15 => 1.5,
        _ => 1.0,
    };
    -idle.as_secs_f64() * weight
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn a_policy_has_one_name() {
        for policy in PolicyName::value_variants() {
            assert_eq!(policy.to_possible_value().unwrap().get_name(), policy.name());
            assert_eq!(policy.make().1.is_some(), policy.needs_foresight());
        }
    }
}
