//! Each end and each rejection is explained, in the history and of the session that it is about.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, SystemTime};

use crate::parked::{park, parked, ready, scripted};
use crate::scripted::{Act, Call, initialize, list_tools};
use crate::session::{Driver, settle};
use crate::web::{Server, call, initialize as initialize_body};
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::admission::{
    AdmissionPolicyExt, Arrival, ArrivalKind, Concurrent, Permit, Rejection, Retry, SlidingWindow, TokenBucket,
    admit_fn,
};
use rmcp_session_policy::eviction::{EvictionPolicy, EvictionPolicyExt, Lru, SessionInfo, victim_fn};
use rmcp_session_policy::{
    ClientContext, CloseReason, Explained, Explanation, Fingerprint, HOUR, MINUTE, PolicySessionManager,
    PolicySessionManagerBuilder, RejectionReason, SECOND, SessionEvent, SessionObserver,
};
use serde_json::json;
use tokio::time::{advance, sleep, timeout};

type Local = PolicySessionManagerBuilder<LocalSessionManager>;

fn local(configure: impl FnOnce(Local) -> Local) -> Arc<PolicySessionManager<LocalSessionManager>> {
    Arc::new(configure(PolicySessionManager::local().eviction(Lru::new())).build().expect("valid"))
}

fn at(address: [u8; 4]) -> ClientContext {
    ClientContext::new().with_peer(address.into())
}

fn sentences(explanations: &[Explanation]) -> Vec<String> {
    explanations.iter().map(Explanation::for_operator).collect()
}

#[tokio::test(start_paused = true)]
async fn an_eviction_says_why_the_session_was_chosen_and_for_what_client() {
    let sessions = local(|b| b.max_sessions(2).idle_timeout(None));
    let before = SystemTime::now();
    let alice = at([192, 0, 2, 7]).scope(Driver::ready(&sessions)).await.expect("room");
    sleep(MINUTE).await;
    let _bob = Driver::ready(&sessions).await.expect("room");
    sleep(41 * MINUTE).await;
    let _carol = at([10, 1, 2, 3]).scope(Driver::ready(&sessions)).await.expect("room");
    let [why] = &sessions.explain(Fingerprint::of(&alice.id))[..] else { panic!("one end") };
    let sentence = "evicted: least recently used of 2 sessions, idle for 42 min, to make room for 10.1.2.0/24";
    assert_eq!(why.for_operator(), sentence);
    assert_eq!(why.for_client(), "the server was full, and the session had not been used for 42 min; try again");
    assert_eq!((why.what(), why.times()), (Explained::Ended(CloseReason::Evicted), 1));
    assert_eq!(why.fingerprint(), Some(Fingerprint::of(&alice.id)));
    assert_eq!(why.client().as_deref(), Some("192.0.2.0/24"), "the client that had the session");
    assert!((before..=SystemTime::now()).contains(&why.when()));
    assert!(!format!("{why:?}").contains(&*alice.id), "ids are credentials");
}

/// Evicts one session for another, and returns the words between "evicted: " and "of".
async fn phrase(policy: impl EvictionPolicy) -> String {
    let (_inner, sessions) = scripted(|b| b.max_sessions(1).eviction(policy));
    let _one = ready(&sessions).await;
    let _two = ready(&sessions).await;
    let sentence = sessions.recent(1)[0].for_operator();
    let (words, _) = sentence.split_once(" of 1 session").expect("an eviction");
    words.strip_prefix("evicted: ").expect("an eviction").to_owned()
}

#[tokio::test(start_paused = true)]
async fn each_policy_and_each_wrapper_says_its_phrase() {
    use rmcp_session_policy::eviction::{AbandonedFirst, Fifo, Lfu, Prospects, Random, Scored};
    let is_any = |_: &SessionInfo<'_>| true;
    let is_none = |_: &SessionInfo<'_>| false;
    assert_eq!(phrase(Lru::new()).await, "least recently used");
    assert_eq!(phrase(Lfu::new()).await, "least used");
    assert_eq!(phrase(Fifo::new()).await, "oldest");
    assert_eq!(phrase(Random::new()).await, "drawn at random");
    assert_eq!(phrase(Scored::sample(8, |_: &SessionInfo<'_>, _| 1.0)).await, "lowest score");
    assert!(["least recently used", "least likely to return"].contains(&&*phrase(Prospects::new()).await));
    assert_eq!(phrase(AbandonedFirst::new()).await, "least recently used");
    let first =
        |candidates: &rmcp_session_policy::eviction::Candidates<'_>| candidates.iter().next().map(|it| it.key());
    assert_eq!(phrase(victim_fn(first)).await, "chosen by the eviction policy,");
    // Of the tier in which the session was.
    assert_eq!(phrase(Lru::new().only(is_any)).await, "least recently used");
    assert_eq!(phrase(Lru::new().only(is_none)).await, "oldest");
    assert_eq!(phrase(Lfu::new().tiers([is_none])).await, "least used");
    let boxed: Box<dyn EvictionPolicy> = Box::new(Lfu::new());
    assert_eq!(phrase(boxed).await, "least used");
    let none = "oldest, as the eviction policy named none that may go,";
    assert_eq!(phrase(victim_fn(|_: &rmcp_session_policy::eviction::Candidates<'_>| None)).await, none);
}

#[tokio::test(start_paused = true)]
async fn an_eviction_that_no_policy_decided_says_what_did() {
    let evicted = |sessions: &PolicySessionManager<_>| {
        let all = sessions.recent(100);
        let ends = all.iter().filter(|entry| entry.what() == Explained::Ended(CloseReason::Evicted));
        ends.map(Explanation::for_operator).collect::<Vec<_>>()
    };
    // Half-open sessions at their share.
    let (_inner, sessions) = scripted(|b| b.max_sessions(2).max_opening(1));
    let _ready = ready(&sessions).await;
    let _opening = sessions.create_session().await.expect("room");
    let _newcomer = sessions.create_session().await.expect("room");
    let half_open =
        "evicted: oldest unfinished handshake of 2 sessions, idle for 0 ms, to make room for an unknown client";
    assert_eq!(evicted(&sessions), [half_open]);

    // The share of a client.
    let (_inner, sessions) = scripted(|b| b.max_sessions(4).per_client_share(0.5).max_opening(4));
    let alice = || ClientContext::new().with_principal("alice");
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(alice().scope(ready(&sessions)).await);
    }
    open.push(alice().scope(ready(&sessions)).await);
    let share = "evicted: one of a client that holds its share of the places, of 4 sessions, idle for 0 ms, \
                 to make room for \"alice\"";
    assert_eq!(evicted(&sessions), [share]);

    // The limit of a client.
    let (_inner, sessions) = scripted(|b| b.per_client_max(2));
    let _open = [alice().scope(ready(&sessions)).await, alice().scope(ready(&sessions)).await];
    sleep(SECOND).await;
    let _another = alice().scope(ready(&sessions)).await;
    let own =
        "evicted: least recently used of 2 sessions of its client, idle for 1 s, to make room for another of them";
    assert_eq!(evicted(&sessions), [own]);
    assert_eq!(sessions.recent(1)[0].for_client(), "another session of the same client needed its place; try again");

    // The guard.
    let (_inner, sessions) = scripted(|b| b.max_sessions(5).idle_timeout(None));
    let mut open = vec![ready(&sessions).await];
    advance(2 * HOUR).await;
    for _ in 0..20 {
        open.push(ready(&sessions).await);
        advance(Duration::from_millis(200)).await;
    }
    let came = "evicted: in a surge, one that came with it without a principal, of 5 sessions, ";
    assert!(evicted(&sessions)[0].starts_with(came), "{:?}", evicted(&sessions));

    // A restore.
    let (_inner, sessions) = scripted(|b| b.max_sessions(1).eviction(Lru::new()));
    let id = parked(&sessions).await;
    let _other = ready(&sessions).await;
    at([10, 1, 2, 3]).scope(sessions.restore_session(id)).await.expect("takes its place");
    let restore = "evicted: least recently used of 1 session, idle for 0 ms, to make room for a restore of 10.1.2.0/24";
    assert_eq!(evicted(&sessions)[0], restore);
}

#[tokio::test(start_paused = true)]
async fn each_time_that_ends_a_session_is_named_with_its_number() {
    let one = |explanations: Vec<Explanation>| match &explanations[..] {
        [one] => (one.for_operator(), one.for_client()),
        others => panic!("one end: {others:?}"),
    };
    let (_inner, sessions) = scripted(|b| b.idle_timeout(30 * MINUTE));
    let _idle = ready(&sessions).await;
    sleep(HOUR).await;
    let (operator, client) = one(sessions.recent(9));
    assert_eq!(operator, "idle for 30 min, the idle timeout");
    assert_eq!(client, "the session was idle for 30 min; try again");

    let (_inner, sessions) = scripted(|b| b.idle_timeout(None).max_lifetime(24 * HOUR));
    let _old = ready(&sessions).await;
    sleep(25 * HOUR).await;
    assert_eq!(one(sessions.recent(9)).0, "reached the maximum lifetime of 24 h");

    let (_inner, sessions) = scripted(|b| b.init_timeout(20 * SECOND));
    let _silent = sessions.create_session().await.expect("room");
    sleep(MINUTE).await;
    assert_eq!(one(sessions.recent(9)).0, "its client did not go on with the handshake for 20 s");

    let (inner, sessions) = scripted(|b| b.max_busy(5 * MINUTE));
    inner.set(Call::Initialize, Act::Never);
    let (id, _transport) = sessions.create_session().await.expect("room");
    let answered = timeout(6 * MINUTE, sessions.initialize_session(&id, initialize()));
    assert!(answered.await.is_err(), "the inner manager never answers");
    let sentences = sentences(&sessions.explain(Fingerprint::of(&id)));
    assert_eq!(sentences.last().expect("an end"), "its handler did not answer `initialize` within 5 min");
}

#[tokio::test(start_paused = true)]
async fn an_end_that_cuts_requests_off_says_how_many() {
    let sessions = local(|b| b);
    let [alice, bob] = [Driver::ready(&sessions).await.expect("room"), Driver::ready(&sessions).await.expect("room")];
    let calls = [alice.sleep(60_000).await.expect("lives"), alice.sleep(60_000).await.expect("lives")];
    sleep(2 * SECOND).await;
    sessions.close_session(&bob.id).await.expect("closes");
    assert_eq!(sessions.recent(1)[0].for_operator(), "closed by its client after 2 s");
    sessions.drain(SECOND).await;
    let [why] = &sessions.explain(Fingerprint::of(&alice.id))[..] else { panic!("one end") };
    assert_eq!(why.for_operator(), "closed by a drain, idle for 3 s, with 2 requests in flight");
    assert_eq!(why.for_client(), "the server was about to stop; try again");
    drop(calls);
    sessions.create_session().await.expect_err("drained");
    assert_eq!(
        sessions.recent(1)[0].for_operator(),
        "rejected: a new session of an unknown client, the server is draining"
    );
}

#[tokio::test(start_paused = true)]
async fn an_operator_and_a_handler_that_end_a_session_are_told_apart() {
    let sessions = local(|b| b);
    let alice = Driver::ready(&sessions).await.expect("room");
    sleep(SECOND).await;
    sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Revoked).await;
    assert_eq!(sentences(&sessions.explain(Fingerprint::of(&alice.id))), ["terminated by an operator after 1 s"]);

    let bob = Driver::open_with(&sessions, Closes).await.expect("room");
    bob.initialize().await.expect("answers");
    bob.initialized().await.expect("lives");
    drop(bob.send(json!({ "jsonrpc": "2.0", "id": 9, "method": "tools/list" })).await.expect("lives").rest().await);
    settle().await;
    assert_eq!(sentences(&sessions.explain(Fingerprint::of(&bob.id))), ["closed by its handler after 0 ms"]);
}

/// Ends its session when it is asked for its tools.
#[derive(Clone, Debug)]
struct Closes;

impl rmcp::ServerHandler for Closes {
    async fn list_tools(
        &self,
        _: Option<rmcp::model::PaginatedRequestParams>,
        context: rmcp::service::RequestContext<rmcp::RoleServer>,
    ) -> Result<rmcp::model::ListToolsResult, rmcp::ErrorData> {
        rmcp_session_policy::CurrentSession::of(&context).expect("in a session").close();
        Ok(rmcp::model::ListToolsResult::default())
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejected_newcomer_hears_when_to_come_back() {
    let sessions = local(|b| b.admission(SlidingWindow::new(2, MINUTE).per_client()).init_timeout(HOUR));
    let mallory = || at([10, 1, 2, 3]);
    let _first = mallory().scope(sessions.create_session()).await.expect("room");
    let _second = mallory().scope(sessions.create_session()).await.expect("room");
    sleep(48 * SECOND).await;
    for _ in 0..3 {
        mallory().scope(sessions.create_session()).await.expect_err("over the limit");
    }
    let [why] = &sessions.recent(9)[..] else { panic!("the same three times is one entry") };
    let sentence = "rejected by sliding_window: a new session of 10.1.2.0/24, limit 2 in 60 s, may come back in 12 s, \
                    3 times in a row";
    assert_eq!(why.for_operator(), sentence);
    assert_eq!(why.for_client(), "too many new sessions, at most 2 in 60 s, come back in 12 s");
    assert_eq!((why.times(), why.fingerprint()), (3, None));
    let Explained::Rejected { kind, reason, policy, .. } = why.what() else { panic!("a rejection") };
    assert_eq!((kind, reason, policy), (ArrivalKind::Create, RejectionReason::Quota, "sliding_window"));

    let sessions = local(|b| b.admission(TokenBucket::per_minute(10).burst(10)));
    for _ in 0..11 {
        drop(sessions.create_session().await);
    }
    let limit = ", limit 10 in 60 s, may come back in 6 s";
    assert!(sessions.recent(1)[0].for_operator().ends_with(limit), "{:?}", sessions.recent(1));
}

#[tokio::test(start_paused = true)]
async fn a_rejected_restore_is_explained_under_the_fingerprint_of_its_session() {
    let why = |sessions: &PolicySessionManager<_>, id: &str| {
        let restores =
            |entry: &Explanation| matches!(entry.what(), Explained::Rejected { kind: ArrivalKind::Restore, .. });
        sentences(&sessions.explain(Fingerprint::of(id)).into_iter().filter(restores).collect::<Vec<_>>())
    };
    let full =
        "rejected: a restore of 10.1.2.0/24, all places (1) are taken and no session may go, may come back at any time";
    for in_scope_of_a_request in [true, false] {
        let (_inner, sessions) = scripted(|b| b.max_sessions(1));
        let id = parked(&sessions).await;
        let (other, _transport) = ready(&sessions).await;
        let _busy = sessions.create_stream(&other, list_tools(1)).await.expect("a call under way");
        let asks = async {
            match in_scope_of_a_request {
                // As rmcp does for a request that comes through the layer: it is rejected before a restore.
                true => sessions.has_session(&id).await.map(drop),
                false => sessions.restore_session(Arc::clone(&id)).await.map(drop),
            }
        };
        at([10, 1, 2, 3]).scope(asks).await.expect_err("full");
        assert_eq!(why(&sessions, &id), [full]);
    }
    // By the policy, by a drain, and after a failure of the inner manager.
    let (inner, sessions) = scripted(|b| b.max_sessions(5).admission(Concurrent::new(1)));
    let id = parked(&sessions).await;
    let (_other, transport) = ready(&sessions).await;
    ClientContext::new().scope(sessions.has_session(&id)).await.expect_err("over the limit");
    let limit = "rejected by concurrent: a restore of an unknown client, limit 1, may come back at any time";
    assert_eq!(why(&sessions, &id), [limit]);
    drop(transport);
    settle().await;
    inner.set(Call::Restore, Act::Error);
    sessions.restore_session(Arc::clone(&id)).await.map(drop).expect_err("fails");
    let failed =
        "rejected: a restore of an unknown client, the server cannot reach its sessions now, may come back at any time";
    assert_eq!(why(&sessions, &id)[0], failed);
    sessions.drain(SECOND).await;
    sessions.restore_session(Arc::clone(&id)).await.map(drop).expect_err("drained");
    assert_eq!(why(&sessions, &id)[0], "rejected: a restore of an unknown client, the server is draining");
}

#[tokio::test(start_paused = true)]
async fn a_rejected_request_is_explained_under_the_fingerprint_of_its_session() {
    let gate = admit_fn(|arrival: &Arrival<'_>| match arrival.kind() {
        ArrivalKind::Request => Err(Rejection::new("gate").with_retry(Retry::After(90 * SECOND))),
        _ => Ok(Permit::free()),
    });
    let sessions = local(|b| b.requests(gate));
    let alice = ClientContext::new().with_principal("alice").scope(Driver::ready(&sessions)).await.expect("room");
    alice.sleep(1).await.expect("answered").error().await;
    let [why] = &sessions.explain(Fingerprint::of(&alice.id))[..] else { panic!("one rejection") };
    assert_eq!(why.for_operator(), "rejected by gate: a request of \"alice\", may come back in 90 s");
    assert_eq!(why.for_client(), "the server does not allow the request, come back in 90 s");
}

/// Counts the events that the history should have.
#[derive(Clone, Debug, Default)]
struct Counts(Arc<AtomicU64>);

impl SessionObserver for Counts {
    fn observe(&self, event: &SessionEvent<'_>) {
        if let SessionEvent::Rejected { .. } | SessionEvent::Closed { .. } = event {
            self.0.fetch_add(1, SeqCst);
        }
    }
}

/// Over HTTP: by the layer before the body, by the layer after it, and by the manager.
#[tokio::test]
async fn what_the_layer_and_the_manager_reject_over_http_is_in_the_history() {
    let counts = Counts::default();
    let newcomers = |arrival: &Arrival<'_>| arrival.kind() == ArrivalKind::Create;
    let limit = SlidingWindow::new(1, HOUR).per_client().only(newcomers);
    let builder = PolicySessionManager::local().max_sessions(1).admission(limit).observer(counts.clone());
    let server = Server::start(builder).await;
    let parked = server.open_as("alice").await;
    let live = server.open_as("bob").await;
    let long = server.post(Some(&live), &call(9, "sleep", &json!({"millis": 60_000}))).header("x-user", "bob");
    let long = long.send().await.expect("answers");
    while server.sessions.stats().busy == 0 {
        tokio::task::yield_now().await;
    }
    let request = server.post(Some(&parked), &call(1, "count", &json!({}))).header("x-user", "alice");
    assert!(request.send().await.expect("answers").text().await.expect("a body").contains("isError"));
    for (user, status) in [("alice", 429), ("carol", 503)] {
        let newcomer = server.post(None, &initialize_body(1)).header("x-user", user).send().await.expect("answers");
        assert_eq!(newcomer.status(), status);
    }
    let full = "all places (1) are taken and no session may go, may come back at any time";
    let [restore, end] = &sentences(&server.sessions.explain(Fingerprint::of(&parked)))[..] else { panic!("two") };
    assert_eq!(*restore, format!("rejected: a restore of \"alice\", {full}"));
    assert!(end.ends_with(", to make room for \"bob\""), "{end}");
    let last = sentences(&server.sessions.recent(2));
    assert_eq!(last[0], format!("rejected: a new session of \"carol\", {full}"));
    assert!(
        last[1].starts_with("rejected by sliding_window: a new session of \"alice\", limit 1 in 60 min, "),
        "{last:?}"
    );
    let all = server.sessions.recent(usize::MAX);
    assert_eq!(all.iter().map(Explanation::times).sum::<u64>(), counts.0.load(SeqCst), "{all:?}");
    let shown = format!("{all:?}");
    assert!(!shown.contains(&parked) && !shown.contains(&live) && !shown.contains("127.0.0.1"));
    drop(long);
}

#[tokio::test(start_paused = true)]
async fn without_explanations_nothing_is_kept() {
    let (_inner, sessions) = scripted(|b| b.max_sessions(1).explanations(0));
    let (id, _transport) = ready(&sessions).await;
    park(&sessions, &id).await;
    assert!(sessions.recent(9).is_empty() && sessions.explain(Fingerprint::of(&id)).is_empty());
    let (_inner, sessions) = scripted(|b| b.explanations(3));
    for _ in 0..9 {
        let (id, _transport) = ready(&sessions).await;
        sessions.close_session(&id).await.expect("closes");
    }
    assert_eq!(sessions.recent(9).len(), 3);
}
