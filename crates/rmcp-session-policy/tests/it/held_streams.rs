//! docs/design.md, L10.
//!
//! The listening stream of a parked session stays open, and goes on with the session's next incarnation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::edge::{Ear, Edge, ended, heard};
use axum::http::StatusCode;
use futures_util::future::join_all;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::session::{
    EventId, EventStore, EventStoreError, EventStream, ServerSseMessage, SessionManager,
};
use rmcp_session_policy::eviction::SessionInfo;
use rmcp_session_policy::testing::directory::MemoryDirectory;
use rmcp_session_policy::testing::inner::{Act, Call, Scripted};
use rmcp_session_policy::{CloseReason, HOUR, MINUTE, PolicySessionManager, PolicySessionManagerBuilder, SECOND};

/// Ends a session so that it is parked.
async fn park<I: SessionManager>(edge: &Edge<I>, id: &str, reason: CloseReason) {
    let fingerprint = rmcp_session_policy::Fingerprint::of(id);
    let this = move |session: &SessionInfo<'_>| session.fingerprint() == fingerprint;
    assert_eq!(edge.sessions.terminate(this, reason).await, 1);
}

/// A session that is parked and has a stream.
async fn held(edge: &Edge) -> (String, Ear) {
    let id = edge.open().await;
    let mut ear = edge.listen(&id).await;
    assert_eq!(ear.hear().await, heard("hello"));
    park(edge, &id, CloseReason::Evicted).await;
    (id, ear)
}

// Hearing

#[tokio::test(start_paused = true)]
async fn a_client_that_opens_its_stream_once_hears_every_incarnation() {
    for reason in [CloseReason::Evicted, CloseReason::Idle] {
        let edge = Edge::local(|b| b.max_sessions(2));
        let id = edge.open().await;
        let mut ear = edge.listen(&id).await;
        assert_eq!(ear.hear().await, heard("hello"));
        for round in 0..3 {
            assert!(edge.say(&id, "1 2 3 4 5").await, "{reason}, {round}");
            assert_eq!(ear.hear().await, heard("1 2 3 4 5"));
            park(&edge, &id, reason).await;
            assert_eq!((edge.parked_streams(), ear.hear().await), (1, heard("")));
            assert!(edge.say(&id, "6 7 8 9 10").await, "{reason}, {round}");
            assert_eq!(ear.hear().await, heard("hello 6 7 8 9 10"), "none is lost, not even the handler's first");
            assert_eq!((edge.parked_streams(), edge.sessions.list()[0].open_streams), (0, 1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn more_clients_than_places_hear_all_their_messages() {
    // As many clients as there are places and slots.
    let edge = Edge::local(|b| b.max_sessions(4));
    let mut clients = Vec::new();
    for _ in 0..8 {
        let id = edge.open().await;
        let ear = edge.listen(&id).await.keep_reading();
        clients.push((id, ear));
    }
    for round in 0..5 {
        let words = format!("{round}a {round}b {round}c {round}d {round}e");
        for some in clients.chunks(4) {
            let said = join_all(some.iter().map(|(id, _)| edge.say(id, &words))).await;
            assert!(said.into_iter().all(|said| said), "{round}");
        }
        for (_, ear) in &mut clients {
            let (all, goes_on) = ear.hear().await;
            let without_hellos: Vec<_> = all.split(' ').filter(|word| *word != "hello").collect();
            assert_eq!((without_hellos.join(" "), goes_on), heard(&words), "{round}");
        }
        assert_eq!(edge.parked_streams(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn messages_unread_when_the_session_is_parked_come_before_later_ones() {
    let edge = Edge::local(|b| b);
    let id = edge.open().await;
    let mut ear = edge.listen(&id).await;
    assert!(edge.say(&id, "1 2 3").await);
    park(&edge, &id, CloseReason::Evicted).await;
    assert!(edge.say(&id, "4 5").await);
    assert_eq!(ear.hear().await, heard("hello 1 2 3 hello 4 5"));
}

/// An event store that keeps nothing. With any, rmcp's manager replays nothing to a stream that comes late.
struct Forgetful(AtomicU64);

#[async_trait::async_trait]
impl EventStore for Forgetful {
    async fn store_event(&self, _stream_id: &str, _event: &ServerSseMessage) -> Result<EventId, EventStoreError> {
        Ok(self.0.fetch_add(1, SeqCst).to_string())
    }

    async fn replay_events_after(&self, _last_event_id: &str) -> Result<EventStream, EventStoreError> {
        Err("it is forgotten".into())
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_joined_before_the_handler_hears_that_it_is_initialized() {
    let mut inner = LocalSessionManager::default().with_event_store(Arc::new(Forgetful(AtomicU64::new(0))));
    inner.session_config.keep_alive = None;
    let edge = Edge::new(PolicySessionManager::builder(inner));
    let id = edge.open().await;
    tokio::time::sleep(SECOND).await;
    let mut ear = edge.listen(&id).await;
    assert_eq!(ear.hear().await, heard(""), "it came late");
    park(&edge, &id, CloseReason::Evicted).await;
    assert!(edge.say(&id, "1").await);
    assert_eq!(ear.hear().await, heard("hello 1"));
}

#[tokio::test(start_paused = true)]
async fn the_newest_of_two_streams_of_a_session_is_held() {
    let edge = Edge::local(|b| b);
    let id = edge.open().await;
    let mut older = edge.listen(&id).await;
    let mut newer = edge.listen(&id).await;
    let newest = edge.listen(&id).await;
    drop(newest);
    park(&edge, &id, CloseReason::Evicted).await;
    assert_eq!(older.hear().await, ended("hello"), "it ends as streams do");
    assert_eq!((edge.parked_streams(), newer.hear().await), (1, heard("")));
    assert!(edge.say(&id, "1").await);
    assert_eq!(newer.hear().await, heard("hello 1"));
}

// A GET of a parked session

#[tokio::test(start_paused = true)]
async fn a_get_of_a_parked_session_at_a_full_server_is_held_and_hears_after_the_restore() {
    let edge = Edge::local(|b| b.max_sessions(1));
    for last_event_id in [None, Some("0")] {
        let alice = edge.open().await;
        let bob = edge.open().await;
        let mut ear = edge.get_after(&alice, last_event_id).await.expect("held");
        assert_eq!((edge.parked_streams(), ear.hear().await), (1, heard("")));
        assert_eq!(edge.sessions.stats().closed(CloseReason::Evicted), edge.sessions.stats().opened - 1, "none for it");
        assert!(edge.say(&bob, "").await && edge.say(&alice, "1").await);
        assert_eq!((edge.parked_streams(), ear.hear().await), (0, heard("hello 1")));
        assert_eq!(edge.delete(&alice).await, StatusCode::ACCEPTED);
        assert_eq!(edge.delete(&bob).await, StatusCode::ACCEPTED);
    }
}

#[tokio::test(start_paused = true)]
async fn a_get_of_a_parked_session_restores_into_a_free_place() {
    let edge = Edge::local(|b| b.max_sessions(2));
    for last_event_id in [None, Some("0")] {
        let id = edge.open().await;
        park(&edge, &id, CloseReason::Idle).await;
        let mut ear = edge.get_after(&id, last_event_id).await.expect("restores");
        assert_eq!((edge.sessions.stats().live, edge.parked_streams()), (1, 0));
        assert_eq!(ear.hear().await, heard("hello"));
        assert!(edge.say(&id, "1").await);
        assert_eq!(ear.hear().await, heard("1"));
        assert_eq!(edge.delete(&id).await, StatusCode::ACCEPTED);
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_get_replaces_the_held_stream_and_takes_its_slot() {
    let edge = Edge::local(|b| b.max_sessions(1).max_parked_streams(1));
    let (alice, mut first) = held(&edge).await;
    let _bob = edge.open().await;
    for _ in 0..3 {
        let mut second = edge.listen(&alice).await;
        assert_eq!((edge.parked_streams(), first.hear().await), (1, ended("")));
        assert_eq!(second.hear().await, heard(""));
        first = second;
    }
    assert!(edge.say(&alice, "1").await);
    assert_eq!(first.hear().await, heard("hello 1"));
}

#[tokio::test(start_paused = true)]
async fn a_get_that_restores_its_session_takes_over_from_the_held_stream() {
    let edge = Edge::local(|b| b.max_sessions(2));
    let (id, mut older) = held(&edge).await;
    let mut newer = edge.listen(&id).await;
    assert_eq!((edge.sessions.stats().live, edge.parked_streams()), (1, 0));
    assert_eq!(older.hear().await, ended(""));
    assert!(edge.say(&id, "1").await);
    assert_eq!(newer.hear().await, heard("hello 1"), "also what was said before its GET was answered");
    assert_eq!(edge.sessions.list()[0].open_streams, 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_and_a_get_at_once_of_a_parked_session_are_both_answered() {
    for call_first in [true, false] {
        let edge = Edge::local(|b| b.max_sessions(2));
        let (id, older) = held(&edge).await;
        // Its connection is lost, which the server does not see.
        let (said, ear) = if call_first {
            tokio::join!(edge.say(&id, "1"), edge.get(&id))
        } else {
            let (ear, said) = tokio::join!(edge.get(&id), edge.say(&id, "1"));
            (said, ear)
        };
        let mut ear = ear.expect("listens");
        assert!(said && edge.say(&id, "2").await);
        let (words, goes_on) = ear.hear().await;
        assert!(goes_on && words.ends_with('2'), "{words}");
        assert_eq!(edge.sessions.list()[0].open_streams, 1);
        drop(older);
    }
}

/// The last event id in what a stream has said so far.
fn last_id(text: &str) -> String {
    text.lines().filter_map(|line| line.strip_prefix("id:")).next_back().expect("an event id").trim().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_get_after_an_event_of_an_earlier_incarnation_listens_if_the_event_was_of_a_listening_stream() {
    // With one place the session stays parked.
    for (places, gets) in [(1, 2), (2, 1)] {
        let edge = Edge::local(|b| b.max_sessions(places));
        let id = edge.open().await;
        let mut ear = edge.listen(&id).await;
        let listened = last_id(&ear.hear_raw().await);
        let (_, called) = edge.say_raw(&id, "1").await;
        let called = last_id(&called);
        park(&edge, &id, CloseReason::Evicted).await;
        let other = if places == 1 { Some(edge.open().await) } else { None };
        for _ in 0..gets {
            // What is left of a request's stream is that it is over, and costs the client no stream of its own.
            let told = edge.get_after(&id, Some(&called)).await.map(Ear::rest).expect("an answer").await;
            assert!(told.contains("may or may not have had its effect"), "{told}");
            assert_eq!(edge.get_after(&id, Some(&last_id(&told))).await.err(), Some(StatusCode::METHOD_NOT_ALLOWED));
            let unknown = edge.get_after(&id, Some("4")).await.map(Ear::rest).expect("empty").await;
            assert_eq!((unknown.as_str(), ear.hear().await.1), ("", true));
            let mut newer = edge.get_after(&id, Some(&listened)).await.expect("listens");
            assert!(!ear.hear().await.1, "it gave way");
            assert!(newer.hear().await.1);
            ear = newer;
        }
        drop(other);
        assert!(edge.say(&id, "1").await);
        let (words, goes_on) = ear.hear().await;
        assert!(goes_on && words.ends_with('1'), "{words}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_joined_stream_that_is_resumed_misses_nothing() {
    let edge = Edge::local(|b| b);
    let (id, mut older) = held(&edge).await;
    assert!(edge.say(&id, "1").await);
    let after_one = last_id(&older.hear_raw().await);
    assert!(edge.say(&id, "2 3").await);
    assert_eq!(older.hear().await, heard("2 3"), "or so the server thinks: the connection was lost");
    let mut newer = edge.get_after(&id, Some(&after_one)).await.expect("resumes");
    assert!(edge.say(&id, "4").await);
    let (words, goes_on) = newer.hear().await;
    assert!(goes_on && words.ends_with("2 3 4"), "{words}");
    assert_eq!(older.hear().await, ended(""));
}

// Bounds

#[tokio::test(start_paused = true)]
async fn no_more_streams_are_held_than_allowed() {
    let edge = Edge::local(|b| b.max_sessions(1).max_parked_streams(2));
    let (first, mut one) = held(&edge).await;
    let (_second, mut two) = held(&edge).await;
    let (third, mut three) = held(&edge).await;
    assert_eq!(edge.parked_streams(), 2);
    assert_eq!((one.hear().await, two.hear().await), (heard(""), heard("")));
    assert_eq!(three.hear().await, ended(""), "there is no room for it");
    let _busy_place = edge.open().await;
    assert_eq!(edge.get(&third).await.err(), Some(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(edge.parked_streams(), 2);
    one = edge.get(&first).await.expect("it has a slot");
    drop(one);
    assert_eq!(edge.parked_streams(), 1);
    let _three = edge.get(&third).await.expect("there is room now");
    assert_eq!(edge.parked_streams(), 2);
}

#[tokio::test(start_paused = true)]
async fn no_stream_is_held_if_the_limit_is_zero() {
    let edge = Edge::local(|b| b.max_sessions(1).max_parked_streams(0));
    let (id, mut ear) = held(&edge).await;
    assert_eq!(ear.hear().await, ended(""));
    let mut restored = edge.get(&id).await.expect("a place is free");
    assert_eq!(restored.hear().await, heard("hello"));
    let _other = edge.open().await;
    assert_eq!(restored.hear().await, ended(""));
    assert_eq!(edge.get(&id).await.err(), Some(StatusCode::SERVICE_UNAVAILABLE));
}

#[tokio::test(start_paused = true)]
async fn max_parked_streams_defaults_to_max_sessions() {
    let edge = Edge::local(|b| b.max_sessions(3));
    let mut ears = Vec::new();
    for _ in 0..5 {
        ears.push(held(&edge).await);
    }
    assert_eq!(edge.parked_streams(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_frees_the_slot_at_once() {
    let edge = Edge::local(|b| b.max_sessions(1).max_parked_streams(1));
    let (id, ear) = held(&edge).await;
    drop(ear);
    assert_eq!(edge.parked_streams(), 0);
    let _other = edge.open().await;
    let ear = edge.listen(&id).await;
    assert_eq!(edge.parked_streams(), 1);
    drop(ear);
    assert_eq!(edge.parked_streams(), 0);
    assert!(edge.say(&id, "1").await, "and its session comes back as ever");
    assert_eq!(edge.sessions.list()[0].open_streams, 0);
}

#[tokio::test(start_paused = true)]
async fn a_get_that_resumes_nothing_takes_no_slot_and_ends_no_stream() {
    let edge = Edge::local(|b| b.max_sessions(1).max_parked_streams(1));
    let id = edge.open().await;
    let mut ear = edge.listen(&id).await;
    let called = last_id(&edge.say_raw(&id, "1").await.1);
    let _other = edge.open().await;
    let resumes_nothing = async || {
        let told = edge.get_after(&id, Some(&called)).await.map(Ear::rest).expect("an answer").await;
        assert_eq!(edge.get_after(&id, Some(&last_id(&told))).await.err(), Some(StatusCode::METHOD_NOT_ALLOWED));
        assert_eq!(edge.get_after(&id, Some("4")).await.expect("empty").rest().await, "");
    };
    resumes_nothing().await;
    assert_eq!((ear.hear().await, edge.parked_streams()), (heard("hello 1"), 1));
    drop(ear);
    resumes_nothing().await;
    assert_eq!(edge.parked_streams(), 0);
    assert!(edge.get(&id).await.is_ok(), "the slot is free");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_gave_its_slot_to_its_victim_ends_if_its_session_stays_parked() {
    let inner = Scripted::relaying();
    let edge = Edge::new(PolicySessionManager::builder(inner.clone()).max_sessions(1).max_parked_streams(1));
    let alice = edge.open().await;
    let mut hers = edge.listen(&alice).await;
    park(&edge, &alice, CloseReason::Evicted).await;
    let bob = edge.open().await;
    let mut his = edge.listen(&bob).await;
    inner.set(Call::Restore, Act::Error);
    assert!(!edge.say(&alice, "").await, "bob has made room for nothing");
    assert_eq!((hers.hear().await, his.hear().await, edge.parked_streams()), (ended(""), heard(""), 1));
    inner.set(Call::Restore, Act::Ok);
    assert!(edge.say(&bob, "").await);
    assert_eq!((his.hear().await, edge.parked_streams()), (heard(""), 0));
    // Both streams have left the list: the one slot is free, and is counted once.
    let _hers = edge.listen(&alice).await;
    assert_eq!(edge.parked_streams(), 1);
}

/// With concurrent clients, no more streams are held than allowed, and nothing is left once the clients are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_clients_never_exceed_the_bound_of_held_streams() {
    const SLOTS: usize = 3;
    let edge = Edge::local(|b| b.max_sessions(2).max_parked_streams(SLOTS));
    let clients = (0..8_u64).map(|client| {
        let edge = edge.clone();
        tokio::spawn(async move {
            let mut random = client + 1;
            let (mut id, mut ear) = (open_at_last(&edge).await, None);
            for _ in 0..150 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                match random >> 61 {
                    0 | 1 => drop(edge.say(&id, "1").await),
                    2 | 3 => ear = edge.get(&id).await.ok().map(Ear::keep_reading).or(ear),
                    4 => ear = None,
                    5 => park_if_live(&edge, &id, CloseReason::Evicted).await,
                    6 => {
                        let (newer, _said) = tokio::join!(edge.get(&id), edge.say(&id, "1"));
                        ear = newer.ok().map(Ear::keep_reading).or(ear);
                    }
                    _ => {
                        edge.delete(&id).await;
                        (id, ear) = (open_at_last(&edge).await, None);
                    }
                }
                assert!(edge.parked_streams() <= SLOTS);
            }
            drop(ear);
            edge.delete(&id).await;
        })
    });
    for client in join_all(clients).await {
        client.expect("no panic");
    }
    let left = || edge.sessions.stats();
    let gone = async {
        while left().live + left().parked + left().parked_streams > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), gone).await.is_ok(), "{:?}", left());
    let mut ears = Vec::new();
    for _ in 0..SLOTS + 2 {
        ears.push(held_now(&edge).await);
    }
    assert_eq!(edge.parked_streams(), SLOTS, "each slot is free again, and no more than these");
}

async fn open_at_last(edge: &Edge) -> String {
    loop {
        if let Some(id) = edge.try_open().await {
            return id;
        }
    }
}

async fn park_if_live(edge: &Edge, id: &str, reason: CloseReason) {
    let fingerprint = rmcp_session_policy::Fingerprint::of(id);
    let this = move |session: &SessionInfo<'_>| session.fingerprint() == fingerprint;
    edge.sessions.terminate(this, reason).await;
}

/// A session that is parked, with a stream that is open if there is room for it.
async fn held_now(edge: &Edge) -> Ear {
    let id = edge.open().await;
    let ear = edge.listen(&id).await.keep_reading();
    park(edge, &id, CloseReason::Evicted).await;
    ear
}

// Ends

type Local = PolicySessionManagerBuilder<LocalSessionManager>;
type Way = (&'static str, fn(Local) -> Local);

#[tokio::test(start_paused = true)]
async fn a_held_stream_ends_when_its_session_is_parked_no_longer() {
    let ways: [Way; 6] = [
        ("deleted", |b| b),
        ("revoked", |b| b),
        ("lifetime", |b| b.max_lifetime(HOUR)),
        ("age", |b| b.max_parked_age(HOUR)),
        ("pushed out", |b| b.max_parked(1).max_parked_streams(1)),
        ("drained", |b| b),
    ];
    for (way, configure) in ways {
        let edge = Edge::local(configure);
        let (id, mut ear) = held(&edge).await;
        assert_eq!((ear.hear().await, edge.parked_streams()), (heard(""), 1), "{way}");
        match way {
            "deleted" => assert_eq!(edge.delete(&id).await, StatusCode::ACCEPTED),
            "revoked" => assert_eq!(edge.sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Revoked).await, 1),
            "pushed out" => {
                let other = edge.open().await;
                assert!(edge.say(&other, "").await);
                park(&edge, &other, CloseReason::Evicted).await;
            }
            "drained" => drop(edge.sessions.drain(SECOND).await),
            _ => {
                tokio::time::sleep(HOUR - MINUTE).await;
                assert_eq!(ear.hear().await, heard(""), "{way}");
                tokio::time::sleep(MINUTE).await;
            }
        }
        assert_eq!(edge.parked_streams(), 0, "{way}");
        assert_eq!(ear.hear().await, ended(""), "{way}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_the_streams_of_the_sessions_it_parks() {
    let edge = Edge::local(|b| b);
    let id = edge.open().await;
    let mut ear = edge.listen(&id).await;
    edge.sessions.drain(SECOND).await;
    assert_eq!(edge.sessions.stats().parked, 1);
    assert_eq!((ear.hear().await, edge.parked_streams()), (ended("hello"), 0));
}

/// The stream is over, and the client was told last to come back after that many milliseconds.
async fn assert_told_to_come_back(mut ear: Ear, millis: u64) {
    let text = ear.hear_raw().await;
    let last = text.trim_end().rsplit_once("\n\n").map_or(text.trim_end(), |(_, last)| last);
    let mut lines: Vec<_> = last.lines().map(|line| line.replace(' ', "")).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["data:".to_owned(), format!("retry:{millis}")], "{text}");
    assert_eq!(ear.hear().await, ended(""));
}

/// docs/design.md, L15.
#[tokio::test(start_paused = true)]
async fn the_stream_of_a_session_that_is_handed_over_ends_with_the_expected_down_time() {
    let edge = Edge::local(|b| b.directory(MemoryDirectory::new()).expected_downtime(SECOND * 7));
    let id = edge.open().await;
    let ear = edge.listen(&id).await;
    edge.sessions.hand_over();
    assert_told_to_come_back(ear, 7_000).await;
    assert_eq!(edge.sessions.stats().live, 0);
}

/// docs/design.md, L15.
#[tokio::test(start_paused = true)]
async fn listening_streams_end_last_in_a_drain_with_the_expected_down_time() {
    let edge = Edge::local(|b| b.max_sessions(3).max_parked_streams(1).expected_downtime(SECOND * 7));
    let (parked, held) = held(&edge).await;
    let (idle, busy, deleted) = (edge.open().await, edge.open().await, edge.open().await);
    let [mut idle_ear, busy_ear, deleted_ear] =
        [edge.listen(&idle).await, edge.listen(&busy).await, edge.listen(&deleted).await];
    let (mut held, busy_ear) = (held.keep_reading(), busy_ear.keep_reading());
    let call = tokio::spawn({
        let (edge, busy) = (edge.clone(), busy.clone());
        async move { edge.say(&busy, "pause").await }
    });
    tokio::time::sleep(SECOND / 10).await;
    let begun = tokio::time::Instant::now();
    let draining = tokio::spawn({
        let edge = edge.clone();
        async move { edge.sessions.drain(MINUTE).await }
    });
    // A close waits a moment for clients that do not read.
    tokio::time::sleep(SECOND / 2).await;
    assert_eq!(edge.sessions.stats().parked, 3, "those that are idle are parked");
    assert_eq!(edge.parked_streams(), 3, "more than before a drain, since no session comes back any more");
    assert_eq!(held.hear().await, heard(""));
    assert_eq!(idle_ear.hear().await, heard("hello"));
    assert_eq!(edge.get(&parked).await.err(), Some(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(edge.delete(&deleted).await, StatusCode::ACCEPTED);
    assert_told_to_come_back(deleted_ear, 7_000).await;
    assert!(!draining.is_finished());
    let idle_ear = idle_ear.keep_reading();
    assert!(call.await.expect("no panic"), "the call was finished");
    draining.await.expect("no panic");
    assert!(begun.elapsed() < SECOND * 5, "the clients have read the end: {:?}", begun.elapsed());
    for ear in [held, idle_ear, busy_ear] {
        assert_told_to_come_back(ear, 7_000).await;
    }
    assert_eq!(edge.parked_streams(), 0);
    // What comes after the end of the list ends as well.
    assert_eq!(edge.get(&idle).await.err(), Some(StatusCode::SERVICE_UNAVAILABLE));
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_a_listener_that_has_stopped_reading() {
    let edge = Edge::local(|b| b);
    let id = edge.open().await;
    let ear = edge.listen(&id).await;
    let begun = tokio::time::Instant::now();
    edge.sessions.drain(MINUTE).await;
    assert!(begun.elapsed() <= SECOND / 2, "{:?}", begun.elapsed());
    assert_told_to_come_back(ear, 3_000).await;
}

#[tokio::test(start_paused = true)]
async fn the_stream_of_a_session_that_ends_for_good_ends() {
    let edge = Edge::local(|b| b);
    let id = edge.open().await;
    let mut ear = edge.listen(&id).await;
    assert_eq!(edge.delete(&id).await, StatusCode::ACCEPTED);
    assert_eq!((ear.hear().await, edge.parked_streams()), (ended("hello"), 0));
}

#[tokio::test(start_paused = true)]
async fn when_rmcp_is_cancelled_held_streams_end() {
    let edge = Edge::local(|b| b);
    let (_id, mut ear) = held(&edge).await;
    edge.config.cancellation_token.cancel();
    assert_eq!(ear.hear().await, ended(""));
    drop(ear);
    assert_eq!(edge.parked_streams(), 0);
}

// Restores that fail

/// A session that is parked and has a stream, over the scripted inner manager, in which `on_initialized` cannot reach
/// the stream.
async fn scripted() -> (Scripted, Edge<Scripted>, String, Ear) {
    let inner = Scripted::relaying();
    let edge = Edge::new(PolicySessionManager::builder(inner.clone()).max_sessions(2));
    let id = edge.open().await;
    let mut ear = edge.listen(&id).await;
    park(&edge, &id, CloseReason::Evicted).await;
    assert_eq!((ear.hear().await, edge.parked_streams()), (heard(""), 1));
    (inner, edge, id, ear)
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_fails_leaves_the_stream_held() {
    let (inner, edge, id, mut ear) = scripted().await;
    inner.set(Call::Restore, Act::Error);
    assert!(!edge.say(&id, "").await);
    assert_eq!((ear.hear().await, edge.parked_streams()), (heard(""), 1));
    inner.set(Call::Restore, Act::Ok);
    assert!(edge.say(&id, "").await);
    assert_eq!((ear.hear().await, edge.parked_streams()), (heard(""), 0));
    assert_eq!(edge.sessions.list()[0].open_streams, 1);
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_fails_for_good_ends_the_stream() {
    let (inner, edge, id, mut ear) = scripted().await;
    inner.set(Call::Initialize, Act::Error);
    assert!(!edge.say(&id, "").await);
    assert_eq!((ear.hear().await, edge.parked_streams(), edge.sessions.stats().parked), (ended(""), 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_cannot_be_joined_ends_and_its_session_comes_back() {
    let (inner, edge, id, mut ear) = scripted().await;
    inner.set(Call::Listen, Act::Error);
    assert!(edge.say(&id, "").await);
    assert_eq!((ear.hear().await, edge.parked_streams(), edge.sessions.stats().live), (ended(""), 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_hang_up_while_the_stream_is_joined_leaves_the_session_parked_and_the_stream_held() {
    let (inner, edge, id, mut ear) = scripted().await;
    inner.set(Call::Listen, Act::Never);
    assert!(tokio::time::timeout(SECOND, edge.say(&id, "")).await.is_err());
    assert_eq!(ear.hear().await, heard(""));
    let stats = edge.sessions.stats();
    assert_eq!((stats.live, stats.parked, stats.parked_streams), (0, 1, 1));
    inner.set(Call::Listen, Act::Ok);
    assert!(edge.say(&id, "").await);
    assert_eq!((edge.parked_streams(), edge.sessions.list()[0].open_streams), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_parked_again_while_its_stream_is_joined_keeps_it() {
    let (inner, edge, id, mut ear) = scripted().await;
    inner.set(Call::Listen, Act::Slow(SECOND));
    let call = edge.say(&id, "");
    let parks = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        park(&edge, &id, CloseReason::Evicted).await;
    };
    let (said, ()) = tokio::join!(call, parks);
    assert!(!said);
    let stats = edge.sessions.stats();
    assert_eq!((stats.live, stats.parked, stats.parked_streams, ear.hear().await), (0, 1, 1, heard("")));
    assert!(edge.say(&id, "").await);
    assert_eq!((edge.parked_streams(), edge.sessions.list()[0].open_streams), (0, 1));
    assert_eq!(ear.hear().await, heard(""));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_while_its_stream_is_joined_is_forgotten() {
    let (inner, edge, id, ear) = scripted().await;
    inner.set(Call::Listen, Act::Slow(SECOND));
    let call = edge.say(&id, "");
    let hangs_up = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(ear);
        assert_eq!(edge.parked_streams(), 0);
    };
    let (said, ()) = tokio::join!(call, hangs_up);
    assert!(said);
    assert_eq!((edge.parked_streams(), edge.sessions.list()[0].open_streams), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_session_deleted_while_its_stream_is_joined_ends_it() {
    let (inner, edge, id, mut ear) = scripted().await;
    inner.set(Call::Listen, Act::Slow(SECOND));
    let call = edge.say(&id, "");
    let deletes = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(edge.delete(&id).await, StatusCode::ACCEPTED);
    };
    let (said, ()) = tokio::join!(call, deletes);
    assert!(!said);
    let stats = edge.sessions.stats();
    assert_eq!((stats.live, stats.parked, stats.parked_streams, ear.hear().await), (0, 0, 0, ended("")));
}

#[tokio::test(start_paused = true)]
async fn a_get_while_a_session_is_being_restored_waits_and_takes_over() {
    let (inner, edge, id, mut older) = scripted().await;
    inner.set(Call::Listen, Act::Slow(SECOND));
    let get = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        edge.get(&id).await
    };
    let (said, newer) = tokio::join!(edge.say(&id, ""), get);
    let mut newer = newer.expect("listens");
    assert!(said);
    assert_eq!((older.hear().await, newer.hear().await), (ended(""), heard("")));
    assert_eq!((edge.parked_streams(), edge.sessions.list()[0].open_streams), (0, 1));
    assert_eq!(inner.calls(Call::Listen), 2, "the first one's and the joined one's");
}

// Around and within

#[tokio::test(start_paused = true)]
async fn stacked_managers_hold_each_stream_once() {
    let inner = PolicySessionManager::local().max_sessions(2).build().expect("valid");
    let edge = Edge::new(PolicySessionManager::builder(inner).max_sessions(1));
    let id = edge.open().await;
    let mut ear = edge.listen(&id).await;
    let _other = edge.open().await;
    assert_eq!((edge.parked_streams(), edge.sessions.inner().stats().parked_streams), (1, 0));
    assert_eq!(ear.hear().await, heard("hello"));
    assert!(edge.say(&id, "1").await);
    assert_eq!(ear.hear().await, heard("hello 1"));
    assert_eq!(edge.sessions.inner().list().iter().map(|session| session.open_streams).sum::<usize>(), 1);
}
