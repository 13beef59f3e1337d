//! The guard: which session goes while places are asked for much faster than before (decision 29).
//!
//! It is no policy. It says among which sessions the policy picks, so that a surge costs the sessions that came with it
//! and those that were abandoned, and not the sessions at work.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::sample::SAMPLE;
use super::sessions::Registry;
use super::surge_sessions::{Rank, SurgeSessions};
use crate::context::ClientContext;
use crate::session::{Recorded, SessionKey};
use crate::timestamp::Timestamp;

/// The idle age from which a session looks abandoned if there was no victim before the surge: the default of the idle
/// timeout.
const UNKNOWN_IDLE: Duration = Duration::from_secs(30 * 60);

/// The idle age under which no session looks abandoned. A policy that evicts sessions which never called has young
/// victims, and clients at work pause for minutes.
const SHORTEST_IDLE: Duration = Duration::from_secs(10 * 60);

/// How long a handshake takes at most, of a client that finishes it.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How many of the last seconds' sessions join a surge, or are too old to, with each session that comes.
const JOINS: usize = 8;

impl<S: Recorded> Registry<S> {
    /// Switches the guard on or off. It sees what happens from when it is on.
    pub(crate) fn guard_surges(&mut self, on: bool) {
        match (on, self.surge.is_some()) {
            (true, false) => self.surge = Some(SurgeSessions::default()),
            (false, true) => self.surge = None,
            _ => {}
        }
    }

    /// Takes note of a place that is asked for: a creation that was admitted, or a restore.
    pub(crate) fn asked(&mut self, now: Instant) {
        if let Some(surge) = &mut self.surge {
            // Of a full microsecond, as the moments of sessions are.
            surge.asked(Timestamp::at(now).instant());
        }
    }

    /// Since when there is a surge. `None` if there is none, or the guard is off.
    pub(crate) fn surge_since(&mut self, now: Instant) -> Option<Instant> {
        self.surge.as_mut()?.since(now)
    }

    /// Takes note of a session that begins.
    pub(super) fn note_begin(&mut self, key: SessionKey, now: Instant) {
        let Self { surge: Some(surge), slots, .. } = self else { return };
        let Some(slot) = slots.get(key.index()) else { return };
        surge.begins(key, slot.record().entry.created, slots.len(), |key| {
            slots.get(key.index()).is_some_and(|slot| slot.is(key))
        });
        self.join_surge(now);
    }

    /// Has some of the last seconds' sessions join the surge, or leaves them out as too old.
    fn join_surge(&mut self, now: Instant) {
        for _ in 0..JOINS {
            let Some(key) = self.surge.as_mut().and_then(|surge| surge.pop_recent(now)) else { return };
            if self.is_listed(key) {
                let Self { surge: Some(surge), slots, .. } = self else { return };
                slots.get(key.index()).into_iter().for_each(|slot| surge.enlist(slot.record()));
            }
        }
    }

    /// Takes note of a victim of the usual choice.
    pub(super) fn note_victim(&mut self, session: &S, now: Instant) {
        if let Some(surge) = &mut self.surge {
            surge.note_victim(now.saturating_duration_since(session.record().entry.last_used().instant()));
        }
    }

    /// While there is a surge, begins the close of a session that looks abandoned, or else of one that came with the
    /// surge. `None` if there is no surge, or no such session may go.
    ///
    /// The first of these that there is:
    /// 1. One that has been idle for longer than victims used to be: the policy's choice, or else one that it picks among
    ///    those of [`SAMPLE`] drawn sessions, and of the idlest of earlier draws, that have been.
    /// 2. The oldest half-open one, if its handshake takes longer than [`HANDSHAKE`]. Below their share too, so that
    ///    handshakes which are never finished cost no newcomer at work its place.
    /// 3. One that was opened in the surge: without a principal, then with one.
    /// 4. One that was restored in the surge, and opened before.
    ///
    /// The text says why the session was chosen.
    pub(super) fn choose_in_surge(
        &mut self,
        now: Instant,
        newcomer: Option<&ClientContext>,
    ) -> Option<(Arc<S>, &'static str)> {
        self.surge_since(now)?;
        self.join_surge(now);
        let usual = self.surge.as_ref().and_then(SurgeSessions::usual_idle).unwrap_or(UNKNOWN_IDLE).max(SHORTEST_IDLE);
        let abandoned = now.checked_sub(usual).and_then(|since| self.choose_abandoned(now, since, newcomer));
        if let Some(session) = abandoned {
            return Some((session, "in a surge, one that looks abandoned,"));
        }
        let opened = now.checked_sub(HANDSHAKE).map(Timestamp::at);
        if let Some(session) = opened.and_then(|opened| self.oldest_opening(now, opened)) {
            return Some((session, "in a surge, oldest unfinished handshake"));
        }
        Rank::ALL.into_iter().find_map(|rank| {
            let session = self.take_drawn(now, |registry| {
                let Self { surge: Some(surge), random, .. } = registry else { return Vec::new() };
                surge.draw(rank, SAMPLE, random)
            })?;
            Some((session, rank.phrase()))
        })
    }

    /// Begins the close of a session that was not used since a moment, if the policy names one or one is drawn.
    fn choose_abandoned(&mut self, now: Instant, since: Instant, newcomer: Option<&ClientContext>) -> Option<Arc<S>> {
        let is_idle = |registry: &Self, key| {
            registry.get(key).is_some_and(|slot| slot.record().entry.last_used().instant() < since)
        };
        loop {
            match self.name(now, newcomer) {
                Ok(key) if is_idle(self, key) => {
                    if let Some(session) = self.claim_or_suspend(key, now) {
                        return Some(session);
                    }
                }
                Err(Some(fault)) => {
                    self.note_overruled(fault);
                    break;
                }
                Ok(_) | Err(None) => break,
            }
        }
        self.take_drawn(now, |registry| {
            let mut drawn = registry.draw_idlest();
            drawn.retain(|key| is_idle(registry, *key));
            drawn
        })
    }

    /// Draws sessions, and returns those of these and of the earlier draws in this surge that were not used for longest.
    ///
    /// A few draws see most sessions, so the ones that were abandoned are found though no order by last use is kept here.
    fn draw_idlest(&mut self) -> Vec<SessionKey> {
        let mut drawn = self.listed.draw(SAMPLE, &mut self.random);
        drawn.extend(self.surge.iter_mut().flat_map(SurgeSessions::take_idlest));
        drawn.retain(|key| self.is_listed(*key));
        drawn.sort_unstable();
        drawn.dedup();
        drawn.sort_by_cached_key(|key| self.get(*key).map(|slot| slot.record().entry.last_used()));
        drawn.truncate(SAMPLE);
        if let Some(surge) = &mut self.surge {
            surge.keep_idlest(drawn.clone());
        }
        drawn
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::eviction::{Candidates, EvictionPolicy, EvictionPolicyExt, Fifo, Lru, SessionInfo, victim_fn};
    use crate::registry::Choice;
    use crate::registry::test_registry::{TestRegistry, begin, call, looks, touch};
    use crate::session::{ActivityKind, Record, Software};
    use crate::time::{HOUR, MINUTE};

    const SECOND: Duration = Duration::from_secs(1);

    /// A guarded registry in which a place was asked for an hour ago.
    async fn guarded(policy: impl EvictionPolicy) -> TestRegistry {
        let mut stage = TestRegistry::new(policy);
        stage.registry.guard_surges(true);
        stage.registry.asked(Instant::now());
        advance(HOUR).await;
        stage
    }

    /// Asks for places until there is a surge.
    fn surges(stage: &mut TestRegistry) {
        let now = Instant::now();
        (0..10).for_each(|_| stage.registry.asked(now));
        assert!(stage.registry.surge_since(now).is_some());
    }

    fn number(record: &Record) -> u32 {
        record.entry.key.generation()
    }

    fn alice() -> ClientContext {
        ClientContext::new().with_principal("alice")
    }

    #[tokio::test(start_paused = true)]
    async fn a_surge_costs_what_came_with_it_and_of_that_first_what_has_no_principal() {
        let mut stage = guarded(Lru::new()).await;
        let [one, two] = stage.ready_many();
        advance(MINUTE).await;
        surges(&mut stage);
        let [three, four] = [stage.ready_of(alice()), stage.ready()];
        let back = stage.restored();
        touch(&back);
        advance(SECOND).await;
        // All of them are used later than what was there before.
        [&three, &four].into_iter().for_each(touch);
        let order = [&four, &three, &back, &one, &two].map(|record| number(record));
        assert_eq!(stage.victims(), order);
        assert_eq!(stage.registry.overruled, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn handshakes_that_are_never_finished_go_before_newcomers_at_work() {
        let mut stage = guarded(Lru::new()).await;
        surges(&mut stage);
        let [first, second] = [stage.opening(), stage.opening()];
        let at_work = stage.ready();
        advance(HANDSHAKE).await;
        let young = stage.opening();
        advance(Duration::from_micros(1)).await;
        touch(&at_work);
        assert_eq!([stage.victim(), stage.victim()], [&first, &second].map(|record| Some(number(record))));
        assert_eq!(stage.victims(), [number(&at_work)], "a handshake may take five seconds");
        drop(young);
    }

    #[tokio::test(start_paused = true)]
    async fn the_policy_orders_what_came_with_the_surge() {
        let mut stage = guarded(Lru::new()).await;
        surges(&mut stage);
        let sessions = stage.ready_many::<20>();
        sessions.iter().rev().for_each(touch);
        assert_eq!(stage.victims(), (1..=20).rev().collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_surge_the_policy_has_its_way() {
        let mut stage = guarded(Lru::new()).await;
        let [one, two, three] = stage.ready_many();
        [&two, &three, &one].into_iter().for_each(touch);
        assert_eq!(stage.victims(), [2, 3, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_idle_for_longer_than_victims_used_to_be_goes_first() {
        let mut stage = guarded(Lru::new()).await;
        let [one, _, two] = stage.ready_many();
        advance(1_000 * SECOND).await;
        [&one, &two].into_iter().for_each(touch);
        assert_eq!(stage.victim(), Some(2), "idle for 1,000 seconds, which is the mean from now on");
        advance(1_000 * SECOND).await;
        touch(&one);
        surges(&mut stage);
        let _three = stage.ready();
        assert_eq!(stage.victim(), Some(4), "no longer idle than that");
        advance(Duration::from_millis(1)).await;
        assert_eq!(stage.victims(), [3, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_victim_before_half_an_hour_is_long() {
        let mut stage = guarded(Lru::new()).await;
        let [one, _two] = stage.ready_many();
        advance(30 * MINUTE).await;
        touch(&one);
        surges(&mut stage);
        let three = stage.ready();
        advance(Duration::from_millis(1)).await;
        assert_eq!(stage.victims(), [2, number(&three), 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_of_some_minutes_is_not_long_though_victims_used_to_be_young() {
        let mut stage = guarded(Lru::new()).await;
        let [_gone, pauses] = stage.ready_many();
        advance(MINUTE).await;
        assert_eq!(stage.victim(), Some(1), "idle for a minute");
        touch(&pauses);
        advance(9 * MINUTE).await;
        surges(&mut stage);
        let newcomer = stage.ready();
        assert_eq!(stage.victims(), [number(&newcomer), number(&pauses)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_was_answered_late_has_as_long_for_its_next_step() {
        let mut stage = guarded(Lru::new()).await;
        surges(&mut stage);
        let opening = stage.opening();
        opening.software.get_or_init(|| Software::new("slow", "1"));
        let answering = begin(&opening, ActivityKind::Handshake);
        let newcomer = stage.ready();
        advance(HANDSHAKE + SECOND).await;
        drop(answering);
        advance(SECOND).await;
        assert_eq!(stage.victim(), Some(number(&newcomer)));
        advance(HANDSHAKE).await;
        assert_eq!(stage.victim(), Some(number(&opening)));
    }

    #[tokio::test(start_paused = true)]
    async fn if_the_policy_names_another_some_are_drawn_that_were_idle_for_long_enough() {
        let newest = |candidates: &Candidates<'_>| candidates.iter().map(|session| session.key()).max();
        let mut stage = guarded(victim_fn(newest)).await;
        let _first = stage.ready();
        advance(1_000 * SECOND).await;
        assert_eq!(stage.victim(), Some(1));
        let [_idle, busy, at_work] = stage.ready_many();
        advance(1_001 * SECOND).await;
        let _call = call(&busy);
        touch(&at_work);
        surges(&mut stage);
        advance(SECOND).await;
        let _newcomer = stage.ready();
        assert_eq!(stage.victims(), [2, 5, number(&at_work)], "the busy one stays");
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_of_the_last_five_seconds_before_it_was_noticed_came_with_it() {
        let mut stage = guarded(Lru::new()).await;
        let before = stage.ready();
        advance(Duration::from_millis(1)).await;
        let with_it: Vec<_> = (0..100).map(|_| stage.ready()).collect();
        advance(5 * SECOND).await;
        with_it.iter().for_each(touch);
        surges(&mut stage);
        // It was used longest ago of all.
        assert_eq!(stage.victims().last(), Some(&number(&before)));
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_surge_its_sessions_are_as_all_others() {
        let mut stage = guarded(Lru::new()).await;
        let old = stage.ready();
        surges(&mut stage);
        let newcomer = stage.ready();
        advance(10 * MINUTE).await;
        touch(&newcomer);
        assert_eq!(stage.registry.surge_since(Instant::now()), None);
        assert_eq!(stage.victim(), Some(number(&old)));
        surges(&mut stage);
        let [_other] = stage.ready_many();
        assert_eq!(stage.victims(), [3, 2], "it came with an earlier one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_guard_that_was_not_asked_for_does_nothing() {
        let mut stage = TestRegistry::new(Lru::new());
        let now = Instant::now();
        stage.registry.asked(now);
        (0..100).for_each(|_| stage.registry.asked(now + HOUR));
        assert_eq!(stage.registry.surge_since(now + HOUR), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_victim_in_a_surge_costs_no_more_when_nearly_all_sessions_are_busy() {
        const SESSIONS: usize = 5_000;
        const CHOICES: usize = 500;
        let mut stage = guarded(Lru::new()).await;
        let crowd: Vec<_> = (0..SESSIONS).map(|_| stage.ready()).collect();
        let mut calls: Vec<_> = crowd.iter().map(call).collect();
        let at_work = stage.ready();
        advance(MINUTE).await;
        surges(&mut stage);
        calls.extend((0..SESSIONS).map(|_| call(&stage.ready())));
        let count = looks(|| {
            for _ in 0..CHOICES {
                let newcomer = stage.ready();
                assert_eq!(stage.victim(), Some(number(&newcomer)));
            }
        });
        assert!(count < 3 * 2 * SESSIONS + 40 * CHOICES, "{count} looks");
        assert_eq!(stage.victim(), Some(number(&at_work)), "before them no session that was there goes");
        let count = looks(|| assert!(matches!(stage.choose(), Choice::NoVictim)));
        assert_eq!(count, 0, "all that are busy have left the order");
    }

    /// Panics when asked to pick, or names a session that it was not given.
    #[derive(Debug)]
    struct BadPick(bool, Fifo);

    impl EvictionPolicy for BadPick {
        fn on_insert(&mut self, session: &SessionInfo<'_>) {
            self.1.on_insert(session);
        }
        fn on_remove(&mut self, session: &SessionInfo<'_>) {
            self.1.on_remove(session);
        }
        fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
            self.1.victim(candidates)
        }
        fn pick(&mut self, _: &[SessionInfo<'_>], _: Instant) -> Option<SessionKey> {
            assert!(self.0, "of the test");
            Some(SessionKey::new(0, 1))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_policy_that_picks_none_of_the_sessions_or_panics_is_overruled_by_the_least_recently_used() {
        for names in [true, false] {
            let mut stage = guarded(BadPick(names, Fifo::new())).await;
            let _old = stage.ready();
            advance(MINUTE).await;
            surges(&mut stage);
            let [two, three] = stage.ready_many();
            [&three, &two].into_iter().for_each(touch);
            assert_eq!((stage.victim(), stage.registry.overruled), (Some(3), 1));
            assert_eq!((stage.victim(), stage.registry.overruled), (Some(2), 2));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tiers_pick_from_the_first_tier_that_has_any_of_the_sessions() {
        let unused = |session: &SessionInfo<'_>| session.uses() == 0;
        let mut stage = guarded(Lru::new().tiers([unused])).await;
        surges(&mut stage);
        let [one, two, three] = stage.ready_many();
        [&one, &three].into_iter().for_each(touch);
        // Used later than the others, but not by a request.
        drop(begin(&two, ActivityKind::Message));
        assert_eq!(stage.victims(), [2, 1, 3]);
    }

    /// Users call every minute; newcomers come each second, call once and leave their sessions behind.
    async fn flood(guard: bool) -> usize {
        const USERS: usize = 50;
        let mut stage = if guard { guarded(Lru::new()).await } else { TestRegistry::new(Lru::new()) };
        let users: Vec<_> = (0..USERS).map(|_| stage.ready()).collect();
        advance(MINUTE).await;
        let mut victims = Vec::new();
        for second in 0..3 * 60 {
            users.iter().skip(second % 60).step_by(60).for_each(|user| drop(begin(user, ActivityKind::Call)));
            stage.registry.asked(Instant::now());
            while stage.registry.len() >= 2 * USERS {
                victims.extend(stage.victim());
            }
            touch(&stage.ready());
            advance(SECOND).await;
        }
        users.iter().filter(|user| victims.contains(&number(user))).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_costs_no_session_at_work_its_place() {
        assert_eq!(flood(true).await, 0);
        assert!(flood(false).await > 0);
    }
}
