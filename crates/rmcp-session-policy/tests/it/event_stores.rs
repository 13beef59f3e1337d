//! docs/design.md, L8 and L12.
//!
//! An event store in trouble costs no client its answer, hears of no session id, and is not asked to store priming events.
//! A listening stream that is resumed is replayed and goes on.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use axum::http::StatusCode;
use rmcp::transport::streamable_http_server::session::EventStore;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp_session_policy::testing::directory::MemoryDirectory;
use rmcp_session_policy::{PolicySessionManager, PolicySessionManagerBuilder};
use tokio::time::Instant;

use crate::edge::{Ear, Edge, heard};
use crate::events::{Events, Mood};

fn wrapped(events: &Arc<Events>) -> PolicySessionManagerBuilder<LocalSessionManager> {
    PolicySessionManager::local().events(Arc::clone(events) as Arc<dyn EventStore>)
}

/// The store as rmcp takes it.
fn bare(events: &Arc<Events>) -> PolicySessionManagerBuilder<LocalSessionManager> {
    let mut inner = LocalSessionManager::default().with_event_store(Arc::clone(events) as Arc<dyn EventStore>);
    inner.session_config.keep_alive = None;
    inner.session_config.init_timeout = None;
    PolicySessionManager::builder(inner)
}

/// The ids of the events in a text.
fn ids(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.strip_prefix("id:")).map(|id| id.trim().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_store_in_trouble_costs_no_client_its_answer() {
    for mood in [Mood::Fails, Mood::Hangs, Mood::Panics] {
        let events = Arc::<Events>::default();
        let edge = Edge::new(wrapped(&events));
        let id = edge.open().await;
        let mut ear = edge.listen(&id).await;
        events.is_in(mood);
        let begun = Instant::now();
        assert!(edge.say(&id, "1").await, "{mood:?}");
        assert!(begun.elapsed() <= Duration::from_millis(101), "two events, 50 ms each: {:?}", begun.elapsed());
        let (words, goes_on) = ear.hear().await;
        assert!(goes_on && words.ends_with('1'), "{mood:?}: {words}");
        events.is_in(Mood::Well);
        assert!(edge.say(&id, "2").await, "{mood:?}");
        assert_eq!(ear.hear().await, heard("2"));
    }
}

/// What the wrapper is for. If this fails, rmcp does it by itself.
#[tokio::test(start_paused = true)]
async fn without_the_wrapper_the_answer_is_lost() {
    let events = Arc::<Events>::default();
    let edge = Edge::new(bare(&events));
    let id = edge.open().await;
    assert!(edge.say(&id, "").await);
    let fails = tokio::spawn({
        let events = Arc::clone(&events);
        async move {
            // The call has begun, and its priming event is stored.
            tokio::time::sleep(Duration::from_secs(1)).await;
            events.is_in(Mood::Fails);
        }
    });
    let (status, text) = edge.say_raw(&id, "pause").await;
    fails.await.expect("no panic");
    assert_eq!((status, text.contains("result")), (StatusCode::OK, false), "{text}");
}

#[tokio::test(start_paused = true)]
async fn the_store_hears_of_no_priming_event_and_of_no_session_id() {
    let events = Arc::<Events>::default();
    let edge = Edge::new(wrapped(&events));
    let sessions = [edge.open().await, edge.open().await];
    for id in &sessions {
        let _ear = edge.listen(id).await;
        assert!(edge.say(id, "1").await);
        let (_, answer) = edge.say_raw(id, "2").await;
        assert_eq!(ids(&answer).len(), 2, "a priming event, and the answer: {answer}");
    }
    let streams = events.streams();
    for (stream, event) in &*events.events.lock().expect("no panic") {
        assert!(event.message.is_some());
        assert!(!sessions.iter().any(|id| stream.contains(&**id)) && stream.len() == 22, "{stream}");
    }
    let mut different = streams.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), 6, "a listening stream and two calls of each session: {streams:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_is_resumed_after_its_priming_event_though_that_is_not_stored() {
    let events = Arc::<Events>::default();
    let edge = Edge::new(wrapped(&events));
    let id = edge.open().await;
    let (_, answer) = edge.say_raw(&id, "").await;
    let [priming, last] = &*ids(&answer) else { panic!("{answer}") };
    let again = edge.get_after(&id, Some(priming)).await.map(Ear::rest).expect("resumes").await;
    assert!(again.contains("said") && ids(&again) == [last.clone()], "{again}");
    assert_eq!(edge.get_after(&id, Some(last)).await.err(), Some(StatusCode::METHOD_NOT_ALLOWED));
}

#[tokio::test(start_paused = true)]
async fn after_an_event_that_is_not_stored_a_stream_goes_on_with_the_next_that_is() {
    let events = Arc::<Events>::default();
    let edge = Edge::new(wrapped(&events));
    let id = edge.open().await;
    let mut ear = edge.listen(&id).await;
    assert!(edge.say(&id, "1").await);
    ear.hear().await;
    events.is_in(Mood::Fails);
    assert!(edge.say(&id, "2").await);
    let two = ids(&ear.hear_raw().await).pop().expect("an id");
    assert!(edge.say(&id, "3").await);
    let three = ids(&ear.hear_raw().await).pop().expect("an id");
    assert_ne!(two, three);
    events.is_in(Mood::Well);
    drop(ear);
    assert!(edge.say(&id, "4").await);
    for last in [&two, &three] {
        let mut ear = edge.get_after(&id, Some(last)).await.expect("listens");
        assert_eq!(ear.hear().await, heard("4"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_listening_stream_is_replayed_and_goes_on() {
    for (mood, build) in
        [(Mood::Well, wrapped as fn(&_) -> _), (Mood::Open, wrapped), (Mood::Well, bare), (Mood::Open, bare)]
    {
        let events = Arc::<Events>::default();
        events.is_in(mood);
        let edge = Edge::new(build(&events));
        let id = edge.open().await;
        let mut ear = edge.listen(&id).await;
        assert!(edge.say(&id, "1").await);
        let one = ids(&ear.hear_raw().await).pop().expect("an id");
        drop(ear);
        assert!(edge.say(&id, "2 3").await);
        let mut ear = edge.get_after(&id, Some(&one)).await.expect("listens");
        assert!(edge.say(&id, "4").await);
        assert_eq!(ear.hear().await, heard("2 3 4"), "{mood:?}");
        assert!(edge.say(&id, "5").await);
        let heard_last = ear.hear_raw().await;
        assert!(heard_last.contains("\"uri\":\"5\""), "{mood:?}: {heard_last}");
        drop(ear);
        let five = ids(&heard_last).pop().expect("an id");
        let mut ear = edge.get_after(&id, Some(&five)).await.expect("listens");
        assert!(edge.say(&id, "6").await);
        assert_eq!(ear.hear().await, heard("6"), "none comes twice");
        // A store in trouble costs what was missed, and not the stream.
        events.is_in(Mood::Fails);
        drop(ear);
        let mut ear = edge.get_after(&id, Some(&five)).await.expect("listens");
        events.is_in(mood);
        assert!(edge.say(&id, "7").await);
        assert_eq!(ear.hear().await, heard("7"), "{mood:?}");
    }
}

/// A server over a directory and a store that outlive it.
fn server(
    directory: &MemoryDirectory,
    events: &Arc<Events>,
    build: fn(&Arc<Events>) -> PolicySessionManagerBuilder<LocalSessionManager>,
) -> Edge {
    Edge::new(build(events).directory(directory.clone()))
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_a_listening_stream_is_replayed_from_a_store_that_outlives_the_process() {
    for build in [wrapped as fn(&_) -> _, bare] {
        let (directory, events) = (MemoryDirectory::new(), Arc::<Events>::default());
        let first = server(&directory, &events, build);
        let id = first.open().await;
        let mut ear = first.listen(&id).await;
        assert!(first.say(&id, "1").await);
        let one = ids(&ear.hear_raw().await).pop().expect("an id");
        drop(ear);
        assert!(first.say(&id, "2").await);
        directory.crash();
        drop(first);
        let second = server(&directory.another_server(), &events, build);
        assert!(second.say(&id, "3").await);
        let mut ear = second.get_after(&id, Some(&one)).await.expect("listens");
        assert!(second.say(&id, "4").await);
        assert_eq!(ear.hear().await, heard("2 hello 3 4"));
        // Another session's id opens nothing, also where the store has its events.
        let other = second.open().await;
        assert_eq!(second.get_after(&other, Some(&one)).await.map(Ear::rest).expect("empty").await, "");
    }
}

#[tokio::test(start_paused = true)]
async fn a_listening_stream_is_replayed_and_held_where_no_place_is_free() {
    for mood in [Mood::Well, Mood::Open] {
        let (directory, events) = (MemoryDirectory::new(), Arc::<Events>::default());
        events.is_in(mood);
        let first = server(&directory, &events, wrapped);
        let [id, other] = [first.open().await, first.open().await];
        let mut ear = first.listen(&id).await;
        assert!(first.say(&id, "1").await);
        let one = ids(&ear.hear_raw().await).pop().expect("an id");
        drop(ear);
        assert!(first.say(&id, "2").await);
        directory.crash();
        drop(first);
        let second = Edge::new(wrapped(&events).directory(directory.another_server()).max_sessions(1));
        assert!(second.say(&other, "").await, "it has the place");
        let mut ear = second.get_after(&id, Some(&one)).await.expect("held");
        assert_eq!((ear.hear().await, second.parked_streams()), (heard("2"), 1), "{mood:?}");
        assert!(second.say(&id, "3").await);
        assert_eq!(ear.hear().await, heard("hello 3"), "{mood:?}");
        drop(ear);
        assert_eq!(second.parked_streams(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_a_call_whose_answer_is_stored_has_that_answer() {
    for mood in [Mood::Well, Mood::Open] {
        let (directory, events) = (MemoryDirectory::new(), Arc::<Events>::default());
        events.is_in(mood);
        let first = server(&directory, &events, bare);
        let id = first.open().await;
        let (_, answer) = first.say_raw(&id, "").await;
        let [priming, last] = &*ids(&answer) else { panic!("{answer}") };
        directory.crash();
        drop(first);
        let second = server(&directory.another_server(), &events, bare);
        let resume = async |last: &str| second.get_after(&id, Some(last)).await.map(Ear::rest);
        let again = resume(priming).await.expect("an answer").await;
        assert!(again.contains("said") && ids(&again).len() == 1, "{mood:?}: {again}");
        // Nothing comes after the answer, so the client, which knows its request no more, is told as of any other.
        for last in [last, &ids(&again)[0]] {
            let told = resume(last).await.expect("an answer").await;
            assert!(told.contains("may or may not have had its effect"), "{mood:?}: {told}");
            assert_eq!(resume(&ids(&told)[0]).await.err(), Some(StatusCode::METHOD_NOT_ALLOWED));
        }
        // Without a seal of the session nothing is replayed.
        let replays = events.replays.load(SeqCst);
        let (rest, _) = priming.rsplit_once('.').expect("a seal");
        assert_eq!(resume(&format!("{rest}.AAAAAAAAAAAAAAAAAAAAAA")).await.expect("empty").await, "");
        assert_eq!(events.replays.load(SeqCst), replays);
    }
}
