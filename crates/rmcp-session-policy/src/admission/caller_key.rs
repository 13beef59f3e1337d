//! [`CallerKey`]: the key of [`per_session`](super::AdmissionPolicyExt::per_session).

use super::{Arrival, ClientKey};
use crate::session::SessionOrigin;

/// Identifies the sender of a request: the session, or the client of a request without a session.
///
/// ```
/// use rmcp_session_policy::ClientContext;
/// use rmcp_session_policy::admission::{Arrival, ArrivalKind, CallerKey, ClientKey};
/// use tokio::time::Instant;
///
/// let client = ClientContext::new().with_principal("alice");
/// let arrival = Arrival::new(Instant::now(), ArrivalKind::Request).with_context(&client);
/// assert_eq!(CallerKey::of(&arrival), CallerKey::Client(ClientKey::Principal("alice".into())));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallerKey {
    /// The session: the same for all its incarnations.
    Session(SessionOrigin),
    /// The client of a request without a session.
    Client(ClientKey),
}

impl CallerKey {
    /// Returns the key of an arrival.
    #[must_use]
    pub fn of(arrival: &Arrival<'_>) -> Self {
        arrival.origin().map_or_else(|| Self::Client(ClientKey::of(arrival)), Self::Session)
    }

    /// Returns [`of`](Self::of) as a closure that logs a warning at the first request without a session or a known
    /// client.
    pub(super) fn warning_of() -> impl Fn(&Arrival<'_>) -> Self + Send + Sync {
        let client = ClientKey::warning_of();
        move |arrival| arrival.origin().map_or_else(|| Self::Client(client(arrival)), Self::Session)
    }
}
