//! docs/directory.md, "What handlers remember".
//!
//! Session data outlives its handler, and its process if its type is registered. No acknowledged change is lost, and the
//! hook for final ends is called once.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Method;
use rmcp::handler::server::tool::Extension;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::{ErrorData, tool, tool_router};
use rmcp_session_policy::directory::{Change, Claim, SessionDigest, SessionDirectory};
use rmcp_session_policy::eviction::{Lru, SessionInfo};
use rmcp_session_policy::testing::directory::MemoryDirectory;
use rmcp_session_policy::{
    CloseReason, CurrentSession, FinalEnd, FinalEndReason, GivenUp, HOUR, PolicySessionManager,
    PolicySessionManagerBuilder, SECOND, SessionDataError,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::directory::Recorder;
use crate::server::Text;
use crate::web::Server;

/// Registered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Count(u64);

/// Registered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Note(String);

/// Stays in memory.
#[derive(Debug)]
struct Browser(Arc<AtomicUsize>);

impl Drop for Browser {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A handler without a state of its own. Clones share what a test looks at.
#[derive(Clone, Debug, Default)]
struct Keeper {
    kept: Arc<Mutex<Vec<CurrentSession>>>,
    browsers_closed: Arc<AtomicUsize>,
    waits: Arc<Notify>,
}

#[tool_router(server_handler)]
impl Keeper {
    #[tool(description = "counts the calls of this session")]
    fn count(&self, Extension(session): Extension<CurrentSession>) -> Result<String, ErrorData> {
        let count = session.data::<Count>().update(|count| {
            count.0 += 1;
            count.0
        })?;
        Ok(count.to_string())
    }

    #[tool(description = "notes a text")]
    fn note(
        &self,
        Parameters(Text { text }): Parameters<Text>,
        Extension(session): Extension<CurrentSession>,
    ) -> Result<String, ErrorData> {
        session.data::<Note>().set(Note(text))?;
        Ok("noted".to_owned())
    }

    #[tool(description = "opens a browser, unless there is one")]
    fn browse(&self, Extension(session): Extension<CurrentSession>) -> Result<String, ErrorData> {
        let browser = session.data::<Browser>();
        if browser.get()?.is_some() {
            return Ok("open".to_owned());
        }
        browser.set(Browser(Arc::clone(&self.browsers_closed)))?;
        Ok("opened".to_owned())
    }

    #[tool(description = "keeps its session for the test")]
    fn keep(&self, Extension(session): Extension<CurrentSession>) -> String {
        self.kept.lock().expect("no panic").push(session);
        "kept".to_owned()
    }

    #[tool(description = "closes its session, and never answers")]
    async fn close_and_wait(&self, Extension(session): Extension<CurrentSession>) -> String {
        session.close();
        self.waits.notify_one();
        std::future::pending().await
    }

    #[tool(description = "closes its session")]
    fn close(&self, Extension(session): Extension<CurrentSession>) -> String {
        session.close();
        "closed".to_owned()
    }
}

impl Keeper {
    /// The session that a call of `keep` has just kept.
    fn take(&self) -> CurrentSession {
        self.kept.lock().expect("no panic").pop().expect("kept")
    }
}

type Builder = PolicySessionManagerBuilder<LocalSessionManager>;

fn local() -> Builder {
    PolicySessionManager::local().eviction(Lru::new()).session_data::<Count>("count", 1).session_data::<Note>("note", 1)
}

async fn serve(builder: Builder) -> (Server, Keeper) {
    let keeper = Keeper::default();
    let handler = keeper.clone();
    (Server::serving(builder, move || handler.clone()).await, keeper)
}

/// A server that was killed, and the next one over the same directory.
async fn next(server: Server, directory: &MemoryDirectory, builder: Builder) -> (Server, Keeper, MemoryDirectory) {
    directory.crash();
    drop(server);
    let directory = directory.another_server();
    let (server, keeper) = serve(builder.directory(directory.clone())).await;
    (server, keeper, directory)
}

async fn tell(server: &Server, id: &str, tool: &str) -> String {
    server.tell("alice", id, tool, &json!({})).await
}

async fn kept(server: &Server, keeper: &Keeper, id: &str) -> CurrentSession {
    assert_eq!(tell(server, id, "keep").await, "kept");
    keeper.take()
}

async fn delete(server: &Server, id: &str) -> u16 {
    let request = server.request(Method::DELETE, Some(id)).header("x-user", "alice");
    request.send().await.expect("answers").status().as_u16()
}

/// A manager with a hook, and the ends that it was told: the reason, the count and whether there was a browser.
fn hooked(builder: Builder) -> (Builder, UnboundedReceiver<(FinalEndReason, Option<u64>, bool)>) {
    let (told, ends) = unbounded_channel();
    let builder = builder.on_final_end(move |end: FinalEnd| {
        let count = end.data::<Count>().expect("reads").map(|count| count.0);
        let browser = end.data::<Browser>().expect("reads").is_some();
        told.send((end.reason(), count, browser)).expect("the test listens");
        async {}
    });
    (builder, ends)
}

#[tokio::test]
async fn data_outlives_the_handler_when_its_session_is_evicted_and_restored() {
    let (server, keeper) = serve(local().max_sessions(1)).await;
    let id = server.open_as("alice").await;
    assert_eq!((&*tell(&server, &id, "count").await, &*tell(&server, &id, "browse").await), ("1", "opened"));
    for count in ["2", "3"] {
        server.open_as("bob").await;
        assert_eq!((&*tell(&server, &id, "count").await, &*tell(&server, &id, "browse").await), (count, "open"));
    }
    assert_eq!(server.sessions.stats().restored, 2);
    assert_eq!(keeper.browsers_closed.load(SeqCst), 0);
    let current = kept(&server, &keeper, &id).await;
    assert_eq!(current.principal(), Some("alice"));
    assert_eq!(delete(&server, &id).await, 202);
    drop(current);
    assert_eq!(keeper.browsers_closed.load(SeqCst), 1, "dropped once, with the session");
}

#[tokio::test]
async fn data_of_a_registered_type_comes_back_after_a_kill_and_others_do_not() {
    let directory = MemoryDirectory::new();
    let (mut server, _) = serve(local().directory(directory.clone())).await;
    let mut at = directory;
    let id = server.open_as("alice").await;
    for restart in 0..3 {
        for count in 1..=2 {
            assert_eq!(tell(&server, &id, "count").await, (2 * restart + count).to_string());
        }
        assert_eq!(tell(&server, &id, "browse").await, "opened", "after {restart} restarts");
        (server, _, at) = next(server, &at, local()).await;
    }
}

#[tokio::test]
async fn data_that_was_evicted_or_handed_over_comes_back_at_another_server() {
    let directory = MemoryDirectory::new();
    let (first, keeper) = serve(local().directory(directory.clone()).max_parked(0).max_sessions(1)).await;
    let (second, _) = serve(local().directory(directory.another_server())).await;
    let [id, other] = [first.open_as("alice").await, first.open_as("alice").await];
    assert_eq!(tell(&first, &id, "count").await, "1");
    assert_eq!(tell(&first, &other, "count").await, "1");
    assert_eq!(tell(&second, &id, "count").await, "2", "evicted by the other");
    assert_eq!(tell(&first, &other, "browse").await, "opened");
    assert_eq!(first.sessions.give_up(&SessionDigest::of(&other)).await, GivenUp::Given);
    assert_eq!(tell(&second, &other, "count").await, "2", "given up");
    assert_eq!(keeper.browsers_closed.load(SeqCst), 1, "what is in memory does not move");
}

#[tokio::test]
async fn no_change_of_many_at_once_is_lost() {
    let directory = MemoryDirectory::new();
    let (server, keeper) = serve(local().directory(directory.clone())).await;
    let id = server.open_as("alice").await;
    let current = kept(&server, &keeper, &id).await;
    let tasks = (0..8).map(|_| {
        let count = current.data::<Count>();
        std::thread::spawn(move || (0..100).try_for_each(|_| count.update(|count| count.0 += 1)))
    });
    for task in tasks.collect::<Vec<_>>() {
        task.join().expect("no panic").expect("changes");
    }
    assert_eq!(current.data::<Count>().get().expect("reads").as_deref(), Some(&Count(800)));
    let (server, _, _) = next(server, &directory, local()).await;
    assert_eq!(tell(&server, &id, "count").await, "801", "the last write is the last change");
}

#[tokio::test]
async fn a_value_is_set_taken_and_read_whatever_others_hold() {
    let (server, keeper) = serve(local()).await;
    let id = server.open_as("alice").await;
    let current = kept(&server, &keeper, &id).await;
    let (count, note) = (current.data::<Count>(), current.data::<Note>());
    assert!(count.get().expect("reads").is_none() && count.take().expect("reads").is_none());
    count.set(Count(7)).expect("fits");
    let before = count.get().expect("reads");
    count.set(Count(8)).expect("fits");
    note.set(Note("a".to_owned())).expect("fits");
    assert_eq!((before.as_deref(), count.get().expect("reads").as_deref()), (Some(&Count(7)), Some(&Count(8))));
    assert_eq!(count.take().expect("reads").as_deref(), Some(&Count(8)));
    assert!(count.get().expect("reads").is_none());
    assert_eq!(note.get().expect("reads").as_deref(), Some(&Note("a".to_owned())));
}

#[tokio::test]
async fn a_value_that_is_too_large_is_an_error_of_the_tool_and_costs_nothing_else() {
    // `"` and `"` around the text, and the name.
    let room = "note".len() + 2;
    let (server, keeper) = serve(local().max_session_data_bytes(room + 100)).await;
    let id = server.open_as("alice").await;
    let note = async |letters: usize| server.tell("alice", &id, "note", &json!({ "text": "x".repeat(letters) })).await;
    assert_eq!(note(100).await, "noted");
    assert_eq!(note(101).await, "the session's data would be 107 bytes, and 106 are allowed");
    assert_eq!(tell(&server, &id, "count").await, "the session's data would be 112 bytes, and 106 are allowed");
    let current = kept(&server, &keeper, &id).await;
    assert_eq!(current.data::<Note>().get().expect("reads").map(|note| note.0.len()), Some(100), "as before");
    assert_eq!(note(94).await, "noted");
    assert_eq!(tell(&server, &id, "count").await, "1");
}

#[tokio::test]
async fn a_parked_session_counts_with_its_data_and_is_never_lost_for_it() {
    let (server, _) = serve(local().max_sessions(1).max_parked_bytes(20_000).max_session_data_bytes(10_000)).await;
    let id = server.open_as("alice").await;
    let text = "x".repeat(9_000);
    assert_eq!(server.tell("alice", &id, "note", &json!({ "text": text })).await, "noted");
    server.open_as("bob").await;
    let stats = server.sessions.stats();
    assert!(stats.parked == 1 && stats.parked_bytes > 9_000, "{stats:?}");
    assert_eq!(tell(&server, &id, "count").await, "1", "restored");
}

#[tokio::test]
async fn a_value_of_another_version_is_none_and_stays_for_the_release_that_reads_it() {
    let directory = MemoryDirectory::new();
    let (server, _) = serve(local().directory(directory.clone())).await;
    let id = server.open_as("alice").await;
    assert_eq!(tell(&server, &id, "count").await, "1");
    // The next release has another type, and knows no notes.
    let newer = || PolicySessionManager::local().session_data::<Count>("count", 2);
    let (server, keeper, directory) = next(server, &directory, newer()).await;
    let current = kept(&server, &keeper, &id).await;
    assert!(current.data::<Count>().get().expect("reads").is_none());
    assert!(current.data::<Count>().take().expect("reads").is_none(), "and stays");
    drop(current);
    let (server, _, directory) = next(server, &directory, local()).await;
    assert_eq!(tell(&server, &id, "count").await, "2", "rolled back");
    let (server, _, directory) = next(server, &directory, newer()).await;
    assert_eq!(tell(&server, &id, "count").await, "1", "the default, since none is of its version");
    let (server, _, directory) = next(server, &directory, local()).await;
    assert_eq!(tell(&server, &id, "count").await, "1", "each release sees its own");
    drop((server, directory));
}

#[tokio::test]
async fn what_is_stored_and_cannot_be_read_is_an_error_and_can_be_replaced() {
    let directory = MemoryDirectory::new();
    let (server, _) = serve(local().directory(directory.clone())).await;
    let id = server.open_as("alice").await;
    assert_eq!(tell(&server, &id, "count").await, "1");
    let another_type = PolicySessionManager::local().session_data::<Note>("count", 1);
    let (server, keeper, _) = next(server, &directory, another_type).await;
    let current = kept(&server, &keeper, &id).await;
    assert!(matches!(current.data::<Note>().get(), Err(SessionDataError::Decode(_))));
    current.data::<Note>().set(Note("new".to_owned())).expect("fits");
    assert_eq!(current.data::<Note>().get().expect("reads").as_deref(), Some(&Note("new".to_owned())));
}

#[tokio::test]
async fn changes_of_stored_types_alone_are_written_each_with_what_the_session_is() {
    let recorder = Recorder::new(MemoryDirectory::new());
    let (server, keeper) = serve(local().directory(recorder.clone())).await;
    let id = server.open_as("alice").await;
    let current = kept(&server, &keeper, &id).await;
    let data_writes = || recorder.of(&id).iter().filter(|(name, _)| *name == "data").count();
    assert_eq!(tell(&server, &id, "browse").await, "opened");
    current.data::<Count>().get().expect("reads");
    assert_eq!(data_writes(), 0);
    current.data::<Count>().set(Count(4_711)).expect("fits");
    assert_eq!(data_writes(), 1);
    let writes = recorder.writes();
    let Some((_, _, Change::Data(stored))) = writes.last() else { panic!("no data: {writes:?}") };
    assert!(stored.ready && stored.usage.uses == 2, "{stored:?}");
    let holds = |needle: &[u8]| stored.body.as_bytes().windows(needle.len()).any(|bytes| bytes == needle);
    assert!(holds(b"4711") && holds(b"alice") && holds(b"clientInfo"));
}

#[tokio::test]
async fn after_the_end_of_its_session_data_is_neither_read_nor_changed() {
    let (server, keeper) = serve(local().max_sessions(1)).await;
    let id = server.open_as("alice").await;
    let before = kept(&server, &keeper, &id).await;
    before.data::<Count>().set(Count(7)).expect("lives");
    server.open_as("bob").await;
    assert!(matches!(before.data::<Count>().set(Count(8)), Err(SessionDataError::Ended)), "it is parked");
    assert_eq!(tell(&server, &id, "count").await, "8", "restored");
    assert!(matches!(before.data::<Count>().get(), Err(SessionDataError::Ended)), "another incarnation");
    let now = kept(&server, &keeper, &id).await;
    assert_eq!(now.data::<Count>().get().expect("lives").as_deref(), Some(&Count(8)));
}

/// Changes go on while the session is evicted: each one is refused, or is there when the session comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_meets_an_eviction_is_refused_or_kept() {
    let directory = MemoryDirectory::new();
    for at_another_server in [false, true] {
        let parked = if at_another_server { 0 } else { 10_000 };
        let builder = local().max_sessions(1).max_parked(parked).directory(directory.another_server());
        let (server, keeper) = serve(builder).await;
        let (another, _) = serve(local().directory(directory.another_server())).await;
        for _ in 0..50 {
            let id = server.open_as("alice").await;
            let count = kept(&server, &keeper, &id).await.data::<Count>();
            let changes = std::thread::spawn(move || {
                (1..).find(|number| count.set(Count(*number)).is_err()).expect("the session ends")
            });
            let other = server.open_as("bob").await;
            let refused =
                tokio::task::spawn_blocking(move || changes.join().expect("no panic")).await.expect("no panic");
            let at = if at_another_server { &another } else { &server };
            assert_eq!(tell(at, &id, "count").await, refused.to_string(), "one more than the last that was kept");
            delete(&server, &other).await;
            delete(&server, &id).await;
        }
    }
}

#[tokio::test]
async fn with_a_directory_that_says_so_the_answer_to_a_change_waits_until_it_is_durable() {
    let directory = MemoryDirectory::new();
    let recorder = Recorder::new(directory.clone()).before_answers();
    let (server, _) = serve(local().directory(recorder)).await;
    let id = server.open_as("alice").await;
    assert_eq!(tell(&server, &id, "count").await, "1");
    // Killed right after the answer.
    let (server, _, _) = next(server, &directory, local()).await;
    assert_eq!(tell(&server, &id, "count").await, "2");
}

#[tokio::test]
async fn with_a_directory_that_says_so_initialize_waits_until_its_session_is_durable() {
    let directory = MemoryDirectory::new();
    let recorder = Recorder::new(directory.clone()).before_answers();
    let (server, _) = serve(local().directory(recorder)).await;
    let response =
        server.post(None, &crate::web::initialize(1)).header("x-user", "alice").send().await.expect("answers");
    let id = response.headers()["mcp-session-id"].to_str().expect("text").to_owned();
    directory.crash();
    let directory = directory.another_server();
    let (next, _) = serve(local().directory(directory)).await;
    assert_eq!(tell(&next, &id, "count").await, "1");
}

#[tokio::test]
async fn an_answer_waits_for_a_slow_directory_as_long_as_it_may_and_is_counted() {
    let directory = MemoryDirectory::new();
    let (server, _) = serve(local().directory(Recorder::new(directory.clone()).before_answers())).await;
    let id = server.open_as("alice").await;
    assert_eq!(server.sessions.stats().directory_late, 0);
    directory.delay(60 * SECOND);
    assert_eq!(tell(&server, &id, "count").await, "1");
    assert_eq!(server.sessions.stats().directory_late, 1);
    server.open_as("alice").await;
    assert_eq!(server.sessions.stats().directory_late, 2);
}

#[tokio::test]
async fn a_tool_closes_its_session_and_is_answered() {
    let (server, keeper) = serve(local()).await;
    let id = server.open_as("alice").await;
    assert_eq!(tell(&server, &id, "close").await, "closed");
    while server.sessions.stats().live > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.sessions.stats().closed(CloseReason::Revoked), 1);
    assert_eq!(delete(&server, &id).await, 404);
    // Nothing in flight: at once.
    let id = server.open_as("alice").await;
    let current = kept(&server, &keeper, &id).await;
    current.close();
    while server.sessions.stats().live > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.sessions.stats().closed(CloseReason::Revoked), 2);
}

#[tokio::test]
async fn a_session_that_its_handler_closes_does_not_come_back_though_something_else_ends_it_first() {
    let directory = MemoryDirectory::new();
    let (server, keeper) = serve(local().directory(directory.clone())).await;
    let server = Arc::new(server);
    let id = server.open_as("alice").await;
    let call = tokio::spawn({
        let (server, id) = (Arc::clone(&server), id.clone());
        async move { tell(&server, &id, "close_and_wait").await }
    });
    keeper.waits.notified().await;
    server.sessions.drain(Duration::ZERO).await;
    assert!(call.await.expect("no panic").contains("drained"));
    let (next, _) = serve(local().directory(directory.another_server())).await;
    assert_eq!(delete(&next, &id).await, 404);
}

#[tokio::test]
async fn the_hook_is_called_once_at_each_kind_of_final_end_and_not_before() {
    let (builder, mut ends) = hooked(local().max_sessions(1).max_parked(1));
    let (server, keeper) = serve(builder).await;
    let open = async |count: u64| {
        let id = server.open_as("alice").await;
        for _ in 0..count {
            tell(&server, &id, "count").await;
        }
        id
    };
    let of = |reason, count| (reason, Some(count), false);
    // Live, and deleted.
    let id = open(1).await;
    assert_eq!(delete(&server, &id).await, 202);
    assert_eq!(ends.recv().await, Some(of(FinalEndReason::Closed(CloseReason::Client), 1)));
    // Parked, and deleted.
    let id = open(2).await;
    let other = open(3).await;
    assert_eq!(delete(&server, &id).await, 202);
    assert_eq!(ends.recv().await, Some(of(FinalEndReason::Closed(CloseReason::Client), 2)));
    // Live, and revoked; with what is in memory.
    assert_eq!(tell(&server, &other, "browse").await, "opened");
    assert_eq!(server.sessions.terminate(server.sessions.list()[0].key, CloseReason::Revoked).await, 1);
    assert_eq!(ends.recv().await, Some((FinalEndReason::Closed(CloseReason::Revoked), Some(3), true)));
    while keeper.browsers_closed.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // Parked, and revoked.
    open(4).await;
    let live = open(5).await;
    let parked = |session: &SessionInfo<'_>| session.uses() == 4;
    assert_eq!(server.sessions.terminate(parked, CloseReason::Revoked).await, 1);
    assert_eq!(ends.recv().await, Some(of(FinalEndReason::Closed(CloseReason::Revoked), 4)));
    // Parked, restored, parked, and pushed out by another one.
    open(6).await;
    assert_eq!(tell(&server, &live, "count").await, "6");
    assert_eq!(ends.try_recv().ok(), None, "nothing has ended");
    open(7).await;
    assert_eq!(ends.recv().await, Some(of(FinalEndReason::Forgotten, 6)), "the older of the two that were parked");
    // Never with data.
    let id = server.open_as("alice").await;
    assert_eq!(delete(&server, &id).await, 202);
    // Those that are parked at the drain.
    server.sessions.drain(SECOND).await;
    let mut drained = vec![ends.try_recv().expect("the drain has waited for it")];
    drained.extend(ends.try_recv());
    assert!(drained.contains(&of(FinalEndReason::Closed(CloseReason::Drained), 7)), "{drained:?}");
    assert_eq!(ends.try_recv().ok(), None);
}

#[tokio::test]
async fn the_hook_is_called_for_parked_sessions_over_age_and_over_their_lifetime() {
    let (builder, mut ends) = hooked(local().max_sessions(1).max_parked_age(Duration::from_millis(50)));
    let (server, _) = serve(builder).await;
    let id = server.open_as("alice").await;
    assert_eq!(tell(&server, &id, "count").await, "1");
    server.open_as("bob").await;
    assert_eq!(ends.recv().await, Some((FinalEndReason::Forgotten, Some(1), false)));
    let (builder, mut ends) = hooked(local().max_lifetime(Duration::from_millis(200)));
    let (server, _) = serve(builder).await;
    let id = server.open_as("alice").await;
    assert_eq!(tell(&server, &id, "count").await, "1");
    assert_eq!(ends.recv().await, Some((FinalEndReason::Closed(CloseReason::Lifetime), Some(1), false)));
}

#[tokio::test]
async fn with_a_directory_a_session_that_is_parked_or_moves_has_no_final_end_until_a_server_ends_it() {
    let directory = MemoryDirectory::new();
    let (builder, mut ends) = hooked(local().directory(directory.clone()).max_sessions(1).max_parked(1));
    let (server, keeper) = serve(builder).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(server.open_as("alice").await);
        assert_eq!(tell(&server, ids.last().expect("opened"), "count").await, "1");
    }
    assert_eq!(tell(&server, &ids[2], "browse").await, "opened");
    assert_eq!(server.sessions.stats().parked, 1, "the first one is in the directory alone");
    let moves = server.open_as("alice").await;
    assert_eq!(tell(&server, &moves, "count").await, "1");
    assert_eq!(server.sessions.give_up(&SessionDigest::of(&moves)).await, GivenUp::Given);
    ids.push(moves);
    assert_eq!(tell(&server, &ids[2], "count").await, "2", "restored");
    server.sessions.drain(SECOND).await;
    assert_eq!(ends.try_recv().ok(), None);
    assert_eq!(keeper.browsers_closed.load(SeqCst), 0);
    directory.crash();
    drop(server);
    let (builder, mut ends) = hooked(local().directory(directory.another_server()));
    let (server, _) = serve(builder).await;
    for (id, count) in ids.iter().zip([1, 1, 2, 1]) {
        assert_eq!(delete(&server, id).await, 202);
        assert_eq!(ends.recv().await, Some((FinalEndReason::Closed(CloseReason::Client), Some(count), false)));
    }
    assert_eq!(ends.try_recv().ok(), None);
}

/// Sessions that ended in each way, while the hook for each was under way when the process was killed.
#[tokio::test]
async fn the_hook_is_called_again_at_the_next_server_if_the_process_is_killed_before_it_returns() {
    let directory = MemoryDirectory::new();
    let (first, _) = serve(local().directory(directory.clone())).await;
    let alone = first.open_as("alice").await;
    assert_eq!(tell(&first, &alone, "count").await, "1");
    directory.crash();
    drop(first);
    let directory = directory.another_server();
    let (begun, mut hooks) = unbounded_channel();
    let hangs = local().max_sessions(1).directory(directory.clone()).on_final_end(move |end: FinalEnd| {
        begun.send(end.reason()).expect("the test listens");
        std::future::pending()
    });
    let (server, _) = serve(hangs).await;
    assert_eq!(delete(&server, &alone).await, 202);
    let mut ids = vec![alone];
    for count in 2..=4 {
        ids.push(server.open_as("alice").await);
        for _ in 0..count {
            tell(&server, &ids[count - 1], "count").await;
        }
    }
    let without = server.open_as("alice").await;
    assert_eq!(delete(&server, &without).await, 202, "it has no data");
    assert_eq!(delete(&server, &ids[1]).await, 202, "parked");
    assert_eq!(tell(&server, &ids[2], "count").await, "4", "restored");
    assert_eq!(delete(&server, &ids[2]).await, 202, "live");
    assert_eq!(server.sessions.terminate(|_: &SessionInfo<'_>| true, CloseReason::Revoked).await, 1, "revoked");
    for _ in 0..4 {
        assert!(matches!(hooks.recv().await, Some(FinalEndReason::Closed(_))));
    }
    assert_eq!(directory.len(), 4, "what the hooks need");
    directory.crash();
    drop(server);
    let directory = directory.another_server();
    let (builder, mut ends) = hooked(local().directory(directory.clone()));
    let (server, _) = serve(builder).await;
    server.open_as("bob").await;
    let mut told = Vec::new();
    for _ in 0..4 {
        told.push(ends.recv().await.expect("is told"));
    }
    told.sort_by_key(|(_, count, _)| *count);
    assert_eq!(told, [1, 2, 4, 4].map(|count| (FinalEndReason::Unfinished, Some(count), false)));
    for id in &ids {
        assert_eq!(delete(&server, id).await, 404);
    }
    server.sessions.drain(SECOND).await;
    assert_eq!(directory.len(), 1, "bob's");
    assert_eq!(ends.try_recv().ok(), None);
}

#[tokio::test]
async fn the_hook_is_called_for_sessions_over_their_lifetime_that_are_in_the_directory_alone() {
    let directory = MemoryDirectory::new();
    let (server, _) = serve(local().directory(directory.clone())).await;
    let id = server.open_as("alice").await;
    assert_eq!(tell(&server, &id, "count").await, "1");
    directory.crash();
    drop(server);
    let (digest, other) = (SessionDigest::of(&id), directory.another_server());
    let found = other.look(&digest).await.expect("answers").expect("is there");
    let Ok(Claim::Yours(epoch, stored)) = other.claim(&digest, &found).await else { panic!("its server is gone") };
    other.write(&digest, epoch, Change::Parked(stored.aged(HOUR)));
    let directory = directory.another_server();
    let (builder, mut ends) = hooked(local().directory(directory.clone()).max_lifetime(HOUR));
    let (server, _) = serve(builder).await;
    assert_eq!(delete(&server, &server.open_as("alice").await).await, 202);
    assert_eq!(ends.recv().await, Some((FinalEndReason::Closed(CloseReason::Lifetime), Some(1), false)));
    server.sessions.drain(SECOND).await;
    assert_eq!((directory.len(), ends.try_recv().ok()), (0, None));
}

#[tokio::test]
async fn a_hook_that_panics_or_hangs_costs_nothing_else() {
    let calls = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&calls);
    let builder = local().final_end_deadline(Duration::from_millis(50)).on_final_end(move |_| {
        let call = told.fetch_add(1, SeqCst);
        async move {
            assert!(call > 0, "the first one panics");
            if call == 1 {
                std::future::pending::<()>().await;
            }
        }
    });
    let (server, _) = serve(builder).await;
    for _ in 0..3 {
        let id = server.open_as("alice").await;
        assert_eq!(tell(&server, &id, "count").await, "1");
        assert_eq!(delete(&server, &id).await, 202);
    }
    server.sessions.drain(SECOND).await;
    assert_eq!(calls.load(SeqCst), 3);
}
