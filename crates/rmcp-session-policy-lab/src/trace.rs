//! The format of traces: reading line by line, and writing.
//!
//! A trace is CSV with the header `time_s,session,kind,duration_s,software,tenant`. Columns may have any order, and
//! others are ignored. Lines are sorted by time. Times are seconds with up to six decimals that count.

use std::io::{BufWriter, Read, Write};

use csv::{ByteRecord, ReaderBuilder};

use crate::error::LabError;
use crate::event::{Kind, Micros};

/// The columns of a trace, in the order in which they are written.
pub const COLUMNS: [&str; 6] = ["time_s", "session", "kind", "duration_s", "software", "tenant"];

/// The latest time of an event, in seconds: five years.
const LATEST: f64 = 5.0 * 365.0 * 86_400.0;

/// One line of a trace, as it was read. The texts are valid until the next line is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it begins.
    pub at: Micros,
    /// The name of its session.
    pub session: &'a [u8],
    /// What the client does.
    pub kind: Kind,
    /// How long it lasts.
    pub lasts: Micros,
    /// The name of the client's software; empty if the client gave none.
    pub software: &'a [u8],
    /// The client's tenant; empty if it has none.
    pub tenant: &'a [u8],
}

/// Reads a trace line by line, in constant memory.
///
/// ```
/// use rmcp_session_policy_lab::trace::TraceReader;
///
/// let text = "time_s,session,kind,duration_s,software,tenant\n0.5,a,init,0,agent,t1\n2,a,call,0.25,agent,t1\n";
/// let mut trace = TraceReader::new(text.as_bytes())?;
/// assert_eq!(trace.next_line()?.map(|line| line.at), Some(500_000));
/// assert_eq!(trace.next_line()?.map(|line| line.lasts), Some(250_000));
/// assert_eq!(trace.next_line()?, None);
/// # Ok::<(), rmcp_session_policy_lab::LabError>(())
/// ```
#[derive(Debug)]
pub struct TraceReader<R> {
    csv: csv::Reader<R>,
    record: ByteRecord,
    /// Where each of [`COLUMNS`] is.
    places: [usize; COLUMNS.len()],
    /// The time of the line before.
    before: Micros,
}

impl<R: Read> TraceReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// [`LabError::Trace`] if a column is missing, and [`LabError::Csv`] if it cannot be read.
    pub fn new(source: R) -> Result<Self, LabError> {
        let mut csv = ReaderBuilder::new().flexible(true).buffer_capacity(1 << 18).from_reader(source);
        let header = csv.byte_headers().map_err(LabError::Csv)?;
        let mut places = [0; COLUMNS.len()];
        for (place, column) in places.iter_mut().zip(COLUMNS) {
            let found = header.iter().position(|name| name.trim_ascii() == column.as_bytes());
            *place = found.ok_or_else(|| LabError::Trace {
                line: 1,
                column,
                problem: format!("it is missing; the header is {}", COLUMNS.join(",")),
            })?;
        }
        Ok(Self { csv, record: ByteRecord::new(), places, before: 0 })
    }

    /// Reads the next line. Returns `None` at the end.
    ///
    /// # Errors
    ///
    /// [`LabError::Trace`] with the line and the column if a value means nothing, or if the time is before that of the
    /// line before.
    pub fn next_line(&mut self) -> Result<Option<Line<'_>>, LabError> {
        if !self.csv.read_byte_record(&mut self.record).map_err(LabError::Csv)? {
            return Ok(None);
        }
        let [time, session, kind, lasts, software, tenant] = self.places.map(|place| self.record.get(place));
        let line = self.record.position().map_or(0, csv::Position::line);
        let wrong = |column: usize, problem: String| LabError::Trace { line, column: COLUMNS[column], problem };
        let missing = |column: usize| wrong(column, "it is missing".into());
        let at = micros(time.ok_or_else(|| missing(0))?).map_err(|problem| wrong(0, problem))?;
        if at < self.before {
            return Err(wrong(0, "it is before the time of the line before; sort the trace by time".into()));
        }
        self.before = at;
        let session = session.filter(|session| !session.is_empty()).ok_or_else(|| missing(1))?;
        let kind = kind.ok_or_else(|| missing(2))?;
        let kind = Kind::of(kind).ok_or_else(|| wrong(2, unknown_kind(kind)))?;
        let lasts = match lasts.unwrap_or_default() {
            [] => 0,
            lasts => micros(lasts).map_err(|problem| wrong(3, problem))?,
        };
        let [software, tenant] = [software, tenant].map(Option::unwrap_or_default);
        Ok(Some(Line { at, session, kind, lasts, software, tenant }))
    }
}

/// Says what is wrong with the name of a kind.
fn unknown_kind(name: &[u8]) -> String {
    let kinds = Kind::ALL.map(Kind::name).join(", ");
    format!("`{}` is none of {kinds}", String::from_utf8_lossy(name))
}

/// Reads seconds as microseconds.
///
/// # Errors
///
/// Says what is wrong with the text.
fn micros(text: &[u8]) -> Result<Micros, String> {
    let seconds = std::str::from_utf8(text).ok().and_then(|text| text.trim().parse::<f64>().ok());
    let Some(seconds) = seconds.filter(|seconds| seconds.is_finite()) else {
        return Err(format!("`{}` is no number of seconds", String::from_utf8_lossy(text)));
    };
    if !(0.0..=LATEST).contains(&seconds) {
        return Err(format!("{seconds} is not between 0 and {LATEST} seconds"));
    }
    Ok((seconds * 1e6).round() as Micros)
}

/// Writes a trace line by line.
#[derive(Debug)]
pub struct TraceWriter<W: Write> {
    out: BufWriter<W>,
}

impl<W: Write> TraceWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    ///
    /// [`LabError::Write`].
    pub fn new(out: W) -> Result<Self, LabError> {
        let mut out = BufWriter::with_capacity(1 << 18, out);
        writeln!(out, "{}", COLUMNS.join(",")).map_err(LabError::Write)?;
        Ok(Self { out })
    }

    /// Writes a line. Times are written with three decimals. `client` is its software and its tenant, which must need no
    /// quotes.
    ///
    /// # Errors
    ///
    /// [`LabError::Write`].
    pub fn write(
        &mut self,
        at_ms: u64,
        session: u64,
        kind: Kind,
        lasts_ms: u64,
        client: [&str; 2],
    ) -> Result<(), LabError> {
        let [software, tenant] = client;
        let (at, at_rest, lasts, lasts_rest) = (at_ms / 1_000, at_ms % 1_000, lasts_ms / 1_000, lasts_ms % 1_000);
        let kind = kind.name();
        writeln!(self.out, "{at}.{at_rest:03},{session},{kind},{lasts}.{lasts_rest:03},{software},{tenant}")
            .map_err(LabError::Write)
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    ///
    /// [`LabError::Write`].
    pub fn finish(mut self) -> Result<(), LabError> {
        self.out.flush().map_err(LabError::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "time_s,session,kind,duration_s,software,tenant\n";

    /// Reads all lines; returns the number of lines or the message.
    fn read(text: &str) -> Result<usize, String> {
        let mut trace = TraceReader::new(text.as_bytes()).map_err(|error| error.to_string())?;
        let mut lines = 0;
        while trace.next_line().map_err(|error| error.to_string())?.is_some() {
            lines += 1;
        }
        Ok(lines)
    }

    #[test]
    fn columns_may_be_more_and_in_any_order() {
        let text = "note,kind,session,time_s,tenant,duration_s,software\nx,call,s 1,1.0000005,t,0.1,\"a, b\"\n";
        let mut trace = TraceReader::new(text.as_bytes()).unwrap();
        let line = trace.next_line().unwrap().unwrap();
        assert_eq!((line.at, line.session, line.kind, line.lasts), (1_000_001, &b"s 1"[..], Kind::Call, 100_000));
        assert_eq!((line.software, line.tenant), (&b"a, b"[..], &b"t"[..]));
    }

    #[test]
    fn what_is_wrong_is_told_with_line_and_column() {
        for (text, message) in [
            ("time_s,session,kind\n", "line 1, column duration_s: it is missing"),
            ("0,a,init,0,,\nx,a,call,0,,\n", "line 3, column time_s: `x` is no number of seconds"),
            ("-1,a,init,0,,\n", "line 2, column time_s: -1 is not between 0 and"),
            ("inf,a,init,0,,\n", "line 2, column time_s: `inf` is no number of seconds"),
            ("5,a,init,0,,\n4.9,a,call,0,,\n", "line 3, column time_s: it is before the time of the line before"),
            ("0,,init,0,,\n", "line 2, column session: it is missing"),
            (
                "0,a,begin,0,,\n",
                "line 2, column kind: `begin` is none of init, ready, list, call, ping, open, close, delete",
            ),
            ("0,a,call,long,,\n", "line 2, column duration_s: `long` is no number of seconds"),
            ("0,a\n", "line 2, column kind: it is missing"),
        ] {
            let text = if text.starts_with("time_s") { text.to_owned() } else { format!("{HEADER}{text}") };
            let error = read(&text).unwrap_err();
            assert!(error.starts_with(message), "{error}");
            assert!(!error.contains('\n'));
        }
    }

    #[test]
    fn a_duration_may_be_left_out() {
        assert_eq!(read(&format!("{HEADER}0,a,init,,,\n1,a,delete\n")), Ok(2));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut text = Vec::new();
        let mut out = TraceWriter::new(&mut text).unwrap();
        out.write(1_234, 7, Kind::Call, 50, ["agent", "t1"]).unwrap();
        out.finish().unwrap();
        assert_eq!(text, format!("{HEADER}1.234,7,call,0.050,agent,t1\n").as_bytes());
        let mut trace = TraceReader::new(&text[..]).unwrap();
        let line = trace.next_line().unwrap().unwrap();
        assert_eq!((line.at, line.lasts, line.session), (1_234_000, 50_000, &b"7"[..]));
    }
}
