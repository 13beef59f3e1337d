//! [`ClientLimits`]: the limits of the places of one client, as the builder has checked them.

use crate::context::ClientContext;
use crate::registry::{ClientIds, ClientOf};

/// A number of sessions, and how the clients are told apart of which each may have so many.
#[derive(Clone, Debug)]
pub(crate) struct ClientLimit {
    pub(crate) of: ClientOf,
    pub(crate) sessions: usize,
}

/// The limits of each client. `None` is no limit.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientLimits {
    /// From this number of places on, a client makes room for itself when no place is free.
    pub(crate) share: Option<ClientLimit>,
    /// The most sessions of a client.
    pub(crate) max: Option<ClientLimit>,
}

impl ClientLimits {
    /// The client of a context, for each limit. It may run code of the server's author, so no lock may be held.
    pub(super) fn ids(&self, context: Option<&ClientContext>) -> ClientIds {
        let find = |limit: &Option<ClientLimit>| limit.as_ref()?.of.find(context);
        ClientIds { share: find(&self.share), max: find(&self.max) }
    }
}
