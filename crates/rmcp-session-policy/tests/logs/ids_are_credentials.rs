//! docs/design.md, L12.
//!
//! Ids are credentials. No log, error or `Debug` output shows one.

use std::collections::HashSet;
use std::error::Error;
use std::fmt::{Debug, Display};
use std::io::Write;
use std::sync::{Arc, Mutex};

use crate::session::{Driver, Http, Refuses, SlowToInitialize, Wedge, settle};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use rmcp_session_policy::admission::{AdmissionPolicy, Arrival, Permit, Rejection};
use rmcp_session_policy::directory::{SessionDigest, SessionDirectory};
use rmcp_session_policy::eviction::{Candidates, EvictionPolicy, EvictionPolicyExt, Fifo, Lfu, Lru, SessionInfo};
use rmcp_session_policy::testing::directory::MemoryDirectory;
use rmcp_session_policy::{
    ClientContext, CloseReason, Fingerprint, HOUR, MINUTE, PolicySessionManager, SECOND, SessionEvent, SessionKey,
    SessionObserver,
};
use serde_json::json;
use tokio::time::sleep;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, fmt};

/// Everything that the library showed: logs, errors, `Debug` output and answers.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    fn note(&self, shown: impl Display) {
        writeln!(self.0.lock().expect("no panic"), "{shown}").expect("writes");
    }

    fn debug(&self, shown: &impl Debug) {
        self.note(format_args!("{shown:?}\n{shown:#?}"));
    }

    fn error(&self, error: &impl Error) {
        self.note(error);
        self.debug(error);
    }

    fn read(&self) -> String {
        String::from_utf8(self.0.lock().expect("no panic").clone()).expect("text")
    }
}

impl Debug for Paper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Paper").finish_non_exhaustive()
    }
}

impl Write for Paper {
    fn write(&mut self, shown: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").write(shown)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl SessionObserver for Paper {
    fn observe(&self, event: &SessionEvent<'_>) {
        self.debug(event);
    }
}

#[async_trait::async_trait]
impl AdmissionPolicy for Paper {
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection> {
        self.debug(arrival);
        Ok(Permit::free())
    }
}

/// Shows what it is shown, and panics at times.
#[derive(Debug)]
struct Talkative {
    paper: Paper,
    lru: Lru,
    asked: u32,
}

impl EvictionPolicy for Talkative {
    fn on_insert(&mut self, session: &SessionInfo<'_>) {
        self.paper.debug(session);
        self.lru.on_insert(session);
    }

    fn on_remove(&mut self, session: &SessionInfo<'_>) {
        self.paper.debug(session);
        self.lru.on_remove(session);
    }

    fn on_suspend(&mut self, session: &SessionInfo<'_>) {
        self.paper.debug(session);
        self.lru.on_suspend(session);
    }

    fn on_resume(&mut self, session: &SessionInfo<'_>) {
        self.paper.debug(session);
        self.lru.on_resume(session);
    }

    fn victim(&mut self, candidates: &Candidates<'_>) -> Option<SessionKey> {
        self.paper.debug(candidates);
        candidates.iter().for_each(|session| self.paper.debug(&session));
        self.asked += 1;
        assert!(!self.asked.is_multiple_of(3), "as asked");
        self.lru.victim(candidates)
    }
}

/// Asserts that none of the ids is on the paper, and that the paper is not empty for a wrong reason.
fn assert_kept_secret(paper: &Paper, ids: &HashSet<SessionId>) {
    let text = paper.read();
    for id in ids {
        let at = text.find(&**id);
        assert!(
            at.is_none(),
            "an id is shown: {}",
            &text[at.unwrap_or(0).saturating_sub(300)..][..400.min(text.len())]
        );
    }
    let print = ids.iter().filter(|id| text.contains(&Fingerprint::of(id).to_string())).count();
    assert!(print > 0, "fingerprints are shown");
}

fn listen(paper: &Paper) -> crate::log::Listening {
    let writer = paper.clone();
    let ours = filter_fn(|metadata| metadata.target().starts_with("rmcp_session_policy"));
    let layer = fmt::layer().with_ansi(false).with_writer(move || writer.clone()).with_filter(ours);
    crate::log::listen_with(tracing_subscriber::registry().with(layer))
}

#[tokio::test(start_paused = true)]
async fn no_id_is_shown_during_a_busy_day() {
    let paper = Paper::default();
    let _listening = listen(&paper);
    let policy = Talkative { paper: paper.clone(), lru: Lru::new(), asked: 0 };
    let directory = MemoryDirectory::new();
    let builder = PolicySessionManager::local()
        .directory(directory.clone())
        .max_sessions(4)
        .max_parked_entry_bytes(1_000)
        .idle_timeout(HOUR)
        .max_lifetime(24 * HOUR)
        .max_busy(MINUTE)
        .admission(paper.clone())
        .eviction(policy)
        .observer(paper.clone());
    paper.debug(&builder);
    let sessions = Arc::new(builder.build().expect("valid"));
    let http = Http::new(&sessions, Some(sessions.parking()));
    let mut ids: HashSet<SessionId> = HashSet::new();
    let look = |sessions: &PolicySessionManager<LocalSessionManager>| {
        paper.debug(sessions);
        paper.debug(&sessions.stats());
        paper.debug(&sessions.list());
        paper.debug(&sessions.recent(100));
    };

    // Evictions and restores.
    let mut open = Vec::new();
    for turn in 0..12 {
        let principal = format!("user {turn}");
        let id = ClientContext::new().with_principal(principal).scope(http.open()).await.expect("room");
        ids.insert(id.clone().into());
        open.push(id);
        sleep(SECOND).await;
    }
    for id in &open {
        assert_eq!(http.call(id, "count", json!({})).await.status, 200);
        look(&sessions);
    }
    // Dead and unknown ids.
    for method in ["GET", "DELETE", "POST"] {
        let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
        let reply = http.request(method, Some("made-up-by-a-stranger"), Some(&ping)).await;
        paper.note(&reply.body);
    }
    assert_eq!(http.request("DELETE", Some(&open[0]), None).await.status, 202);
    assert_eq!(http.request("DELETE", Some(&open[11]), None).await.status, 202);
    paper.note(http.call(&open[11], "count", json!({})).await.body);

    // All sessions are busy, so newcomers are refused; the refusal's text reaches the client.
    let mut drivers = Vec::new();
    for _ in 0..4 {
        let driver = Driver::ready(&sessions).await.expect("room");
        ids.insert(SessionId::clone(&driver.id));
        let call = driver.sleep(50_000).await.expect("lives");
        drivers.push((driver, call));
    }
    paper.error(&sessions.create_session().await.map(drop).expect_err("all are busy"));
    paper.note(http.open().await.expect_err("all are busy").body);
    paper.note(http.call(&open[5], "count", json!({})).await.body);
    look(&sessions);

    // Ended in the middle of a call.
    let key = sessions.list()[0].key;
    sessions.terminate(key, CloseReason::Revoked).await;
    sessions.terminate(|session: &SessionInfo<'_>| session.in_flight() > 0, CloseReason::Revoked).await;
    for (driver, call) in drivers {
        call.answers().await.iter().for_each(|answer| paper.note(answer));
        paper.error(&driver.echo("e").await.expect_err("it is gone"));
        paper.error(&driver.ping().await.expect_err("it is gone"));
        paper.error(&driver.initialized().await.expect_err("it is gone"));
        paper.error(&driver.listen().await.map(drop).expect_err("it is gone"));
        let resumed = driver.manager.resume(&driver.id, "0".to_owned()).await;
        paper.error(&resumed.map(drop).expect_err("it is gone"));
    }

    // The inner manager loses a session: its own error names the id.
    let lost = Driver::ready(&sessions).await.expect("room");
    ids.insert(SessionId::clone(&lost.id));
    sessions.inner().sessions.write().await.remove(&lost.id);
    let error = lost.echo("e").await.expect_err("the inner manager does not know it");
    assert!(error.source().is_some_and(|inner| inner.to_string().contains(&*lost.id)), "or this test tests nothing");
    paper.error(&error);
    paper.error(&lost.initialized().await.expect_err("the inner manager does not know it"));
    paper.note(http.call(&lost.id, "count", json!({})).await.body);
    sessions.close_session(&lost.id).await.expect("closes");

    // Handshakes that fail, time out, are too large to park.
    let refused = Driver::open_with(&sessions, Refuses).await.expect("room");
    ids.insert(SessionId::clone(&refused.id));
    paper.note(refused.initialize().await.expect("answered"));
    let slow = Driver::open_with(&sessions, SlowToInitialize(20 * MINUTE)).await.expect("room");
    ids.insert(SessionId::clone(&slow.id));
    paper.error(&slow.initialize().await.expect_err("too slow"));

    // Idle, lifetime, a transport that is shown.
    let quiet = Driver::ready(&sessions).await.expect("room");
    ids.insert(SessionId::clone(&quiet.id));
    let (id, transport) = sessions.create_session().await.expect("room");
    ids.insert(id);
    paper.debug(&transport);
    drop(transport);
    sleep(2 * HOUR).await;
    look(&sessions);
    let old = Driver::ready(&sessions).await.expect("room");
    ids.insert(SessionId::clone(&old.id));
    let _listening = old.listen().await.expect("lives");
    sleep(25 * HOUR).await;

    // A session that another server may take over.
    let moved = Driver::ready(&sessions).await.expect("room");
    ids.insert(SessionId::clone(&moved.id));
    moved.store(&sessions.parking()).await;
    let digest = SessionDigest::of(&moved.id);
    paper.debug(&sessions.give_up(&digest).await);
    paper.debug(&directory);
    paper.debug(&directory.look(&digest).await);

    // The drain.
    let last = Driver::ready(&sessions).await.expect("room");
    ids.insert(SessionId::clone(&last.id));
    let call = last.sleep(50_000).await.expect("lives");
    paper.debug(&sessions.drain(SECOND).await);
    call.answers().await.iter().for_each(|answer| paper.note(answer));
    paper.error(&sessions.create_session().await.map(drop).expect_err("draining"));
    look(&sessions);
    let stats = sessions.stats();
    for &reason in CloseReason::ALL {
        assert!(stats.closed(reason) > 0, "this day has seen no session {reason}");
    }
    assert!(stats.overruled > 0);
    assert_kept_secret(&paper, &ids);
}

#[tokio::test(start_paused = true)]
async fn no_id_is_shown_when_a_close_is_wedged() {
    let paper = Paper::default();
    let _listening = listen(&paper);
    let sessions = Arc::new(
        PolicySessionManager::builder(Wedge::new()).max_sessions(2).observer(paper.clone()).build().expect("valid"),
    );
    let alice = Driver::ready(&sessions).await.expect("room");
    let _bob = Driver::ready(&sessions).await.expect("room");
    sessions.inner().wedge(&alice.id);
    let _carol = Driver::ready(&sessions).await.expect("takes another");
    sleep(10 * SECOND).await;
    assert_eq!(sessions.stats().stuck, 1);
    paper.debug(&sessions.list());
    let warned = paper.read();
    assert!(warned.contains("WARN"), "an operator hears of it: {warned}");
    sessions.inner().free(&alice.id);
    settle().await;
    assert_kept_secret(&paper, &HashSet::from([alice.id]));
}

#[test]
fn policies_show_no_ids() {
    let _turn = crate::log::alone();
    let paper = Paper::default();
    paper.debug(&Lru::new());
    paper.debug(&Fifo::new());
    paper.debug(&Lfu::new());
    paper.debug(&Lru::new().only(|session: &SessionInfo<'_>| session.uses() == 0));
    let context = ClientContext::new()
        .with_principal("alice")
        .with_header(http::HeaderName::from_static("mcp-session-id"), http::HeaderValue::from_static("a-secret"))
        .with_header(http::header::AUTHORIZATION, http::HeaderValue::from_static("Bearer another-secret"));
    paper.debug(&context);
    paper.debug(&Fingerprint::of("a-secret"));
    let text = paper.read();
    assert!(!text.contains("secret"), "{text}");
    assert!(text.contains("alice"), "{text}");
}

#[test]
fn a_fingerprint_has_eight_digits_and_tells_ids_apart() {
    let _turn = crate::log::alone();
    let print = Fingerprint::of("one");
    assert_eq!(print.to_string().len(), 8);
    assert_eq!(print, Fingerprint::of("one"));
    assert_ne!(print, Fingerprint::of("two"));
}
