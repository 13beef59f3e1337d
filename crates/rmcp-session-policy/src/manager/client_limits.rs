//! [`ClientLimits`]: the limits of the places of one client, as the builder has checked them.

use crate::context::ClientContext;
use crate::registry::{ClientIds, ClientOf};

/// The share of the places that a client may hold, as it was set.
#[derive(Clone, Debug)]
pub(super) struct ClientShare {
    /// The name of the setting.
    pub(super) setting: &'static str,
    /// More than 0 and at most 1, once it is checked.
    pub(super) share: f64,
    /// How clients are told apart.
    pub(super) of: ClientOf,
}

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
    /// Changes with the ways in which clients are told apart. Ids that were found under another version count for nothing.
    pub(super) version: u32,
}

impl ClientLimit {
    /// Whether two limits tell clients apart in the same way, or neither is a limit.
    pub(super) fn is_like(one: Option<&Self>, other: Option<&Self>) -> bool {
        match (one, other) {
            (Some(one), Some(other)) => one.of.is(&other.of),
            (None, None) => true,
            _ => false,
        }
    }
}

impl ClientLimits {
    /// Sets the version of limits that replace others.
    pub(super) fn follow(&mut self, before: &Self) {
        let is_like = ClientLimit::is_like(self.share.as_ref(), before.share.as_ref())
            && ClientLimit::is_like(self.max.as_ref(), before.max.as_ref());
        self.version = before.version.wrapping_add(u32::from(!is_like));
    }

    /// The client of a context, for each limit. It may run code of the server's author, so no lock may be held.
    pub(super) fn ids(&self, context: Option<&ClientContext>) -> ClientIds {
        let find = |limit: &Option<ClientLimit>| limit.as_ref()?.of.find(context);
        ClientIds { share: find(&self.share), max: find(&self.max) }
    }
}
