//! By what requests are told apart.

use super::{Arrival, ClientKey};
use crate::session::SessionOrigin;

/// By what requests are told apart: the session, else the client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallerKey {
    /// The session, whatever incarnation of it.
    Session(SessionOrigin),
    /// The client of a request without a session.
    Client(ClientKey),
}

impl CallerKey {
    /// The key of an arrival.
    #[must_use]
    pub fn of(arrival: &Arrival<'_>) -> Self {
        arrival.origin().map_or_else(|| Self::Client(ClientKey::of(arrival)), Self::Session)
    }

    /// [`of`](Self::of), saying once that of a request without a session nothing is known.
    pub(super) fn warning_of() -> impl Fn(&Arrival<'_>) -> Self + Send + Sync {
        let client = ClientKey::warning_of();
        move |arrival| arrival.origin().map_or_else(|| Self::Client(client(arrival)), Self::Session)
    }
}
