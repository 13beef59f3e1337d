//! docs/design.md, L17 and L2.
//!
//! A session of a directory belongs to one server at a time.

use std::time::Duration;

use axum::http::StatusCode;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp_session_policy::directory::{Change, Claim, Epoch, FoundState, SessionDigest, SessionDirectory};
use rmcp_session_policy::testing::directory::MemoryDirectory;
use rmcp_session_policy::testing::inner::{Act, Call, Scripted};
use rmcp_session_policy::{ClientContext, CloseReason, GivenUp, PolicySessionManager};
use tokio::time::{Instant, sleep, timeout};

use crate::directory::Recorder;
use crate::edge::{Edge, ended, heard};
use crate::parked::parking;

fn edge(directory: &MemoryDirectory, places: usize) -> (Edge, Recorder) {
    let recorder = Recorder::new(directory.clone());
    (Edge::new(PolicySessionManager::local().max_sessions(places).directory(recorder.clone())), recorder)
}

async fn state(directory: &MemoryDirectory, id: &str) -> Option<FoundState> {
    directory.look(&SessionDigest::of(id)).await.expect("is there").map(|found| found.state)
}

#[tokio::test(start_paused = true)]
async fn of_two_servers_one_has_a_session_and_the_other_refuses_it() {
    let directory = MemoryDirectory::new();
    let (first, _) = edge(&directory, 10);
    let (second, _) = edge(&directory.another_server(), 10);
    let id = first.open().await;
    let (status, body) = second.say_raw(&id, "hello").await;
    assert_eq!(status, StatusCode::OK, "as any request within a session that is refused");
    assert!(body.contains("another server has the session"), "{body}");
    assert_eq!(second.get(&id).await.err(), Some(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(directory.claims(), 0, "and no place was asked for");
    assert_eq!(second.sessions.stats().restored, 0);
    assert!(first.say(&id, "hello").await);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_live_elsewhere_costs_no_session_its_place() {
    let directory = MemoryDirectory::new();
    let (first, _) = edge(&directory, 10);
    let (second, _) = edge(&directory.another_server(), 1);
    let (elsewhere, here) = (first.open().await, second.open().await);
    second.say_raw(&elsewhere, "hello").await;
    assert_eq!(second.sessions.stats().closed(CloseReason::Evicted), 0);
    assert!(second.say(&here, "hello").await);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_parked_here_and_claimed_elsewhere_is_not_restored_here() {
    let directory = MemoryDirectory::new();
    let (first, recorder) = edge(&directory, 1);
    let (second, _) = edge(&directory.another_server(), 10);
    recorder.keep_losses();
    let id = first.open().await;
    first.open().await;
    assert!(second.say(&id, "hello").await);
    assert_eq!(first.sessions.stats().parked, 1, "it has not heard of the loss");
    for _ in 0..2 {
        let (_, body) = first.say_raw(&id, "hello").await;
        assert!(body.contains("another server has the session"), "{body}");
    }
    let stats = first.sessions.stats();
    assert_eq!((stats.restored, stats.opening + stats.ready), (0, 0), "its place was made free, and no session has it");
    assert_eq!(recorder.of(&id), [("opened", 1), ("ready", 1), ("parked", 1)]);
    assert_eq!(second.sessions.give_up(&SessionDigest::of(&id)).await, GivenUp::Given);
    assert!(first.say(&id, "hello").await, "back where it was");
}

#[tokio::test(start_paused = true)]
async fn the_parked_copy_and_its_stream_go_when_another_server_claims_the_session() {
    let directory = MemoryDirectory::new();
    let (first, _) = edge(&directory, 1);
    let (second, _) = edge(&directory.another_server(), 10);
    let id = first.open().await;
    let ear = first.listen(&id).await;
    first.open().await;
    assert_eq!((first.sessions.stats().parked, first.parked_streams()), (1, 1));
    assert!(second.say(&id, "hello").await);
    ear.rest().await;
    assert_eq!((first.sessions.stats().parked, first.parked_streams()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_get_of_a_session_in_the_directory_is_held_where_no_place_is_free() {
    let directory = MemoryDirectory::new();
    let (first, _) = edge(&directory, 10);
    let [id, other, third] = [first.open().await, first.open().await, first.open().await];
    directory.crash();
    let directory = directory.another_server();
    let recorder = Recorder::new(directory.clone());
    let builder = PolicySessionManager::local().max_sessions(1).max_parked_streams(1).max_parked(2);
    let second = Edge::new(builder.directory(recorder.clone()));
    assert!(second.say(&other, "hello").await, "it has the place");
    let mut ear = second.listen(&id).await;
    assert_eq!(ear.hear().await, heard(""), "held");
    let stats = second.sessions.stats();
    assert_eq!((stats.restored, stats.parked, stats.parked_streams), (1, 1, 1));
    assert_eq!(recorder.of(&id), [("released", 2)], "claimed, and given back");
    assert_eq!(state(&directory, &id).await, Some(FoundState::Parked));
    let claims = directory.claims();
    assert_eq!(second.get(&third).await.err(), Some(StatusCode::SERVICE_UNAVAILABLE), "all slots are taken");
    assert_eq!(directory.claims(), claims, "which costs no claim");
    assert!(second.say(&id, "1").await);
    assert_eq!(ear.hear().await, heard("hello 1"), "it goes on with the next incarnation");
    // Another server may claim it meanwhile; then the stream ends, and its client comes again.
    assert!(second.say(&other, "hello").await);
    assert_eq!((ear.hear().await, second.parked_streams()), (heard(""), 1));
    let (next, _) = edge(&directory.another_server(), 10);
    assert!(next.say(&id, "hello").await);
    assert_eq!(ear.hear().await, ended(""));
    assert_eq!(second.get(&id).await.err(), Some(StatusCode::SERVICE_UNAVAILABLE));
}

#[tokio::test(start_paused = true)]
async fn a_get_of_a_session_for_which_the_parking_has_no_room_is_refused_and_not_404() {
    let directory = MemoryDirectory::new();
    let (first, _) = edge(&directory, 10);
    let [id, other] = [first.open().await, first.open().await];
    directory.crash();
    let directory = directory.another_server();
    let builder = PolicySessionManager::local().max_sessions(1).max_parked(0).directory(directory.clone());
    let second = Edge::new(builder.max_parked_streams(0));
    assert!(second.say(&other, "hello").await);
    assert_eq!(second.get(&id).await.err(), Some(StatusCode::SERVICE_UNAVAILABLE));
    assert!(second.say(&id, "hello").await, "and it is there");
}

#[tokio::test(start_paused = true)]
async fn a_live_session_that_another_server_has_claimed_is_closed_without_a_write() {
    let directory = MemoryDirectory::new();
    let (first, recorder) = edge(&directory, 10);
    let [id, other] = [first.open().await, first.open().await];
    let before = recorder.writes().len();
    recorder.lose(&id, 7);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(first.sessions.stats().live, 2, "not the epoch under which it is here");
    recorder.lose(&id, 1);
    recorder.lose("of another server", 1);
    sleep(Duration::from_millis(200)).await;
    let stats = first.sessions.stats();
    assert_eq!((stats.live, stats.parked, stats.closed(CloseReason::Moved)), (1, 0, 1));
    assert_eq!(recorder.writes().len(), before);
    assert!(first.say(&other, "hello").await);
}

#[tokio::test(start_paused = true)]
async fn a_server_gives_up_what_is_not_busy() {
    let directory = MemoryDirectory::new();
    let (first, recorder) = edge(&directory, 10);
    let (second, _) = edge(&directory.another_server(), 10);
    let id = first.open().await;
    let digest = SessionDigest::of(&id);
    assert_eq!(second.sessions.give_up(&digest).await, GivenUp::NotHere);
    assert!(first.say(&id, "hello").await);
    assert_eq!(first.sessions.give_up(&digest).await, GivenUp::Given);
    assert_eq!(first.sessions.give_up(&digest).await, GivenUp::NotHere);
    let stats = first.sessions.stats();
    assert_eq!((stats.live, stats.parked, stats.closed(CloseReason::Moved)), (0, 0, 1), "and it is not parked here");
    assert_eq!(state(&directory, &id).await, Some(FoundState::Parked));
    assert_eq!(recorder.of(&id).last(), Some(&("parked", 1)));
    assert!(second.say(&id, "hello").await);
    assert_eq!(second.sessions.list()[0].uses, 2, "its uses went along");
}

/// A manager over a scripted inner one, with a session of another server in its directory.
async fn with_a_session_of_another() -> (std::sync::Arc<PolicySessionManager<Scripted>>, Scripted, Recorder, String) {
    let directory = MemoryDirectory::new();
    let other = directory.another_server();
    let first = Edge::new(PolicySessionManager::local().directory(other.clone()));
    let id = first.open().await;
    other.crash();
    let (recorder, inner) = (Recorder::new(directory), Scripted::new());
    let builder = PolicySessionManager::builder(inner.clone()).directory(recorder.clone());
    (std::sync::Arc::new(builder.build().expect("valid")), inner, recorder, id)
}

#[tokio::test(start_paused = true)]
async fn a_restore_that_is_dropped_gives_the_session_back() {
    let (sessions, inner, recorder, id) = with_a_session_of_another().await;
    inner.set(Call::Restore, Act::Never);
    let store = sessions.parking();
    let restore = ClientContext::new().scope(async {
        assert!(!sessions.has_session(&id.as_str().into()).await.expect("no failure"));
        assert!(store.load(&id).await.expect("no failure").is_some());
        sessions.restore_session(id.as_str().into()).await.map(drop)
    });
    assert!(timeout(Duration::from_millis(100), restore).await.is_err());
    sleep(Duration::from_millis(20)).await;
    assert_eq!(recorder.of(&id), [("released", 2)]);
    assert_eq!(state(&recorder.memory, &id).await, Some(FoundState::Parked));
    assert_eq!((inner.existing(), sessions.stats().reserved), (0, 0));
    // It is parked here too by now, and comes back.
    inner.set(Call::Restore, Act::Ok);
    let restored = ClientContext::new().scope(async {
        assert!(!sessions.has_session(&id.as_str().into()).await.expect("no failure"));
        sessions.restore_session(id.as_str().into()).await.expect("no failure")
    });
    let _restored = restored.await;
    assert_eq!(sessions.stats().restored, 1);
    assert_eq!(recorder.memory.looks(), 2, "the state above, and the first request");
}

#[tokio::test(start_paused = true)]
async fn a_scope_that_ends_without_a_restore_gives_the_session_back() {
    let (sessions, _inner, recorder, id) = with_a_session_of_another().await;
    let asked = ClientContext::new().scope(async { sessions.has_session(&id.as_str().into()).await });
    assert!(!asked.await.expect("no failure"));
    sleep(Duration::from_millis(20)).await;
    assert_eq!(recorder.of(&id), [("released", 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_deleted_while_it_is_restored_ends() {
    let (sessions, inner, recorder, id) = with_a_session_of_another().await;
    inner.set(Call::Restore, Act::Slow(Duration::from_millis(100)));
    let restore = ClientContext::new().scope(async {
        assert!(!sessions.has_session(&id.as_str().into()).await.expect("no failure"));
        sessions.restore_session(id.as_str().into()).await.map(drop)
    });
    let delete = async {
        sleep(Duration::from_millis(50)).await;
        sessions.close_session(&id.as_str().into()).await.expect("no failure");
    };
    let (restored, ()) = tokio::join!(restore, delete);
    restored.expect("no failure");
    sleep(Duration::from_millis(500)).await;
    assert_eq!(recorder.of(&id), [("dead", 2)]);
    assert_eq!(state(&recorder.memory, &id).await, Some(FoundState::Dead));
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_waited_for_50_ms_and_given_back_if_it_is_won_later() {
    let (sessions, _inner, recorder, id) = with_a_session_of_another().await;
    recorder.delay_claims(Duration::from_millis(80));
    let began = Instant::now();
    let asked = ClientContext::new().scope(async { sessions.has_session(&id.as_str().into()).await });
    assert!(asked.await.is_err());
    assert_eq!(began.elapsed(), Duration::from_millis(50));
    assert!(recorder.of(&id).is_empty());
    sleep(Duration::from_millis(40)).await;
    assert_eq!(recorder.of(&id), [("released", 2)]);
    assert_eq!(sessions.stats().reserved, 0);
}

#[tokio::test(start_paused = true)]
async fn at_most_256_sessions_are_restored_at_a_time() {
    let directory = MemoryDirectory::new();
    let other = directory.another_server();
    let first = Edge::new(PolicySessionManager::local().directory(other.clone()));
    let mut ids = Vec::new();
    for _ in 0..300 {
        ids.push(first.open().await);
    }
    other.crash();
    let (recorder, inner) = (Recorder::new(directory), Scripted::new());
    inner.set(Call::Restore, Act::Never);
    let builder = PolicySessionManager::builder(inner.clone()).directory(recorder.clone());
    let sessions = std::sync::Arc::new(builder.build().expect("valid"));
    let restores: Vec<_> = ids
        .into_iter()
        .map(|id| {
            let sessions = std::sync::Arc::clone(&sessions);
            tokio::spawn(ClientContext::new().scope(async move {
                let id = id.as_str().into();
                assert!(!sessions.has_session(&id).await?);
                sessions.restore_session(id).await.map(drop)
            }))
        })
        .collect();
    sleep(Duration::from_millis(500)).await;
    assert_eq!((sessions.stats().reserved, recorder.memory.claims()), (256, 256));
    restores.iter().take(10).for_each(tokio::task::JoinHandle::abort);
    sleep(Duration::from_millis(400)).await;
    assert_eq!(recorder.memory.claims(), 266);
    sleep(Duration::from_millis(59_000)).await;
    assert_eq!(restores.iter().filter(|restore| restore.is_finished()).count(), 10, "the others wait");
    sleep(Duration::from_millis(200)).await;
    let finished = restores.iter().filter(|restore| restore.is_finished()).count();
    assert_eq!(finished, 10 + 34, "those for which there was none within a minute are rejected");
    restores.iter().for_each(tokio::task::JoinHandle::abort);
    drop(parking(&sessions));
}

#[tokio::test(start_paused = true)]
async fn restores_are_permitted_to_clients_in_turn() {
    let directory = MemoryDirectory::new();
    let other = directory.another_server();
    let first = Edge::new(PolicySessionManager::local().directory(other.clone()));
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(first.open().await);
    }
    other.crash();
    let (recorder, inner) = (Recorder::new(directory), Scripted::new());
    inner.set(Call::Restore, Act::Never);
    let builder = PolicySessionManager::builder(inner).max_sessions(2).directory(recorder.clone());
    let sessions = std::sync::Arc::new(builder.build().expect("valid"));
    // Two may be restored at a time, as there are two places. The last one is of another client.
    let mut restores = Vec::new();
    for (id, client) in ids.iter().zip([1, 1, 1, 1, 2]) {
        let (sessions, id) = (std::sync::Arc::clone(&sessions), id.as_str().into());
        let client = ClientContext::new().with_peer([192, 0, 2, client].into());
        restores.push(tokio::spawn(client.scope(async move {
            assert!(!sessions.has_session(&id).await?);
            sessions.restore_session(id).await.map(drop)
        })));
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(recorder.memory.claims(), 2);
    restores[0].abort();
    restores[1].abort();
    sleep(Duration::from_millis(50)).await;
    let mut claimed = Vec::new();
    for id in &ids[2..] {
        claimed.push(state(&recorder.memory, id).await == Some(FoundState::Live));
    }
    assert_eq!(claimed, [true, false, true], "the other client did not wait for all of the first one");
    restores.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn what_is_damaged_is_ended_and_what_is_newer_is_left() {
    let directory = MemoryDirectory::new();
    let (edge, recorder) = edge(&directory, 10);
    for (id, version, writes) in [("damaged", 0_u8, ("dead", 2)), ("newer", 200, ("released", 2))] {
        let other = directory.another_server();
        let body = rmcp_session_policy::directory::StoredBody::from_bytes([version, 1, 2, 3]);
        let stored = rmcp_session_policy::directory::StoredSession::new(
            None,
            Duration::ZERO,
            rmcp_session_policy::directory::Usage::default(),
            body,
        );
        other.write(&SessionDigest::of(id), Epoch::FIRST, Change::Parked(stored));
        for _ in 0..2 {
            assert_eq!(edge.say_raw(id, "hello").await.0, StatusCode::NOT_FOUND);
        }
        assert_eq!(recorder.of(id), [writes], "it is not tried again");
    }
    let stats = edge.sessions.stats();
    assert_eq!((stats.restored, stats.parked, stats.reserved), (0, 0, 0));
    let digest = SessionDigest::of("newer");
    let found = directory.look(&digest).await.expect("is there").expect("was left");
    assert!(matches!(directory.claim(&digest, &found).await, Ok(Claim::Yours(..))));
}
