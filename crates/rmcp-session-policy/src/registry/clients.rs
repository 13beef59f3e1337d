//! [`Clients`]: how many sessions each client has, and which.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::client_id::ClientId;
use super::groups::Groups;
use crate::session::SessionKey;

/// The sessions of each client, and a limit on their number.
///
/// A client is in it as long as it has sessions, or newcomers on their way to be sessions, so it is bounded by their
/// number. Each operation is O(1).
#[derive(Debug)]
pub(super) struct Clients {
    /// The number of sessions at which a client is full.
    pub(super) limit: usize,
    /// The client of each session, by the key's index.
    ids: Vec<Option<ClientId>>,
    counts: HashMap<ClientId, Counts>,
    /// Sessions of each client, to draw from. The caller says which.
    pub(super) groups: Groups<ClientId>,
}

/// The numbers of one client.
#[derive(Debug, Default)]
struct Counts {
    /// Sessions that are not closing.
    live: usize,
    closing: usize,
    /// Newcomers that will be sessions.
    coming: usize,
    /// Those of `coming` that count as sessions already.
    entered: usize,
    /// Notified when one of these falls, once a newcomer waits for that.
    falls: Option<Arc<Notify>>,
}

impl Clients {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, ids: Vec::new(), counts: HashMap::new(), groups: Groups::default() }
    }

    /// Sets the limit of what may be none. `anew`: clients are told apart in another way from here on.
    pub(super) fn set(clients: &mut Option<Self>, limit: Option<usize>, anew: bool) {
        match (clients, limit) {
            (Some(clients), Some(limit)) if !anew => clients.limit = limit,
            (clients, limit) => *clients = limit.map(Self::new),
        }
    }

    /// The client of a session.
    pub(super) fn client(&self, key: SessionKey) -> Option<ClientId> {
        self.ids.get(key.index()).copied().flatten()
    }

    /// A client's sessions that are not closing, and its newcomers.
    pub(super) fn held(&self, client: ClientId) -> usize {
        self.counts.get(&client).map_or(0, |counts| counts.live + counts.coming)
    }

    /// Counts a newcomer.
    pub(super) fn comes(&mut self, client: ClientId) {
        self.counts.entry(client).or_default().coming += 1;
    }

    /// Lets a newcomer in that was counted, unless the sessions there are, closing ones included, and the newcomers that
    /// were let in are as many as the limit.
    ///
    /// A client without sessions and newcomers has room: this one was counted under a limit that was taken back and set
    /// again, and its count is lost with the old one.
    pub(super) fn enters(&mut self, client: ClientId) -> bool {
        let Some(counts) = self.counts.get_mut(&client) else { return true };
        let enters = counts.live + counts.closing + counts.entered < self.limit;
        counts.entered += usize::from(enters);
        enters
    }

    /// Counts a newcomer out, which has become a session or never will. `entered`: whether it was let in.
    pub(super) fn came(&mut self, client: ClientId, entered: bool) {
        self.change(client, |counts| {
            // Less than it says if it was counted under a limit that was taken back and set again.
            counts.coming = counts.coming.saturating_sub(1);
            counts.entered = counts.entered.saturating_sub(usize::from(entered));
        });
    }

    /// Counts a session in.
    pub(super) fn begins(&mut self, key: SessionKey, client: ClientId) {
        if self.ids.len() <= key.index() {
            self.ids.resize(key.index() + 1, None);
        }
        self.ids[key.index()] = Some(client);
        self.counts.entry(client).or_default().live += 1;
    }

    /// Counts a session as closing.
    pub(super) fn closes(&mut self, key: SessionKey) {
        let Some(client) = self.client(key) else { return };
        self.change(client, |counts| {
            counts.live -= 1;
            counts.closing += 1;
        });
    }

    /// Counts a session out, which was closing.
    pub(super) fn ends(&mut self, key: SessionKey) {
        let Some(client) = self.ids.get_mut(key.index()).and_then(Option::take) else { return };
        self.change(client, |counts| counts.closing -= 1);
    }

    fn change(&mut self, client: ClientId, change: impl FnOnce(&mut Counts)) {
        let Some(counts) = self.counts.get_mut(&client) else { return };
        change(counts);
        if let Some(falls) = &counts.falls {
            falls.notify_waiters();
        }
        if counts.live + counts.closing + counts.coming == 0 {
            self.counts.remove(&client);
        }
    }

    /// Fires when one of a client's numbers falls, from now on.
    pub(super) fn falls(&mut self, client: ClientId) -> OwnedNotified {
        let falls = self.counts.entry(client).or_default().falls.get_or_insert_default();
        Arc::clone(falls).notified_owned()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_client_without_sessions_and_newcomers_is_forgotten() {
        let mut clients = Clients::new(9);
        for number in 0..1_000 {
            let (client, key) = (ClientId::of(number), SessionKey::new(0, number as u32));
            clients.comes(client);
            assert!(clients.enters(client));
            clients.begins(key, client);
            clients.came(client, true);
            assert_eq!((clients.held(client), clients.client(key)), (1, Some(client)));
            clients.closes(key);
            assert_eq!(clients.held(client), 0);
            clients.ends(key);
        }
        assert_eq!((clients.counts.len(), clients.ids.len()), (0, 1));
    }

    #[test]
    fn a_newcomer_that_was_counted_under_a_limit_of_before_enters_and_takes_no_count_away() {
        let client = ClientId::of(1);
        for entered in [false, true] {
            for others in [0, 1] {
                let mut clients = Some(Clients::new(2));
                clients.as_mut().unwrap().comes(client);
                Clients::set(&mut clients, None, false);
                Clients::set(&mut clients, Some(2), false);
                let mut clients = clients.unwrap();
                (0..others).for_each(|other| clients.begins(SessionKey::new(other, 1), client));
                assert!(!entered || clients.enters(client), "there is room");
                clients.came(client, entered);
                assert_eq!(clients.held(client), others as usize);
                assert_eq!(clients.counts.len(), others as usize);
            }
        }
    }

    #[test]
    fn a_newcomer_enters_when_the_closing_sessions_leave_room_and_hears_of_it() {
        let (mut clients, client) = (Clients::new(1), ClientId::of(1));
        let [one, two] = [0, 1].map(|index| SessionKey::new(index, 1));
        clients.begins(one, client);
        clients.begins(two, ClientId::of(2));
        clients.closes(one);
        clients.comes(client);
        assert!(!clients.enters(client), "the other is still closing");
        let falls = clients.falls(client);
        clients.closes(two);
        clients.ends(two);
        assert!(!clients.enters(client), "the session was another client's");
        clients.ends(one);
        assert_eq!(falls.now_or_never(), Some(()));
        assert!(clients.enters(client));
        assert!(!clients.enters(client));
    }
}
