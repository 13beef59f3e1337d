//! [`Observer`]: hears what becomes of sessions in a simulation.

use crate::event::{Event, Micros};

/// Hears what becomes of sessions. Each method does nothing by default.
pub trait Observer {
    /// A request came. `has_place`: whether its session had a place, so that no restore is forced. `idle`: how long ago the
    /// session's latest use ended; zero if one goes on.
    fn request(&mut self, request: &Event, has_place: bool, idle: Micros) {
        let _ = (request, has_place, idle);
    }

    /// The number of sessions that had a place between two moments.
    fn lived(&mut self, sessions: usize, from: Micros, to: Micros) {
        let _ = (sessions, from, to);
    }

    /// A session lost its place to an arrival. `busy`: a request of it was cut.
    fn evicted(&mut self, session: u32, busy: bool, at: Micros) {
        let _ = (session, busy, at);
    }

    /// An arrival got no place, because no session might go.
    fn refused(&mut self, session: u32, at: Micros) {
        let _ = (session, at);
    }
}
