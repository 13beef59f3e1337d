//! docs/design.md, L17.
//!
//! A session that was deleted or revoked is dead in the directory before that is answered, whatever else is under way; a
//! session whose server stops is not.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp_session_policy::directory::{FoundState, SessionDigest, SessionDirectory};
use rmcp_session_policy::eviction::SessionInfo;
use rmcp_session_policy::testing::directory::MemoryDirectory;
use rmcp_session_policy::testing::inner::{Act, Call, Scripted};
use rmcp_session_policy::{ClientContext, CloseReason, Fingerprint, GivenUp, PolicySessionManager};
use tokio::time::{Instant, sleep, timeout};

use crate::directory::Recorder;
use crate::edge::Edge;
use crate::parked::{Manager, park, ready};

const MS: Duration = Duration::from_millis(1);

fn edge(places: usize) -> (Edge, Recorder) {
    let recorder = Recorder::new(MemoryDirectory::new());
    (Edge::new(PolicySessionManager::local().max_sessions(places).directory(recorder.clone())), recorder)
}

fn scripted(places: usize) -> (Manager<Scripted>, Scripted, Recorder) {
    let (recorder, inner) = (Recorder::new(MemoryDirectory::new()), Scripted::new());
    let builder = PolicySessionManager::builder(inner.clone()).max_sessions(places).directory(recorder.clone());
    (Arc::new(builder.build().expect("valid")), inner, recorder)
}

async fn state(recorder: &Recorder, id: &str) -> Option<FoundState> {
    recorder.memory.look(&SessionDigest::of(id)).await.expect("is there").map(|found| found.state)
}

fn this(id: &str) -> impl Fn(&SessionInfo<'_>) -> bool + use<> {
    let fingerprint = Fingerprint::of(id);
    move |session| session.fingerprint() == fingerprint
}

/// A session that is parked at an edge, and the claims of which take 80 ms.
async fn slow_to_claim() -> (Edge, Recorder, String) {
    let (edge, recorder) = edge(1);
    let id = edge.open().await;
    edge.open().await;
    recorder.delay_claims(80 * MS);
    (edge, recorder, id)
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_revoked_while_a_claim_of_it_is_late_does_not_come_back() {
    for given_up_after in [10 * MS, 60 * MS] {
        let (edge, recorder, id) = slow_to_claim().await;
        // At 50 ms it is refused; before, the request is dropped.
        timeout(given_up_after, edge.say_raw(&id, "hello")).await.ok();
        assert_eq!(edge.sessions.terminate(this(&id), CloseReason::Revoked).await, 1);
        assert_eq!(recorder.of(&id).last(), Some(&("dead", 2)), "given up after {given_up_after:?}");
        assert_eq!(state(&recorder, &id).await, Some(FoundState::Dead));
        assert_eq!(edge.say_raw(&id, "hello").await.0, StatusCode::NOT_FOUND);
        assert_eq!(edge.sessions.stats().parked, 1, "the other one");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_deleted_while_its_restore_waits_for_a_place_does_not_come_back() {
    let (first, recorder) = edge(10);
    let id = first.open().await;
    recorder.memory.crash();
    let next = Recorder::new(recorder.memory.another_server());
    let edge = Edge::new(PolicySessionManager::local().max_sessions(1).directory(next.clone()));
    let busy = edge.open().await;
    let say = |id: &str, words: &'static str| {
        let (edge, id) = (edge.clone(), id.to_owned());
        tokio::spawn(async move { edge.say(&id, words).await })
    };
    let busy = say(&busy, "pause");
    sleep(100 * MS).await;
    let restored = say(&id, "hello");
    sleep(100 * MS).await;
    let began = Instant::now();
    assert_eq!(edge.delete(&id).await, StatusCode::ACCEPTED);
    assert_eq!((began.elapsed(), edge.sessions.stats().directory_late), (50 * MS, 1));
    assert!(!restored.await.expect("no panic"), "there is no place");
    sleep(100 * MS).await;
    assert_eq!(state(&next, &id).await, Some(FoundState::Dead));
    assert!(busy.await.expect("no panic"));
    assert!(!edge.say(&id, "hello").await);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_deleted_while_a_claim_of_it_is_late_does_not_come_back() {
    // The claim is over 70 ms and 20 ms later.
    for (given_up_after, late) in [(10 * MS, 1), (60 * MS, 0)] {
        let (edge, recorder, id) = slow_to_claim().await;
        timeout(given_up_after, edge.say_raw(&id, "hello")).await.ok();
        let began = Instant::now();
        assert_eq!(edge.delete(&id).await, StatusCode::ACCEPTED);
        assert!(began.elapsed() <= 50 * MS, "{:?}", began.elapsed());
        assert_eq!(edge.sessions.stats().directory_late, late);
        sleep(80 * MS).await;
        assert_eq!(recorder.of(&id).last(), Some(&("dead", 2)), "given up after {given_up_after:?}");
        assert_eq!(state(&recorder, &id).await, Some(FoundState::Dead));
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_whose_claim_is_late_ends_the_session_all_the_same() {
    let (edge, recorder, id) = slow_to_claim().await;
    let began = Instant::now();
    assert_eq!(edge.delete(&id).await, StatusCode::ACCEPTED);
    assert_eq!((began.elapsed(), edge.sessions.stats().directory_late), (50 * MS, 1));
    sleep(40 * MS).await;
    assert_eq!(recorder.of(&id)[3..], [("dead", 2)]);
    assert_eq!(edge.sessions.stats().parked, 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_late_claim_has_won_is_known_to_the_next_request() {
    let (edge, recorder, id) = slow_to_claim().await;
    let (_, body) = edge.say_raw(&id, "hello").await;
    assert!(body.contains("backend"), "{body}");
    let began = Instant::now();
    let (_, body) = edge.say_raw(&id, "hello").await;
    assert_eq!((began.elapsed(), recorder.memory.claims()), (Duration::ZERO, 0), "it waits for no late claim: {body}");
    sleep(40 * MS).await;
    assert_eq!(recorder.of(&id)[3..], [("released", 2)]);
    recorder.delay_claims(Duration::ZERO);
    assert!(edge.say(&id, "hello").await);
    assert_eq!((recorder.memory.claims(), recorder.memory.looks()), (2, 0), "it was parked here under its new epoch");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_deleted_while_it_is_claimed_ends_before_that_is_answered() {
    let (edge, recorder) = edge(10);
    let other = Edge::new(PolicySessionManager::local().directory(recorder.memory.another_server()));
    let id = other.open().await;
    assert_eq!(other.sessions.give_up(&SessionDigest::of(&id)).await, GivenUp::Given);
    recorder.delay_claims(20 * MS);
    let delete = async {
        sleep(10 * MS).await;
        let deleted = edge.delete(&id).await;
        (deleted, recorder.of(&id))
    };
    let ((status, _), (deleted, written)) = tokio::join!(edge.say_raw(&id, "hello"), delete);
    assert_eq!((status, deleted), (StatusCode::NOT_FOUND, StatusCode::ACCEPTED));
    assert_eq!(written, [("dead", 2)], "when the DELETE is answered");
    let stats = edge.sessions.stats();
    assert_eq!((stats.parked, stats.live, stats.reserved, stats.directory_late), (0, 0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_deletion_beside_a_restore_is_answered_when_its_end_is_written() {
    let (sessions, inner, recorder) = scripted(10);
    let (id, transport) = ready(&sessions).await;
    park(&sessions, &id).await;
    drop(transport);
    inner.set(Call::Restore, Act::Slow(30 * MS));
    let restore = ClientContext::new().scope(async {
        assert!(!sessions.has_session(&id).await.expect("no failure"));
        sessions.restore_session(Arc::clone(&id)).await.map(drop)
    });
    let delete = async {
        sleep(10 * MS).await;
        sessions.close_session(&id).await.expect("no failure");
        recorder.of(&id)
    };
    let began = Instant::now();
    let (restored, written) = tokio::join!(restore, delete);
    restored.expect("no failure");
    assert_eq!(written.last(), Some(&("dead", 2)));
    // The restore, and the time in which rmcp forgets it.
    assert_eq!((began.elapsed(), sessions.stats().directory_late), (40 * MS, 0));
}

#[tokio::test(start_paused = true)]
async fn an_end_is_written_before_it_is_answered_though_the_inner_close_hangs() {
    let (sessions, inner, recorder) = scripted(10);
    inner.set(Call::Close, Act::Never);
    let (deleted, _transport) = ready(&sessions).await;
    let (revoked, _transport) = ready(&sessions).await;
    sessions.close_session(&deleted).await.expect("no failure");
    sessions.terminate(this(&revoked), CloseReason::Revoked).await;
    for id in [&deleted, &revoked] {
        assert_eq!(recorder.of(id)[2..], [("dead", 1)]);
    }
    assert_eq!(sessions.stats().closing, 2);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_deleted_while_its_eviction_hangs_does_not_come_back() {
    let (sessions, inner, recorder) = scripted(10);
    inner.set(Call::Close, Act::Slow(Duration::from_secs(1)));
    let (id, _transport) = ready(&sessions).await;
    let evict = sessions.terminate(this(&id), CloseReason::Evicted);
    let delete = async {
        sleep(10 * MS).await;
        sessions.close_session(&id).await.expect("no failure");
        recorder.of(&id)
    };
    let (_, written) = tokio::join!(evict, delete);
    assert_eq!(written[2..], [("dead", 1)], "when the DELETE is answered");
    sleep(Duration::from_secs(2)).await;
    assert_eq!((recorder.of(&id)[2..].to_vec(), sessions.stats().parked), (vec![("dead", 1)], 0));
}

#[tokio::test(start_paused = true)]
async fn a_server_does_not_give_up_what_it_restores() {
    let (sessions, inner, _recorder) = scripted(10);
    let (id, transport) = ready(&sessions).await;
    park(&sessions, &id).await;
    drop(transport);
    inner.set(Call::Restore, Act::Slow(30 * MS));
    let restore = ClientContext::new().scope(async {
        assert!(!sessions.has_session(&id).await.expect("no failure"));
        sessions.restore_session(Arc::clone(&id)).await
    });
    let give_up = async {
        sleep(10 * MS).await;
        sessions.give_up(&SessionDigest::of(&id)).await
    };
    let (_restored, given) = tokio::join!(restore, give_up);
    assert_eq!(given, GivenUp::Busy);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_cancelled_leaves_its_session_in_the_directory() {
    let (edge, recorder) = edge(10);
    let ids = [edge.open().await, edge.open().await];
    let ear = edge.listen(&ids[1]).await;
    edge.config.cancellation_token.cancel();
    sleep(Duration::from_secs(1)).await;
    for id in &ids {
        assert_eq!(recorder.of(id)[2..], [("parked", 1)]);
    }
    drop(ear);
    // A server that still takes requests says that the session is there.
    let (status, body) = edge.say_raw(&ids[0], "hello").await;
    assert!(status == StatusCode::OK && body.contains("isError"), "{status} {body}");
    sleep(Duration::from_secs(1)).await;
    let next = Edge::new(PolicySessionManager::local().directory(recorder.memory.another_server()));
    for id in &ids {
        assert!(next.say(id, "hello").await, "{:?}", recorder.of(id));
    }
}

#[test]
fn a_runtime_that_is_dropped_leaves_its_sessions_in_the_directory() {
    let recorder = Recorder::new(MemoryDirectory::new());
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("builds");
    let stopped = runtime();
    let (edge, ids) = stopped.block_on(async {
        let edge = Edge::new(PolicySessionManager::local().directory(recorder.clone()));
        let ids = [edge.open().await, edge.open().await];
        (edge, ids)
    });
    drop(stopped);
    drop(edge);
    for id in &ids {
        assert!(!recorder.of(id).iter().any(|(change, _)| *change == "dead"), "{:?}", recorder.of(id));
    }
    recorder.memory.crash();
    runtime().block_on(async {
        let next = Edge::new(PolicySessionManager::local().directory(recorder.memory.another_server()));
        for id in &ids {
            assert!(next.say(id, "hello").await);
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_dropped_leaves_its_session_in_the_directory() {
    let (sessions, _inner, recorder) = scripted(10);
    let (id, transport) = ready(&sessions).await;
    drop(transport);
    sleep(MS).await;
    assert_eq!(recorder.of(&id)[2..], [("parked", 1)]);
    assert_eq!((sessions.stats().parked, sessions.stats().closed(CloseReason::Ended)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_listening_stream_at_a_server_that_hands_over_restores_nothing() {
    let (edge, recorder) = edge(10);
    let id = edge.open().await;
    edge.sessions.hand_over();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(recorder.of(&id)[2..], [("parked", 1)]);
    assert_eq!(edge.get(&id).await.err(), Some(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!((edge.sessions.stats().restored, recorder.memory.claims()), (0, 0));
    assert!(edge.say(&id, "hello").await, "what its client calls is served");
}
