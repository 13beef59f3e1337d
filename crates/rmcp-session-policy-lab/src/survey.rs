//! [`Survey`]: what a first pass over a trace finds, and the second pass that uses it.
//!
//! A trace is read twice. The first pass numbers the sessions and finds what a simulator has to know beforehand: the span,
//! the places needed, and which event of a session is its last. So no pass keeps events: memory grows with the number of
//! sessions, by about a hundred bytes each, and not with the length of the trace.

use std::fmt;
use std::io::Read;
use std::sync::Arc;

use hashbrown::HashMap;
use rmcp_session_policy::ClientContext;

use crate::error::LabError;
use crate::event::{Event, Kind, Micros};
use crate::needed::{Stay, needed};
use crate::simulator::Cast;
use crate::trace::{Line, TraceReader};

/// The share of the span that warms the caches up, and is not counted.
const WARM_SHARE: f64 = 0.3;

/// How many events of the second pass come at a time.
pub const CHUNK: usize = 1 << 14;

/// The name of a session in a trace, in as few bytes as most traces allow.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Name {
    Number(u64),
    Text(Box<[u8]>),
}

impl Name {
    /// Two names are equal exactly if their texts are.
    fn of(text: &[u8]) -> Self {
        // "007" and "7" are different texts, so only the shorter one is a number.
        let is_plain = text.len() <= 19 && text.iter().all(u8::is_ascii_digit) && (text[0] != b'0' || text.len() == 1);
        if is_plain {
            Self::Number(text.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
        } else {
            Self::Text(text.into())
        }
    }
}

/// What the first pass knows of one session.
#[derive(Debug)]
struct Known {
    software: u32,
    tenant: u32,
    /// The number of its last line, counted from 0.
    last_line: u64,
    stay: Stay,
}

/// Texts by number. The first is empty.
#[derive(Debug)]
struct Texts {
    numbers: HashMap<Box<[u8]>, u32>,
    texts: Vec<Option<Arc<str>>>,
}

impl Default for Texts {
    fn default() -> Self {
        Self { numbers: HashMap::from_iter([(Box::default(), 0)]), texts: vec![None] }
    }
}

impl Texts {
    fn number(&mut self, text: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.texts.len() as u32;
        self.numbers.insert(text.into(), number);
        self.texts.push(Some(String::from_utf8_lossy(text).into()));
        number
    }
}

/// For each session and request, when its session makes the next one. For policies that know the future.
#[derive(Debug, Default)]
pub struct NextRequests {
    /// The first request of each session; [`NextRequests::NEVER`] if there is none.
    pub first: Vec<Micros>,
    /// The request after each request of the trace, in the order of the trace.
    pub after: Vec<Micros>,
    /// The latest request of each session in the pass so far.
    latest: Vec<Option<u32>>,
}

impl NextRequests {
    /// The moment of a request that does not come.
    pub const NEVER: Micros = Micros::MAX;

    fn note(&mut self, line: &Line<'_>, session: usize) {
        if self.first.len() <= session {
            self.first.resize(session + 1, Self::NEVER);
            self.latest.resize(session + 1, None);
        }
        if line.kind.is_request() {
            match self.latest[session].replace(self.after.len() as u32) {
                Some(before) => self.after[before as usize] = line.at,
                None => self.first[session] = line.at,
            }
            self.after.push(Self::NEVER);
        }
    }
}

/// What the first pass over a trace found.
pub struct Survey {
    names: HashMap<Name, u32>,
    sessions: Vec<Known>,
    software: Texts,
    /// The tenants as contexts of clients, whose principal they are.
    tenants: Vec<Option<Arc<ClientContext>>>,
    /// How many events there are.
    pub events: u64,
    /// When the first event begins.
    pub begin: Micros,
    /// When the last event begins.
    pub end: Micros,
    /// How many places the trace needs, as [`needed`] defines it, after the default warm-up.
    pub needed: usize,
    /// When sessions make their next requests, if that was asked for. It takes 8 bytes for each request.
    pub next: Option<Arc<NextRequests>>,
}

impl fmt::Debug for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Survey")
            .field("sessions", &self.sessions.len())
            .field("events", &self.events)
            .field("needed", &self.needed)
            .finish_non_exhaustive()
    }
}

impl Survey {
    /// Reads a trace to its end. `foresight`: whether a policy wants to know the next request of each session.
    ///
    /// Takes O(n) time for n events, and memory for the sessions.
    ///
    /// # Errors
    ///
    /// Those of [`TraceReader::next_line`], and [`LabError::Empty`].
    pub fn of(source: impl Read, foresight: bool) -> Result<Self, LabError> {
        let mut trace = TraceReader::new(source)?;
        let mut next = foresight.then(NextRequests::default);
        let mut tenants = Texts::default();
        let mut survey = Self {
            names: HashMap::new(),
            sessions: Vec::new(),
            software: Texts::default(),
            tenants: Vec::new(),
            events: 0,
            begin: 0,
            end: 0,
            needed: 0,
            next: None,
        };
        while let Some(line) = trace.next_line()? {
            let session = survey.note(&line, &mut tenants);
            if let Some(next) = &mut next {
                next.note(&line, session);
            }
        }
        if survey.events == 0 {
            return Err(LabError::Empty);
        }
        survey.needed = needed(survey.sessions.iter().map(|known| known.stay), survey.default_warm());
        survey.next = next.map(Arc::new);
        let context = |tenant: &Arc<str>| Arc::new(ClientContext::new().with_principal(Arc::clone(tenant)));
        survey.tenants = tenants.texts.iter().map(|tenant| tenant.as_ref().map(context)).collect();
        Ok(survey)
    }

    /// Takes a line in; returns the number of its session.
    fn note(&mut self, line: &Line<'_>, tenants: &mut Texts) -> usize {
        if self.events == 0 {
            self.begin = line.at;
        }
        self.end = line.at;
        let session = *self.names.entry(Name::of(line.session)).or_insert_with(|| {
            let (software, tenant) = (self.software.number(line.software), tenants.number(line.tenant));
            self.sessions.push(Known { software, tenant, last_line: 0, stay: Stay::from(line.at) });
            (self.sessions.len() - 1) as u32
        }) as usize;
        let known = &mut self.sessions[session];
        known.last_line = self.events;
        if line.kind == Kind::Call {
            known.stay.call(line.at + line.lasts);
        }
        self.events += 1;
        session
    }

    /// Returns how many sessions there are.
    #[must_use]
    pub const fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Returns the moment until which a replay warms up by default: 30 % of the span.
    #[must_use]
    pub fn default_warm(&self) -> Micros {
        self.begin + ((self.end - self.begin) as f64 * WARM_SHARE) as Micros
    }

    /// Reads the trace a second time, and hands its events on in chunks of at most [`CHUNK`].
    ///
    /// # Errors
    ///
    /// Those of [`TraceReader::next_line`], and [`LabError::Argument`] if the trace is no longer what it was.
    pub fn replay(&self, source: impl Read, mut hand_on: impl FnMut(Vec<Event>)) -> Result<(), LabError> {
        let mut trace = TraceReader::new(source)?;
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut number = 0;
        while let Some(line) = trace.next_line()? {
            let session = *self.names.get(&Name::of(line.session)).ok_or_else(changed)?;
            let is_last = self.sessions[session as usize].last_line == number;
            chunk.push(Event { at: line.at, lasts: line.lasts, session, kind: line.kind, is_last });
            number += 1;
            if chunk.len() == CHUNK {
                hand_on(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK)));
            }
        }
        if number != self.events {
            return Err(changed());
        }
        hand_on(chunk);
        Ok(())
    }
}

/// The file was written to between the two passes, or cannot be read twice.
fn changed() -> LabError {
    LabError::Argument("the trace changed while it was read; replay reads it twice, so it must be a file".into())
}

impl Cast for Survey {
    fn software(&self, session: u32) -> Option<&str> {
        self.software.texts[self.sessions[session as usize].software as usize].as_deref()
    }

    fn context(&self, session: u32) -> Option<Arc<ClientContext>> {
        self.tenants[self.sessions[session as usize].tenant as usize].clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "time_s,session,kind,duration_s,software,tenant
0,7,init,0,agent,t1
0,007,init,0,,
1,7,list,0,agent,t1
2,7,call,3,agent,t1
10,007,ping,0,,
";

    #[test]
    fn the_first_pass_finds_sessions_span_and_places_needed() {
        let survey = Survey::of(TRACE.as_bytes(), true).unwrap();
        assert_eq!((survey.sessions(), survey.events, survey.begin, survey.end), (2, 5, 0, 10_000_000));
        assert_eq!(survey.default_warm(), 3_000_000);
        assert_eq!(survey.needed, 1, "the call ends at 5 s; the other session never calls");
        assert_eq!((survey.software(0), survey.software(1)), (Some("agent"), None));
        assert_eq!(survey.context(0).unwrap().principal(), Some("t1"));
        assert!(survey.context(1).is_none());
        let next = survey.next.unwrap();
        assert_eq!(next.first, [1_000_000, NextRequests::NEVER]);
        assert_eq!(next.after, [2_000_000, NextRequests::NEVER]);
    }

    #[test]
    fn the_second_pass_knows_the_last_event_of_each_session() {
        let survey = Survey::of(TRACE.as_bytes(), false).unwrap();
        let mut events = Vec::new();
        survey.replay(TRACE.as_bytes(), |chunk| events.extend(chunk)).unwrap();
        assert_eq!(events.iter().map(|event| event.session).collect::<Vec<_>>(), [0, 1, 0, 0, 1]);
        assert_eq!(events.iter().map(|event| event.is_last).collect::<Vec<_>>(), [false, false, false, true, true]);
        assert_eq!((events[3].kind, events[3].at, events[3].lasts), (Kind::Call, 2_000_000, 3_000_000));
    }

    #[test]
    fn a_trace_that_changes_in_between_is_an_error() {
        let survey = Survey::of(TRACE.as_bytes(), false).unwrap();
        let shorter = &TRACE[..TRACE.len() - "10,007,ping,0,,\n".len()];
        assert!(survey.replay(shorter.as_bytes(), drop).is_err());
        let other = TRACE.replace("007", "8");
        assert!(survey.replay(other.as_bytes(), drop).is_err());
    }

    #[test]
    fn an_empty_trace_is_an_error() {
        let header = "time_s,session,kind,duration_s,software,tenant\n";
        assert!(matches!(Survey::of(header.as_bytes(), false), Err(LabError::Empty)));
    }
}
