//! The command-line program: reads the arguments, and calls the library of this crate.

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Parser, Subcommand};
use rmcp_session_policy_lab::LabError;
use rmcp_session_policy_lab::flood::{Calls, Flood, FloodKind, Protection};
use rmcp_session_policy_lab::generate::generate;
use rmcp_session_policy_lab::policies::PolicyName;
use rmcp_session_policy_lab::presets::Preset;
use rmcp_session_policy_lab::replay::{Bound, IdleRule, Replay};
use rmcp_session_policy_lab::report::{self, Format};

/// Makes traces of MCP sessions, replays them through the eviction policies of rmcp-session-policy, and floods a simulated
/// server.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes a trace of a workload to the standard output.
    ///
    /// The same seed gives the same bytes on every machine.
    Generate {
        /// coding, chat, connector, registry, cron, mixed, or the path of a TOML file.
        preset: String,
        /// The seed of all random numbers.
        #[arg(long, value_name = "N")]
        seed: u64,
        /// How long the trace lasts, instead of what the preset says.
        #[arg(long, value_parser = hours)]
        hours: Option<f64>,
    },
    /// Replays a trace through policies, and counts the restores that each forces.
    ///
    /// The trace is CSV with the header `time_s,session,kind,duration_s,software,tenant`, sorted by time; other columns are
    /// ignored. Kinds are init, ready, list, call, ping, open, close and delete. Every policy is run with every bound.
    Replay(ReplayArguments),
    /// Floods a simulated server, and counts what users at work lose.
    ///
    /// 500 users work on a server with 1,000 places; after two hours a flood comes for ten minutes. users: those at work on a
    /// session then. lost: those whose session lost its place in the flood and was used again. newcomers: sessions that users
    /// (and the crowd of flood e) open during the flood; refused: those that got no place; newcomers_lost: those that had
    /// called, lost their place, and were used again.
    Flood {
        /// How the server is protected.
        #[arg(long)]
        policy: Protection,
        /// What comes.
        #[arg(long)]
        kind: FloodKind,
        /// How often a session of flood c or d calls.
        #[arg(long, default_value = "once")]
        calls: Calls,
        /// From how many addresses the flood comes.
        #[arg(long, value_name = "N", default_value_t = 1)]
        addresses: u32,
        /// The seed of all random numbers.
        #[arg(long, value_name = "N", default_value_t = 1)]
        seed: u64,
        /// How the result is written.
        #[arg(long, default_value = "table")]
        format: Format,
    },
}

#[derive(Debug, clap::Args)]
struct ReplayArguments {
    /// The file of the trace. It is read twice.
    trace: PathBuf,
    /// The bounds: numbers of sessions, or shares of the places needed, such as 50%.
    #[arg(long, value_name = "N", value_delimiter = ',', required = true, value_parser = Bound::parse)]
    max_sessions: Vec<Bound>,
    /// The policies.
    #[arg(long, value_name = "NAME", value_delimiter = ',', required = true)]
    policy: Vec<PolicyName>,
    /// Sessions that lose their place are not parked: their next request opens a new session without history.
    #[arg(long)]
    no_parking: bool,
    /// Count from this number of seconds after the first event, instead of 30 % of the span.
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    warm: Option<Duration>,
    /// Sessions that are idle for this number of seconds lose their place; or, with keep:0.95, those whose place is worth too
    /// little to keep that share of the resumptions. Without it none does.
    #[arg(long, value_name = "SECS|keep:SHARE", value_parser = IdleRule::parse)]
    idle: Option<IdleRule>,
    /// How many runs work at one time; the number of processors by default. The results do not depend on it.
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// How the results are written.
    #[arg(long, default_value = "table")]
    format: Format,
}

/// Reads a number of seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    // What is longer is for ever, and still fits into 64 bits of microseconds.
    seconds.map(|seconds| seconds.min(Duration::from_secs(1 << 40))).ok_or_else(|| "it is no number of seconds".into())
}

/// Reads a number of hours.
fn hours(text: &str) -> Result<f64, String> {
    let hours = text.parse().ok().filter(|hours| *hours > 0.0 && *hours <= 24.0 * 366.0);
    hours.ok_or_else(|| "it is no number of hours up to a year".into())
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => {
            eprintln!("{}", one_line(&error.to_string()));
            return ExitCode::from(2);
        }
        // What was asked for: the help, or the version.
        Err(help) => help.exit(),
    };
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe may have seen enough.
        Err(LabError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// The first paragraph of a message.
fn one_line(message: &str) -> String {
    message.lines().take_while(|line| !line.is_empty()).map(str::trim).collect::<Vec<_>>().join(" ")
}

fn run(command: Command) -> Result<(), LabError> {
    match command {
        Command::Generate { preset, seed, hours } => {
            generate(&Preset::load(&preset)?, seed, hours, io::stdout().lock())
        }
        Command::Replay(arguments) => {
            let jobs = arguments.jobs.or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
            let replay = Replay {
                trace: arguments.trace,
                bounds: arguments.max_sessions,
                policies: arguments.policy,
                parks: !arguments.no_parking,
                warm: arguments.warm,
                idle: arguments.idle.unwrap_or(IdleRule::Never),
                jobs,
            };
            report::replay(&replay.run()?, arguments.format, &mut io::stdout().lock(), &mut io::stderr().lock())
        }
        Command::Flood { policy, kind, calls, addresses, seed, format } => {
            let outcome = Flood { kind, calls, addresses, seed }.run(policy)?;
            report::flood(&outcome, format, &mut io::stdout().lock())
        }
    }
}
