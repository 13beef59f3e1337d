//! [`LabError`]: what can be wrong with a trace, a preset or an argument.

use std::io;
use std::path::PathBuf;

/// Why a command failed. Each message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A file could not be opened or read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line of a trace is not as the format says.
    #[error("line {line}, column {column}: {problem}")]
    Trace {
        /// The line, counted from 1; the header is line 1.
        line: u64,
        /// The name of the column.
        column: &'static str,
        /// What is wrong, and what would do.
        problem: String,
    },
    /// A trace is no CSV.
    #[error("the trace is no CSV: {0}")]
    Csv(#[source] csv::Error),
    /// A trace has no events.
    #[error("the trace has no events")]
    Empty,
    /// A preset is not as the format says.
    #[error("preset {name}: {problem}")]
    Preset {
        /// The preset, or the path of its file.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// An argument has a value that means nothing.
    #[error("{0}")]
    Argument(String),
    /// The output could not be written.
    #[error("writing: {0}")]
    Write(#[source] io::Error),
}
