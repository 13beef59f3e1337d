//! docs/design.md, L4, L8, L10 and L15.
//!
//! Ends, restores and drains that coincide with each other, with panics, or with the end of the runtime.

#![allow(
    clippy::allow_attributes,
    clippy::clone_on_ref_ptr,
    let_underscore_drop,
    unused_qualifications,
    reason = "short tests, long types"
)]

use std::sync::Arc;
use std::time::Duration;

use crate::scripted::{Act, Call, Line, Scripted, initialize, initialize_params, initialized, list_tools};
use futures_core::Stream;
use futures_util::{FutureExt, StreamExt};
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::streamable_http_server::session::{
    RestoreOutcome, ServerSseMessage, SessionId, SessionManager, SessionState,
};
use rmcp_session_policy::admission::{Arrival, Permit, admit_fn};
use rmcp_session_policy::{
    ClientContext, CloseReason, PolicySessionManager, PolicySessionManagerBuilder, PolicyTransport,
};
use tokio::time::Instant;

type M<I> = Arc<PolicySessionManager<I>>;

fn scripted(
    f: impl FnOnce(PolicySessionManagerBuilder<Scripted>) -> PolicySessionManagerBuilder<Scripted>,
) -> (Scripted, M<Scripted>) {
    let inner = Scripted::new();
    let s = f(PolicySessionManager::builder(inner.clone())).build().expect("valid");
    (inner, Arc::new(s))
}

async fn ready<I: SessionManager>(s: &M<I>) -> (SessionId, PolicyTransport<I::Transport>)
where
    I::Transport: 'static,
{
    let (id, t) = s.create_session().await.expect("room");
    s.initialize_session(&id, initialize()).await.expect("answers");
    let state = SessionState::new(serde_json::from_value(initialize_params()).expect("valid"));
    s.parking().store(&id, &state).await.expect("stores");
    s.accept_message(&id, initialized()).await.expect("accepts");
    (id, t)
}

/// A lease that panics in its drop.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("as told");
    }
}

#[tokio::test(start_paused = true)]
async fn the_oldest_of_a_full_lot_is_restored() {
    let (_i, s) = scripted(|b| b.max_sessions(1).max_parked(1));
    let (a, _ta) = ready(&s).await;
    let (_b, _tb) = ready(&s).await; // evicts and parks a
    assert_eq!(s.stats().parked, 1);
    let out = s.restore_session(a.clone()).await;
    assert!(
        matches!(out, Ok(RestoreOutcome::Restored(_))),
        "client lost: {}",
        matches!(out, Ok(RestoreOutcome::NotSupported))
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_when_its_busy_session_is_deleted() {
    let (_i, s) = scripted(|b| b);
    let (a, mut t) = ready(&s).await;
    let svc = tokio::spawn(async move { while t.receive().await.is_some() {} });
    let _stream = s.create_stream(&a, list_tools(1)).await.expect("call");
    let start = Instant::now();
    let d = {
        let s = s.clone();
        tokio::spawn(async move { s.drain(Duration::from_secs(3600)).await })
    };
    tokio::time::sleep(Duration::from_millis(5)).await;
    ClientContext::new().scope(s.close_session(&a)).await.expect("closes");
    d.await.unwrap();
    svc.await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(10), "drain took {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_when_an_initialize_is_answered() {
    let (i, s) = scripted(|b| b.init_timeout(Duration::from_secs(600)));
    i.set(crate::scripted::Call::Initialize, crate::scripted::Act::Slow(Duration::from_secs(1)));
    let (a, _t) = s.create_session().await.expect("room");
    let init = {
        let s = s.clone();
        tokio::spawn(async move { s.initialize_session(&a, initialize()).await.is_ok() })
    };
    tokio::time::sleep(Duration::from_millis(5)).await;
    let start = Instant::now();
    s.drain(Duration::from_secs(3600)).await;
    init.await.ok();
    assert!(start.elapsed() < Duration::from_secs(10), "drain took {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_request_s_lease_that_panics_costs_no_place() {
    let (i, s) = scripted(|b| b.max_sessions(1).requests(admit_fn(|_: &Arrival<'_>| Ok(Permit::holding(Bomb)))));
    let (a, mut t) = ready(&s).await;
    let st = s.create_stream(&a, list_tools(1)).await.expect("call");
    t.receive().await;
    // the request is served; the service task is cancelled: the transport is dropped
    let svc = tokio::spawn(async move {
        let _t = t;
    });
    svc.await.ok();
    drop(st);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!((s.stats().live, i.existing()), (0, 0));
}

#[test]
fn a_transport_dropped_outside_any_runtime_ends_its_session() {
    let (i, s) = scripted(|b| b);
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (stream, t) = rt.block_on(async {
        let (a, t) = ready(&s).await;
        let stream = s.create_stream(Box::leak(Box::new(a)), list_tools(3)).await.expect("listens");
        (stream, t)
    });
    let s2 = s.clone();
    let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || drop(t)));
    assert!(r.is_ok(), "panicked in drop");
    drop(stream);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((s2.stats().live, i.existing()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_session_revoked_during_its_restore_is_gone() {
    let (_i, s) = scripted(|b| b.max_sessions(3));
    let (a, ta) = ready(&s).await;
    s.terminate(|_: &rmcp_session_policy::eviction::SessionInfo<'_>| true, CloseReason::Evicted).await;
    drop(ta);
    let (_b, _tb) = ready(&s).await; // another session, for which the predicate is called first
    assert_eq!(s.stats().parked, 1);
    let (go, went) = (std::sync::Arc::new(tokio::sync::Notify::new()), std::sync::Mutex::new(None));
    let (tx, rx) = std::sync::mpsc::channel();
    *went.lock().unwrap() = Some(rx);
    let restorer = {
        let (s, a, go) = (s.clone(), a.clone(), go.clone());
        tokio::spawn(async move {
            go.notified().await;
            let r = s.restore_session(a).await;
            tx.send(()).unwrap();
            r
        })
    };
    let fp = rmcp_session_policy::Fingerprint::of(&a);
    let n = s
        .terminate(
            move |x: &rmcp_session_policy::eviction::SessionInfo<'_>| {
                if let Some(rx) = went.lock().unwrap().take() {
                    go.notify_one();
                    tokio::task::block_in_place(|| rx.recv().unwrap());
                }
                x.fingerprint() == fp
            },
            CloseReason::Revoked,
        )
        .await;
    let _r = restorer.await.unwrap();
    assert!(!s.has_session(&a).await.unwrap(), "revoked {n}, and lives");
}

#[tokio::test(start_paused = true)]
async fn half_open_sessions_that_send_notifications_do_not_block_newcomers() {
    let (_i, s) = scripted(|b| b.max_sessions(4)); // max_opening 1
    let mut keep = vec![];
    for _ in 0..3 {
        keep.push(ready(&s).await);
    }
    let (h, _th) = s.create_session().await.unwrap();
    s.initialize_session(&h, initialize()).await.unwrap();
    let chat = {
        let (s, h) = (s.clone(), h.clone());
        tokio::spawn(async move {
            loop {
                let m = serde_json::from_value(
                    serde_json::json!({"jsonrpc":"2.0","method":"notifications/roots/list_changed"}),
                )
                .unwrap();
                if s.accept_message(&h, m).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
    };
    tokio::time::sleep(Duration::from_secs(5)).await;
    let got = s.create_session().await.is_ok();
    chat.abort();
    assert!(got, "turned away by one half-open session that chatters");
}

/// An inner manager that carries messages between processes, so that what is attached to them is lost; and that panics
/// closing a session, before it has done anything.
#[derive(Clone)]
struct Remote(Scripted);

impl SessionManager for Remote {
    type Error = crate::scripted::Failed;
    type Transport = Line;

    async fn create_session(&self) -> Result<(SessionId, Line), Self::Error> {
        self.0.create_session().await
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        self.0.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        self.0.has_session(id).await
    }

    fn close_session(&self, _: &SessionId) -> impl Future<Output = Result<(), Self::Error>> + Send {
        assert!(self.0.calls(Call::Listen) == 0, "as told");
        std::future::ready(Ok(()))
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        let sent = serde_json::to_value(&message).expect("JSON");
        self.0.create_stream(id, serde_json::from_value(sent).expect("the same message")).await
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        self.0.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.0.create_standalone_stream(id).await
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        self.0.resume(id, last_event_id).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_still_queued_in_a_remote_manager_gets_its_farewell() {
    let s = Arc::new(PolicySessionManager::builder(Remote(Scripted::new())).build().expect("valid"));
    let (a, mut t) = ready(&s).await;
    let mut stream = Box::pin(s.create_stream(&a, list_tools(1)).await.expect("call"));
    let key = s.list()[0].key;
    let end = {
        let s = Arc::clone(&s);
        tokio::spawn(async move { s.terminate(key, CloseReason::Evicted).await })
    };
    // The service is slow: it has not seen the request when the end begins.
    tokio::time::sleep(Duration::from_millis(10)).await;
    while t.receive().await.is_some() {}
    let farewell = tokio::time::timeout(Duration::from_secs(1), stream.next()).await.expect("at once").expect("one");
    let farewell = serde_json::to_value(farewell.message.as_deref()).expect("JSON");
    assert_eq!(farewell["id"], 1, "{farewell}");
    assert_eq!((&farewell["error"]["code"], &farewell["error"]["data"]["reason"]), (&503.into(), &"evicted".into()));
    assert_eq!(end.await.expect("no panic"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_close_that_panics_at_once_ends_the_session() {
    let s = Arc::new(PolicySessionManager::builder(Remote(Scripted::new())).max_sessions(1).build().expect("valid"));
    let (a, t) = ready(&s).await;
    drop(s.create_standalone_stream(&a).await.expect("listens"));
    drop(t);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stats = s.stats();
    assert_eq!((stats.live, stats.stuck, stats.closed(CloseReason::Ended)), (0, 0, 1), "{stats:?}");
}

/// A close that is waited for no longer goes on by itself.
#[tokio::test(start_paused = true)]
async fn a_close_finishes_after_its_caller_is_gone() {
    let (inner, s) = scripted(|b| b.max_sessions(1));
    let (id, _t) = ready(&s).await;
    inner.set(Call::Close, Act::Slow(Duration::from_secs(1)));
    assert!(tokio::time::timeout(Duration::from_millis(10), s.close_session(&id)).await.is_err());
    assert_eq!((s.stats().closing, inner.existing()), (1, 1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((s.stats().live, inner.existing()), (0, 0));
}

#[test]
fn a_close_that_returns_at_once_needs_no_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (inner, s) = scripted(|b| b.max_sessions(1));
    let (id, _t) = runtime.block_on(ready(&s));
    s.close_session(&id).now_or_never().expect("at once").expect("closes");
    assert_eq!((s.stats().live, inner.existing()), (0, 0));
}

/// Within its deadline, an inner manager that takes its time to close a session keeps the session's transport.
#[tokio::test(start_paused = true)]
async fn a_slow_close_is_not_cut_off_before_its_deadline() {
    let (inner, s) = scripted(|b| b.close_deadline(Duration::from_secs(5)));
    let (id, mut transport) = ready(&s).await;
    assert!(transport.receive().await.is_some(), "initialized");
    inner.set(Call::Close, Act::Never);
    let closing = tokio::spawn(async move { s.close_session(&id).await.is_ok() });
    let over = tokio::time::timeout(Duration::from_secs(4), transport.receive()).await;
    assert!(over.is_err(), "hung up before the deadline");
    let over = tokio::time::timeout(Duration::from_secs(2), transport.receive()).await;
    assert!(over.is_ok_and(|message| message.is_none()), "not hung up at the deadline");
    assert!(closing.await.expect("no panic"));
}
