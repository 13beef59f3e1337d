//! An order without learning: what looks abandoned goes first.

use std::time::Duration;

use tokio::time::Instant;

use super::ranking::Ranking;
use super::{Candidates, EvictionPolicy, SessionInfo};
use crate::session::{SessionKey, Stream};
use crate::timestamp::Timestamp;

/// A stream counts as lost after this time. Proxies cut streams every few minutes, and clients then come back within
/// seconds.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// A session that never called is spared for this time after its last use, so that no newcomer goes before its first
/// call.
const UNCALLED_AFTER: Duration = Duration::from_secs(10);

/// One session in this number may be one that never called, before those go first.
const UNCALLED_SHARE: usize = 10;

/// Evicts sessions that look abandoned first, and then the least recently used.
///
/// The order:
/// 1. sessions whose stream was lost 30 seconds ago or longer;
/// 2. sessions that never [called](SessionInfo::calls) and were not used for 10 seconds, while such sessions are more
///    than a tenth of all;
/// 3. the other sessions.
///
/// Within each of the three the least recently used goes first. An open stream is no sign of life, so it protects
/// nothing: in the field most sessions that only listen are never used again. Under the tenth, sessions that never
/// called go by their last use as all others, because some clients connect long before their first call.
///
/// Cost: O(log n) per insert, remove and victim; a use costs at most one repair later, and a first call and a stream
/// that opens or closes one step each.
///
/// ```
/// use rmcp_session_policy::eviction::AbandonedFirst;
/// use rmcp_session_policy::testing::eviction::{Event::*, victims};
/// use std::time::Duration;
///
/// // Two sessions never call, which is more than a tenth; the third called and is idle for longer.
/// let history = [Open, Use(1), Pass(Duration::from_secs(60)), Open, Open, Pass(Duration::from_secs(10)), Evict, Evict, Evict];
/// assert_eq!(victims(AbandonedFirst::new(), history), [2, 3, 1]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct AbandonedFirst {
    /// Every session, by its last use, without the suspended ones.
    all: Ranking<u64>,
    /// Sessions without an open stream that had one.
    lost: Waiting,
    /// Sessions that never called.
    uncalled: Waiting,
    /// How many sessions there are, the suspended ones included.
    sessions: usize,
    /// Why the last session was named.
    why: Why,
}

/// Which of the three orders a session went first in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    Lost,
    Uncalled,
    #[default]
    Unused,
}

impl AbandonedFirst {
    /// Creates the policy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a session into the orders that it belongs to. Time alone moves it on within them; any other change is a
    /// milestone, after which it is put in anew.
    fn enter(&mut self, session: &SessionInfo<'_>) {
        // Before the facts are read: a change after this tells of itself.
        session.watch_milestones();
        self.all.insert(session.key(), session.rank_by_use());
        if let Stream::Lost(at) = session.stream() {
            self.lost.insert(session.key(), Timestamp::at(at).0);
        }
        if session.calls() == 0 {
            self.uncalled.insert(session.key(), session.rank_by_use());
        }
    }

    fn leave(&mut self, key: SessionKey) {
        self.all.remove(key);
        self.lost.remove(key);
        self.uncalled.remove(key);
    }

    /// The first of those that never called, while they are more than their share.
    fn first_uncalled(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        let since = candidates.now().checked_sub(UNCALLED_AFTER)?;
        self.uncalled.ripen(candidates, since, |session, _| session.rank_by_use());
        if self.uncalled.ripe.len() * UNCALLED_SHARE <= self.sessions {
            return None;
        }
        // One that was used since is young again, and goes back when it comes to the front.
        while let Some((used, key)) = self.uncalled.first(candidates) {
            if used < end_of(since) {
                return Some(key);
            }
            self.uncalled.insert(key, used);
        }
        None
    }

    /// The first of those whose stream is lost for long enough.
    fn first_lost(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        let since = candidates.now().checked_sub(LOST_AFTER)?;
        self.lost.ripen(candidates, since, |_, lost| lost);
        self.lost.first(candidates).map(|(_, key)| key)
    }
}

impl EvictionPolicy for AbandonedFirst {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.sessions += 1;
        self.enter(session);
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        self.sessions -= 1;
        self.leave(session.key());
    }

    fn on_suspend(&mut self, session: &SessionInfo<'_>) {
        self.leave(session.key());
    }

    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        self.enter(session);
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        let lost = self.first_lost(candidates).map(|key| (Why::Lost, key));
        let first = lost.or_else(|| self.first_uncalled(candidates).map(|key| (Why::Uncalled, key)));
        let first = first.or_else(|| {
            let unused = self.all.first(candidates, |session, _| session.rank_by_use());
            unused.map(|(_, key)| (Why::Unused, key))
        });
        let (why, key) = first?;
        self.why = why;
        Some(key)
    }

    fn phrase(&self) -> &'static str {
        match self.why {
            Why::Lost => "least recently used of those that lost their stream,",
            Why::Uncalled => "least recently used of those that never called,",
            Why::Unused => "least recently used",
        }
    }

    /// The same order among some.
    fn pick(&mut self, among: &[SessionInfo<'_>], now: Instant) -> Option<SessionKey> {
        let for_as_long = |since: Instant, time| now.saturating_duration_since(since) >= time;
        let is_lost =
            |session: &SessionInfo<'_>| matches!(session.stream(), Stream::Lost(at) if for_as_long(at, LOST_AFTER));
        let is_uncalled =
            |session: &SessionInfo<'_>| session.calls() == 0 && for_as_long(session.last_used(), UNCALLED_AFTER);
        let are_many = among.iter().filter(|session| is_uncalled(session)).count() * UNCALLED_SHARE > among.len();
        let rank = |session: &SessionInfo<'_>| match () {
            () if is_lost(session) => Why::Lost,
            () if are_many && is_uncalled(session) => Why::Uncalled,
            () => Why::Unused,
        };
        let first = among.iter().min_by_key(|session| (rank(session), session.rank_by_use()))?;
        self.why = rank(first);
        Some(first.key())
    }
}

/// The first rank after what happened in the microsecond of a moment.
fn end_of(moment: Instant) -> u64 {
    Timestamp::at(moment + Duration::from_micros(1)).0
}

/// Sessions to which something happened at a moment, and which count once that moment is long enough ago.
#[derive(Clone, Debug, Default)]
struct Waiting {
    /// Those whose moment may be too young, by that moment.
    young: Ranking<u64>,
    /// The others, by their last use.
    ripe: Ranking<u64>,
}

impl Waiting {
    fn insert(&mut self, key: SessionKey, moment: u64) {
        self.ripe.remove(key);
        self.young.insert(key, moment);
    }

    fn remove(&mut self, key: SessionKey) {
        if !self.young.remove(key) {
            self.ripe.remove(key);
        }
    }

    /// Moves the sessions on whose moment is at `since` or before. `moment` returns the moment of a session, given the one
    /// on record.
    fn ripen(&mut self, candidates: &Candidates<'_>, since: Instant, moment: impl Fn(&SessionInfo<'_>, u64) -> u64) {
        while let Some((_, key)) = self.young.first(candidates, &moment).filter(|(at, _)| *at < end_of(since)) {
            self.young.remove(key);
            if let Some(session) = candidates.get(key) {
                self.ripe.insert(key, session.rank_by_use());
            }
        }
    }

    /// The least recently used of those that count, and its last use.
    fn first(&mut self, candidates: &Candidates<'_>) -> Option<(u64, SessionKey)> {
        self.ripe.first(candidates, |session, _| session.rank_by_use())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use tokio::time::advance;

    use super::*;
    use crate::registry::test_registry::{TestRegistry, begin, call, looks, touch};
    use crate::session::{ActivityKind, Record};

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn stage() -> TestRegistry {
        TestRegistry::new(AbandonedFirst::new())
    }

    /// Opens a stream that is lost at once.
    fn lose_stream(record: &Arc<Record>) {
        record.stream_opened();
        record.stream_closed(Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_lost_for_thirty_seconds_goes_before_all_others() {
        let mut stage = stage();
        let [one, two, three] = stage.ready_many();
        [&one, &two, &three].into_iter().for_each(touch);
        lose_stream(&three);
        advance(secs(30) - Duration::from_micros(1)).await;
        assert_eq!(stage.victim(), Some(1), "not yet");
        advance(Duration::from_micros(1)).await;
        assert_eq!(stage.victims(), [3, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_those_that_lost_their_stream_the_least_recently_used_goes() {
        let mut stage = stage();
        let [one, two, three, _] = stage.ready_many();
        [&one, &two, &three].into_iter().for_each(lose_stream);
        [&two, &one, &three].into_iter().for_each(touch);
        advance(secs(30)).await;
        assert_eq!(stage.victims(), [2, 1, 3, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn among_some_it_picks_in_the_same_order() {
        let mut stage = stage();
        let regulars: [_; 9] = stage.ready_many();
        regulars.iter().for_each(touch);
        let [lost, uncalled] = stage.ready_many();
        lose_stream(&lost);
        touch(&lost);
        advance(secs(30)).await;
        drop(begin(&uncalled, ActivityKind::List));
        let pick = |among: &[&Arc<Record>]| {
            let among: Vec<_> = among.iter().map(|record| SessionInfo::of(record)).collect();
            AbandonedFirst::new().pick(&among, Instant::now()).map(SessionKey::generation)
        };
        let [first, .., last] = &regulars;
        assert_eq!(pick(&[last, &uncalled, &lost, first]), Some(10), "its stream is lost for long enough");
        assert_eq!(pick(&[last, &uncalled, first]), Some(1), "it listed just now");
        advance(secs(10)).await;
        assert_eq!(pick(&[last, &uncalled, first]), Some(11));
        let all: Vec<_> = regulars.iter().chain([&uncalled]).collect();
        assert_eq!(pick(&all), Some(1), "one in ten is not more than a tenth");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_listens_again_is_not_lost() {
        let mut stage = stage();
        let [one, two] = stage.ready_many();
        [&one, &two].into_iter().for_each(touch);
        lose_stream(&two);
        advance(secs(40)).await;
        two.stream_opened();
        assert_eq!(stage.victim(), Some(1));
        two.stream_closed(Instant::now());
        let [three] = stage.ready_many();
        touch(&three);
        advance(secs(30)).await;
        assert_eq!(stage.victims(), [2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_stream_protects_nothing() {
        let mut stage = stage();
        let [one, two] = stage.ready_many();
        one.stream_opened();
        [&one, &two].into_iter().for_each(touch);
        assert_eq!(stage.victims(), [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_a_tenth_that_never_called_go_before_those_that_did() {
        let mut stage = stage();
        let regulars: Vec<_> = (0..18).map(|_| stage.ready()).collect();
        regulars.iter().for_each(touch);
        stage.ready_many::<3>();
        advance(secs(10)).await;
        assert_eq!(stage.victim(), Some(19), "3 of 21");
        assert_eq!(stage.victim(), Some(1), "2 of 20 are a tenth");
        assert_eq!(stage.victim(), Some(20), "2 of 19 are more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_is_spared_for_ten_seconds_after_its_last_use() {
        let mut stage = stage();
        let [one, two] = stage.ready_many();
        touch(&one);
        advance(secs(6)).await;
        drop(begin(&two, ActivityKind::List));
        advance(secs(10) - Duration::from_micros(1)).await;
        assert_eq!(stage.victim(), Some(1));
        let [three] = stage.ready_many();
        touch(&three);
        advance(Duration::from_micros(1)).await;
        assert_eq!(stage.victims(), [2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_old_enough_and_is_used_again_is_spared_again() {
        let mut stage = stage();
        let [one, two, _, _] = stage.ready_many();
        [&one, &two].into_iter().for_each(touch);
        advance(secs(10)).await;
        let four = stage.registry.iter().find(|record| record.entry.key.generation() == 4).cloned().unwrap();
        assert_eq!(stage.victim(), Some(3));
        drop(begin(&four, ActivityKind::List));
        assert_eq!(stage.victims(), [1, 2, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_call_takes_a_session_from_those_that_never_called() {
        let mut stage = stage();
        let [one, _] = stage.ready_many();
        advance(secs(10)).await;
        assert_eq!(stage.victim(), Some(1));
        let [three, four] = stage.ready_many();
        touch(&three);
        advance(secs(10)).await;
        touch(&four);
        advance(secs(10)).await;
        drop(one);
        assert_eq!(stage.victims(), [2, 3, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_session_comes_back_to_the_orders_that_it_was_in() {
        let mut stage = stage();
        let [one, two] = stage.ready_many();
        touch(&two);
        advance(secs(10)).await;
        let busy = begin(&one, ActivityKind::List).unwrap();
        assert_eq!(stage.victim(), Some(2));
        assert_eq!(stage.victim(), None);
        drop(busy);
        let [three] = stage.ready_many();
        touch(&three);
        assert_eq!(stage.victims(), [1, 3], "by its last use, until it is idle for ten seconds");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_under_way_is_a_call() {
        let mut stage = stage();
        let [one, two] = stage.ready_many();
        touch(&two);
        let long = call(&one);
        advance(secs(60)).await;
        assert_eq!(stage.victim(), Some(2));
        drop(long);
        assert_eq!(stage.victim(), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_cost_the_policy_nothing_after_the_first() {
        let mut stage = stage();
        let crowd: Vec<_> = (0..1_000).map(|_| stage.ready()).collect();
        crowd.iter().for_each(touch);
        stage.victim();
        crowd.iter().skip(1).for_each(touch);
        assert_eq!(stage.signals.changed.len(), 0);
        let count = looks(|| {
            stage.victim();
        });
        assert!(count < 2_010, "{count} looks: one repair for each session that was used");
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Open,
        Call,
        /// Begins a call, or ends the one under way.
        Toggle,
        /// Opens a stream, or loses the one that is open.
        Stream,
        Evict,
        Pass(u64),
    }

    fn history() -> impl Strategy<Value = Vec<(Step, prop::sample::Index)>> {
        let step = prop_oneof![
            4 => Just(Step::Open),
            3 => Just(Step::Call),
            2 => Just(Step::Toggle),
            3 => Just(Step::Stream),
            4 => Just(Step::Evict),
            3 => (0..20_u64).prop_map(Step::Pass),
        ];
        vec((step, any::<prop::sample::Index>()), 1..150)
    }

    struct Client {
        record: Arc<Record>,
        call: Option<crate::session::Activity<Record>>,
    }

    /// The victim that the documentation names, by a look at every session.
    fn expected(clients: &[Client], now: Instant) -> Option<u32> {
        let info = |client: &Client| SessionInfo::of(&client.record).rank_by_use();
        let idle = || clients.iter().filter(|client| client.call.is_none());
        let lost = |client: &&Client| matches!(SessionInfo::of(&client.record).stream(), Stream::Lost(at) if at + LOST_AFTER <= now);
        let uncalled = |client: &&Client| {
            let session = SessionInfo::of(&client.record);
            session.calls() == 0 && session.last_used() + UNCALLED_AFTER <= now
        };
        let share = idle().filter(uncalled).count() * 10 > clients.len();
        let first = idle().filter(lost).min_by_key(|client| info(client));
        let first = first.or_else(|| idle().filter(uncalled).filter(|_| share).min_by_key(|client| info(client)));
        let first = first.or_else(|| idle().min_by_key(|client| info(client)));
        first.map(|client| client.record.entry.key.generation())
    }

    async fn agrees(history: Vec<(Step, prop::sample::Index)>) {
        let mut stage = stage();
        let mut clients: Vec<Client> = Vec::new();
        for (step, pick) in history {
            if clients.is_empty() && !matches!(step, Step::Pass(_)) {
                clients.push(Client { record: stage.ready(), call: None });
            }
            let nth = if clients.is_empty() { 0 } else { pick.index(clients.len()) };
            match step {
                Step::Open => clients.push(Client { record: stage.ready(), call: None }),
                Step::Call => touch(&clients[nth].record),
                Step::Toggle => {
                    let client = &mut clients[nth];
                    client.call = if client.call.is_none() { Some(call(&client.record)) } else { None };
                }
                Step::Stream if clients[nth].record.open_streams() == 0 => clients[nth].record.stream_opened(),
                Step::Stream => clients[nth].record.stream_closed(Instant::now()),
                Step::Pass(seconds) => advance(secs(seconds)).await,
                Step::Evict => {
                    let expected = expected(&clients, Instant::now());
                    assert_eq!(stage.victim(), expected);
                    clients.retain(|client| Some(client.record.entry.key.generation()) != expected);
                }
            }
        }
        assert_eq!(stage.registry.overruled, 0);
    }

    proptest! {
        #[test]
        fn it_names_the_one_that_a_look_at_all_sessions_finds(history in history()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(agrees(history));
        }
    }
}
