//! [`NextRequests`]: the future of each session, for a policy that knows it.

use crate::event::{Kind, Micros};

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

    /// Takes an event in, in the order of the trace.
    pub(crate) fn note(&mut self, kind: Kind, at: Micros, session: usize) {
        if self.first.len() <= session {
            self.first.resize(session + 1, Self::NEVER);
            self.latest.resize(session + 1, None);
        }
        if kind.is_request() {
            match self.latest[session].replace(self.after.len() as u32) {
                Some(before) => self.after[before as usize] = at,
                None => self.first[session] = at,
            }
            self.after.push(Self::NEVER);
        }
    }
}
