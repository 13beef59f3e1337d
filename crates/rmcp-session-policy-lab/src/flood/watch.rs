//! [`Watch`]: sees what becomes of the sessions of users.

use super::FloodOutcome;
use super::workload::{Role, Workload};
use crate::event::{Event, Kind, Micros};
use crate::observer::Observer;

/// What is seen of one session.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    has_called: bool,
    /// Whether it lost its place to another session, in the flood or soon after it.
    evicted: bool,
    lost: bool,
    refused: bool,
    /// When its last request comes.
    last_request: Micros,
    /// When it is opened.
    opened: Micros,
}

/// Sees what becomes of the sessions of users.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    workload: &'a Workload,
    sessions: Vec<Seen>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(workload: &'a Workload) -> Self {
        let mut sessions = vec![Seen::default(); workload.sessions()];
        for event in &workload.events {
            let seen = &mut sessions[event.session as usize];
            match event.kind {
                Kind::Init => seen.opened = event.at,
                kind if kind.is_request() => seen.last_request = event.at,
                _ => {}
            }
        }
        Self { workload, sessions }
    }

    /// Counts. A user is at work on a session that was opened before the flood, and that is used again in the flood or after
    /// it.
    pub(super) fn outcome(&self) -> FloodOutcome {
        let mut outcome = FloodOutcome::default();
        for (seen, session) in self.sessions.iter().zip(0..) {
            match self.workload.role(session) {
                Role::AtWork if seen.last_request >= Workload::begin() => {
                    outcome.users += 1;
                    outcome.lost += u64::from(seen.lost);
                }
                Role::Newcomer => {
                    outcome.newcomers += 1;
                    outcome.refused += u64::from(seen.refused);
                    outcome.newcomers_lost += u64::from(seen.lost);
                }
                Role::AtWork | Role::Other => {}
            }
        }
        outcome
    }
}

/// Whether an eviction at this moment is laid to the flood.
fn is_of_flood(at: Micros) -> bool {
    (Workload::begin()..Workload::watched()).contains(&at)
}

impl Observer for Watch<'_> {
    fn request(&mut self, request: &Event, has_place: bool, _: Micros) {
        let is_newcomer = self.workload.role(request.session) == Role::Newcomer;
        let seen = &mut self.sessions[request.session as usize];
        if !has_place && seen.evicted {
            seen.lost |= seen.has_called || !is_newcomer;
        }
        seen.has_called |= request.kind == Kind::Call;
    }

    fn evicted(&mut self, session: u32, _: bool, at: Micros) {
        self.sessions[session as usize].evicted |= is_of_flood(at);
    }

    fn refused(&mut self, session: u32, at: Micros) {
        let seen = &mut self.sessions[session as usize];
        seen.refused |= seen.opened == at;
    }
}
