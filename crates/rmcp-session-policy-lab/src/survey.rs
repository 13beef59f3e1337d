//! [`Survey`]: what a first pass over a trace finds, and the second pass that uses it.
//!
//! A trace is read twice. The first pass numbers the sessions and finds what a simulator has to know beforehand: the span,
//! the places needed, and which event of a session is its last. So no pass keeps events, and memory does not grow with their
//! number: it grows by about 60 bytes for each session of the trace.

use std::fmt;
use std::io::Read;
use std::sync::Arc;

use hashbrown::HashMap;
use rmcp_session_policy::ClientContext;

use crate::cast::Cast;
use crate::error::LabError;
use crate::event::{Event, Kind, Micros};
use crate::needed::{Stay, needed};
use crate::next_requests::NextRequests;
use crate::trace::{Line, TraceReader};

/// The share of the span that warms the caches up, and is not counted.
const WARM_SHARE: f64 = 0.3;

/// How many events of the second pass come at a time.
pub const CHUNK: usize = 1 << 14;

/// The sessions by the names that a trace gives them.
#[derive(Debug, Default)]
struct Names {
    /// Most traces number their sessions, and a number takes least.
    numbers: HashMap<u64, u32>,
    texts: HashMap<Box<[u8]>, u32>,
}

impl Names {
    /// Returns the number that a name is, if no other name is the same number: "007" and "7" are different names.
    fn as_number(name: &[u8]) -> Option<u64> {
        let is_plain = name.len() <= 19 && name.iter().all(u8::is_ascii_digit) && (name[0] != b'0' || name.len() == 1);
        is_plain.then(|| name.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
    }

    fn get(&self, name: &[u8]) -> Option<u32> {
        match Self::as_number(name) {
            Some(number) => self.numbers.get(&number).copied(),
            None => self.texts.get(name).copied(),
        }
    }

    /// Returns the session of a name, which is this one if the name is new.
    fn get_or_insert(&mut self, name: &[u8], session: u32) -> u32 {
        match Self::as_number(name) {
            Some(number) => *self.numbers.entry(number).or_insert(session),
            None => *self.texts.entry(name.into()).or_insert(session),
        }
    }
}

/// What the second pass has to know of one session.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// The number of its last line, counted from 0.
    last_line: u64,
    /// Its client, among the different ones.
    client: u32,
}

/// The software and the tenant of clients, by number. Clients of the same software and tenant are one.
#[derive(Debug, Default)]
struct Clients {
    software: Texts,
    tenants: Texts,
    numbers: HashMap<(u32, u32), u32>,
    clients: Vec<(u32, u32)>,
}

impl Clients {
    fn number(&mut self, line: &Line<'_>) -> u32 {
        let client = (self.software.number(line.software), self.tenants.number(line.tenant));
        *self.numbers.entry(client).or_insert_with(|| {
            self.clients.push(client);
            (self.clients.len() - 1) as u32
        })
    }
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

/// What the first pass over a trace found.
pub struct Survey {
    names: Names,
    sessions: Vec<Known>,
    clients: Clients,
    /// The tenants as contexts of clients, whose principal they are.
    contexts: Vec<Option<Arc<ClientContext>>>,
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
        let mut stays = Vec::new();
        let mut survey = Self {
            names: Names::default(),
            sessions: Vec::new(),
            clients: Clients::default(),
            contexts: Vec::new(),
            events: 0,
            begin: 0,
            end: 0,
            needed: 0,
            next: None,
        };
        while let Some(line) = trace.next_line()? {
            let session = survey.note(&line, &mut stays);
            if let Some(next) = &mut next {
                next.note(line.kind, line.at, session);
            }
        }
        if survey.events == 0 {
            return Err(LabError::Empty);
        }
        survey.needed = needed(stays.into_iter(), survey.default_warm());
        survey.next = next.map(Arc::new);
        let context = |tenant: &Arc<str>| Arc::new(ClientContext::new().with_principal(Arc::clone(tenant)));
        survey.contexts = survey.clients.tenants.texts.iter().map(|tenant| tenant.as_ref().map(context)).collect();
        Ok(survey)
    }

    /// Takes a line in; returns the number of its session.
    fn note(&mut self, line: &Line<'_>, stays: &mut Vec<Stay>) -> usize {
        if self.events == 0 {
            self.begin = line.at;
        }
        self.end = line.at;
        let session = self.names.get_or_insert(line.session, self.sessions.len() as u32) as usize;
        if session == self.sessions.len() {
            self.sessions.push(Known { last_line: 0, client: self.clients.number(line) });
            stays.push(Stay::from(line.at));
        }
        self.sessions[session].last_line = self.events;
        if line.kind == Kind::Call {
            stays[session].call(line.at + line.lasts);
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
            let session = self.names.get(line.session).ok_or_else(changed)?;
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

impl Survey {
    /// The software and the tenant of a session, by number.
    fn client(&self, session: u32) -> (usize, usize) {
        let (software, tenant) = self.clients.clients[self.sessions[session as usize].client as usize];
        (software as usize, tenant as usize)
    }
}

impl Cast for Survey {
    fn software(&self, session: u32) -> Option<&str> {
        self.clients.software.texts[self.client(session).0].as_deref()
    }

    fn context(&self, session: u32) -> Option<Arc<ClientContext>> {
        self.contexts[self.client(session).1].clone()
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
