//! Shares of the places: the newcomer of a client that holds its share takes a place of that client.

use std::sync::Arc;

use tokio::time::Instant;

use super::client_id::{ClientId, ClientIds};
use super::clients::Clients;
use super::sample::SAMPLE;
use super::sessions::{Registry, Standing};
use crate::session::{Recorded, SessionKey};

impl<S: Recorded> Registry<S> {
    /// Sets how many places a client may hold before its own sessions make room for its newcomers. `None`: any number.
    /// `anew`: as for [`limit_clients`](Registry::limit_clients).
    pub(crate) fn share_places(&mut self, places: Option<usize>, anew: bool) {
        Clients::set(&mut self.share, places, anew);
    }

    /// Says which client a session belongs to that was there before clients were told apart in this way. What is known
    /// stays.
    pub(crate) fn owned_too(&mut self, key: SessionKey, clients: ClientIds) {
        let Some(standing) = self.get(key).map(|slot| slot.standing) else { return };
        let is_known = |limit: &Option<Clients>| limit.as_ref().is_some_and(|limit| limit.client(key).is_some());
        let clients = ClientIds {
            share: clients.share.filter(|_| !is_known(&self.share)),
            max: clients.max.filter(|_| !is_known(&self.max)),
        };
        self.owned_by(key, clients);
        if standing == Standing::Retired {
            if let (Some(share), Some(_)) = (&mut self.share, clients.share) {
                share.closes(key);
            }
            if let (Some(max), Some(_)) = (&mut self.max, clients.max) {
                max.closes(key);
                max.groups.remove(key);
            }
        }
    }

    /// Says which client a session belongs to that has just been inserted.
    pub(crate) fn owned_by(&mut self, key: SessionKey, clients: ClientIds) {
        let is_listed = self.is_listed(key);
        if let (Some(share), Some(client)) = (&mut self.share, clients.share) {
            share.begins(key, client);
            if is_listed {
                share.groups.insert(key, client);
            }
        }
        if let (Some(max), Some(client)) = (&mut self.max, clients.max) {
            max.begins(key, client);
            max.groups.insert(key, client);
        }
    }

    /// Counts a newcomer that has a place, or expects one, against the share of its client.
    pub(crate) fn comes(&mut self, client: Option<ClientId>) {
        if let (Some(share), Some(client)) = (&mut self.share, client) {
            share.comes(client);
        }
    }

    /// Counts a newcomer out, which has become a session or never will.
    pub(crate) fn came(&mut self, client: Option<ClientId>) {
        if let (Some(share), Some(client)) = (&mut self.share, client) {
            share.came(client, false);
        }
    }

    /// Returns a client if it holds its share. `is_counted`: whether its newcomer, which asks, is counted.
    pub(crate) fn full(&self, client: Option<ClientId>, is_counted: bool) -> Option<ClientId> {
        let share = self.share.as_ref()?;
        client.filter(|client| share.held(*client) >= share.limit + usize::from(is_counted))
    }

    /// Begins the close of a session of this client: of one that came with the surge, or else of any, as the policy picks
    /// among those of [`SAMPLE`] sessions. `None` if none of its sessions may go.
    pub(super) fn choose_own(&mut self, now: Instant, client: ClientId) -> Option<Arc<S>> {
        let in_surge = self.surge_since(now).is_some();
        self.take_drawn(now, |registry| {
            let Self { share: Some(share), surge, slots, random, .. } = registry else { return Vec::new() };
            let drawn = share.groups.draw(client, SAMPLE, random);
            let came = |key: &SessionKey| {
                let slot = slots.get(key.index());
                slot.zip(surge.as_ref()).is_some_and(|(slot, surge)| surge.has(slot.record()))
            };
            let of_surge: Vec<_> = drawn.iter().copied().filter(|key| in_surge && came(key)).collect();
            if of_surge.is_empty() { drawn } else { of_surge }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;
    use crate::admission::ArrivalKind;
    use crate::eviction::{Candidates, EvictionPolicy, Fifo, Lru, SessionInfo};
    use crate::registry::Choice;
    use crate::registry::test_registry::{TestRegistry, call, lenient, looks, touch};
    use crate::session::Record;
    use crate::time::HOUR;

    /// A registry in which a client may hold three places at the cost of others.
    fn stage(policy: impl EvictionPolicy) -> TestRegistry {
        let mut stage = TestRegistry::new(policy);
        stage.registry.share_places(Some(3), false);
        stage
    }

    fn client(number: u64) -> Option<ClientId> {
        Some(ClientId::of(number))
    }

    /// A session of a client.
    fn ready(stage: &mut TestRegistry, share: Option<ClientId>) -> Arc<Record> {
        let record = stage.ready();
        stage.registry.owned_by(record.entry.key, ClientIds { share, max: None });
        record
    }

    /// The victim for a newcomer of a client, which is taken out.
    fn victim(stage: &mut TestRegistry, of: Option<ClientId>) -> Option<u32> {
        let full = stage.registry.full(of, false);
        let choice = stage.registry.choose(Instant::now(), ArrivalKind::Create, None, 0, full);
        let Choice::Victim(record, _) = choice else { return None };
        stage.registry.remove(record.entry.key).expect("a victim is in the registry");
        Some(record.entry.key.generation())
    }

    #[tokio::test(start_paused = true)]
    async fn the_newcomer_of_a_client_that_holds_its_share_takes_a_place_of_that_client() {
        let mut stage = stage(Lru::new());
        let _older = ready(&mut stage, client(2));
        let own: Vec<_> = (0..3).map(|_| ready(&mut stage, client(1))).collect();
        touch(&own[0]);
        assert_eq!(victim(&mut stage, client(1)), Some(3), "the least recently used of its own");
        assert_eq!(victim(&mut stage, client(1)), Some(1), "below its share it takes what the policy names");
        assert_eq!(victim(&mut stage, None), Some(4), "an unknown client has no share");
    }

    #[tokio::test(start_paused = true)]
    async fn if_none_of_its_own_may_go_the_usual_choice_decides() {
        let mut stage = stage(Fifo::new());
        let older = ready(&mut stage, client(2));
        let own: Vec<_> = (0..3).map(|_| ready(&mut stage, client(1))).collect();
        let newer = ready(&mut stage, client(2));
        let calls: Vec<_> = own.iter().chain([&older]).map(call).collect();
        assert_eq!(victim(&mut stage, client(1)), Some(newer.entry.key.generation()));
        assert_eq!(looks(|| assert_eq!(victim(&mut stage, client(1)), None)), 0, "none is looked at twice");
        drop(calls);
        assert_eq!(victim(&mut stage, client(1)), Some(2), "they are in the order again");
    }

    #[tokio::test(start_paused = true)]
    async fn newcomers_on_their_way_count_and_closing_sessions_do_not() {
        let mut stage = stage(Lru::new());
        let one = client(1);
        let own: Vec<_> = (0..2).map(|_| ready(&mut stage, one)).collect();
        assert_eq!(stage.registry.full(one, false), None);
        stage.registry.comes(one);
        assert_eq!((stage.registry.full(one, false), stage.registry.full(one, true)), (one, None));
        own[0].entry.state.close();
        stage.registry.retire(own[0].entry.key);
        assert_eq!(stage.registry.full(one, false), None);
        stage.registry.came(one);
        let _third = [ready(&mut stage, one), ready(&mut stage, one)];
        assert_eq!((stage.registry.full(one, false), stage.registry.full(client(2), false)), (one, None));
    }

    #[tokio::test(start_paused = true)]
    async fn half_open_sessions_over_their_share_go_before() {
        let mut stage = TestRegistry::with(Lru::new(), lenient(), 1);
        stage.registry.share_places(Some(1), false);
        let _own = ready(&mut stage, client(1));
        let stranger = stage.opening();
        assert_eq!(victim(&mut stage, client(1)), Some(stranger.entry.key.generation()));
        assert_eq!(victim(&mut stage, client(1)), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn of_its_own_those_of_the_surge_go_first_and_its_own_before_the_guard_chooses() {
        let mut stage = stage(Lru::new());
        stage.registry.guard_surges(true);
        stage.registry.asked(Instant::now());
        advance(HOUR).await;
        let old: Vec<_> = (0..2).map(|_| ready(&mut stage, client(1))).collect();
        advance(Duration::from_secs(60)).await;
        (0..10).for_each(|_| stage.registry.asked(Instant::now()));
        let stranger = ready(&mut stage, client(2));
        let newer: Vec<_> = (0..2).map(|_| ready(&mut stage, client(1))).collect();
        newer.iter().for_each(touch);
        assert_eq!(victim(&mut stage, client(1)), Some(4));
        assert_eq!(victim(&mut stage, client(1)), Some(5));
        stage.registry.comes(client(1));
        assert_eq!(victim(&mut stage, client(1)), Some(old[0].entry.key.generation()));
        assert_eq!(victim(&mut stage, client(1)), Some(stranger.entry.key.generation()), "below its share");
    }

    /// Names the session that was used last.
    #[derive(Debug)]
    struct MostRecent(Lru);

    impl EvictionPolicy for MostRecent {
        fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
            self.0.victim(candidates)
        }
        fn pick(&mut self, among: &[SessionInfo<'_>], _: Instant) -> Option<SessionKey> {
            among.iter().max_by_key(|session| session.rank_by_use()).map(SessionInfo::key)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_policy_picks_among_its_own() {
        let mut stage = stage(MostRecent(Lru::new()));
        let own: Vec<_> = (0..4).map(|_| ready(&mut stage, client(1))).collect();
        touch(&own[1]);
        assert_eq!(victim(&mut stage, client(1)), Some(2));
    }
}
