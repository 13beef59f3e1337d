//! The most sessions that a client may have: at the limit its least recently used one goes.

use std::sync::Arc;

use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;

use super::client_id::ClientId;
use super::clients::Clients;
use super::rules::Verdict;
use super::sessions::Registry;
use crate::session::{Phase, Record, Recorded, SessionKey};
use crate::timestamp::Timestamp;

/// The most sessions of a client that are looked at. Of a client that has more, as many are drawn.
const LOOKS: usize = 128;

/// What came of asking for one more session of a client.
#[derive(Debug)]
pub(crate) enum Allowed<S> {
    /// The client is below its limit.
    Yes,
    /// This session of the client has begun to close for it. The caller sets the reason under the same lock.
    Instead(Arc<S>),
    /// The client is at its limit, and none of its sessions may go.
    No,
}

impl<S: Recorded> Registry<S> {
    /// Sets how many sessions a client may have. `None`: any number. The sessions there are count on; if clients are told
    /// apart in another way, none does until it is [owned](Registry::owned_too) again.
    pub(crate) fn limit_clients(&mut self, sessions: Option<usize>, anew: bool) {
        Clients::set(&mut self.max, sessions, anew);
    }

    /// Begins the close of one more session of a client, if it has more than its limit and that session may go.
    pub(crate) fn surplus_of(&mut self, client: ClientId, now: Instant) -> Option<Arc<S>> {
        let has_more = self.max.as_ref().is_some_and(|max| max.held(client) > max.limit);
        if has_more { self.least_recently_used_of(client, Timestamp::at(now).instant()) } else { None }
    }

    /// Counts one more session of a client, if it is below its limit or one of its sessions may go instead. The caller
    /// counts it out by [`allowed_came`](Self::allowed_came).
    pub(crate) fn allow(&mut self, client: ClientId, now: Instant) -> Allowed<S> {
        if self.allow_below(client) {
            return Allowed::Yes;
        }
        let victim = self.least_recently_used_of(client, Timestamp::at(now).instant());
        match victim {
            Some(victim) => {
                self.max.iter_mut().for_each(|max| max.comes(client));
                Allowed::Instead(victim)
            }
            None => Allowed::No,
        }
    }

    /// Counts one more session of a client, if it is below its limit.
    pub(crate) fn allow_below(&mut self, client: ClientId) -> bool {
        let Some(max) = &mut self.max else { return true };
        let allowed = max.held(client) < max.limit;
        if allowed {
            max.comes(client);
        }
        allowed
    }

    /// Lets a newcomer in that was allowed, unless sessions of its client have to be gone before.
    pub(crate) fn allowed_enters(&mut self, client: ClientId) -> bool {
        self.max.as_mut().is_none_or(|max| max.enters(client))
    }

    /// Counts a newcomer out that was allowed. `entered`: whether it was let in.
    pub(crate) fn allowed_came(&mut self, client: ClientId, entered: bool) {
        self.max.iter_mut().for_each(|max| max.came(client, entered));
    }

    /// Fires when a client has fewer sessions or newcomers than now.
    pub(crate) fn has_fewer(&mut self, client: ClientId) -> Option<OwnedNotified> {
        self.max.as_mut().map(|max| max.falls(client))
    }

    /// Begins the close of the session of a client that was used longest ago, of those that may go: exactly, if it has no
    /// more than [`LOOKS`], and else of as many that are drawn.
    ///
    /// Here a half-open session may go too, unless it is answering `initialize`, was so less than 100 ms ago, or is
    /// protected: a client that leaves its handshakes unfinished must not lock itself out.
    fn least_recently_used_of(&mut self, client: ClientId, now: Instant) -> Option<Arc<S>> {
        self.hear(now);
        let Self { max: Some(max), random, .. } = self else { return None };
        let drawn = max.groups.draw(client, LOOKS, random);
        let mut may_go: Vec<_> =
            drawn.into_iter().filter_map(|key| Some((self.may_make_room(key, now)?, key))).collect();
        may_go.sort_unstable();
        may_go.into_iter().find_map(|(_, key)| self.claim(key, now).ok().or_else(|| self.claim_half_open(key, now)))
    }

    /// When a session was used last, if it may go for another of its client. If it may not, it is watched.
    fn may_make_room(&self, key: SessionKey, now: Instant) -> Option<Timestamp> {
        let record = self.get(key)?.record();
        let may_go = self.rules.look(record, now).1 == Verdict::MayGo || self.is_left_half_open(record, now);
        may_go.then(|| record.entry.last_used())
    }

    /// Whether a session is half-open and its handshake does not go on.
    fn is_left_half_open(&self, record: &Record, now: Instant) -> bool {
        let seen = record.entry.state.read();
        seen.phase() == Phase::Opening
            && !record.restored
            && seen.active() == 0
            && record.next_step_until().is_none_or(|until| until <= now)
            && !self.rules.protects(record)
    }

    /// Begins the close of a session that is half-open and whose handshake does not go on.
    fn claim_half_open(&mut self, key: SessionKey, now: Instant) -> Option<Arc<S>> {
        let session = Arc::clone(&self.get(key)?.session);
        let record = session.record();
        let seen = record.entry.state.read();
        if !self.is_left_half_open(record, now) || record.entry.state.close_if(seen).is_err() {
            return None;
        }
        record.left_opening();
        self.retire(key);
        Some(session)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::super::client_id::ClientIds;
    use super::*;
    use crate::eviction::Fifo;
    use crate::registry::Rules;
    use crate::registry::test_registry::{TestRegistry, begin, call, lenient, touch};
    use crate::session::ActivityKind;

    const ALICE: ClientId = ClientId::of(1);
    const BOB: ClientId = ClientId::of(2);

    fn stage(max: usize, rules: Rules) -> TestRegistry {
        let mut stage = TestRegistry::with(Fifo::new(), rules, usize::MAX);
        stage.registry.limit_clients(Some(max), false);
        stage
    }

    fn own(stage: &mut TestRegistry, record: &Arc<Record>, client: ClientId) {
        stage.registry.owned_by(record.entry.key, ClientIds { share: None, max: Some(client) });
    }

    fn ready<const N: usize>(stage: &mut TestRegistry, client: ClientId) -> [Arc<Record>; N] {
        let records = stage.ready_many::<N>();
        records.iter().for_each(|record| own(stage, record, client));
        records
    }

    /// The session that makes room for another of its client, which comes and does not stay.
    fn instead(stage: &mut TestRegistry, client: ClientId) -> Option<u32> {
        let Allowed::Instead(record) = stage.registry.allow(client, Instant::now()) else { return None };
        stage.registry.remove(record.entry.key).expect("a victim is in the registry");
        stage.registry.allowed_came(client, false);
        Some(record.entry.key.generation())
    }

    #[tokio::test(start_paused = true)]
    async fn at_its_limit_the_least_recently_used_session_of_the_client_makes_room() {
        let mut stage = stage(3, lenient());
        let [_older] = ready(&mut stage, BOB);
        let [one, ..] = ready::<3>(&mut stage, ALICE);
        touch(&one);
        assert!(matches!(stage.registry.allow(BOB, Instant::now()), Allowed::Yes));
        assert_eq!(instead(&mut stage, ALICE), Some(3));
        assert!(matches!(stage.registry.allow(ALICE, Instant::now()), Allowed::Yes), "two are left");
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_that_have_ended_do_not_stand_in_for_those_that_may_go() {
        let mut stage = stage(2, lenient());
        let mut last = ready::<2>(&mut stage, ALICE).map(|record| record.entry.key.generation());
        for _ in 0..10 * LOOKS {
            assert_eq!(instead(&mut stage, ALICE), Some(last[0]));
            let [next] = ready(&mut stage, ALICE);
            last = [last[1], next.entry.key.generation()];
        }
    }

    #[tokio::test(start_paused = true)]
    async fn busy_protected_and_lately_used_sessions_make_no_room() {
        let rules = Rules {
            min_idle: Duration::from_secs(10),
            protect: Some(Arc::new(|session| session.key().generation() == 2)),
            ..lenient()
        };
        let mut stage = stage(3, rules);
        let [one, _two, three] = ready(&mut stage, ALICE);
        let busy = call(&one);
        advance(Duration::from_secs(10)).await;
        touch(&three);
        assert!(matches!(stage.registry.allow(ALICE, Instant::now()), Allowed::No));
        advance(Duration::from_secs(10)).await;
        assert_eq!(instead(&mut stage, ALICE), Some(3));
        let [four] = ready(&mut stage, ALICE);
        let _busy_too = call(&four);
        assert_eq!(instead(&mut stage, ALICE), None);
        drop(busy);
        advance(Duration::from_secs(10)).await;
        assert_eq!(instead(&mut stage, ALICE), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_that_does_not_go_on_makes_room_and_one_that_does_not_yet() {
        let mut stage = stage(2, lenient());
        let [old, new] = [stage.opening(), stage.opening()];
        [&old, &new].into_iter().for_each(|record| own(&mut stage, record, ALICE));
        let answering = begin(&old, ActivityKind::Handshake);
        new.software.set(crate::session::Software::new("any", "1")).unwrap();
        assert_eq!(instead(&mut stage, ALICE), None, "one answers, the other has just answered");
        advance(Duration::from_millis(100)).await;
        assert_eq!(instead(&mut stage, ALICE), Some(2));
        drop(answering);
        let [three] = ready(&mut stage, ALICE);
        touch(&three);
        assert_eq!(instead(&mut stage, ALICE), Some(1), "it was used before the other");
        assert_eq!(stage.signals.opening.load(std::sync::atomic::Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn newcomers_on_their_way_count() {
        let mut stage = stage(2, lenient());
        let [_one] = ready(&mut stage, ALICE);
        assert!(matches!(stage.registry.allow(ALICE, Instant::now()), Allowed::Yes));
        assert!(stage.registry.allowed_enters(ALICE));
        let Allowed::Instead(victim) = stage.registry.allow(ALICE, Instant::now()) else { panic!("one may go") };
        assert!(!stage.registry.allowed_enters(ALICE), "the other is still closing");
        assert!(matches!(stage.registry.allow(ALICE, Instant::now()), Allowed::No), "none is a session yet");
        stage.registry.remove(victim.entry.key);
        assert!(stage.registry.allowed_enters(ALICE));
        stage.registry.allowed_came(ALICE, true);
        assert!(stage.registry.allow_below(ALICE));
        assert!(!stage.registry.allow_below(ALICE));
    }
}
