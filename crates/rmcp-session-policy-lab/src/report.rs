//! Reports: JSON for programs, tables for people.

use std::io::Write;

use serde::Serialize;

use crate::error::LabError;
use crate::flood::FloodOutcome;
use crate::replay::{Outcome, Outcomes};

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table for people.
    Table,
    /// JSON for programs.
    Json,
}

/// Writes a value as JSON.
fn json(value: &impl Serialize, out: &mut impl Write) -> Result<(), LabError> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(|error| LabError::Write(error.into()))?;
    writeln!(out).map_err(LabError::Write)
}

/// Writes the outcomes of a replay. As JSON, `needed` goes to `notes`, since the array holds the runs only.
///
/// # Errors
///
/// [`LabError::Write`].
pub fn replay(
    outcomes: &Outcomes,
    format: Format,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<(), LabError> {
    let needed = format!("needed: {} places", outcomes.needed);
    match format {
        Format::Json => {
            writeln!(notes, "{needed}").map_err(LabError::Write)?;
            json(&outcomes.runs, out)
        }
        Format::Table => writeln!(out, "{needed}").and_then(|()| table(&outcomes.runs, out)).map_err(LabError::Write),
    }
}

fn table(runs: &[Outcome], out: &mut impl Write) -> std::io::Result<()> {
    writeln!(
        out,
        "{:<12} {:>12} {:>10} {:>10} {:>10} {:>10} {:>8} {:>8} {:>11} {:>11} {:>8}",
        "policy",
        "max_sessions",
        "requests",
        "restores",
        "per 1000",
        "evictions",
        "refused",
        "busy_cut",
        "mean places",
        "resumptions",
        "kept"
    )?;
    for run in runs {
        let Outcome { policy, max_sessions, requests, restores, evictions, refused, busy_cut, resumptions, .. } = run;
        let Outcome { restores_per_1000, mean_places, resumptions_kept, .. } = run;
        writeln!(
            out,
            "{policy:<12} {max_sessions:>12} {requests:>10} {restores:>10} {restores_per_1000:>10.2} {evictions:>10} \
             {refused:>8} {busy_cut:>8} {mean_places:>11.1} {resumptions:>11} {resumptions_kept:>8}"
        )?;
    }
    Ok(())
}

/// Writes the outcome of a flood.
///
/// # Errors
///
/// [`LabError::Write`].
pub fn flood(outcome: &FloodOutcome, format: Format, out: &mut impl Write) -> Result<(), LabError> {
    match format {
        Format::Json => json(outcome, out),
        Format::Table => {
            let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 };
            let FloodOutcome { users, lost, newcomers, refused, newcomers_lost, .. } = *outcome;
            writeln!(
                out,
                "users at work: {users}, lost their session: {lost} ({:.1} %)\nnewcomers: {newcomers}, refused: {refused}, \
                 lost handler state: {newcomers_lost} ({:.1} %)",
                share(lost, users),
                share(newcomers_lost, newcomers)
            )
            .map_err(LabError::Write)
        }
    }
}
